"""Teachers are evaluated once before the first step; what a run keeps of it, and warns of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distillkit.compute.distributed import ALONE
from distillkit.data.evaluation import EvaluationData
from distillkit.models.heads import Answer
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import load_recipe
from distillkit.running import training_run
from distillkit.running.directory import RunDirectory
from distillkit.running.session import build_session
from distillkit.running.start import plan, resume, run
from distillkit.running.teacher_accuracy import TeacherAccuracy, evaluate_teachers, with_accuracies
from distillkit.running.teacher_accuracy import _accuracy as accuracy_of
from distillkit.training.accuracy import top1

PLUGINS = installed_plugins()
GOOD = TeacherAccuracy((8, 8), 130, 98.0, 10.0, 8.0, {})
EIGHT, SIXTEEN = (8, 8), (16, 16)


def recipe_with(recipe_of: Any, teacher: str, *changes: dict[str, Any], size: str = "auto") -> Any:
    entry = {"teachers": [{"model": teacher, "name": "cnn", "size": size}], "losses": [{"loss": "hard"}]}
    return recipe_of(entry, *changes)


@pytest.mark.parametrize(
    ("accuracy", "native", "sentence"),
    [
        (GOOD, EIGHT, None),
        (replace(GOOD, other_sizes={"16x16": 14.4}), EIGHT, None),
        # Within two standard errors: 130 images.
        (replace(GOOD, size=SIXTEEN, top1=95.0, other_sizes={"8x8": 98.0}), EIGHT, None),
        (
            replace(GOOD, size=SIXTEEN, top1=70.0, other_sizes={"8x8": 98.0}),
            EIGHT,
            (
                "teacher 'cnn' is right on 70.0 % of 130 validation images seen at 16x16, and on 98.0 % at 8x8, its "
                "own size; set teacher.size=native"
            ),
        ),
        (
            replace(GOOD, size=SIXTEEN, top1=11.5, margin=4.1, other_sizes={"8x8": 96.9}),
            EIGHT,
            (
                "teacher 'cnn' is right on 11.5 % of 130 validation images seen at 16x16, no better than a constant "
                "answer (10.0 %), and on 96.9 % at 8x8, its own size; set teacher.size=native"
            ),
        ),
        (
            replace(GOOD, top1=12.0, margin=4.1),
            EIGHT,
            (
                "teacher 'cnn' is right on 12.0 % of 130 validation images seen at 8x8, no better than a constant "
                "answer (10.0 %); check its weights, and the order of its classes (teacher.classes, teacher.class_map)"
            ),
        ),
        (
            TeacherAccuracy((32, 32), 1000, 81.0, 10.0, 2.8, {"24x24": 87.4}),
            (32, 32),
            (
                "teacher 'cnn' is right on 81.0 % of 1,000 validation images seen at 32x32, and on 87.4 % at 24x24, "
                "the student's size; set teacher.size=student"
            ),
        ),
    ],
)
def test_warnings(accuracy: TeacherAccuracy, native: tuple[int, int], sentence: str | None) -> None:
    assert accuracy.warning("cnn", native) == sentence


def test_accuracy_from_counts_by_hand(recipe_of: Any, teacher_run: str) -> None:
    """Of 60, 30 and 10 images of three classes, 40, 15 and 10 are right, and 90 at the other size."""
    changes = {"training": {"steps": 100}, "student": {"image_size": 16}}
    (planned,) = plan(recipe_with(recipe_of, teacher_run, changes), PLUGINS).teachers.values()
    counts = torch.tensor([[60, 30, 10], [40, 15, 10], [60, 25, 5]])
    # 25 answers of the teacher on other classes and 20 of the constant one differ in being right.
    assert accuracy_of(counts, planned) == TeacherAccuracy(
        (8, 8), 100, 65.0, 60.0, pytest.approx(100 * 45**0.5 / 100), {"16x16": 90.0}
    )
    assert accuracy_of(torch.zeros(3, 3, dtype=torch.int64), planned) is None


@pytest.mark.parametrize("size", ["auto", "student"])
def test_a_run_keeps_the_accuracy_that_evaluation_measures(
    recipe_of: Any, teacher_run: str, tmp_path: Path, size: str
) -> None:
    changes = {"training": {"steps": 10, "batch_size": 1000}, "student": {"image_size": 16}}
    recipe = recipe_with(recipe_of, teacher_run, changes, {"trackers": ["metrics", "report"]}, size=size)
    session = build_session(plan(recipe, PLUGINS))
    teacher, spec = session.teachers["cnn"], session.plan.student.spec
    source = session.plan.datasets.validation
    assert source is not None
    expected = {}
    for side in (8, 16):
        count = session.plan.teachers["cnn"].evaluated
        data = EvaluationData(
            source, spec, recipe.augment, batch_size=50, workers=0, device=session.device, limit=count
        )
        with teacher.at_size((side, side)):
            expected[f"{side}x{side}"] = top1(teacher, teacher.spec, data, Answer())["top1"]
    out = tmp_path / "run"
    run(recipe, out, PLUGINS)
    (kept,) = json.loads((out / "result.json").read_text())["teachers"].values()
    seen = "8x8" if size == "auto" else "16x16"
    assert {seen: kept["top1"]} | kept["other_sizes"] == expected
    assert kept["images"] == session.plan.teachers["cnn"].evaluated > 50
    written = json.loads((out / "plan.json").read_text())
    assert written["teachers"][0]["validation"] == kept
    sentence = (
        f"before the first step, top-1 on {kept['images']} validation images as it sees them, at {seen}: "
        f"{kept['top1']:.2f} %"
    )
    report = (out / "report.md").read_text()
    assert sentence in report
    found = evaluate_teachers(session)["cnn"]
    assert found.as_dict() == kept
    warning = found.warning("cnn", (8, 8))
    assert ([warning] if warning else []) == [note for note in written["notes"] if note.startswith("teacher 'cnn' is")]
    assert (warning or "## Notes") in report
    notes = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [note["note"] for note in notes if note["kind"] == "note" and "teacher" in note["note"]] == (
        [warning] if warning else []
    )


class Stop:
    def distillkit_epoch_ended(self) -> None:
        raise KeyboardInterrupt


def test_a_resumed_run_does_not_evaluate_again(
    recipe_of: Any, teacher_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_with(recipe_of, teacher_run, {"training": {"steps": 24, "checkpoint_every": 5}})
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "run", PLUGINS, observers=[Stop()])
    monkeypatch.delattr(training_run, "evaluate_teachers")
    resume(tmp_path / "run", PLUGINS)
    kept = json.loads((tmp_path / "run" / "result.json").read_text())["teachers"]
    assert kept["cnn"]["images"] == 61
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["teachers"][0]["validation"] == kept["cnn"]


def test_processes_share_the_images(recipe_of: Any, teacher_run: str) -> None:
    """The counts of two processes add up to those of one; a sharded teacher sees all images in each."""
    session = build_session(plan(recipe_with(recipe_of, teacher_run), PLUGINS))
    whole = evaluate_teachers(session)
    sent: list[Tensor] = []

    class Two(type(ALONE)):  # type: ignore[misc]
        def count(self, numbers: Tensor) -> Tensor:
            sent.append(numbers)
            return torch.stack(sent).sum(dim=0)

    for rank in (0, 1):
        half = evaluate_teachers(replace(session, processes=Two(rank=rank, world=2)))
        if rank == 0:
            assert half["cnn"].images == 31
    assert half == whole
    session.teachers["cnn"].sharded = True
    assert evaluate_teachers(replace(session, processes=Two(rank=1, world=2))) == whole
    assert len(sent) == 2


def test_accuracies_go_to_the_teachers_of_their_names() -> None:
    written = {"teachers": [{"recipe_name": "a"}, {"recipe_name": "b"}], "notes": []}
    assert with_accuracies(written, {"b": {"top1": 1.0}}) == {
        "teachers": [{"recipe_name": "a"}, {"recipe_name": "b", "validation": {"top1": 1.0}}],
        "notes": [],
    }


def test_a_run_of_an_earlier_version_keeps_the_size_of_its_teacher(
    recipe_of: Any, teacher_run: str, tmp_path: Path
) -> None:
    """`auto` was the student's size from half to twice the teacher's."""
    recipe = recipe_with(recipe_of, teacher_run, {"student": {"image_size": 16}})
    directory = RunDirectory(tmp_path / "run")
    session = build_session(plan(recipe, PLUGINS))
    facts = session.facts
    directory.create(recipe, facts, session.device)
    assert directory.read_recipe() == recipe
    facts["teachers"][0]["sees"] = [16, 16]
    del facts["teachers"][0]["evaluated"]
    directory.write_plan(facts)
    (teacher,) = directory.read_recipe().teachers
    assert teacher.size == "student"
    assert load_recipe(str(directory.recipe)) == recipe
    assert directory.changed_settings(recipe) == {}
    directory.plan.unlink()
    assert directory.read_recipe() == recipe
