"""Directories are complete or absent: next to their place, on mount points, after every kill, with one writer."""

import json
import os
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from distillkit.storage import atomic_directory as module
from distillkit.storage.atomic_directory import atomic_directory, recover_directory, reserved
from distillkit.storage.lock import LockedError
from distillkit.storage.places import delete_probes, probe, require_writable
from tests.another_user import OTHER_USER, as_other_user


def fill(folder, text, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(text)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def replace(final):
    with atomic_directory(final, last="last") as work:
        fill(work, "new", "both", "new", "last")


def elsewhere(code, *, before):
    """Run Python in a process with its own mounts, after the shell commands `before`; returns its result as JSON."""
    if sys.platform != "linux":
        pytest.skip("mounts in a name space of their own are Linux's")
    program = f"import json; from pathlib import Path; from tests.storage.test_atomic_directory import *\n{code}"
    script = f"set -e\n{before}\nexec {sys.executable} -c '{program}'"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"this user may not mount anything ({done.stderr.strip()})")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("exists", [False, True])
def test_a_directory_is_replaced_as_a_whole(tmp_path, exists):
    final = tmp_path / "final"
    if exists:
        fill(final, "old", "both", "old")
    replace(final)
    assert content(final) == {"both": "new", "new": "new", "last": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_the_longest_name_can_be_used(tmp_path):
    replace(tmp_path / ("n" * 255))
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


MOUNTS = {
    "tmpfs": "mount -t tmpfs none {final}",
    "bind of the same disk": "mkdir {parent}/volume && mount --bind {parent}/volume {final}",
    "in a read-only parent": "mount -t tmpfs none {final} && mount --bind -o ro {parent} {parent} && "
    "mount -t tmpfs none {final}",
}


@pytest.mark.parametrize("kind", MOUNTS)
def test_a_mount_point_is_filled_from_within(tmp_path, kind):
    final = tmp_path / "parent" / "final"
    final.mkdir(parents=True)
    shown = elsewhere(
        f'final = Path("{final}"); (final / "lost+found").mkdir(); fill(final, "old", "both", "old"); replace(final); '
        '(final / "lost+found").rmdir(); print(json.dumps(content(final)))',
        before=MOUNTS[kind].format(final=final, parent=final.parent),
    )
    assert shown == {"both": "new", "new": "new", "last": "new"}
    assert {path.name for path in final.parent.iterdir()} <= {"final", "volume"}


def test_a_parent_that_may_not_be_written_to_is_not_used(shared_folder):
    final = shared_folder / "final"
    final.mkdir()
    os.chown(final, OTHER_USER, OTHER_USER)
    assert as_other_user(lambda: replace(final)) == "None"
    assert as_other_user(lambda: replace(shared_folder / "other")).startswith("PermissionError: [Errno 13]")
    assert content(final) == {"both": "new", "new": "new", "last": "new"}
    assert [path.name for path in shared_folder.iterdir()] == ["final"]


def test_a_full_disk_is_noticed_before_the_work(tmp_path):
    shown = elsewhere(
        f'final = Path("{tmp_path}/m/final")\ntry:\n    replace(final)\n    print(0)\n'
        f"except OSError as error:\n    print(json.dumps([error.strerror, len(list(final.parent.iterdir()))]))",
        before=f"mkdir {tmp_path}/m && mount -t tmpfs -o size=4k none {tmp_path}/m && echo x > {tmp_path}/m/taken",
    )
    assert shown == ["No space left on device", 1]


def dying_rename(after):
    """A `Path.rename` that ends the process, without cleaning up, when it is called once more than `after` times."""
    rename, calls = Path.rename, count()

    def counted(path, target):
        return os._exit(9) if next(calls) == after else rename(path, target)

    return counted


@pytest.mark.parametrize("inside", [False, True])
def test_after_a_kill_before_any_operation_the_directory_is_old_or_new(tmp_path, monkeypatch, inside):
    """Killed before the first, second, ... rename, until none is left to be killed before."""
    if inside:  # as on a mount point
        monkeypatch.setattr(module, "_usable_base", lambda final: final)
    renames = 0
    for kill_at in range(30):
        final = tmp_path / str(kill_at) / "final"
        final.parent.mkdir()
        fill(final, "old", "both", "old", "last")
        child = os.fork()
        if child == 0:
            monkeypatch.setattr(Path, "rename", dying_rename(after=kill_at))
            replace(final)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        recover_directory(final)
        with reserved(final):
            pass
        left = {path.name: path.read_text() for path in final.iterdir()}
        assert left in ({"both": "old", "old": "old", "last": "old"}, {"both": "new", "new": "new", "last": "new"})
        assert [path.name for path in final.parent.iterdir()] == ["final"]
        if code == 0:
            renames = kill_at
            break
    assert renames == (7 if inside else 3)


@pytest.mark.parametrize("exists", [False, True])
def test_a_process_killed_while_it_checks_the_place_leaves_nothing(tmp_path, monkeypatch, exists):
    final = tmp_path / "out" / "final"
    final.parent.mkdir()
    if exists:
        fill(final, "old", "last")
    for killed_at in ("fsync", "rename", "rmtree"):
        child = os.fork()
        if child == 0:
            owner = Path if killed_at == "rename" else os if killed_at == "fsync" else shutil
            monkeypatch.setattr(owner, killed_at, lambda *_, **__: os._exit(9))
            replace(final)
            os._exit(0)
        os.waitpid(child, 0)
        with reserved(final):
            pass
        assert [path.name for path in final.parent.iterdir()] == ["final"] * exists
    assert not exists or content(final) == {"last": "old"}


def test_a_probe_of_a_run_directory_is_deleted_by_its_next_process(tmp_path, monkeypatch):
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, "fsync", lambda _: os._exit(9))
        require_writable(tmp_path)
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    delete_probes(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_probe_that_another_process_deletes_is_no_error(tmp_path, monkeypatch):
    """The holder of the lock takes it for the remains of a killed process; the lock then says who that is."""
    fsync = os.fsync

    def deleted(file):
        fsync(file)
        recover_directory(tmp_path / "final")

    monkeypatch.setattr(os, "fsync", deleted)
    (tmp_path / "final").mkdir()
    probe(tmp_path, moved_to=tmp_path / "final", name="final")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "missing", name="final")


def test_an_error_while_publishing_inside_restores_the_old_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_usable_base", lambda final: final)
    final = tmp_path / "final"
    fill(final, "old", "both", "old", "last")
    rename = Path.rename

    def failing(path, target):
        if Path(target).suffix == ".new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="No space left"):
        replace(final)
    assert content(final) == {"both": "old", "old": "old", "last": "old"}


def test_a_second_writer_is_refused_and_the_first_one_is_not_disturbed(tmp_path):
    final = tmp_path / "final"
    with atomic_directory(final) as work:
        fill(work, "first", "file")
        with pytest.raises(LockedError) as caught:
            replace(final)
        assert caught.value.holder == f"process {os.getpid()}"
    assert content(final) == {"file": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
