"""Several processes measure the same as one."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distillkit.compute.distributed import Processes
from distillkit.evaluation.gather import gather_rows
from distillkit.recipe.schema import Recipe
from distillkit.running.start import run
from tests import forked

EXTERNAL_PLUGIN = Path(__file__).parents[1] / "running" / "faulty_rank"
PROTOCOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "top1": ("top1", {"per_class": True}),
    "knn": ("knn", {"k": [1, 20]}),
    "linear": ("linear", {"epochs": 2}),
    "dino": ("linear", {"method": "dino", "epochs": 1, "batch_size": 200}),
    "few-label": ("few-label", {"shares": [0.05], "penalties": [0.01, 1.0]}),
    "finetune": ("few-label", {"method": "finetune", "shares": [0.05], "epochs": 1}),
    "unaware": ("unaware", {}),
}
ALL = """
import json, sys
from distillkit.plugin.registry import installed_plugins
from distillkit.evaluation.evaluate import evaluate
results = {}
for name, (protocol, options) in json.loads(sys.argv[2]).items():
    evaluation = evaluate(sys.argv[1], installed_plugins(), protocol=protocol, options=options, device="cpu")
    results[name] = {key: value for key, value in evaluation.as_dict().items() if key != "date"}
import os
with open(sys.argv[3] + os.environ.get("RANK", ""), "w") as file:
    json.dump(results, file)
"""


@dataclass(frozen=True)
class Simulated(Processes):
    """One of several processes, with the rows of all of them given."""

    rows: tuple[Tensor, ...] = ()
    sizes: tuple[tuple[int, ...], ...] = ()

    def gather(self, text: str) -> list[str]:
        return [json.dumps(list(sizes)) for sizes in self.sizes]

    def broadcast_rows(self, rank: int, rows: Tensor) -> Tensor:
        return self.rows[rank]


@given(st.lists(st.integers(1, 5), max_size=9), st.integers(1, 4))
def test_sharded_batches_are_gathered_in_order(sizes: list[int], world: int) -> None:
    expected = torch.arange(3 * sum(sizes)).reshape(-1, 3)
    batches = torch.split(expected, sizes) if sizes else ()
    shards = [batches[rank::world] for rank in range(world)]
    rows = tuple(torch.cat(list(shard)) if shard else torch.empty(0, dtype=torch.int64) for shard in shards)
    shard_sizes = tuple(tuple(sizes[rank::world]) for rank in range(world))
    for rank in range(world):
        processes = Simulated(rank, world, rows=rows, sizes=shard_sizes)
        gathered = gather_rows(rows[rank], shard_sizes[rank], processes)
        assert gathered.tolist() == (expected.tolist() if sizes else [])


def measure_all(home: Path, out: Path, *launcher: str) -> None:
    path = os.pathsep.join([str(EXTERNAL_PLUGIN), *(entry for entry in sys.path if entry)])
    (home / "all.py").write_text(ALL)
    program = [home / "all.py", home / "run", json.dumps(PROTOCOLS), out]
    forked.run([*launcher, *program], env=os.environ | {"PYTHONPATH": path}, check=True, timeout=200)


def test_three_processes_measure_the_same_as_one_and_save_each_result_once(tmp_path: Path) -> None:
    """One of the three has no batch of the 500 images in batches of 256; one evaluator does not share.

    All figures are equal bit for bit, except those of the probe on augmented images, whose batches are sharded: one of
    500 images may change its class.
    """
    tables = {
        "data": {"train": "digits", "workers": 0},
        "student": {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2},
        "training": {"steps": 4, "device": "cpu", "precision": "fp32", "threads": 1},
        "trackers": [],
    }
    from distillkit.plugin.registry import installed_plugins

    run(Recipe.model_validate(tables), tmp_path / "run", installed_plugins())
    saved = tmp_path / "run" / "evaluations.jsonl"
    measure_all(tmp_path, tmp_path / "one")
    once = len(saved.read_text().splitlines())
    measure_all(tmp_path, tmp_path / "three", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3")
    assert len(saved.read_text().splitlines()) == 2 * once == 2 * len(PROTOCOLS)
    alone, *together = (json.loads((tmp_path / name).read_text()) for name in ("one", "three0", "three1", "three2"))
    assert together[0] == together[1] == together[2]
    augmented, sharded = alone.pop("dino"), together[0].pop("dino")
    assert together[0] == alone
    assert sharded["figures"] == pytest.approx(augmented["figures"], abs=0.2)
