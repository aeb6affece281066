"""Errors: what is printed, on which stream, and with which exit code."""

import subprocess
import sys

import pytest

from distillkit import GateError, TrainingError, UnavailableError, UserError, __version__
from distillkit_cli import main


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rnu"], "no such command 'rnu'. Did you mean 'run'? (see distillkit --help)"),
        (["run", "--epoch", "3"], "no such option: --epoch. Did you mean '--epochs'? (see distillkit run --help)"),
        (["--quite"], "no such option: --quite. Did you mean '--quiet'? (see distillkit --help)"),
        (
            ["export", "run", "--precision", "fp16"],
            "export has one flag per precision: --fp16, --bf16, --int8, --fp8 (see distillkit export --help)",
        ),
        (["run", "--zzz"], "no such option: --zzz (see distillkit run --help)"),
        (
            ["run", "--head", "both"],
            "invalid value for '--head': 'both' is not one of 'fused', 'class', 'distill' (see distillkit run --help)",
        ),
        (
            ["plan", "--epochs", "ten"],
            (
                "invalid value for '--epochs': Input should be a valid integer, unable to parse string as an integer "
                "(see distillkit plan --help)"
            ),
        ),
        (["finetune"], "missing argument 'MODEL' (see distillkit finetune --help)"),
        (["run", "extra"], "got unexpected extra argument(s) (extra) (see distillkit run --help)"),
        (["run", "--out"], "option '--out' requires an argument"),
        (
            ["run", "--resume", "runs/a", "--data", "digits", "--seed", "0", "--dry-run"],
            (
                "invalid value for --resume: a run continues with its own recipe; "
                "leave out --data, --seed, --dry-run (see distillkit run --help)"
            ),
        ),
        (
            ["finetune", "deit-s", "--weights", "none", "--resume", "runs/a", "--labels", "3"],
            (
                "invalid value for --resume: a run continues with its own recipe; "
                "leave out MODEL, --weights, --labels (see distillkit finetune --help)"
            ),
        ),
        (["finetune", "deit-s", "--auto-resume"], "--auto-resume needs --out DIR"),
        (
            ["recipes", "diet-ti"],
            (
                "unknown recipe 'diet-ti'; did you mean 'deit-ti'? "
                "`distillkit recipes` lists the named recipes; to use a file, give a name that ends with .toml"
            ),
        ),
        (
            ["run", "--set", "training.epoch=3", "--set", "student", "--labels", "0"],
            (
                "3 problems\n"
                "  'student' is not a setting; write key=value, such as training.epochs=20\n"
                "  'data.labels' is 0; it should be greater than 0\n"
                "  unknown key 'training.epoch'; did you mean 'training.epochs'?"
            ),
        ),
    ],
)
def test_user_errors_are_on_stderr_with_exit_code_2(distillkit, arguments, sentence):
    assert distillkit(*arguments) == (2, "", f"error: {sentence}\n")


@pytest.mark.parametrize(("error", "code"), [(UserError, 2), (TrainingError, 1), (UnavailableError, 3), (GateError, 4)])
def test_exit_code_of_each_error_class(distillkit, monkeypatch, error, code):
    def fail(*arguments, **options):
        raise error("it did not work: [red]5 of :10:")

    monkeypatch.setattr("distillkit.recipe.files.load_recipe", fail)
    assert distillkit("run") == (code, "", "error: it did not work: [red]5 of :10:\n")


def test_interrupt_exits_with_130_and_prints_nothing(distillkit, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("distillkit.recipe.files.load_recipe", interrupt)
    assert distillkit("run") == (130, "", "")


def test_verbose_errors_have_a_traceback(distillkit):
    code, out, err = distillkit("--verbose", "recipes", "diet-ti")
    assert (code, out) == (2, "")
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.splitlines()[-1].startswith("error: unknown recipe 'diet-ti'")


def test_other_exceptions_print_a_traceback_and_exit_with_1():
    program = (
        "import distillkit.recipe.files as files\n"
        "from distillkit_cli.main import main\n"
        "def named_recipes(): raise ZeroDivisionError('a bug')\n"
        "files.named_recipes = named_recipes\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, "recipes"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("ZeroDivisionError: a bug\n")


@pytest.mark.parametrize(
    ("arguments", "code", "taken_apart"),
    [
        (["plan", "--json", "--set", "training.steps=3"], 0, False),
        (["run", "--dry-run"], 0, False),
        (["plan", "--loss", "hrad"], 2, False),
        (["recipes"], 0, True),
    ],
)
def test_the_process_of_a_plan_ends_at_once(arguments, code, taken_apart):
    """Taking apart the modules of torch and timm would take most of a second. Handlers of the process's end run."""
    program = (
        "import atexit, sys\n"
        "from distillkit_cli import main\n"
        "class Witness:\n"
        "    def __init__(self): self.write = sys.stderr.write\n"
        "    def __del__(self): self.write('taken apart')\n"
        "main.witness = Witness()\n"
        "def handler(): print('handled')\n"
        "raising = main.raising_terminated\n"
        "def register():\n"
        "    atexit.register(handler)\n"
        "    return raising()\n"
        "main.raising_terminated = register\n"
        "main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.endswith("taken apart")) == (code, taken_apart)
    assert done.stdout.endswith("handled\n")
    assert code or len(done.stdout.splitlines()) > 10


def test_version(distillkit):
    assert distillkit("--version") == (0, f"distillkit {__version__}\n", "")


@pytest.mark.parametrize("package", ["distillkit", "distillkit_cli"])
def test_python_m_runs_the_command(package):
    command = [sys.executable, "-m", package, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"distillkit {__version__}\n", "")


def test_every_verb_has_a_module_of_its_name():
    assert [verb.callback.__module__ for verb in main.app.registered_commands] == [
        f"distillkit_cli.{verb.callback.__name__}" for verb in main.app.registered_commands
    ]


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("run", []),
        ("plan", []),
        ("plan", ["--json"]),
        ("finetune", ["regnety16gf"]),
        ("evaluate", ["timm:resnet18"]),
        ("export", ["timm:resnet18"]),
    ],
)
def test_error_without_torch_names_the_extra(distillkit, monkeypatch, verb, arguments):
    monkeypatch.setattr("distillkit.plugin.extras.find_spec", lambda module: None)
    assert distillkit(verb, *arguments) == (
        2,
        "",
        f'error: distillkit {verb} needs torch, which is not installed; pip install "distillkit[train]"\n',
    )
