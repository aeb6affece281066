"""Bundles with links in place of the folders that distillkit writes to are refused before work begins."""

from __future__ import annotations

import shutil

import pytest

from distillkit.errors import RunDirectoryError
from distillkit.storage.links import LinkError
from distillkit_export.export_options import ExportOptions
from distillkit_export.pipeline.export import export
from distillkit_export.profiling import profile as module
from distillkit_export.profiling.profile import profile
from distillkit_export.profiling.subjects import OpenTargets


@pytest.fixture
def bundle(exported, tmp_path):
    shutil.copytree(exported["plain"].directory, tmp_path / "b")
    return tmp_path / "b"


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("precious")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["precious"]


def sentence(link):
    return (
        f"{link} is a link, and distillkit writes only inside a run, bundle or bank itself; replace the "
        "link with what it leads to, or delete it"
    )


def test_no_profile_is_written_through_a_link(bundle, outside, plugins):
    """Promise: A linked folder inside a run, bundle or bank is refused.

    Attempt: A bundle whose `profile/` is a link, for `distillkit profile BUNDLE`.
    """
    (bundle / "profile").symlink_to(outside)
    with pytest.raises(LinkError) as refused:
        profile([str(bundle)], plugins)
    assert refused.value.sentence() == sentence(bundle / "profile")


def test_no_profile_of_a_checkpoint_is_written_through_a_link(tmp_path, outside, plugins, monkeypatch):
    """Promise: A linked folder inside a run, bundle or bank is refused.

    Attempt: A run whose `profile-best/` is a link, for `distillkit profile RUN --checkpoint best`.
    """
    link = tmp_path / "profile-best"
    link.symlink_to(outside)
    monkeypatch.setattr(module, "open_targets", lambda *_: OpenTargets(home=link))
    with pytest.raises(LinkError) as refused:
        profile(["runs/a"], plugins)
    assert refused.value.sentence() == sentence(link)


@pytest.mark.parametrize("name", ["trt", "rejected"])
def test_no_format_is_added_through_a_link(bundle, outside, plugins, name):
    """Promise: A linked folder inside a run, bundle or bank is refused.

    Attempt: A bundle whose `trt/` or `rejected/` is a link, for `distillkit export BUNDLE --trt`.
    """
    (bundle / name).symlink_to(outside)
    with pytest.raises(RunDirectoryError) as refused:
        export(str(bundle), options=ExportOptions(trt=True), plugins=plugins)
    assert str(refused.value) == sentence(bundle / name)


def test_no_run_is_exported_through_a_link(tmp_path, outside, plugins):
    """Promise: A linked folder inside a run, bundle or bank is refused.

    Attempt: A run whose `export/` is a link, for `distillkit export RUN`.
    """
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "export").symlink_to(outside)
    with pytest.raises(RunDirectoryError) as refused:
        export(str(tmp_path / "run"), plugins=plugins)
    assert str(refused.value) == sentence(tmp_path / "run" / "export")


def test_a_bundle_that_is_itself_a_link_is_the_users(bundle, tmp_path, plugins):
    """A user may keep bundles on another disk."""
    (tmp_path / "mine").symlink_to(bundle)
    with pytest.raises(Exception, match="already has its ONNX files"):
        export(str(tmp_path / "mine"), plugins=plugins)
