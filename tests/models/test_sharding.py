"""A teacher that is shared out answers as one that is copied, and each process holds its part alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from distillkit.data.order import check_equal_micro_batches
from distillkit.errors import RecipeError
from distillkit.models.precision import keep_cast
from distillkit.models.sharding import blocks

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from distillkit.contracts.model import ModelRequest, Signal
from distillkit.plugin.registry import installed_plugins
from distillkit.models import ClassMap, FrozenTeacher
from distillkit.models.sharding import parameter_bytes
from distillkit.compute.distributed import joined
from distillkit.recipe.schema import Recipe
from distillkit.running.start import run

home, plugins = Path(sys.argv[1]), installed_plugins()
teacher = {"model": f"run:{home / 'teacher'}"}
request = ModelRequest(teacher["model"], str(home / "teacher"), plugins.find("teacher", teacher["model"]).options({}))
images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
found = []
with joined("cpu") as processes:
    for precision in (torch.float32, torch.bfloat16):
        model = plugins.find("teacher", teacher["model"]).call("build", request)
        frozen = FrozenTeacher(model, student=model.spec, size="auto", class_map=ClassMap(None), precision=precision)
        last = (model.spec.layers - 1,)
        wanted = {Signal.LOGITS: (), Signal.EMBEDDING: last, Signal.PATCH_TOKENS: last, Signal.CLS_ATTENTION: last}
        copied = frozen(images, wanted)
        frozen.share_out(processes, torch.device("cpu"))
        for _ in range(2):
            shared = frozen(images, wanted)
            equal = [torch.equal(copied.logits, shared.logits)]
            for name in ("embedding", "patch_tokens", "cls_attention"):
                equal += [torch.equal(*pair) for pair in zip(getattr(copied, name), getattr(shared, name), strict=True)]
        found.append({"equal": equal, "bytes": parameter_bytes(frozen)})
(home / f"found-{processes.rank}.json").write_text(json.dumps(found))

tables = json.loads(sys.argv[2])
for name, sharded in (("copied", False), ("shared", True)):
    tables["teachers"] = [teacher | {"sharded": sharded}]
    run(Recipe.model_validate(tables), home / name, plugins)
"""
TABLES = {
    "data": {"train": "digits", "labels": 100, "workers": 0},
    "mixing": {"mixup": 0.8},
    "student": {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2},
    "training": {
        "steps": 4,
        "batch_size": 36,
        "micro_batch_size": 10,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
    },
    "trackers": [],
}
HARD = {"losses": [{"loss": "hard"}]}


def test_two_processes_share_a_teacher_bit_for_bit_and_each_holds_half(tmp_path: Path) -> None:
    """Its answers in fp32 and in bf16, the students that it teaches, and the bytes of its parameters."""
    from distillkit.plugin.registry import installed_plugins
    from distillkit.recipe.schema import Recipe
    from distillkit.running.start import run

    student = {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 32, "depth": 3, "heads": 2}
    run(Recipe.model_validate(TABLES | {"student": student}), tmp_path / "teacher", installed_plugins())
    (tmp_path / "program.py").write_text(PROGRAM)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(tmp_path / "program.py"), str(tmp_path), json.dumps(TABLES | HARD)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        whole, half = json.loads((tmp_path / f"found-{rank}.json").read_text())
        assert all(whole["equal"]), whole
        assert all(half["equal"]), half
        for held, everything in (whole["bytes"], half["bytes"]):
            assert held == pytest.approx(everything / 2, rel=0.1)
        assert half["bytes"][1] == pytest.approx(whole["bytes"][1] / 2, rel=0.1)
    copied, shared = (load_file(tmp_path / name / "student.safetensors") for name in ("copied", "shared"))
    assert [name for name in copied if not torch.equal(copied[name], shared[name])] == []
    teacher = {"model": f"run:{tmp_path / 'teacher'}"}
    run(Recipe.model_validate(TABLES | HARD | {"teachers": [teacher]}), tmp_path / "alone", installed_plugins())
    alone = load_file(tmp_path / "alone" / "student.safetensors")
    assert max(float((alone[name] - shared[name]).abs().max()) for name in alone) < 1e-5
    notes = json.loads((tmp_path / "shared" / "plan.json").read_text())["notes"]
    assert len([note for note in notes if "its weights are shared out to 2 processes, 0.1 of 0.2 MB" in note]) == 1
    assert not [
        name for path in tmp_path.glob("shared/checkpoints/*") for name in path.iterdir() if "teach" in name.name
    ]


def test_one_process_says_that_nothing_is_shared(tmp_path: Path) -> None:
    from distillkit.plugin.registry import installed_plugins
    from distillkit.recipe.schema import Recipe
    from distillkit.running.start import run

    run(Recipe.model_validate(TABLES), tmp_path / "teacher", installed_plugins())
    teacher = {"model": f"run:{tmp_path / 'teacher'}", "sharded": True}
    run(Recipe.model_validate(TABLES | HARD | {"teachers": [teacher]}), tmp_path / "run", installed_plugins())
    notes = json.loads((tmp_path / "run" / "plan.json").read_text())["notes"]
    assert (
        f"teacher '{teacher['model']}': nothing of it is shared out, because there is one process (teachers.sharded)"
        in notes
    )


def test_processes_that_would_not_ask_equally_often_are_refused() -> None:
    check_equal_micro_batches(36, 10, 2)  # 18 samples each, in two micro-batches
    check_equal_micro_batches(34, None, 2)
    with pytest.raises(RecipeError) as refused:
        check_equal_micro_batches(34, 16, 2)  # 17 pairs: 18 samples and 16
    assert str(refused.value) == (
        "teachers.sharded needs the same number of micro-batches in every process, and a step of 34 samples gives them "
        "1 to 2 of 16; set training.batch_size to a multiple of 32"
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0"])
def test_matrices_that_are_kept_cast_change_no_bit_under_autocast(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    size = sum(parameter.nbytes for parameter in model.parameters())
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        before = model(images)
        keep_cast(model, dtype)
        after = model(images)
    assert torch.equal(before, after)
    assert sum(parameter.nbytes for parameter in model.parameters()) == pytest.approx(size / 2, rel=0.02)


def test_layers_that_compute_with_their_weights_stay_as_they_are() -> None:
    class Normed(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2), Normed(2, 2), nn.LayerNorm(2))
    keep_cast(model, torch.bfloat16)
    assert [layer.weight.dtype for layer in model] == [torch.bfloat16, torch.float32, torch.float32]
    keep_cast(model, torch.float32)
    assert model[0].weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "count", "share"),
    [("vit_tiny_patch16_224", 12, 0.08), ("convnext_atto", 12, 0.23), ("resnet18", 8, 0.41)],
)
def test_blocks_are_the_innermost_members_of_lists(name: str, count: int, share: float) -> None:
    """The largest of them is what a process holds whole for a moment, beside what is in none."""
    with torch.device("meta"):
        model = timm.create_model(name)
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks(model)]
    assert len(sizes) == count
    assert max(sizes) / sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(share, abs=0.01)
