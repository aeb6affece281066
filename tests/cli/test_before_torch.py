"""What a user mistyped is reported before torch is imported, which takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from distillkit_cli.main import command_line
for arguments in json.loads(sys.argv[1]):
    code = command_line(arguments)
    print(f"{code} {sorted({'torch', 'timm', 'sklearn'} & sys.modules.keys())}", file=sys.stderr, flush=True)
"""
TEACHERS = (
    "dinov2-vits14-reg, dinov2-vitl14-reg, dinov2-vitb14-reg, dinov3-convnext-t, dinov3-convnext-s, ... 32 in all"
)
NO_DATA = (
    "--data (data.train): 'nowhere' is neither a folder nor a data set; data sets: digits, folder:<path>, "
    "imagenette, timm:<data set>"
)
TAKEN = "taken exists and is not empty; delete it or give another --out"
NO_TARGET = f"'nowhere' is neither a run directory (with student.json) nor a teacher; teachers: {TEACHERS}"
NO_EXPORT = (
    "'nowhere' is neither a directory nor a model by name; give a run directory, a directory with student.json, or a "
    "name such as timm:resnet18"
)
NO_STUDENT = "run 'finished' has no student 'best'; --checkpoint can be: none yet"
NO_RUN = "there is no run directory 'nowhere'; check the path"
MISTAKES = {
    "run --data nowhere": NO_DATA,
    "plan --data nowhere": NO_DATA,
    "run --out taken": TAKEN,
    "run --nproc 2 --out taken": TAKEN,
    "run --resume nowhere": NO_RUN,
    "run --resume finished": "finished is finished; evaluate or export it, or start a new run with more epochs",
    "run --teacher vit-b --loss soft:tauu=3": "loss 'soft': unknown key 'tauu'; did you mean 'tau'?",
    "run --teacher vit-b --loss soft:tau=-3": "loss 'soft': 'tau' is -3; it should be greater than 0",
    "run --loss soft": "loss 'soft' needs a teacher, but the recipe has none; give --teacher",
    "run --nproc 2 --set student.depht=3": "student 'deit-ti': unknown key 'depht'; did you mean 'depth'?",
    "finetune small-cnn --set student.wide=3": "student 'small-cnn': unknown key 'wide'; did you mean 'width'?",
    "export nowhere": NO_EXPORT,
    "export taken": "'taken' contains no student; give a run directory, a directory with student.json, or a checkpoint",
    "profile nowhere": NO_EXPORT,
    "evaluate nowhere": NO_TARGET,
    "evaluate finished --checkpoint best": NO_STUDENT,
    "export finished --checkpoint best": NO_STUDENT,
    "attention finished x.png --checkpoint best": NO_STUDENT,
    "evaluate vit-b --data nowhere": NO_DATA,
    "evaluate vit-b --set restict=true": "evaluator 'top1': unknown key 'restict'; did you mean 'restrict'?",
    "evaluate vit-b --k 3": "--k is an option of --protocol knn; the protocol is top1",
    "attention nowhere x.png": NO_TARGET,
    "attention vit-b x.png": "there is no image 'x.png'; check the path",
    "replay nowhere": NO_RUN,
}


def in_one_process(folder: Path, commands):
    """The stderr of the commands, run one after the other."""
    arguments = json.dumps([command.split() for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    for name, file in (("taken", "notes.txt"), ("finished", "recipe.toml"), ("finished", "result.json")):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / file).touch()
    lines = in_one_process(folder, MISTAKES)
    return dict(zip(MISTAKES, zip(lines[::2], lines[1::2], strict=True), strict=True))


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_answered_without_torch(answers, command):
    assert answers[command] == (f"error: {MISTAKES[command]}", "2 []")


def test_the_plan_of_digits_imports_neither_the_compiler_of_torch_nor_scikit_learn(tmp_path):
    program = f"{PROGRAM}\nprint(sorted({{'torch._dynamo', 'sklearn', 'pandas'}} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([["plan"]])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
