"""The folder of an export appears complete or not at all, has one writer, and replaces nothing of others."""

from __future__ import annotations

import errno
import multiprocessing
import shutil
import threading
from pathlib import Path

import pytest

from distillkit.errors import GateError, RunDirectoryError
from distillkit_export.bundle.publish import published, require_free, reserved_folder
from tests.another_user import as_other_user


def names(folder):
    return sorted(entry.relative_to(folder).as_posix() for entry in folder.rglob("*") if entry.is_file())


def fill(folder, name="bundle.json", text="{}"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def build(target, *contents, error=None, force=False):
    """Publish files with these names, or fail after writing them."""
    with reserved_folder(target, force=force) as place, published(target, place, force=force) as building:
        for name in contents:
            fill(building, name)
        if error is not None:
            raise error


def refusal(target, *, force):
    with pytest.raises(RunDirectoryError) as error:
        require_free(target, force=force)
    return str(error.value)


@pytest.fixture
def bundle(exported, tmp_path):
    """A copy of an export for every test."""
    shutil.copytree(exported["plain"].directory, tmp_path / "b")
    return tmp_path / "b"


def test_folder_appears_at_the_end(tmp_path):
    target = tmp_path / "deep" / "export"
    with reserved_folder(target, force=False) as place, published(target, place, force=False) as building:
        fill(building)
        assert not target.exists()
    assert names(tmp_path) == ["deep/export/bundle.json"]


def test_error_leaves_nothing_nor_the_parents_that_were_missing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        build(tmp_path / "deep" / "export", "model.onnx", error=ZeroDivisionError())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_sentence_and_keeps_the_earlier_export(bundle, number):
    before = names(bundle)
    with pytest.raises(RunDirectoryError) as error:
        build(bundle, "model.onnx", error=OSError(number, "full"), force=True)
    assert str(error.value) == (
        f"no space left for the export in '{bundle.parent}'; free some space, or give another folder"
    )
    assert names(bundle) == before
    assert [entry.name for entry in bundle.parent.iterdir()] == ["b"]


def test_failed_gate_keeps_the_files_in_rejected_and_the_earlier_export(bundle):
    before = names(bundle)
    with pytest.raises(GateError) as error:
        build(bundle, "model.onnx", error=GateError("model.onnx differs from torch by 0.1"), force=True)
    assert str(error.value) == f"model.onnx differs from torch by 0.1; the files are kept in '{bundle / 'rejected'}'"
    assert names(bundle) == sorted([*before, "rejected/model.onnx"])


def test_success_replaces_the_earlier_export_rejected_files_and_profiles(bundle):
    for name in ("rejected/model.onnx", "profile/profile.json", "profile/latency.png"):
        fill(bundle, name)
    build(bundle, "bundle.json", force=True)
    assert names(bundle.parent) == ["b/bundle.json"]
    assert [entry.name for entry in bundle.parent.iterdir()] == ["b"]


@pytest.mark.parametrize("entries", [None, (), ("rejected/model.onnx",), ("lost+found/",)])
def test_absent_empty_and_rejected_folders_are_free(tmp_path, entries):
    target = tmp_path / "export"
    if entries is not None:
        target.mkdir()
        for entry in entries:
            (target / entry).mkdir() if entry.endswith("/") else fill(target, entry)
    require_free(target, force=False)


def test_earlier_export_needs_force(bundle):
    require_free(bundle, force=True)
    assert refusal(bundle, force=False) == (
        f"folder '{bundle}' already contains an export; give another folder, or --force to replace it"
    )


@pytest.mark.parametrize("force", [False, True])
def test_folder_that_is_not_an_export_is_never_replaced(tmp_path, force):
    fill(tmp_path, "thesis.tex")
    assert refusal(tmp_path, force=force) == (
        f"folder '{tmp_path}' is not empty and is not an export; give another folder"
    )


@pytest.mark.parametrize("text", ["{}", "[]", '{"name": "bundle of a JavaScript tool", "version": 1}'])
def test_a_foreign_file_called_bundle_json_is_no_export(tmp_path, text):
    fill(tmp_path, text=text)
    fill(tmp_path, "src/main.c")
    with pytest.raises(RunDirectoryError) as error:
        build(tmp_path, "bundle.json", force=True)
    assert str(error.value) == (
        f"folder '{tmp_path}' is not empty, and its bundle.json is not that of an export; give another folder"
    )
    assert names(tmp_path) == ["bundle.json", "src/main.c"]


def damaged(bundle, text):
    (bundle / "bundle.json").write_text(text, encoding="utf-8")
    return refusal(bundle, force=True)


def test_a_manifest_that_cannot_be_read_is_reported_with_the_reason(bundle):
    """Which files of the folder an export wrote is unknown then."""
    unknown = f"folder '{bundle}' is not empty, and which of its files an export wrote is unknown: bundle.json of "
    remedy = "; restore its bundle.json, or give another folder"
    whole = (bundle / "bundle.json").read_text(encoding="utf-8")
    assert damaged(bundle, whole[:8]) == (
        f"{unknown}'{bundle}' is not valid JSON (Unterminated string starting at: line 2 column 3 (char 4)){remedy}"
    )
    assert damaged(bundle, "") == (
        f"{unknown}'{bundle}' is not valid JSON (Expecting value: line 1 column 1 (char 0)){remedy}"
    )
    (bundle / "bundle.json").write_bytes(b"\xff\xfe")
    assert refusal(bundle, force=True) == f"{unknown}'{bundle}' is not valid UTF-8{remedy}"
    newer = whole.replace('"schema_version": ', '"schema_version": 99', 1)
    assert damaged(bundle, newer).startswith(
        f"folder '{bundle}' is not empty, and which of its files an export wrote is unknown: bundle '{bundle}' has "
        "schema version 99"
    )
    (bundle / "bundle.json").unlink()
    (bundle / "bundle.json").symlink_to("elsewhere.json")
    assert refusal(bundle, force=True) == (
        f"folder '{bundle}' is not empty, and which of its files an export wrote is unknown: bundle.json of bundle "
        f"'{bundle}' is a symbolic link{remedy}"
    )


def test_a_manifest_without_read_permission_is_reported_as_such(bundle, monkeypatch):
    monkeypatch.chdir(bundle.parent)  # the folders above it are closed to other users
    for folder in (bundle.parent, bundle):
        folder.chmod(0o755)
    (bundle / "bundle.json").chmod(0)
    assert as_other_user(lambda: require_free(Path("b"), force=True)) == (
        "RunDirectoryError: folder 'b' is not empty, and which of its files an export wrote is unknown: bundle.json of "
        "bundle 'b' cannot be read (Permission denied); restore its bundle.json, or give another folder"
    )


@pytest.mark.parametrize(
    ("added", "named"),
    [
        (("src/main.c",), "src/main.c"),
        (("notes.txt", "a/b/c", "model.int8.onnx", "z"), "a/b/c, model.int8.onnx, notes.txt and 1 more"),
        (("rejected/thesis.tex",), "rejected/thesis.tex"),
        (("profile/notes.txt",), "profile/notes.txt"),
        (("empty/",), "empty/"),
        ((".b.tmp/mine",), ".b.tmp/mine"),
    ],
)
def test_force_keeps_files_that_no_export_wrote(bundle, added, named):
    for name in added:
        (bundle / name).mkdir() if name.endswith("/") else fill(bundle, name)
    before = sorted(bundle.rglob("*"))
    with pytest.raises(RunDirectoryError) as error:
        build(bundle, "bundle.json", force=True)
    assert str(error.value) == (
        f"--force replaces only what an export wrote, and folder '{bundle}' also has {named}; move that away, or give "
        "another folder"
    )
    assert sorted(bundle.rglob("*")) == before


def test_force_does_not_follow_links(bundle, tmp_path):
    fill(tmp_path, "elsewhere/mine")
    (bundle / "link").symlink_to(tmp_path / "elsewhere")
    assert "also has link;" in refusal(bundle, force=True)


def test_a_file_that_appears_during_the_export_is_kept(bundle):
    with (
        pytest.raises(RunDirectoryError),
        reserved_folder(bundle, force=True) as place,
        published(bundle, place, force=True),
    ):
        fill(bundle, "late.txt")
    assert (bundle / "late.txt").is_file()
    assert (bundle / "model.onnx").is_file()
    assert [entry.name for entry in bundle.parent.iterdir()] == ["b"]


def test_a_hidden_folder_next_to_the_export_is_not_touched(tmp_path):
    fill(tmp_path, ".export.tmp/mine")
    fill(tmp_path, ".export.0123456.tmp/mine")
    build(tmp_path / "export", "bundle.json")
    assert names(tmp_path) == [".export.0123456.tmp/mine", ".export.tmp/mine", "export/bundle.json"]


def test_file_instead_of_a_folder_is_refused(tmp_path):
    target = tmp_path / "export"
    target.write_text("")
    assert refusal(target, force=True) == f"'{target}' is a file; give a folder for the export"


def _hold(target, started, stop):
    with reserved_folder(target, force=False):
        started.set()
        stop.wait(60)


@pytest.mark.parametrize("kind", ["process", "thread"])
@pytest.mark.parametrize("exists", [False, True])
def test_the_second_of_two_exports_into_one_folder_is_refused(tmp_path, kind, exists):
    target = tmp_path / "export"
    if exists:
        target.mkdir()
    context = multiprocessing.get_context("fork")
    module = context if kind == "process" else threading
    started, stop = module.Event(), module.Event()
    other = (context.Process if kind == "process" else threading.Thread)(target=_hold, args=(target, started, stop))
    other.start()
    try:
        assert started.wait(60)
        holder = other.pid if kind == "process" else multiprocessing.current_process().pid
        # By another name for the same folder, too.
        for name in (target, tmp_path / "." / "x" / ".." / "export"):
            (tmp_path / "x").mkdir(exist_ok=True)
            with pytest.raises(RunDirectoryError) as error:
                build(name, "bundle.json")
            assert str(error.value) == (
                f"process {holder} is writing an export to '{name}'; wait until it ends, or give another folder"
            )
        build(tmp_path / "another", "bundle.json")
    finally:
        stop.set()
        other.join()
    build(target, "bundle.json")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["another", "export", "x"]


def test_what_a_killed_export_left_behind_is_deleted(tmp_path):
    for name in (".export.0a1b2c3d.tmp/model.onnx", ".export.lock", ".export.4e5f6789.old/bundle.json", "export/x"):
        fill(tmp_path, name)
    shutil.rmtree(tmp_path / "export")
    (tmp_path / ".export.4e5f6789.old").rename(tmp_path / "export")
    (tmp_path / "export" / "bundle.json").unlink()
    build(tmp_path / "export", "bundle.json")
    assert names(tmp_path) == ["export/bundle.json"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["export"]
