"""matplotlib in distillkit: settings of the current folder are not read, and labels are not formulas."""

from __future__ import annotations

import os
import subprocess
import sys

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distillkit.compute.drawing import draw_legend, drawing

SETTINGS = """
import os, sys
from pathlib import Path
from distillkit.compute.drawing import drawing
if "deleted" in sys.argv:
    Path.cwd().rmdir()
with drawing():
    import matplotlib
    print(matplotlib.rcParams["lines.linewidth"], matplotlib.rcParams["text.usetex"])
    print(Path.cwd().name if "deleted" not in sys.argv else "")
"""


def settings(folder, environment, *arguments):
    return subprocess.run(
        [sys.executable, "-c", SETTINGS, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.splitlines()


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment whose user has settings of their own."""

    (tmp_path / "mine").write_text("lines.linewidth: 5\ntext.usetex: True\n")
    return {**os.environ, "MATPLOTLIBRC": str(tmp_path / "mine"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_settings_in_the_current_folder_are_not_read(tmp_path, environment):
    """Promise: settings of other programs in the current folder are not read.

    Attempt: `profile .` in a bundle whose matplotlibrc draws all text with LaTeX.
    """
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "matplotlibrc").write_text("lines.linewidth: 77\ntext.usetex: True\n")
    assert settings(folder, environment) == ["5.0 False", "bundle"]


def test_a_pipe_in_place_of_the_settings_is_not_waited_for(tmp_path, environment):
    """Promise: settings of other programs in the current folder are not read.

    Attempt: `run` in a folder whose matplotlibrc is a pipe.
    """

    os.mkfifo(tmp_path / "matplotlibrc")
    assert settings(tmp_path, environment) == ["5.0 False", tmp_path.name]


def test_a_deleted_current_folder_is_no_error(tmp_path, environment):
    (tmp_path / "deleted").mkdir()
    assert settings(tmp_path / "deleted", environment, "deleted") == ["5.0 False", ""]


def test_no_text_is_drawn_with_latex():
    """Promise: names of classes, files and models are text.

    Attempt: a name with a LaTeX command, for a user who draws figures with LaTeX.
    """
    with mpl.rc_context({"text.usetex": True}), drawing():
        figure = Figure()
        text = figure.text(0, 0, r"\input{/etc/passwd}")
    assert not text.get_usetex()


@pytest.mark.parametrize("name", ["$", "a $b^ c$", r"\$\frac{$", "cat\x1b[2J\udcff", "plain"])
def test_names_in_a_legend_are_drawn_as_they_are(name, tmp_path):
    """Promise: names of classes, files and models are text.

    Attempt: a profile whose configuration has the name of an unfinished formula.
    """
    with drawing():
        figure = Figure()
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot([1, 2], label=name)
        draw_legend(axes, frameon=False)
        figure.savefig(tmp_path / "figure.png")
    (label,) = axes.get_legend().get_texts()
    assert label.get_text() == {"cat\x1b[2J\udcff": r"cat\x1b[2J\udcff"}.get(name, name)
