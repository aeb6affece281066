"""How runs start, stop and continue."""

import gc
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from distillkit.errors import DataError
from distillkit.messages.nearest_name import listed
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit.running.directory import RunDirectory
from distillkit_cli import starting
from distillkit_cli.terminal import Terminal
from tests import forked


def known(name, *roles):
    plugins = installed_plugins()
    return listed(name, {plugin.spec.shown_name for role in roles for plugin in plugins.listing(role)})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--loss", "hrad"], f"unknown loss 'hrad'; did you mean 'hard'? (known: {known('hrad', 'loss')})"),
        (
            ["run", "--loss", "hrad", "--dry-run"],
            f"unknown loss 'hrad'; did you mean 'hard'? (known: {known('hrad', 'loss')})",
        ),
        (
            ["plan", "--teacher", "regnety16fg", "--loss", "hard"],
            f"unknown teacher 'regnety16fg'; did you mean 'regnety16gf'? (known: {known('regnety16fg', 'teacher')})",
        ),
        (
            ["finetune", "diet-s"],
            f"unknown model 'diet-s'; did you mean 'deit-s'? (known: {known('diet-s', 'student', 'teacher')})",
        ),
        (
            ["plan", "--json", "--set", 'trackers=["reports"]'],
            "unknown tracker 'reports'; did you mean 'report'? (known: metrics, report)",
        ),
        (
            ["run", "--teacher", "vit-b"],
            (
                "teacher 'vit-b' is given, but no loss uses it; "
                "add --loss hard or --loss soft, or give --loss ce to train on labels only"
            ),
        ),
    ],
)
def test_misspelt_names_are_reported_before_torch_is_imported(arguments, sentence):
    program = (
        "import sys; from distillkit_cli.main import command_line; code = command_line(sys.argv[1:]); "
        "print(code, sorted({'torch', 'timm', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("2 []\n", f"error: {sentence}\n")


@pytest.mark.parametrize("error", [None, DataError("no images")])
def test_a_plan_is_made_without_a_search_for_garbage(monkeypatch, error):
    """It costs a sixth of the time of a plan."""

    def plan(recipe):
        assert not gc.isenabled()
        if error:
            raise error
        return recipe

    monkeypatch.setattr(starting.api, "plan", plan)
    terminal = Terminal()
    if error:
        with pytest.raises(DataError, match="no images"):
            starting.make_plan(terminal, Recipe())
    else:
        assert starting.make_plan(terminal, Recipe()) == Recipe()
    assert (gc.isenabled(), gc.get_freeze_count(), terminal.only_plans) == (True, 0, True)


# A shell that starts the tests in the background lets them ignore Ctrl-C; a terminal does not.
AS_IN_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from distillkit_cli.main import main
main()
"""
LONG = (
    *("--set", "student.width=24", "--set", "student.heads=2", "--set", "student.depth=1"),
    *("--set", "training.epochs=500", "--set", "training.log_every=1", "--set", "data.workers=1", "--out", "stopped"),
)


def started(folder, *arguments):
    """A long run in its own process group, after its first epoch."""
    command = ["-c", AS_IN_A_TERMINAL, "run", *LONG, *arguments]
    process = forked.start(command, cwd=folder, start_new_session=True)
    while not process.stderr.readline().startswith("epoch "):
        assert process.poll() is None
    return process


@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138)])
def test_stopped_run_saves_its_step_and_auto_resume_continues_it(tmp_path, sent, code):
    """The loader process gets the signal too, as from a terminal and some schedulers."""
    process = started(tmp_path, "--auto-resume")
    os.killpg(process.pid, getattr(signal, sent))
    rest = process.stderr.read()
    assert process.wait() == code
    assert "Traceback" not in rest
    stopped = re.fullmatch(
        rf"stopped by {sent} after step (\d+) of \d+; a checkpoint is saved; "
        "to continue: distillkit run --resume stopped",
        rest.splitlines()[-1],
    )
    newest = max((tmp_path / "stopped" / "checkpoints").iterdir())
    assert newest.name == f"step-{int(stopped[1]):08d}"
    if sent == "SIGTERM":
        command = ["-c", AS_IN_A_TERMINAL, "run", *LONG, "--auto-resume"]
        continued = forked.start(command, cwd=tmp_path, start_new_session=True)
        first_line = continued.stderr.readline()
        while "step" not in first_line and continued.poll() is None:
            first_line = continued.stderr.readline()
        os.killpg(continued.pid, signal.SIGKILL)
        continued.wait()
        continued.stderr.close()
        assert f"from step {stopped[1]}" in first_line
    process.stderr.close()


def test_second_ctrl_c_ends_at_once(tmp_path):
    program = """
import signal, os
from distillkit.running.stop_signals import StopRequest
signal.signal(signal.SIGINT, signal.default_int_handler)
with StopRequest().listening() as request:
    os.kill(os.getpid(), signal.SIGINT)
    print(request.received.name)
    os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "SIGINT\n"
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"


def test_auto_resume_with_another_recipe_is_refused(tmp_path, distillkit):
    RunDirectory(tmp_path / "run").create(Recipe(), {}, torch.device("cpu"))
    given = ["run", "--auto-resume", "--out", str(tmp_path / "run"), "--recipe", "digits", "--seed", "3"]
    done = distillkit(*given)
    assert done.code == 2
    assert done.err.startswith(f"error: {tmp_path / 'run'} was started with another recipe (different: ")
    assert ", seed, " in done.err
    assert done.err.endswith("); give the same options, or another --out\n")


def test_auto_resume_needs_a_directory(distillkit):
    assert distillkit("run", "--auto-resume") == (
        2,
        "",
        "error: --auto-resume needs --out DIR\n",
    )
