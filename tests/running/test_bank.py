"""Runs with a target bank: equal to runs without one, also where rows are missing, damaged or of other pixels."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from torch import Tensor, nn

from distillkit import BatchInfo, ModelSpec, Outputs, Read, Signal, TargetSpec
from distillkit.bank import shelf as shelf_module
from distillkit.errors import BankError
from distillkit.planning import bank_facts
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit.running.start import plan, resume, run
from tests import forked
from tests.running.test_exactness import StopAt, assert_equal_weights


@pytest.fixture
def recipe(recipe_of: Any, teacher_run: str, tmp_path: Path) -> Any:
    """Make a recipe with `hard` and `soft`, mixing, erasing and stochastic depth; with a bank unless `bank` is None."""

    def make(*changes: dict[str, Any], bank: str | None = "bank", loss: Any = ("hard",)) -> Any:
        entries = [entry if isinstance(entry, dict) else {"loss": entry} for entry in loss]
        tables: dict[str, Any] = {"teachers": [{"model": teacher_run}], "losses": entries, "labels": {"weight": 0.5}}
        if bank is not None:
            tables["bank"] = str(tmp_path / bank)
        return recipe_of(tables, *changes)

    return make


def trained(recipe: Any, out: Path, **options: Any) -> dict[str, Any]:
    """Run a recipe; returns what its bank did, by loss."""
    run(recipe, out, installed_plugins(), **options)
    bank: dict[str, Any] = json.loads((out / "result.json").read_text()).get("bank", {})
    return bank


def planes_in(bank: Path) -> list[Path]:
    return sorted(bank.glob("*/*.rows"))


def notes_of(out: Path) -> list[str]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["note"] for line in lines if line["kind"] == "note" and line["note"].startswith("bank: ")]


def both(**counts: int) -> dict[str, dict[str, int]]:
    return {"hard": counts, "soft": counts}


TWO = ({"loss": "hard"}, {"loss": "soft", "tau": 2.0})
ROWS = 24 * 64


@pytest.mark.parametrize("changes", [{}, {"training": {"micro_batch_size": 24}}], ids=["one batch", "accumulated"])
@pytest.mark.parametrize("mixing", ["pair", "batch"])
def test_filling_and_reading_are_bit_equal_to_no_bank(
    recipe: Any, tmp_path: Path, changes: dict[str, Any], mixing: str
) -> None:
    changes = changes | {"mixing": {"mode": mixing}}
    assert trained(recipe(changes, bank=None, loss=TWO), tmp_path / "live") == {}
    filled = trained(recipe(changes, loss=TWO), tmp_path / "filling")
    assert filled == both(read=0, computed=ROWS, written=ROWS)
    read = trained(recipe(changes, loss=TWO), tmp_path / "reading")
    assert read == both(read=ROWS, computed=0, written=0)
    for name in ("filling", "reading"):
        assert_equal_weights(tmp_path / "live/student.safetensors", tmp_path / name / "student.safetensors")


def test_views_that_return_are_read_in_the_same_run(recipe: Any, tmp_path: Path) -> None:
    """18 steps an epoch: the second epoch shows the view of the first one, in another order."""
    once = {"data": {"views": 1}, "training": {"steps": 36}}
    use = trained(recipe(once), tmp_path / "run")["hard"]
    assert use == {"read": 18 * 64, "computed": 18 * 64, "written": 18 * 64}
    trained(recipe(once, bank=None), tmp_path / "live")
    assert_equal_weights(tmp_path / "live/student.safetensors", tmp_path / "run/student.safetensors")


def test_temperatures_seeds_and_students_share_rows(recipe: Any, tmp_path: Path) -> None:
    trained(recipe(loss=({"loss": "soft", "tau": 2.0},)), tmp_path / "first")
    others = (
        recipe(loss=({"loss": "soft", "tau": 4.0, "weight": 0.7},)),
        recipe({"seed": 5}, loss=({"loss": "soft", "name": "mine"},)),
        recipe({"student": {"width": 32, "depth": 3, "heads": 4}}, loss=("soft",)),
    )
    for number, other in enumerate(others):
        [use] = trained(other, tmp_path / str(number)).values()
        assert use == {"read": ROWS, "computed": 0, "written": 0}
    assert len(list((tmp_path / "bank").iterdir())) == 1


def test_attention_targets_are_shared_only_by_students_of_the_same_grid(
    recipe_of: Any, attentive_run: str, tmp_path: Path
) -> None:
    tables = {"teachers": [{"model": attentive_run}], "losses": [{"loss": "advit-l1"}], "bank": str(tmp_path / "bank")}
    trained(recipe_of(tables), tmp_path / "first")
    wider = trained(recipe_of(tables, {"student": {"width": 32}}), tmp_path / "wider")
    finer = trained(recipe_of(tables, {"student": {"patch": 2}}), tmp_path / "finer")
    assert wider["advit-l1"]["read"] == ROWS
    assert finer["advit-l1"]["read"] == 0


class Similarity(nn.Module):
    """A loss that compares the samples of a batch with each other; its target describes one image."""

    class Options(BaseModel, frozen=True, extra="forbid"):
        """It has none."""

    weight, label_weight, couples_batch = 1.0, 1.0, True
    reads_teacher = reads_student = frozenset({Read(Signal.LOGITS)})

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.targets = {"probabilities": TargetSpec((classes,), "float32")}

    @classmethod
    def build(cls, options: object, student: ModelSpec, teacher: ModelSpec) -> Similarity:
        return cls(teacher.classes)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        assert teacher.logits is not None
        return {"probabilities": teacher.logits.softmax(dim=1)}

    def forward(self, student: Outputs, target: Mapping[str, Tensor], batch: BatchInfo) -> dict[str, Tensor]:
        assert student.logits is not None
        ours, theirs = student.logits.softmax(dim=1), target["probabilities"]
        return {"pairs": (ours @ ours.T - theirs @ theirs.T).square().mean()}  # of [B, B]


def test_a_loss_that_compares_samples_is_banked(recipe: Any, registry_of: Any, tmp_path: Path) -> None:
    plugins = registry_of("loss", {"gram": Similarity}, installed_plugins())
    for name, bank in (("live", None), ("filling", "bank"), ("reading", "bank")):
        run(recipe(bank=bank, loss=("gram",)), tmp_path / name, plugins)
        assert_equal_weights(tmp_path / "live/student.safetensors", tmp_path / name / "student.safetensors")
    use = json.loads((tmp_path / "reading/result.json").read_text())["bank"]["gram"]
    assert use == {"read": ROWS, "computed": 0, "written": 0}


@pytest.mark.parametrize("step", [3, 10])
def test_a_run_stopped_while_it_fills_a_bank_ends_with_the_same_weights(recipe: Any, tmp_path: Path, step: int) -> None:
    changes = {"training": {"checkpoint_every": 7, "log_every": 1}}
    trained(recipe(changes, bank="other", loss=TWO), tmp_path / "uninterrupted")
    with pytest.raises(KeyboardInterrupt):
        run(recipe(changes, loss=TWO), tmp_path / "stopped", installed_plugins(), observers=[StopAt(step)])
    resume(tmp_path / "stopped", installed_plugins())
    assert_equal_weights(tmp_path / "uninterrupted/student.safetensors", tmp_path / "stopped/student.safetensors")
    use = json.loads((tmp_path / "stopped/result.json").read_text())["bank"]["hard"]
    assert use["read"] == (step - (step // 7) * 7) * 64  # the steps between the checkpoint and the stop


def flip(plane: Path) -> None:
    """Flip a bit of every third row."""
    content = bytearray(plane.read_bytes())
    for place in range(0, len(content), 3 * 16):
        content[place] ^= 1
    plane.write_bytes(content)


def cut(plane: Path) -> None:
    os.truncate(plane, plane.stat().st_size // 2 + 5)


def empty(plane: Path) -> None:
    plane.write_bytes(b"")


def noise(plane: Path) -> None:
    plane.write_bytes(bytes(range(256)) * (plane.stat().st_size // 256))


@pytest.mark.parametrize("damage", [flip, cut, empty, noise, Path.unlink])
def test_damaged_rows_are_computed_again_and_repaired(recipe: Any, tmp_path: Path, damage: Any) -> None:
    trained(recipe(), tmp_path / "first")
    for plane in planes_in(tmp_path / "bank"):
        damage(plane)
    use = trained(recipe(), tmp_path / "second")["hard"]
    assert use["read"] < ROWS
    assert use["read"] + use["computed"] == ROWS
    assert use["written"] == use["computed"] > 0
    assert_equal_weights(tmp_path / "first/student.safetensors", tmp_path / "second/student.safetensors")
    assert trained(recipe(), tmp_path / "third")["hard"]["read"] == ROWS


def test_other_pixels_are_other_rows(recipe: Any, tmp_path: Path) -> None:
    """A changed holdout, seed of the data or augmentation begins a shelf of its own; the first one stays as it is."""
    trained(recipe(), tmp_path / "first")
    before = {plane: plane.read_bytes() for plane in planes_in(tmp_path / "bank")}
    changes: tuple[dict[str, Any], ...] = (
        {"data": {"validation": 0.2}},
        {"data": {"seed": 1}},
        {"augment": {"erasing": 0.0}},
        {"mixing": {"mixup": 0.0}},
        {"student": {"image_size": 16}},
    )
    for number, change in enumerate(changes):
        assert trained(recipe(change), tmp_path / str(number))["hard"]["read"] == 0
    assert len(list((tmp_path / "bank").iterdir())) == 1 + len(changes)
    assert {plane: plane.read_bytes() for plane in before} == before


def test_fewer_labels_mix_other_pairs_and_those_are_computed(recipe: Any, tmp_path: Path) -> None:
    trained(recipe(), tmp_path / "first")
    fewer = {"data": {"labels": 100}}
    use = trained(recipe(fewer), tmp_path / "fewer")["hard"]
    assert use["computed"] > 0
    trained(recipe(fewer, bank=None), tmp_path / "live")
    assert_equal_weights(tmp_path / "live/student.safetensors", tmp_path / "fewer/student.safetensors")


def test_without_mixing_fewer_labels_share_the_rows(recipe: Any, tmp_path: Path) -> None:
    plain = {"mixing": {"mixup": 0.0, "cutmix": 0.0}, "data": {"views": 1}, "training": {"steps": 18, "batch_size": 64}}
    trained(recipe(plain), tmp_path / "first")
    use = trained(recipe(plain, {"data": {"labels": 100, "views": 1}}), tmp_path / "fewer")["hard"]
    assert use["read"] > 0.9 * 18 * 64  # the images that the first order left out are missing


def test_a_broken_image_and_its_replacement_are_rows_of_their_own(
    recipe: Any, tmp_path: Path, write_pictures: Any
) -> None:
    folder = write_pictures(tmp_path / "images", {str(digit): 20 for digit in range(10)})
    data = {"data": {"train": str(folder), "validation": 0.0, "broken": 0.5, "views": 1}}
    changes = (data, {"training": {"steps": 9}})
    (folder / "3/0070.png").write_bytes(b"not an image")
    live = trained(recipe(*changes, bank=None), tmp_path / "live")
    assert live == {}
    for name in ("filling", "reading"):
        trained(recipe(*changes), tmp_path / name)
        assert_equal_weights(tmp_path / "live/student.safetensors", tmp_path / name / "student.safetensors")


def test_a_file_of_another_size_begins_another_shelf(recipe: Any, tmp_path: Path, write_pictures: Any) -> None:
    folder = write_pictures(tmp_path / "images", {str(digit): 20 for digit in range(10)})
    changes = ({"data": {"train": str(folder), "validation": 0.0}}, {"training": {"steps": 3}})
    trained(recipe(*changes), tmp_path / "first")
    other = next(folder.glob("5/*.png"))
    other.write_bytes(next(folder.glob("6/*.png")).read_bytes() + b"\0")
    assert trained(recipe(*changes), tmp_path / "second")["hard"]["read"] == 0


def test_a_shelf_that_disagrees_with_the_teacher_is_not_used(
    recipe: Any, recipe_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two teachers with one digest: what a change that no fact of the key shows would look like."""
    monkeypatch.setattr("distillkit.running.teachers.tensors_digest", lambda _: "the same")
    table = recipe_of({"training": {"steps": 1}, "seed": 9}).model_dump(exclude_none=True)
    table["student"] = {"model": "small-cnn", "width": 8, "image_size": 8}
    run(Recipe.model_validate(table), tmp_path / "untrained", installed_plugins())
    untrained = {"teachers": [{"model": f"run:{tmp_path / 'untrained'}"}]}
    trained(recipe(untrained), tmp_path / "first")
    before = {plane: plane.read_bytes() for plane in planes_in(tmp_path / "bank")}
    use = trained(recipe(), tmp_path / "second")["hard"]
    assert use == {"read": 0, "computed": ROWS, "written": 0}
    trained(recipe(bank=None), tmp_path / "live")
    assert_equal_weights(tmp_path / "live/student.safetensors", tmp_path / "second/student.safetensors")
    assert {plane: plane.read_bytes() for plane in before} == before
    [note, _] = notes_of(tmp_path / "second")
    [shelf] = (tmp_path / "bank").iterdir()
    assert note.endswith(
        f"of 64 stored targets differ from the teacher's, so {shelf} is not used in this run; shelf.json in it has the "
        "versions that it was made with"
    )


def test_the_last_note_counts_the_stored_targets_that_differ(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another class in three of 64 rows is below the share at which a shelf is not used."""
    one = {"training": {"steps": 1}}
    trained(recipe(one), tmp_path / "first")
    read = shelf_module.Shelf.read

    def flipped(shelf: Any, addresses: Any) -> Any:
        rows, hits = read(shelf, addresses)
        rows[:3, 0] ^= 1
        return rows, hits

    monkeypatch.setattr(shelf_module.Shelf, "read", flipped)
    assert trained(recipe(one), tmp_path / "second")["hard"] == {"read": 64, "computed": 0, "written": 0}
    assert notes_of(tmp_path / "second") == [
        "bank: 64 targets of hard read, 0 computed; 3 of 64 stored targets differ from the teacher's"
    ]


def test_a_full_disk_stops_writing_and_not_the_run(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def full(file: int, content: bytes, offset: int) -> int:
        if len(written) == 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(offset)
        return pwrite(file, content, offset)

    pwrite = os.pwrite
    monkeypatch.setattr(shelf_module.os, "pwrite", full)
    use = trained(recipe(), tmp_path / "full")["hard"]
    monkeypatch.undo()
    assert use["computed"] == ROWS
    [shelf] = (tmp_path / "bank").iterdir()
    assert notes_of(tmp_path / "full")[0] == (
        f"bank: cannot write {shelf} ([Errno 28] No space left on device); no more targets are stored"
    )
    # 64 rows of the first step and 36 of the second: each can be read
    assert trained(recipe(), tmp_path / "second")["hard"]["read"] == 100
    assert_equal_weights(tmp_path / "full/student.safetensors", tmp_path / "second/student.safetensors")


def test_the_size_limit_stops_writing(recipe: Any, tmp_path: Path) -> None:
    use = trained(recipe({"bank_limit_gb": 2 * 64 * 16 / 1e9}), tmp_path / "run")["hard"]
    assert use["written"] == 2 * 64
    assert notes_of(tmp_path / "run")[0] == (
        "bank: the size limit (bank_limit_gb) is reached; no more targets are stored"
    )


RUN = """
import sys
from pathlib import Path
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit.running.start import run
from tests.another_user import obey_permissions

obey_permissions()
run(Recipe.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), installed_plugins())
"""


@pytest.mark.skipif(os.name == "nt", reason="folders have no such permissions")
def test_a_bank_that_cannot_be_written_to_is_only_read(recipe: Any, tmp_path: Path) -> None:
    trained(recipe({"training": {"steps": 3}}), tmp_path / "first")
    bank = tmp_path / "bank"
    [shelf] = bank.iterdir()
    for path in (*shelf.iterdir(), shelf, bank):
        path.chmod(path.stat().st_mode & ~0o222)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in shelf.iterdir()}
    longer = tmp_path / "longer.json"
    longer.write_text(recipe({"training": {"steps": 5}}).model_dump_json())
    done = forked.run(["-c", RUN, longer, tmp_path / "second"], cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    bank.chmod(0o755)
    shelf.chmod(0o755)
    use = json.loads((tmp_path / "second/result.json").read_text())["bank"]["hard"]
    assert use == {"read": 3 * 64, "computed": 2 * 64, "written": 0}
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in shelf.iterdir()} == before


def test_a_run_on_a_full_bank_needs_no_weights(recipe: Any, teacher_run: str, tmp_path: Path) -> None:
    trained(recipe(loss=TWO), tmp_path / "first")
    without = {"teachers": [{"model": teacher_run, "weights": "bank"}]}
    use = trained(recipe(without, loss=TWO), tmp_path / "second")
    assert use == both(read=ROWS, computed=0, written=0)
    assert_equal_weights(tmp_path / "first/student.safetensors", tmp_path / "second/student.safetensors")
    with pytest.raises(BankError) as missing:
        trained(recipe(without, {"training": {"steps": 60}}), tmp_path / "longer")
    assert str(missing.value) == (
        "the bank lacks targets of this micro-batch, and teacher 'run:" + teacher_run.removeprefix("run:") + "' has no "
        'weights to compute them (teachers.weights = "bank"); give its weights, or fill the bank with `distillkit bank '
        "build`"
    )


def test_a_teacher_without_weights_needs_a_bank_that_fits(recipe: Any, teacher_run: str, tmp_path: Path) -> None:
    without = {"teachers": [{"model": teacher_run, "weights": "bank", "name": "t"}]}
    with pytest.raises(BankError) as no_bank:
        plan(recipe(without, bank=None), installed_plugins())
    assert str(no_bank.value) == ("teacher 't' has weights = \"bank\", and the run has no bank; give --bank DIR")
    with pytest.raises(BankError) as no_shelf:
        plan(recipe(without), installed_plugins())
    assert str(no_shelf.value) == (
        f"teacher 't' has weights = \"bank\", and the bank {tmp_path / 'bank'} has no shelf for loss 'hard'; give the "
        "teacher's weights"
    )


def test_a_plan_sizes_the_bank_and_names_what_differs(recipe: Any, tmp_path: Path) -> None:
    planned = plan(recipe({"data": {"views": 1}}), installed_plugins()).bank
    assert planned is not None
    assert (planned.views, planned.rows, planned.total_bytes) == (1, 18 * 64, 18 * 64 * 16)
    assert planned.shelves["hard"].differing == {}
    trained(recipe({"training": {"steps": 1}}), tmp_path / "run")
    same = plan(recipe(), installed_plugins()).bank
    assert same is not None
    assert same.shelves["hard"].exists
    other = plan(recipe({"augment": {"padding": 2}}), installed_plugins()).bank
    assert other is not None
    assert other.shelves["hard"].differing == {"augment.padding": (1, 2)}
    drawn = plan(recipe({"data": {"background": "none"}}), installed_plugins()).bank
    assert drawn is not None
    assert drawn.shelves["hard"].differing == {"data.background": ("white", "none")}


def test_a_bank_without_use_is_refused(recipe: Any) -> None:
    with pytest.raises(BankError) as refused:
        plan(recipe({"losses": [{"loss": "ce"}]}), installed_plugins())
    assert str(refused.value) == "--bank stores a teacher's targets, and no loss of this run has any; leave it out"


def test_the_key_of_a_module_is_its_tensors_names_and_dtypes() -> None:
    import torch

    linear = torch.nn.Linear(2, 2)
    first = bank_facts.tensors_digest(linear)
    assert bank_facts.tensors_digest(linear) == first
    with torch.no_grad():
        linear.bias[0] += 1e-7
    assert bank_facts.tensors_digest(linear) != first
    assert bank_facts.tensors_digest(linear.double()) != bank_facts.tensors_digest(linear.float())
