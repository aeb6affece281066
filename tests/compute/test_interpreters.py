"""Interpreters that distillkit starts: modules in the current folder do not run, those in its folder do."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from torch.distributed import run as torchrun

from distillkit.compute.interpreters import code_command, environment, module_command, safe_path, variables
from distillkit.compute.main_guard import _nothing
from distillkit.data import checking, host_batches
from distillkit.testing import registration
from distillkit_cli.launching import _launch_once
from distillkit_export.isolated_process import result_of
from distillkit_export.profiling.worker_process import WorkerProcess

PLANTED = ("json", "matplotlib", "multiprocessing", "numpy", "pydantic", "runpy", "signal", "torch", "typer", "uuid")
CHILD = "from distillkit_export.isolated_process import serve\nserve(lambda request, send: {'works': True})\n"


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A current folder with a module of the name of many libraries; returns the names of those that have run."""
    folder, ran = tmp_path / "planted", tmp_path / "ran"
    folder.mkdir()
    for name in PLANTED:
        (folder / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write('{name} ')\nraise SystemExit(99)\n")
    monkeypatch.chdir(folder)
    return lambda: ran.read_text().split() if ran.exists() else []


@pytest.fixture(params=["spawn", "forkserver"])
def start_method(request):
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def test_the_planted_modules_would_run(planted):
    subprocess.run([sys.executable, "-m", "distillkit", "--version"], capture_output=True, check=False)
    assert len(planted()) == 1  # the first one ends the process


def test_profile_workers_import_nothing_from_the_current_folder(planted):
    """Promise: no module in the current folder is imported by a process that distillkit starts.

    Attempt: `profile .` in a bundle that contains numpy.py and uuid.py.
    """
    worker = WorkerProcess()
    assert worker.ask("memory", within_s=60)["peak_rss_bytes"] > 2**20
    worker.close()
    assert planted() == []


def test_isolated_processes_import_nothing_from_the_current_folder(planted, tmp_path, monkeypatch):
    """Promise: no module in the current folder is imported by a process that distillkit starts.

    Attempt: `doctor` or `export --trt` in a folder that contains numpy.py and uuid.py.
    """
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "child_module.py").write_text(CHILD)
    monkeypatch.syspath_prepend(tmp_path / "plugins")
    assert result_of("child_module", timeout_s=60) == {"works": True}
    assert planted() == []


def test_processes_of_nproc_import_nothing_from_the_current_folder(planted, capfd):
    """Promise: no module in the current folder is imported by a process that distillkit starts.

    Attempt: `evaluate . --nproc 2` in a run that contains numpy.py and uuid.py.
    """
    assert _launch_once(["--version"], 1) == 0
    assert capfd.readouterr().out.startswith("distillkit ")
    assert planted() == []


def test_the_documented_torchrun_line_imports_nothing_from_the_current_folder(planted, capfd):
    """Promise: no module in the current folder is imported by a process that distillkit starts.

    Attempt: torchrun, as documented, in a run that contains numpy.py and uuid.py.
    """
    docs = Path(__file__).parents[2] / "docs"
    pages = [(docs / page).read_text() for page in ("evaluation.md", "tutorial.md", "reference/cli.md")]
    assert all("--no-python distillkit " in page and "-m distillkit_cli" not in page for page in pages)
    distillkit = str(Path(sys.executable).with_name("distillkit"))
    torchrun.main(["--standalone", "--nproc-per-node", "1", "--no-python", distillkit, "--version"])
    assert capfd.readouterr().out.startswith("distillkit ")
    assert planted() == []


def test_the_listing_check_imports_nothing_from_the_current_folder(planted):
    """Promise: no module in the current folder is imported by a process that distillkit starts.

    Attempt: a plugin's tests in a folder that contains torch.py.
    """
    assert registration._imports("distillkit_plugins.losses.catalog") == ()
    assert planted() == []


@pytest.mark.usefixtures("start_method")
def test_processes_of_a_data_check_import_nothing_from_the_current_folder(planted, plugins, write_pictures, tmp_path):
    """Promise: no module in the current folder is imported by a process that distillkit starts.

    Attempt: `data check .` in a folder of images that contains signal.py, where worker processes are not forks.
    """
    folder = write_pictures(tmp_path / "images", {"cat": 20, "dog": 20})
    report = checking.check(checking.Data(train=str(folder)), plugins, batch_size=4, workers=1)
    assert report.images == {"train": 40}
    assert planted() == []


@pytest.mark.filterwarnings("ignore:resource_tracker")
def test_a_process_of_multiprocessing_would_run_the_planted_modules(planted):
    process = multiprocessing.get_context("spawn").Process(target=_nothing)
    process.start()
    process.join()
    assert "multiprocessing" in planted()


def test_loader_processes_start_with_a_safe_path(monkeypatch):
    """Promise: no module in the current folder is imported by a process that distillkit starts.

    Attempt: `run` in a data set that contains signal.py, where loader processes are not forks.
    """
    seen = []

    class Loader:
        def __init__(self, dataset, **options):
            seen.append(os.environ.get("PYTHONSAFEPATH"))

        def __iter__(self):
            seen.append(os.environ.get("PYTHONSAFEPATH"))
            return iter(["batch"])

    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setattr(host_batches, "DataLoader", Loader)
    assert list(host_batches.host_batches(None, None, workers=0, pin=False)) == ["batch"]
    assert seen == [None, "1"]
    assert "PYTHONSAFEPATH" not in os.environ


def test_a_module_next_to_a_script_is_found_by_the_processes_of_the_script(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "library").mkdir()
    (tmp_path / "scripts" / "nearby.py").write_text("ANSWER = 42\n")
    (tmp_path / "library" / "named.py").write_text("ANSWER = 43\n")
    (tmp_path / "scripts" / "script.py").write_text(
        "import subprocess\n"
        "from distillkit.compute.interpreters import code_command, environment\n"
        "code = 'import nearby, named, sys; print(nearby.ANSWER, named.ANSWER, sys.argv[1])'\n"
        "subprocess.run(code_command(code, 'given'), env=environment(), check=True)\n"
    )
    path = os.pathsep.join([str(tmp_path / "library"), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, tmp_path / "scripts" / "script.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("42 43 given\n", "")


def test_the_import_path_is_handed_over_without_the_current_folder(monkeypatch):
    monkeypatch.setattr(sys, "path", ["", "/a", "/b"])
    assert environment()["PYTHONPATH"] == os.pathsep.join(["/a", "/b"])
    code = "import json, sys; print(json.dumps(sys.path[:2]))"
    done = subprocess.run(code_command(code), env=environment(), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["/a", "/b"]
    assert module_command("this", "argument")[1:] == ["-P", "-m", "this", "argument"]


def test_variables_are_restored(monkeypatch):
    monkeypatch.setenv("GIVEN", "before")
    monkeypatch.setenv("PYTHONSAFEPATH", "x")
    with suppress(KeyError), variables(GIVEN="during", ABSENT="1"), safe_path():
        assert (os.environ["GIVEN"], os.environ["ABSENT"], os.environ["PYTHONSAFEPATH"]) == ("during", "1", "1")
        raise KeyError
    assert (os.environ["GIVEN"], os.environ["PYTHONSAFEPATH"]) == ("before", "x")
    assert "ABSENT" not in os.environ
