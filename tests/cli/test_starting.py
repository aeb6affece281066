"""Where a run goes when nobody says."""

import os
import signal
import subprocess
import sys

import pytest

from distillkit.hooks import installed_plugins
from distillkit.recipe import Data, Recipe, StudentEntry
from distillkit_cli.starting import next_directory


@pytest.mark.parametrize(
    ("student", "data", "name"),
    [
        ("deit-ti", Data(), "deit-ti-digits-001"),
        ("deit-ti", Data(train="/pictures/my flowers/"), "deit-ti-my-flowers-001"),
        ("timm:resnet18.a1_in1k", Data(unlabeled="loose"), "timm-resnet18.a1_in1k-loose-001"),
        ("vit-s", Data(train="timm:hfds/cats"), "vit-s-cats-001"),
    ],
)
def test_it_is_called_by_student_and_data(tmp_path, student, data, name):
    assert next_directory(Recipe(student=StudentEntry(model=student), data=data), tmp_path) == tmp_path / name


def test_this_folder_has_a_name_too(tmp_path, monkeypatch):
    (tmp_path / "flowers").mkdir()
    monkeypatch.chdir(tmp_path / "flowers")
    assert next_directory(Recipe(data=Data(train="."))).as_posix() == "runs/deit-ti-flowers-001"


def test_the_next_number_is_free(tmp_path):
    for taken in ("deit-ti-digits-002", "deit-ti-digits-019", "deit-ti-digits-old", "deit-ti-digits-x-090"):
        (tmp_path / taken).mkdir()
    assert next_directory(Recipe(), tmp_path) == tmp_path / "deit-ti-digits-020"


def known(*roles):
    plugins = installed_plugins()
    return ", ".join(sorted({owned.spec.shown_name for role in roles for owned in plugins.listing(role)}))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--loss", "hrad"], f"unknown loss 'hrad'; did you mean 'hard'? (known: {known('loss')})"),
        (["run", "--loss", "hrad", "--dry-run"], f"unknown loss 'hrad'; did you mean 'hard'? (known: {known('loss')})"),
        (
            ["plan", "--teacher", "regnety16fg", "--loss", "hard"],
            f"unknown teacher 'regnety16fg'; did you mean 'regnety16gf'? (known: {known('teacher')})",
        ),
        (
            ["finetune", "diet-s"],
            f"unknown model 'diet-s'; did you mean 'deit-s'? (known: {known('student', 'teacher')})",
        ),
        (
            ["plan", "--json", "--set", 'trackers=["reports"]'],
            "unknown tracker 'reports'; did you mean 'report'? (known: metrics, report)",
        ),
        (
            ["run", "--teacher", "vit-b"],
            (
                "teacher 'vit-b' is given and no loss that listens to it; "
                "add --loss hard or --loss soft, or say --loss ce to learn from labels alone"
            ),
        ),
    ],
)
def test_a_misspelt_name_is_answered_before_torch_is_imported(arguments, sentence):
    program = (
        "import sys; from distillkit_cli.main import command_line; code = command_line(sys.argv[1:]); "
        "print(code, sorted({'torch', 'timm', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("2 []\n", f"error: {sentence}\n")


def test_ctrl_c_says_how_to_go_on(tmp_path):
    """The signal goes to the loader process too, as a terminal sends it."""
    typed = ["run", "--set", "training.epochs=500", "--set", "data.workers=1", "--set", "training.log_every=1"]
    # A shell that starts the tests in the background lets them ignore the signal; a terminal does not.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from distillkit_cli.main import main; main()"
    )
    command = [sys.executable, "-c", program, *typed, "--out", "stopped"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("epoch "):
            os.killpg(process.pid, signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait() == 130
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "stopped; to continue: distillkit run --resume stopped"
