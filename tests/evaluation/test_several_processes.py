"""What several processes measure together is what one measures."""

from __future__ import annotations

import json
import os
import subprocess
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

STRANGER = Path(__file__).parents[1] / "running" / "faulty_rank"
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
found = {}
for name, (protocol, options) in json.loads(sys.argv[2]).items():
    evaluation = evaluate(sys.argv[1], installed_plugins(), protocol=protocol, options=options, device="cpu")
    found[name] = {key: value for key, value in evaluation.as_dict().items() if key != "date"}
import os
with open(sys.argv[3] + os.environ.get("RANK", ""), "w") as file:
    json.dump(found, file)
"""


@dataclass(frozen=True)
class Played(Processes):
    """One of several processes whose rows are all known here."""

    rows: tuple[Tensor, ...] = ()
    sizes: tuple[tuple[int, ...], ...] = ()

    def gather(self, text: str) -> list[str]:
        return [json.dumps(list(sizes)) for sizes in self.sizes]

    def rows_of(self, rank: int, rows: Tensor) -> Tensor:
        return self.rows[rank]


@given(st.lists(st.integers(1, 5), max_size=9), st.integers(1, 4))
def test_batches_that_were_dealt_out_come_back_in_order(sizes: list[int], world: int) -> None:
    everything = torch.arange(3 * sum(sizes)).reshape(-1, 3)
    batches = torch.split(everything, sizes) if sizes else ()
    mine = [batches[rank::world] for rank in range(world)]
    rows = tuple(torch.cat(list(part)) if part else torch.empty(0, dtype=torch.int64) for part in mine)
    dealt = tuple(tuple(sizes[rank::world]) for rank in range(world))
    for rank in range(world):
        whole = gather_rows(rows[rank], dealt[rank], Played(rank, world, rows=rows, sizes=dealt))
        assert whole.tolist() == (everything.tolist() if sizes else [])


def measured(home: Path, out: Path, *launcher: str) -> None:
    path = os.pathsep.join([str(STRANGER), *(entry for entry in sys.path if entry)])
    (home / "all.py").write_text(ALL)
    subprocess.run(
        [sys.executable, *launcher, str(home / "all.py"), str(home / "run"), json.dumps(PROTOCOLS), str(out)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=200,
        capture_output=True,
    )


def test_every_protocol_finds_what_one_process_finds_and_the_run_hears_of_it_once(tmp_path: Path) -> None:
    """Three processes, one of which has no batch of the 500 images in batches of 256; and evaluators that do not share.

    Everything is equal, to the last bit of every figure but the probe on augmented images, whose batches are split: of
    500 images one may tip over.
    """
    tables = {
        "data": {"train": "digits", "workers": 0},
        "student": {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2},
        "training": {"steps": 4, "device": "cpu", "precision": "fp32", "threads": 1},
    }
    from distillkit.plugin.registry import installed_plugins

    run(Recipe.model_validate(tables), tmp_path / "run", installed_plugins())
    kept = tmp_path / "run" / "evaluations.jsonl"
    measured(tmp_path, tmp_path / "one")
    once = len(kept.read_text().splitlines())
    measured(tmp_path, tmp_path / "three", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3")
    assert len(kept.read_text().splitlines()) == 2 * once == 2 * len(PROTOCOLS)
    alone, *together = (json.loads((tmp_path / name).read_text()) for name in ("one", "three0", "three1", "three2"))
    assert together[0] == together[1] == together[2]
    augmented, split = alone.pop("dino"), together[0].pop("dino")
    assert together[0] == alone
    assert split["figures"] == pytest.approx(augmented["figures"], abs=0.2)
