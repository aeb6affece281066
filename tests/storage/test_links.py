"""No write or delete through a link: files and folders planted under a name that distillkit uses."""

import os
import stat
from contextlib import nullcontext

import pytest
import torch

from distillkit.storage import atomic
from distillkit.storage.atomic import append_text, temporary_name, write_bytes, write_json, write_tensors, write_text
from distillkit.storage.atomic_directory import atomic_directory, recover_directory
from distillkit.storage.links import LinkError, own_folder, require_own
from distillkit.storage.lock import LockedError, acquire
from distillkit.storage.places import fault_of_place


@pytest.fixture
def outside(tmp_path):
    """A folder outside the run with a file that must survive."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("precious")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["precious"]
    assert (folder / "precious").read_text() == "precious"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


WRITERS = {
    "text": lambda path: write_text(path, "new"),
    "json": lambda path: write_json(path, {"new": 1}),
    "tensors": lambda path: write_tensors(path, {"new": torch.ones(2)}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("plant", ["symlink_to", "hardlink_to"])
def test_a_file_replaces_a_link_and_not_what_it_leads_to(run, outside, write, plant):
    """Promise: Nothing outside a run, bundle or bank is written through a link.

    Attempt: A link under the name of a file that is written, to a file elsewhere.
    """
    getattr(run / "file", plant)(outside / "precious")
    write(run / "file")
    assert not (run / "file").is_symlink()
    assert (run / "file").stat().st_nlink == 1


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_link_under_the_temporary_name_is_not_opened(run, outside, write, monkeypatch):
    """Promise: Nothing outside a run, bundle or bank is written through a link.

    Attempt: A link under the temporary name of a file, which is guessed correctly.
    """
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda _: "01234567")
    (run / temporary_name("file")).symlink_to(outside / "precious")
    with pytest.raises(FileExistsError):
        write(run / "file")
    assert not (run / "file").exists()


def test_temporary_names_of_earlier_versions_are_not_used(run, outside):
    """Promise: Nothing outside a run, bundle or bank is written through a link.

    Attempt: Links under predictable temporary names: `.bundle.json.tmp`, `metrics.tmp`.
    """
    for name in (".file.json.tmp", "file.tmp", "file.json.tmp"):
        (run / name).symlink_to(outside / "precious")
    write_json(run / "file.json", {"new": 1})
    assert all((run / name).is_symlink() for name in (".file.json.tmp", "file.tmp", "file.json.tmp"))


def test_appending_through_a_link_is_refused(run, outside):
    """Promise: Nothing outside a run, bundle or bank is written through a link.

    Attempt: A link in place of `evaluations.jsonl` or `metrics.jsonl`.
    """
    (run / "file").symlink_to(outside / "precious")
    with pytest.raises(LinkError) as refused:
        append_text(run / "file", "new\n")
    assert fault_of_place(refused.value) == (
        f"{run / 'file'} is a link, and distillkit writes only inside a run, bundle or bank itself; replace the "
        "link with what it leads to, or delete it"
    )


def test_appending_to_a_hard_link_changes_a_copy(run, outside):
    """Promise: Nothing outside a run, bundle or bank is written through a link.

    Attempt: A hard link in place of `evaluations.jsonl`.
    """
    (run / "file").hardlink_to(outside / "precious")
    append_text(run / "file", " and new")
    assert (run / "file").read_text() == "precious and new"


def test_a_hard_link_of_any_size_is_not_copied(run):
    """Promise: Memory and time are bounded by what a valid file needs.

    Attempt: A file of 1 TiB that takes no room on a disk, under a second name in place of `evaluations.jsonl`.
    """
    with (run / "file").open("wb") as opened:
        opened.truncate(2**40)
    (run / "second").hardlink_to(run / "file")
    with pytest.raises(FileExistsError) as refused:
        append_text(run / "file", "new\n")
    assert fault_of_place(refused.value) == (
        f"{run / 'file'} cannot be used (it is a hard link and has 1,099,511,627,776 bytes, more than the limit of "
        "1,073,741,824); check the path and its permissions"
    )


def test_appending_to_a_pipe_does_not_wait(run):
    """Promise: Nothing but a regular file is opened.

    Attempt: A pipe in place of `metrics.jsonl`.
    """
    os.mkfifo(run / "file")
    with pytest.raises(FileExistsError) as refused:
        append_text(run / "file", "new\n")
    assert fault_of_place(refused.value) == (
        f"{run / 'file'} cannot be used (it is not a regular file); check the path and its permissions"
    )


def test_files_are_appended_and_created(run):
    append_text(run / "file", "a\n")
    append_text(run / "file", "b\n", durable=True)
    assert (run / "file").read_text() == "a\nb\n"


@pytest.mark.parametrize("name", ["best", "step-00000002"])
def test_a_linked_folder_is_not_replaced(run, outside, name):
    """Promise: A linked folder inside a run, bundle or bank is refused.

    Attempt: A link in place of `best/` or of a checkpoint, to a folder elsewhere.
    """
    (run / name).symlink_to(outside)
    with pytest.raises(LinkError, match="it is a link"), atomic_directory(run / name):
        pytest.fail("the folder was opened")
    assert [path.name for path in run.iterdir()] == [name]


@pytest.mark.parametrize("ending", ["tmp", "old", "new"])
def test_linked_leftovers_are_not_moved_or_deleted(run, outside, ending):
    """Promise: Nothing outside a run, bundle or bank is moved or deleted through a link.

    Attempt: A link with the name of a work folder of a killed process, next to a folder or in it.
    """
    for folder in (run, run / "best"):
        folder.mkdir(exist_ok=True)
        (folder / f".best.01234567.{ending}").symlink_to(outside)
    (run / ".best.old").symlink_to(outside)
    recover_directory(run / "best")
    with atomic_directory(run / "best") as work:
        (work / "student.json").write_text("{}")
    assert (run / "best" / "student.json").is_file()


def test_old_entries_are_not_moved_back_through_a_link(run, outside):
    """Promise: Nothing outside a run, bundle or bank is moved or deleted through a link.

    Attempt: A work folder of a killed process, and a link in place of the old entries that belong to it.
    """
    best = run / "best"
    (best / ".best.01234567.tmp").mkdir(parents=True)
    (best / ".best.01234567.old").symlink_to(outside)
    recover_directory(best)
    assert [path.name for path in best.iterdir()] == [".best.01234567.old"]


def test_a_folder_is_made_unless_a_link_is_in_its_place(run, outside):
    """Promise: A linked folder inside a run, bundle or bank is refused.

    Attempt: A link in place of `profile/`, `attention/` or `trt/`, also one that leads nowhere.
    """
    assert own_folder(run / "profile").is_dir()
    assert require_own(run / "missing") == run / "missing"
    for name, target in (("trt", outside), ("attention", outside / "nothing")):
        (run / name).symlink_to(target)
        with pytest.raises(LinkError, match="it is a link"):
            own_folder(run / name)


@pytest.mark.parametrize("plant", ["symlink_to", "hardlink_to"])
def test_a_lock_does_not_write_into_another_file(run, outside, plant):
    """Promise: Nothing outside a run, bundle or bank is written through a link.

    Attempt: A link in place of `.lock`, into which the process id is written.
    """
    getattr(run / ".lock", plant)(outside / "precious")
    with nullcontext() if plant == "hardlink_to" else pytest.raises(OSError, match="symbolic links"):
        acquire(run / ".lock").__exit__(None, None, None)


def test_the_holder_of_a_lock_is_a_short_text(run):
    """Promise: Memory is bounded by what a valid file needs.

    Attempt: A lock file of any length, whose content is shown as the id of a process.
    """
    with acquire(run / ".lock"):
        with (run / ".lock").open("a") as file:
            file.write("9" * 100_000)
        with pytest.raises(LockedError) as refused:
            acquire(run / ".lock")
    assert len(refused.value.holder) < 40


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_every_output_has_the_mode_that_the_umask_allows(run, umask, mode):
    """Promise: Outputs are as private as the umask says, also while they are written.

    Attempt: Another user of the machine, who reads outputs or their temporary files.
    """
    before = os.umask(umask)
    try:
        for name, write in WRITERS.items():
            write(run / name)
        append_text(run / "appended", "text")
        write_bytes(run / "private", b"secret", mode=0o600)
        with atomic_directory(run / "folder") as work:
            assert stat.S_IMODE(work.stat().st_mode) == 0o777 & ~umask
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in run.iterdir() if path.is_file()}
    assert modes == {**dict.fromkeys(WRITERS, mode), "appended": mode, "private": 0o600}


def test_errors_name_the_file_and_not_its_temporary_name(run):
    with pytest.raises(OSError, match=r".") as refused:
        write_text(run / "missing" / "file", "text")
    assert refused.value.filename == str(run / "missing" / "file")
    (run / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as refused:
        write_text(run / "folder", "text")
    assert (refused.value.filename, [path.name for path in run.iterdir()]) == (str(run / "folder"), ["folder"])


@pytest.mark.parametrize("ending", ["tmp", "old", "new"])
@pytest.mark.parametrize("place", [".", "run"])
def test_a_pipe_in_place_of_a_leftover_is_not_waited_for(run, ending, place):
    """Promise: Nothing but a regular file is opened.

    Attempt: A pipe with the name of a work folder of a killed process, next to a folder or in it.
    """
    (run / "file").write_text("old")
    os.mkfifo(run.parent / place / f".run.00000000.{ending}")
    with atomic_directory(run) as work:
        (work / "file").write_text("new")
    assert [path.name for path in run.iterdir()] == ["file"]
    assert (run / "file").read_text() == "new"
