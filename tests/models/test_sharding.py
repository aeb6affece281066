"""A sharded teacher has the outputs of a copied one, and each process holds only its shard."""

from __future__ import annotations

import json
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
from tests import forked

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from distillkit.contracts.model import ModelRequest, Signal
from distillkit.plugin.registry import installed_plugins
from distillkit.models import ClassMap, FrozenTeacher
from distillkit.models.sharding import parameter_bytes
from distillkit.compute.distributed import process_group
from distillkit.recipe.schema import Recipe
from distillkit.running.start import run

home, plugins = Path(sys.argv[1]), installed_plugins()
teacher = {"model": f"run:{home / 'teacher'}"}
request = ModelRequest(teacher["model"], str(home / "teacher"), plugins.find("teacher", teacher["model"]).options({}))
images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
results = []
with process_group("cpu") as processes:
    for precision in (torch.float32, torch.bfloat16):
        model = plugins.find("teacher", teacher["model"]).call("build", request)
        frozen = FrozenTeacher(model, student=model.spec, size="auto", class_map=ClassMap(None), precision=precision)
        last = (model.spec.layers - 1,)
        wanted = {Signal.LOGITS: (), Signal.EMBEDDING: last, Signal.PATCH_TOKENS: last, Signal.CLS_ATTENTION: last}
        copied = frozen(images, wanted)
        frozen.shard(processes, torch.device("cpu"))
        for _ in range(2):
            sharded = frozen(images, wanted)
            equal = [torch.equal(copied.logits, sharded.logits)]
            for name in ("embedding", "patch_tokens", "cls_attention"):
                pairs = zip(getattr(copied, name), getattr(sharded, name), strict=True)
                equal += [torch.equal(*pair) for pair in pairs]
        results.append({"equal": equal, "bytes": parameter_bytes(frozen)})
(home / f"results-{processes.rank}.json").write_text(json.dumps(results))

tables = json.loads(sys.argv[2])
for name, is_sharded in (("copied", False), ("sharded", True)):
    tables["teachers"] = [teacher | {"sharded": is_sharded}]
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


def test_a_teacher_sharded_over_two_processes_is_equal_bit_for_bit_and_each_holds_half(tmp_path: Path) -> None:
    """Its outputs in fp32 and bf16, the students trained with it, and the bytes of its parameters."""
    from distillkit.plugin.registry import installed_plugins
    from distillkit.recipe.schema import Recipe
    from distillkit.running.start import run

    student = {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 32, "depth": 3, "heads": 2}
    run(Recipe.model_validate(TABLES | {"student": student}), tmp_path / "teacher", installed_plugins())
    (tmp_path / "program.py").write_text(PROGRAM)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = [tmp_path / "program.py", tmp_path, json.dumps(TABLES | HARD)]
    done = forked.run([*launcher, *program], timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        fp32, bf16 = json.loads((tmp_path / f"results-{rank}.json").read_text())
        assert all(fp32["equal"]), fp32
        assert all(bf16["equal"]), bf16
        for held, total in (fp32["bytes"], bf16["bytes"]):
            assert held == pytest.approx(total / 2, rel=0.1)
        assert bf16["bytes"][1] == pytest.approx(fp32["bytes"][1] / 2, rel=0.1)
    copied, sharded = (load_file(tmp_path / name / "student.safetensors") for name in ("copied", "sharded"))
    assert [name for name in copied if not torch.equal(copied[name], sharded[name])] == []
    teacher = {"model": f"run:{tmp_path / 'teacher'}"}
    run(Recipe.model_validate(TABLES | HARD | {"teachers": [teacher]}), tmp_path / "alone", installed_plugins())
    alone = load_file(tmp_path / "alone" / "student.safetensors")
    assert max(float((alone[name] - sharded[name]).abs().max()) for name in alone) < 1e-5
    notes = json.loads((tmp_path / "sharded" / "plan.json").read_text())["notes"]
    assert len([note for note in notes if "its weights are sharded over 2 processes, 0.1 of 0.2 MB" in note]) == 1
    assert not [
        name for path in tmp_path.glob("sharded/checkpoints/*") for name in path.iterdir() if "teach" in name.name
    ]


def test_one_process_notes_that_nothing_is_sharded(tmp_path: Path) -> None:
    from distillkit.plugin.registry import installed_plugins
    from distillkit.recipe.schema import Recipe
    from distillkit.running.start import run

    run(Recipe.model_validate(TABLES), tmp_path / "teacher", installed_plugins())
    teacher = {"model": f"run:{tmp_path / 'teacher'}", "sharded": True}
    run(Recipe.model_validate(TABLES | HARD | {"teachers": [teacher]}), tmp_path / "run", installed_plugins())
    notes = json.loads((tmp_path / "run" / "plan.json").read_text())["notes"]
    assert f"teacher '{teacher['model']}': not sharded, because there is only one process (teachers.sharded)" in notes


def test_unequal_numbers_of_forwards_per_process_are_refused() -> None:
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
def test_storing_matrices_as_autocast_casts_them_changes_no_bit(name: str, dtype: torch.dtype) -> None:
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


def test_subclasses_of_matrix_layers_keep_their_precision() -> None:
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
    """`share` is that of the largest block, which a process holds for a moment besides the parameters in no block."""
    with torch.device("meta"):
        model = timm.create_model(name)
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks(model)]
    assert len(sizes) == count
    assert max(sizes) / sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(share, abs=0.01)
