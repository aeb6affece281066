"""The folder of an export appears complete or not at all."""

from __future__ import annotations

import pytest

from distillkit.errors import GateError, RunDirectoryError
from distillkit_export.bundle.publish import published, require_free


def names(folder):
    return sorted(entry.relative_to(folder).as_posix() for entry in folder.rglob("*") if entry.is_file())


def fill(folder, name="bundle.json", text="{}"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def build(target, error):
    with published(target) as building:
        fill(building, "model.onnx")
        raise error


def test_folder_appears_at_the_end(tmp_path):
    target = tmp_path / "deep" / "export"
    with published(target) as building:
        fill(building)
        assert not target.exists()
    assert names(tmp_path) == ["deep/export/bundle.json"]


def test_error_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        build(tmp_path / "export", ZeroDivisionError())
    assert list(tmp_path.iterdir()) == []


def test_failed_gate_keeps_the_files_in_rejected_and_the_earlier_export(tmp_path):
    target = tmp_path / "export"
    fill(target, text="earlier")
    with pytest.raises(GateError) as error:
        build(target, GateError("model.onnx differs from torch by 0.1"))
    assert str(error.value) == (f"model.onnx differs from torch by 0.1; the files are kept in '{target / 'rejected'}'")
    assert names(tmp_path) == ["export/bundle.json", "export/rejected/model.onnx"]
    assert (target / "bundle.json").read_text() == "earlier"


def test_success_replaces_the_earlier_export_and_rejected_files(tmp_path):
    target = tmp_path / "export"
    fill(target, "old.onnx")
    fill(target / "rejected", "bad.onnx")
    with published(target) as building:
        fill(building)
    assert names(tmp_path) == ["export/bundle.json"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize("entries", [None, (), ("rejected/model.onnx",)])
def test_absent_empty_and_rejected_folders_are_free(tmp_path, entries):
    target = tmp_path / "export"
    if entries is not None:
        target.mkdir()
        for entry in entries:
            fill((target / entry).parent, (target / entry).name)
    require_free(target, force=False)


def test_earlier_export_needs_force(tmp_path):
    fill(tmp_path)
    require_free(tmp_path, force=True)
    with pytest.raises(RunDirectoryError) as error:
        require_free(tmp_path, force=False)
    assert str(error.value) == (
        f"folder '{tmp_path}' already contains an export; give another folder, or --force to replace it"
    )


@pytest.mark.parametrize("force", [False, True])
def test_folder_that_is_not_an_export_is_never_replaced(tmp_path, force):
    fill(tmp_path, "thesis.tex")
    with pytest.raises(RunDirectoryError) as error:
        require_free(tmp_path, force=force)
    assert str(error.value) == (f"folder '{tmp_path}' is not empty and is not an export; give another folder")


def test_file_instead_of_a_folder_is_refused(tmp_path):
    target = tmp_path / "export"
    target.write_text("")
    with pytest.raises(RunDirectoryError) as error:
        require_free(target, force=True)
    assert str(error.value) == f"'{target}' is a file; give a folder for the export"
