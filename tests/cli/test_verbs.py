"""Verbs that train, evaluate and export, end to end on digits with a tiny student."""

import json
import re
import tomllib
from datetime import UTC, datetime

import numpy as np
import pytest
from safetensors.numpy import load_file

from distillkit.messages.nearest_name import listed
from distillkit.messages.progress import ProgressDisplay
from distillkit.planning.render import plan_lines
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import load_recipe
from distillkit.running import start


def lines_without_time(text):
    """The lines of a plan except for the time, which depends on the load of the machine."""
    return [line for line in text.splitlines() if not line.startswith("time ")]


def test_plan_prints_the_plan(distillkit, monkeypatch, tiny):
    monkeypatch.setenv("COLUMNS", "1000")
    recipe = load_recipe(assignments=[*tiny[1::2][:-1], "training.device=cpu"])
    rows = plan_lines(start.plan(recipe, installed_plugins()))
    code, out, err = distillkit("plan", *tiny)
    assert (code, err) == (0, "")
    assert lines_without_time(out) == [f"{heading:13}  {text}" for heading, text in rows]
    assert "steps          2 (18 per epoch)" in out.splitlines()
    time = r"^time           at least \d+ seconds? \(a matrix product reaches [\d,]+ GFLOP/s here\)$"
    assert re.search(time, out, re.MULTILINE)


def test_a_dry_run_is_a_plan(distillkit, tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    planned, dry = distillkit("plan", *tiny), distillkit("run", *tiny, "--dry-run")
    assert dry.code == planned.code == 0
    assert lines_without_time(dry.out) == lines_without_time(planned.out)
    assert list(tmp_path.iterdir()) == []


def test_plan_as_json(distillkit, tiny):
    code, out, err = distillkit("plan", *tiny, "--labels", "100", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["steps"] == 2


def test_run_prints_its_directory_and_accuracies(distillkit, tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    code, out, err = distillkit("run", *tiny, "--set", 'trackers=["metrics", "report"]')
    assert code == 0
    result = json.loads((tmp_path / "runs/deit-ti-digits-ce-seed0-001/result.json").read_text())
    assert (result["seed"], result["loss"], result["losses"].keys()) == (0, "1 * labels", {"loss", "loss/labels"})
    assert datetime.fromisoformat(result["finished"]) >= datetime.fromisoformat(result["started"])
    assert result["duration_s"] >= 0
    figures = result["figures"]
    lines = out.splitlines()
    assert lines[0] == "run         runs/deit-ti-digits-ce-seed0-001"
    assert lines[1].startswith(f"validation  {figures['validation/top1']:.2f} % of 130 images (top 5 ")
    assert f"\ntest        {figures['test/top1']:.2f} % of 500 images (top 5 " in out
    assert lines[-1] == f"best        {figures['best/validation_top1']:.2f} % on validation, after step 2"
    assert err.splitlines()[2] == "2 steps of 64 images; run directory runs/deit-ti-digits-ce-seed0-001"
    assert re.fullmatch(
        r"epoch 1/1, step 2/2: validation \d+\.\d\d %; loss \d\.\d{4}, lr \d\.\d\de-\d\d;\n"
        r"  [\d,]+ images/s, data wait \d+%",
        "\n".join(err.splitlines()[-2:]),
    )
    report = (tmp_path / "runs/deit-ti-digits-ce-seed0-001/report.md").read_text()
    assert f"| started | {result['started']} |" in report
    assert f"| seed | 0 |\n| total | {result['losses']['loss']:.4f} |\n| labels |" in report
    rows = (tmp_path / "runs/deit-ti-digits-ce-seed0-001/metrics.jsonl").read_text().splitlines()
    assert all(datetime.fromisoformat(json.loads(row)["time"]).tzinfo is UTC for row in rows)


def test_a_smoke_run_evaluates_a_few_images(distillkit, tmp_path):
    code, _, err = distillkit("run", "--smoke", "--set", "trackers=[]", "--out", str(tmp_path / "run"))
    assert code == 0
    assert "note: each evaluation measures at most 64 images of a split" in err.splitlines()
    figures = json.loads((tmp_path / "run/result.json").read_text())["figures"]
    assert (figures["validation/images"], figures["test/images"]) == (64, 64)


def test_evaluate_shows_that_it_works(distillkit, trained, monkeypatch):
    monkeypatch.setattr(ProgressDisplay, "is_line_due", True)
    code, _, err = distillkit("evaluate", str(trained), "--split", "test")
    assert code == 0
    assert err.splitlines()[-1] == "test: 500 of 500 images measured"


def test_an_existing_directory_is_not_overwritten(distillkit, trained, tiny):
    assert distillkit("run", *tiny, "--out", str(trained)) == (
        2,
        "",
        f"error: {trained} exists and is not empty; delete it or give another --out\n",
    )


def test_an_unfinished_run_is_continued(distillkit, trained, tmp_path, tiny):
    out = tmp_path / "stopped"
    out.mkdir()
    (out / "recipe.toml").write_text((trained / "recipe.toml").read_text())
    assert distillkit("run", *tiny, "--out", str(out)) == (
        2,
        "",
        f"error: {out} exists and is not empty; continue it with --resume {out} or give another --out\n",
    )


def test_a_finished_run_is_not_resumed(distillkit, trained):
    assert distillkit("run", "--resume", str(trained)) == (
        2,
        "",
        f"error: {trained} is finished; evaluate or export it, or start a new run with more epochs\n",
    )


def test_resumed_run_gives_the_same_student(distillkit, trained, tmp_path, tiny):
    out = tmp_path / "stopped"
    assert distillkit("run", *tiny, "--set", "training.checkpoint_every=1", "--out", str(out)).code == 0
    # The state of a run that was killed after its first checkpoint.
    for name in ("result.json", "student.safetensors", "student.json"):
        (out / name).unlink()
    last = max((out / "checkpoints").iterdir())
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    code, shown, err = distillkit("run", "--resume", str(out))
    assert code == 0
    assert shown.splitlines()[0] == f"run         {out}"
    assert f"2 steps of 64 images, from step 1; run directory {out}\n" in err
    resumed, uninterrupted = load_file(out / "student.safetensors"), load_file(trained / "student.safetensors")
    assert all(np.array_equal(resumed[name], uninterrupted[name]) for name in uninterrupted)


def test_finetune_is_run_with_ce_from_given_weights(distillkit, trained, tmp_path, tiny):
    shared = [*tiny, "--data", "digits"]
    by_run, by_finetune = tmp_path / "run", tmp_path / "finetune"
    weights = str(trained / "student.safetensors")
    arguments = ["--loss", "ce", "--student", "deit-ti", "--student-weights", weights]
    assert distillkit("run", *shared, *arguments, "--out", str(by_run)).code == 0
    assert distillkit("finetune", "deit-ti", *shared, "--weights", weights, "--out", str(by_finetune)).code == 0
    assert (by_run / "recipe.toml").read_text() == (by_finetune / "recipe.toml").read_text()
    assert (by_run / "student.safetensors").read_bytes() == (by_finetune / "student.safetensors").read_bytes()


def test_finetune_of_a_teacher_trains_a_student_of_its_architecture(distillkit, monkeypatch):
    recipes = []
    monkeypatch.setattr("distillkit_cli.starting.start", lambda terminal, recipe, out, dry_run: recipes.append(recipe))
    assert distillkit("finetune", "regnety16gf").code == 0
    assert distillkit("finetune", "vit-b").code == 0
    assert distillkit("finetune", "timm:resnet18", "--weights", "resnet18.pth").code == 0
    assert [(recipe.student.model, recipe.student.weights) for recipe in recipes] == [
        ("timm:regnety_160.deit_in1k", "pretrained"),
        ("vit-b", "pretrained"),
        ("timm:resnet18", "resnet18.pth"),
    ]
    assert {loss.loss for recipe in recipes for loss in recipe.losses} == {"ce"}


def known(*roles):
    plugins = installed_plugins()
    return {plugin.spec.shown_name for role in roles for plugin in plugins.listing(role)}


MODELS_LIKE_IT = listed("regnet16gf", known("student", "teacher"))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            "run:runs/a",
            (
                "'run' is a teacher and not a student, so 'run:runs/a' cannot be fine-tuned by that name; "
                "to start from a run: distillkit run --loss ce --from runs/a"
            ),
        ),
        (
            "cifar-resnet20",
            (
                "teacher 'cifar-resnet20' is not a timm model, so no student has its architecture; "
                "fine-tune a student instead, such as timm:resnet18"
            ),
        ),
        (
            "regnet16gf",
            f"unknown model 'regnet16gf'; did you mean 'regnety16gf'? (known: {MODELS_LIKE_IT})",
        ),
    ],
)
def test_models_that_cannot_be_fine_tuned_are_errors(distillkit, model, sentence):
    assert distillkit("finetune", model, "--smoke") == (2, "", f"error: {sentence}\n")


def test_evaluate_repeats_the_figures_of_the_run(distillkit, trained):
    figures = json.loads((trained / "result.json").read_text())["figures"]
    code, out, err = distillkit("evaluate", str(trained))
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "protocol  accuracy of the model's predictions"
    assert out.splitlines()[1] == "data      digits"
    assert out.splitlines()[2].startswith(f"test      {figures['test/top1']:.2f} % of 500 images (")
    code, out, err = distillkit("evaluate", str(trained), "--split", "validation", "--head", "class", "--json")
    assert (code, err) == (0, "")
    measured = json.loads(out)
    assert measured["split"] == "validation"
    assert measured["figures"]["top1"] == pytest.approx(figures["validation/class_top1"])


def test_export_writes_a_file_that_passes_the_gate(distillkit, trained, tmp_path):
    pytest.importorskip("onnxruntime")
    code, out, err = distillkit("export", str(trained), "--out", str(tmp_path / "exported"), "--head", "class")
    assert (code, err) == (0, "")
    first, _, row, measured = out.splitlines()
    assert first == f"{tmp_path}/exported: 1 file, opset 20, batch x 3 x 8 x 8 images, class head"
    assert (row.split()[0], row.split()[-1]) == ("model.onnx", "passed")
    assert measured.endswith("eager, float32, CPU on 500 images (test images of run 'tiny')")
    manifest = json.loads((tmp_path / "exported" / "bundle.json").read_text())
    assert manifest["output"]["head"] == "class"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["run", "--loss", "hrad"],
            f"unknown loss 'hrad'; did you mean 'hard'? (known: {listed('hrad', known('loss'))})",
        ),
        (["run", "--loss", "soft:2"], "loss 'soft:2': options are KEY=VALUE, such as soft:tau=2"),
        (["run", "--loss", "soft:0.5"], "loss 'soft:0.5': options are KEY=VALUE, such as soft:tau=2"),
        (
            ["run", "--loss", "soft:tau"],
            "loss 'soft': option 'tau' has no value; write soft:KEY=VALUE, such as soft:tau=2",
        ),
        (["run", "--set", "student.pathc=3"], "student 'deit-ti': unknown key 'pathc'; did you mean 'patch'?"),
        (["run", "--loss", "hard"], "loss 'hard' needs a teacher, but the recipe has none; give --teacher"),
        (
            ["evaluate", "runs/nothing"],
            (
                "'runs/nothing' is neither a run directory (with student.json) nor a teacher; "
                f"teachers: {listed('runs/nothing', known('teacher'))}"
            ),
        ),
        (
            ["run", "--resume", "runs/nothing"],
            "there is no run directory 'runs/nothing'; check the path",
        ),
    ],
)
def test_user_errors_are_one_line(distillkit, arguments, sentence):
    assert distillkit(*arguments) == (2, "", f"error: {sentence}\n")


def test_recipe_of_a_run_gives_the_same_plan(distillkit, trained):
    recipe = trained / "recipe.toml"
    assert tomllib.loads(recipe.read_text())["student"]["width"] == 16
    code, out, _ = distillkit("plan", "--recipe", str(recipe), "--json")
    assert code == 0
    written = json.loads((trained / "plan.json").read_text())
    # A run adds these once its models are built.
    assert {name: written.pop(name) for name in ("device", "precision", "seed")} == {
        "device": "cpu",
        "precision": "float32",
        "seed": 0,
    }
    assert json.loads(out) == written
