"""Scripts with and without the `__main__` guard that spawned processes need."""

import subprocess
import sys

import pytest

START = "import multiprocessing\nmultiprocessing.set_start_method({method!r}, force=True)\n"
LOADS = "from distillkit.compute.main_guard import require_guard\n"
RUNS = (
    "import distillkit\n"
    "distillkit.run('digits', 'out', loss='ce', device='cpu', training={'steps': 1}, data={'workers': 1})\n"
)
GUARD = "if __name__ == '__main__':\n    "
SENTENCE = (
    "distillkit.errors.UserError: every loader process imports this script and would run it again; put its code "
    'below `if __name__ == "__main__":`, or set data.workers=0'
)
METHODS = pytest.mark.parametrize("method", ["spawn", "forkserver"])


def run_script(folder, script):
    (folder / "script.py").write_text(script)
    return subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False)


@METHODS
def test_a_script_without_the_guard_is_refused_once(tmp_path, method):
    done = run_script(tmp_path, START.format(method=method) + LOADS + "print('works')\nrequire_guard()\n")
    assert (done.returncode, done.stdout) == (1, "works\nworks\n")
    assert done.stderr.splitlines()[-1] == SENTENCE
    assert done.stderr.count("Traceback") == 1


@METHODS
def test_a_script_with_the_guard_works(tmp_path, method):
    script = GUARD + "\n    ".join((START.format(method=method) + "require_guard()\nprint('works')").splitlines())
    done = run_script(tmp_path, LOADS + script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "works\n", "")


@METHODS
def test_a_run_without_the_guard_writes_no_files(tmp_path, method):
    done = run_script(tmp_path, START.format(method=method) + RUNS)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == SENTENCE
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def test_a_process_started_by_the_script_itself_is_refused(tmp_path):
    """It would load data while it is still importing the script."""
    script = (
        "if multiprocessing.current_process().name == 'MainProcess':\n"
        "    multiprocessing.Process(target=print).start()\n"
        "else:\n"
        "    require_guard()\n"
    )
    done = run_script(tmp_path, START.format(method="spawn") + LOADS + script)
    assert done.stderr.splitlines()[-1] == SENTENCE


def test_code_without_a_script_needs_no_guard():
    code = START.format(method="spawn") + LOADS + "require_guard()\nprint('works')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "works\n", "")
