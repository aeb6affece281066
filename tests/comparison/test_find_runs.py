"""Runs among paths and folders."""

import os
from pathlib import Path

import pytest

from distillkit.comparison.find_runs import find_runs
from distillkit.errors import RunDirectoryError

RUN, OTHER = Path("runs/a"), Path("empty/../runs/a")


def make(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "recipe.toml").write_text("")
    return folder


def names(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_runs_and_folders_in_the_order_given(tmp_path):
    make(tmp_path, "b/run-10", "b/run-2", "b/deeper/still/run-1", "b/1/2/3/too-deep", "a")
    (tmp_path / "b" / "notes.txt").write_text("")
    found = find_runs([tmp_path / "b", tmp_path / "a"])
    assert names(found, tmp_path) == ["b/deeper/still/run-1", "b/run-2", "b/run-10", "a"]


def test_folders_in_a_run_are_not_searched(tmp_path):
    make(tmp_path, "a", "a/arms/b")
    assert names(find_runs(tmp_path), tmp_path) == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_in_a_folder_are_not_followed(tmp_path):
    make(tmp_path, "runs/a", "elsewhere/b")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    assert names(find_runs(tmp_path / "runs"), tmp_path) == ["runs/a"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "there are no runs to compare; give run directories, or a folder that holds some"),
        (["nowhere"], "there is no run directory 'nowhere'; check the path"),
        (["file"], "'file' is a file; give run directories, or a folder that holds some"),
        (["empty"], "'empty' is not a run directory and holds none (no recipe.toml in it); check the path"),
        (
            ["runs/a/best"],
            f"'{Path('runs/a/best')}' is a folder of run '{RUN}'; runs are compared as a whole, so give '{RUN}'",
        ),
        (
            ["runs/a", "runs/a"],
            f"a run is given twice: '{RUN}'; give it once, or only the folder that holds it",
        ),
        (
            ["runs", "empty/../runs/a"],
            f"a run is given twice: '{RUN}' and '{OTHER}'; give it once, or only the folder that holds it",
        ),
    ],
)
def test_bad_paths_are_one_sentence(tmp_path, monkeypatch, paths, message):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "runs/a")
    (tmp_path / "runs/a/best").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError) as caught:
        find_runs(paths)
    assert str(caught.value) == message


def test_very_many_runs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("distillkit.comparison.find_runs.MOST_RUNS", 2)
    with pytest.raises(RunDirectoryError) as caught:
        find_runs(make(tmp_path, "a", "b", "c"))
    assert str(caught.value) == "there are more than 2 runs to compare; give fewer"
