"""Runs whose teacher has another form: recorded, resumed with, and given up with a note where it cannot be used."""

import json

import pytest
import torch
from safetensors.torch import load_file

from distillkit.plugin.registry import installed_plugins
from distillkit.running.run_bank import COMPARED, COMPARED_IF_DIFFERENT
from distillkit.running.session import build_session
from distillkit.running.start import plan, resume, run


class StopAt:
    def __init__(self, step):
        self.step = step

    def distillkit_steps_logged(self, record):
        if record["step"] >= self.step:
            raise KeyboardInterrupt


@pytest.fixture
def recipe_with(recipe_of, teacher_run):
    def make(form, **more):
        teachers = [{"model": teacher_run, "name": "cnn", "form": form}]
        return recipe_of({"teachers": teachers, "losses": [{"loss": "soft"}], **more})

    return make


def weights(directory):
    return load_file(directory / "student.safetensors")


def equal(one, other):
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def written(directory):
    content = json.loads((directory / "plan.json").read_text())
    (teacher,) = content["teachers"]
    return (
        teacher["form"],
        teacher["precision"],
        [note for note in content["notes"] if " form, " in note or "measured" in note],
    )


def test_a_short_run_keeps_the_plain_form(recipe_with, tmp_path):
    run(recipe_with("auto", training={"steps": 2}), tmp_path / "run", installed_plugins())
    assert written(tmp_path / "run") == ("plain", "fp32", [])


def test_a_form_set_by_hand_is_recorded_and_resumed_bit_for_bit(recipe_with, tmp_path):
    recipe = recipe_with("channels-last", training={"steps": 8, "checkpoint_every": 3, "log_every": 1})
    run(recipe, tmp_path / "whole", installed_plugins())
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "stopped", installed_plugins(), observers=[StopAt(5)])
    resume(tmp_path / "stopped", installed_plugins())
    assert written(tmp_path / "stopped") == written(tmp_path / "whole") == ("channels-last", "fp32", [])
    assert equal(tmp_path / "whole", tmp_path / "stopped")


def test_a_measured_form_is_recorded_and_resumed_without_measuring(recipe_with, tmp_path):
    recipe = recipe_with("measured", training={"steps": 8, "checkpoint_every": 3, "log_every": 1})
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "stopped", installed_plugins(), observers=[StopAt(5)])
    form, precision, (note,) = written(tmp_path / "stopped")
    assert precision == "fp32"
    assert note.startswith("teacher 'cnn': measured plain ")
    assert note.endswith(f" ms an image; computes as {form}")
    resume(tmp_path / "stopped", installed_plugins())
    assert written(tmp_path / "stopped") == (form, precision, [note])
    by_hand = recipe_with(form, training={"steps": 8, "checkpoint_every": 3, "log_every": 1})
    run(by_hand, tmp_path / "by-hand", installed_plugins())
    assert equal(tmp_path / "by-hand", tmp_path / "stopped")


@pytest.mark.slow
def test_a_form_that_fails_is_given_up_with_a_note(recipe_with, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch.compiler.reset()
    short = {"steps": 2}
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        run(recipe_with("compiled", training=short), tmp_path / "compiled-run", installed_plugins())
    run(recipe_with("plain", training=short), tmp_path / "plain", installed_plugins())
    form, precision, (note,) = written(tmp_path / "compiled-run")
    assert (form, precision) == ("plain", "fp32")
    assert note.startswith("teacher 'cnn' computes in the plain form, in fp32, because compiled fails (")
    assert equal(tmp_path / "compiled-run", tmp_path / "plain")


def test_runs_of_earlier_versions_resume_in_the_plain_form(recipe_with, tmp_path):
    recipe = recipe_with("channels-last", training={"steps": 8, "checkpoint_every": 3, "log_every": 1})
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "run", installed_plugins(), observers=[StopAt(5)])
    content = json.loads((tmp_path / "run/plan.json").read_text())
    for teacher in content["teachers"]:
        del teacher["form"], teacher["precision"]
    (tmp_path / "run/plan.json").write_text(json.dumps(content))
    seen = []

    class Observer:
        def distillkit_run_started(self, run):
            seen.append(run.plan["teachers"][0]["form"])

    resume(tmp_path / "run", installed_plugins(), observers=[Observer()])
    assert seen == ["plain"]


def test_a_shelf_made_in_another_form_is_compared_more_closely(recipe_with, tmp_path):
    def rows_to_compare(form):
        recipe = recipe_with(form, bank=str(tmp_path / "bank"), data={"views": 1})
        return build_session(plan(recipe, installed_plugins())).bank.uses["soft"].to_compare

    assert [rows_to_compare(form) for form in ("plain", "plain", "channels-last")] == [
        COMPARED,
        COMPARED,
        COMPARED_IF_DIFFERENT,
    ]
