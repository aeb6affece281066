"""--help: its text, its width, its speed, and examples that work."""

import functools
import itertools
import os
import re
import shlex
import subprocess
import sys

import pytest
import typer

from distillkit_cli.main import app
from tests import forked

VERBS = (
    "run",
    "plan",
    "finetune",
    "sweep",
    "evaluate",
    "compare",
    "attention",
    "export",
    "verify",
    "profile",
    "bench",
    "predict",
    "plugins",
    "recipes",
    "replay",
    "doctor",
)
ENTRY = "from distillkit_cli.main import main; main()"


@functools.cache
def help_of(*verb, option="--help"):
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    environment = {key: value for key, value in environment.items() if key not in {"GITHUB_ACTIONS", "FORCE_COLOR"}}
    done = forked.run(["-c", ENTRY, *verb, option], env=environment, check=True)
    assert done.stderr == ""
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip()


OVERVIEW = """\
 Usage: distillkit [OPTIONS] COMMAND [ARGS]...

 Distil a large vision model into a small one and export it.

 Choose a teacher, a student and a loss. Get a checkpoint, a report and an ONNX file.

 Start here:
   distillkit run --teacher regnety16gf --loss hard
   distillkit export --trt

╭─ Options ────────────────────────────────────────────────────────────────────────────────────────╮
│ --quiet      -q            Print results and errors only.                                        │
│ --verbose    -v            Print errors with tracebacks.                                         │
│ --no-plugin          NAME  Ignore a third-party plugin, by distribution or entry point, or all   │
│                            of them; may be repeated.                                             │
│ --version                  Print the version and exit.                                           │
│ --help       -h            Show this message and exit.                                           │
╰──────────────────────────────────────────────────────────────────────────────────────────────────╯
╭─ Commands ───────────────────────────────────────────────────────────────────────────────────────╮
│ run        Train a student. Writes a run directory with weights, metrics and a report.           │
│ plan       Show what a run would do: models, signals, loss, batch, steps, cost. Loads no         │
│            weights.                                                                              │
│ finetune   Train a model on labels alone, from pretrained weights: a teacher for your own        │
│            classes.                                                                              │
│ sweep      Run many arms over recipe keys, several at once, each in a run directory of its own.  │
│ evaluate   Evaluate a student or a teacher: top-1, k-NN, linear probe or few labels.             │
│ compare    Compare finished runs: what differs, accuracy with spread over seeds, cost, latency.  │
│ attention  Draw the CLS attention of each layer over images, the teacher above the student.      │
│ export     Export a student to ONNX in every chosen precision, and compare each file with        │
│            PyTorch on real images.                                                               │
│ verify     Check a bundle on the machine that will serve it. torch is not needed.                │
│ profile    Measure latency, throughput and memory on this machine, in every runtime that works   │
│            here.                                                                                 │
│ bench      Measure distillation steps on this machine: plain torch, distillkit with and without  │
│            a bank, timm, DeiT.                                                                   │
│ predict    Classify images with an exported student. torch is not needed.                        │
│ plugins    List every plugin with its owner: teachers, students, losses, data sets and more.     │
│ recipes    List the named recipes, or print one with every key that is set.                      │
│ replay     Repeat the step at which a run stopped, and show what was not finite.                 │
│ doctor     Test every inference runtime on a tiny model, and say how to repair those that fail.  │
│ data       Check a data set before training on it.                                               │
│ bank       List, fill, check and prune target banks: the teacher's targets, stored for later     │
│            runs.                                                                                 │
╰──────────────────────────────────────────────────────────────────────────────────────────────────╯"""


def test_help_without_a_verb():
    assert help_of() == OVERVIEW.strip()


def test_no_arguments_prints_the_help(distillkit):
    code, out, err = distillkit()
    assert (code, err) == (0, "")
    assert "Distil a large vision model into a small one and export it." in out


def examples(verb):
    return re.findall(r"^ +distillkit .*$", help_of(verb).partition("For example:")[2], re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_examples_fit_72_columns_and_parse(verb):
    """Each example is on one line and its options parse; it is not run."""
    lines = examples(verb)
    assert 2 <= len(lines) <= 3
    assert [line for line in lines if len(line.strip()) > 72 or not line.startswith("   distillkit")] == []
    group = typer.main.get_command(app)
    for line in lines:
        _, name, *arguments = shlex.split(line.partition(">")[0])
        group.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("verb", [(), *((verb,) for verb in VERBS)], ids=" ".join)
def test_h_is_help(verb):
    assert help_of(*verb, option="-h") == help_of(*verb)


@pytest.mark.parametrize("verb", VERBS)
def test_flags_and_arguments_show_no_type(verb):
    assert re.search(r"<(bool|str|path|list\[.*)>", help_of(verb)) is None
    usage = help_of(verb).partition("\n\n")[0]
    assert "{" not in usage
    assert re.search(r"^│ --help +-h +Show this message and exit\. +│$", help_of(verb), re.MULTILINE)


@pytest.mark.parametrize("verb", [(), *((verb,) for verb in VERBS), ("data",), ("data", "check")], ids=" ".join)
def test_help_fits_80_columns_without_odd_breaks(verb, distillkit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = distillkit(*verb, "--help")
    lines = [line.rstrip() for line in out.splitlines()]
    assert code == 0
    assert [line for line in lines if len(line) > 80 or "…" in line] == []
    # A type such as <logits|softmax> is not broken, and a paragraph breaks only where the next word does not fit.
    rows = [re.sub(r"\[[^]]*]", "", line) for line in lines if line.startswith("│")]
    assert [row for row in rows if row.count("<") != row.count(">")] == []
    text = lines[: next(number for number, line in enumerate(lines) if line.startswith("╭"))]
    short = [
        line
        for line, following in itertools.pairwise(text)
        if re.match(r" \S", line) and re.match(r" \S", following) and len(f"{line} {following.split()[0]}") <= 79
    ]
    assert short == []


@pytest.mark.parametrize("verb", ["run", "plan", "finetune"])
def test_shared_options_are_in_every_training_verb(verb):
    text = help_of(verb)
    for option in ("--data", "--validation", "--unlabeled", "--labels", "--recipe", "--set", "--epochs", "--seed"):
        assert f"│ {option} " in text, option
    assert ("│ --teacher " in text) == (verb != "finetune")


@pytest.mark.parametrize(
    ("verb", "usage"),
    [
        ("evaluate", "[OPTIONS] [TARGET]"),
        ("profile", "[OPTIONS] [TARGET]..."),
        ("predict", "[OPTIONS] [BUNDLE] IMAGE..."),
        ("recipes", "[OPTIONS] [NAME|FILE.toml]"),
    ],
)
def test_usage_names_the_arguments(verb, usage):
    assert help_of(verb).splitlines()[0] == f"Usage: distillkit {verb} {usage}"


def test_help_imports_few_modules():
    """Import time, counted in modules: about 555, most of them from Python itself and rich."""
    code = f"import atexit, os, sys; atexit.register(lambda: os.write(2, b'%d' % len(sys.modules))); {ENTRY}"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert int(done.stderr) < 590


@pytest.mark.parametrize("arguments", [["--help"], ["finetune", "--help"], ["plugins"], ["plugins", "--json"]])
def test_neither_torch_nor_timm_is_imported(arguments):
    command = [sys.executable, "-X", "importtime", "-c", ENTRY, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "distillkit_cli.terminal" in imported
    assert imported & {"torch", "timm", "torchvision", "sklearn", "matplotlib", "onnx"} == set()
