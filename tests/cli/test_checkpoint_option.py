"""`--checkpoint` chooses the student of a run in every command, and the result says which one it was."""

import json

import numpy as np
import pytest
from PIL import Image

import distillkit as library
from distillkit_cli.main import command_line


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny):
    """A run of four steps with EMA and checkpoints of steps 2 and 4, exported as `ema`."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    more = ["--set", "training.steps=4", "--set", "training.ema=0.5", "--set", "training.checkpoint_every=2"]
    assert command_line(["--quiet", "run", *tiny, *more, "--out", str(out)]) == 0
    assert command_line(["--quiet", "export", str(out), "--checkpoint", "ema"]) == 0
    return out


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("checkpoint", "folder"), [("last", ""), ("best", "best"), ("ema", "ema"), ("2", "checkpoints/step-00000002")]
)
def test_evaluate(distillkit, run, checkpoint, folder):
    by_option = json.loads(distillkit("evaluate", str(run), "--checkpoint", checkpoint, "--json").out)
    by_path = json.loads(distillkit("evaluate", str(run / folder), "--json").out)
    assert by_option["checkpoint"] == by_path["checkpoint"] == checkpoint
    assert by_option["figures"] == by_path["figures"]
    # The results of all students are saved in the run.
    lines = (run / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["checkpoint"] for line in lines[-2:]] == [checkpoint, checkpoint]


def test_the_last_checkpoint_is_the_last_student(distillkit, run):
    figures = [
        json.loads(distillkit("evaluate", str(run), "--checkpoint", name, "--json").out)["figures"]
        for name in ("4", "last")
    ]
    assert figures[0] == figures[1]


def test_evaluate_an_unfinished_run_lists_its_students(distillkit, run, tmp_path):
    unfinished = tmp_path / "unfinished"
    (unfinished / "best").mkdir(parents=True)
    (unfinished / "recipe.toml").write_bytes((run / "recipe.toml").read_bytes())
    (unfinished / "best" / "student.json").write_bytes((run / "best" / "student.json").read_bytes())
    sentence = f"error: run '{unfinished}' is not finished, so it has no last student; "
    end = f"continue it with --resume {unfinished}\n"
    choice = "choose another with --checkpoint (best), or "
    assert distillkit("evaluate", str(unfinished)) == (2, "", f"{sentence}{choice}{end}")
    (unfinished / "best" / "student.json").unlink()
    assert distillkit("evaluate", str(unfinished)) == (2, "", f"{sentence}{end}")


def test_attention(distillkit, run, image, tmp_path):
    done = distillkit("attention", str(run), image, "--checkpoint", "2", "--out", str(tmp_path / "figures"))
    assert (done.code, done.out) == (0, f"{tmp_path / 'figures' / 'cat-attention.png'}\n")
    assert distillkit("attention", str(run / "checkpoints" / "step-00000002"), image).code == 0
    assert (run / "attention" / "cat-attention.png").is_file()


def test_the_bundle_says_which_student_it_holds(run):
    manifest = json.loads((run / "export-ema" / "bundle.json").read_text())
    assert (manifest["source"]["run"], manifest["source"]["checkpoint"]) == ("tiny", "ema")


def test_predict(distillkit, run, image):
    by_option = distillkit("predict", str(run), image, "--checkpoint", "ema")
    assert by_option.code == 0
    assert by_option.out == distillkit("predict", str(run / "export-ema"), image).out
    assert by_option.out == distillkit("predict", str(run / "export-ema"), image, "--checkpoint", "ema").out
    assert distillkit("predict", str(run), image, "--checkpoint", "best") == (
        2,
        "",
        (
            f"error: run '{run}' has no bundle '{run / 'export-best'}'; make it with: distillkit export {run} "
            "--checkpoint best\n"
        ),
    )
    assert distillkit("predict", str(run / "export-ema"), image, "--checkpoint", "best") == (
        2,
        "",
        (
            f"error: bundle '{run / 'export-ema'}' holds the student 'ema' of its run; leave out --checkpoint best, or "
            "give the run\n"
        ),
    )


def test_profile_refuses_a_bundle_of_another_student(distillkit, run):
    assert distillkit("profile", str(run / "export-ema"), "--checkpoint", "2") == (
        2,
        "",
        (
            f"error: bundle '{run / 'export-ema'}' holds the student 'ema' of its run; leave out --checkpoint 2, or "
            "give the run\n"
        ),
    )
    done = distillkit("profile", str(run), "--checkpoint", "7")
    assert done == (2, "", f"error: run '{run}' has no student '7'; --checkpoint can be: last, best, ema, 2, 4\n")


def test_a_teacher(distillkit, run, tiny):
    teacher = ("--teacher", f"run:{run}", "--loss", "hard")
    planned = distillkit("plan", *tiny, *teacher, "--set", "teacher.checkpoint=best", "--json")
    assert planned.code == 0
    done = distillkit("plan", *tiny, *teacher, "--set", "teacher.checkpoint=7")
    assert done == (2, "", f"error: run '{run}' has no student '7'; teacher.checkpoint can be: last, best, ema, 2, 4\n")
    weights = [
        library.load_student(run, checkpoint=name).network.state_dict()["head.weight"] for name in (2, "last", "ema")
    ]
    assert not any((weights[0] == other).all() for other in weights[1:])


def test_a_run_from_a_checkpoint(distillkit, run):
    source = run / "checkpoints" / "step-00000002"
    planned = json.loads(distillkit("plan", "--from", str(source), "--json").out)
    assert planned["student"]["starts_from"] == str(source)


def test_a_model_by_name_has_no_students(distillkit):
    assert distillkit("evaluate", "vit-b", "--checkpoint", "best") == (
        2,
        "",
        "error: --checkpoint best needs a run directory, and 'vit-b' is not one; leave it out\n",
    )
