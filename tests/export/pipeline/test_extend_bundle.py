"""A format that this machine cannot make: pending in the bundle with its ONNX files, and made on the target."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace

import pytest
from pydantic import BaseModel

from distillkit.contracts.exporter import Artifact, ExportRequest
from distillkit.errors import BundleError, GateError, RunDirectoryError, UnavailableError, UserError
from distillkit_export.bundle.reader import open_bundle
from distillkit_export.export_options import ExportOptions
from distillkit_export.images.gate_images import ExportImages, ImageSet, photographs
from distillkit_export.onnx.exporter import OnnxExporter
from distillkit_export.onnx.session import OnnxSession
from distillkit_export.pipeline.export import export_model
from distillkit_export.pipeline.extend_bundle import extend_bundle
from distillkit_export.pipeline.formats import Format, onnx_format, other_formats
from distillkit_export.pipeline.target import ExportTarget


class RobotOptions(BaseModel):
    joints: int = 2


class Robot:
    """A format that is ONNX under another name and only available with `is_here`."""

    Options = RobotOptions
    precisions = ("fp32", "fp16")
    runtime = "robot 1.0"
    is_here = False
    wrong = None

    def __init__(self, options):
        self.options = options

    def check(self):
        if not self.is_here:
            raise UnavailableError("there is no robot here")

    def write(self, source, directory, precision):
        (directory / "robot").mkdir(exist_ok=True)
        file = f"robot/model.{precision}.bin"
        shutil.copy(self.wrong or source.onnx[precision], directory / file)
        return Artifact("robot", file, precision, {"joints": self.options.joints})

    def precision_of(self, file):
        return file.suffixes[0].removeprefix(".")

    def open(self, file):
        return OnnxSession(file)


@pytest.fixture(scope="module")
def robots(plugins, registry_of):
    return registry_of("exporter", {"robot": Robot}, plugins)


@pytest.fixture(scope="module")
def without_robot(plain, robots, tmp_path_factory):
    images = ImageSet(photographs(plain.spec, "x").pixels, "some photographs")
    options = ExportOptions(formats=("robot",), fp16=True, settings={"robot": {"joints": 6}})
    forms = [onnx_format(options, robots), *other_formats(options, robots)]
    folder = tmp_path_factory.mktemp("robots") / "bundle"
    target = ExportTarget(plain, ExportRequest(), lambda: ExportImages(images, images))
    return export_model(forms, target, folder, options)


@pytest.fixture
def bundle(without_robot, tmp_path):
    shutil.copytree(without_robot.directory, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def robot_is_here(monkeypatch):
    monkeypatch.setattr(Robot, "is_here", True)


def test_onnx_is_kept_and_the_pending_format_has_a_command(without_robot):
    assert [card["file"] for card in without_robot.manifest["artifacts"]] == ["model.onnx", "model.fp16.onnx"]
    assert without_robot.manifest["pending"] == [
        {
            "format": "robot",
            "precision": "fp16",
            "reason": "there is no robot here",
            "command": "distillkit export BUNDLE --format robot --set robot.joints=6 --fp16",
            "options": {"joints": 6},
        }
    ]
    with pytest.raises(UnavailableError) as error:
        without_robot.require()
    assert str(error.value) == (
        "robot fp16 is pending: there is no robot here; on the target run: distillkit export "
        f"{without_robot.directory} --format robot --set robot.joints=6 --fp16"
    )


def test_target_makes_and_gates_the_pending_file(bundle, robots, robot_is_here):
    result = extend_bundle(str(bundle), ExportOptions(formats=("robot",)), plugins=robots)
    result.require()
    manifest = open_bundle(bundle).manifest
    assert [card.file for card in manifest.artifacts] == ["model.onnx", "model.fp16.onnx", "robot/model.fp16.bin"]
    assert (manifest.artifacts[2].gate, manifest.artifacts[2].runtime) == ("passed", "robot 1.0")
    assert manifest.pending == ()
    assert "robot/model.fp16.bin" in json.loads((bundle / "parity.json").read_text())["files"]
    assert "| robot/model.fp16.bin | " in (bundle / "parity.md").read_text()


def test_target_without_the_robot_keeps_the_bundle_and_the_pending_entry(bundle, robots):
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    result = extend_bundle(str(bundle), ExportOptions(formats=("robot",)), plugins=robots)
    with pytest.raises(UnavailableError, match="there is no robot here"):
        result.require()
    del before["bundle.json"]
    assert {name: (bundle / name).read_bytes() for name in before} == before
    assert [card.reason for card in open_bundle(bundle).manifest.pending] == ["there is no robot here"]


def test_file_that_fails_its_gate_is_not_added(bundle, robots, robot_is_here, exported, monkeypatch):
    monkeypatch.setattr(Robot, "wrong", exported["plain"].directory / "samples.npz")
    result = extend_bundle(str(bundle), ExportOptions(formats=("robot",)), plugins=robots)
    with pytest.raises(GateError) as error:
        result.require()
    assert str(error.value).startswith("robot/model.fp16.bin was refused: ONNX Runtime cannot load model.fp16.bin: ")
    assert (bundle / "rejected" / "robot" / "model.fp16.bin").is_file()
    assert len(open_bundle(bundle).manifest.artifacts) == 2


def test_files_of_the_user_are_kept_and_not_part_of_the_bundle(bundle, robots, robot_is_here):
    (bundle / "notes.txt").write_text("mine")
    extend_bundle(str(bundle), ExportOptions(formats=("robot",)), plugins=robots)
    assert (bundle / "notes.txt").read_text() == "mine"
    assert "notes.txt" not in open_bundle(bundle).manifest.files


def huge(file):
    file.unlink(missing_ok=True)
    with file.open("wb") as opened:
        opened.truncate(2**40)


@pytest.mark.parametrize("name", ["data.bin", "notes/data.bin", "parity.md", "predict.py"])
def test_a_file_of_any_size_is_not_copied(bundle, robots, name):
    """Promise: Memory and time are bounded by what a valid file needs.

    Attempt: A bundle with an unlisted file of 1 TiB that takes no room on a disk, for `distillkit export BUNDLE --trt`.
    """
    (bundle / name).parent.mkdir(exist_ok=True)
    huge(bundle / name)
    before = (bundle / name).stat().st_ino
    extend_bundle(str(bundle), ExportOptions(formats=("robot",)), plugins=robots)
    after = (bundle / name).stat()
    assert (after.st_ino, after.st_size, after.st_nlink) == (before, 2**40, 1)
    assert name not in open_bundle(bundle).manifest.files


def test_without_hard_links_a_file_is_copied_up_to_the_limit(bundle, robots, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", link)
    (bundle / "notes.txt").write_text("mine")
    extend_bundle(str(bundle), ExportOptions(formats=("robot",)), plugins=robots)
    assert (bundle / "notes.txt").read_text() == "mine"
    monkeypatch.setattr("distillkit_export.bundle.copying.LARGEST_TEXT", 1_000)
    huge(bundle / "data.bin")
    with pytest.raises(BundleError) as refused:
        extend_bundle(str(bundle), ExportOptions(formats=("robot",)), plugins=robots)
    assert str(refused.value) == (
        f"data.bin of bundle '{bundle}' cannot be copied (it has more than 1,000 bytes); move it away"
    )
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle"]


@pytest.mark.parametrize("name", ["notes.txt", "parity.md", "predict.py"])
@pytest.mark.parametrize("target", ["nothing", "pipe", "file", "notes.txt"])
def test_a_link_in_a_bundle_is_neither_read_nor_waited_for(bundle, robots, robot_is_here, tmp_path, name, target):
    """Promise: Files that a manifest does not list are never read.

    Attempt: A bundle with a link to a pipe, to nothing, to itself or to a file elsewhere, for `export BUNDLE --trt`.
    """
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("private")
    (bundle / name).unlink(missing_ok=True)
    (bundle / name).symlink_to(name if target == name else tmp_path / target)
    extend_bundle(str(bundle), ExportOptions(formats=("robot",)), plugins=robots).require()
    listed = open_bundle(bundle).manifest.files
    if name == "parity.md":  # the page of the new file replaces the link
        assert "private" not in (bundle / name).read_text()
        assert not (bundle / name).is_symlink()
    else:
        assert (bundle / name).is_symlink()
        assert name not in listed
    assert (tmp_path / "file").read_text() == "private"


@pytest.mark.parametrize("content", [b"\xff", b"x" * 2_000])
def test_a_report_that_is_not_text_is_replaced(bundle, robots, robot_is_here, monkeypatch, content):
    monkeypatch.setattr("distillkit_export.bundle.copying.LARGEST_TEXT", 100_000)
    monkeypatch.setattr("distillkit_export.gate.report.LARGEST_PAGE", 1_000)
    (bundle / "parity.md").write_bytes(content)
    extend_bundle(str(bundle), ExportOptions(formats=("robot",)), plugins=robots).require()
    assert (bundle / "parity.md").read_text().startswith("# Parity")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            UserError,
            ExportOptions(),
            (
                "bundle '{0}' already has its ONNX files, which are made from the student; give --format NAME, or "
                "make a pending file: distillkit export {0} --format robot --set robot.joints=6 --fp16"
            ),
        ),
        (
            UserError,
            ExportOptions(formats=("robot",), int8=True),
            "exporter 'robot' writes fp32, fp16, not int8; leave out --int8",
        ),
        (
            UserError,
            ExportOptions(settings={"robot": {"joints": 3}}),
            "--set robot.KEY has no effect without that format; add --format robot",
        ),
    ],
)
def test_formats_that_cannot_be_added_are_refused(bundle, robots, kind, options, message):
    with pytest.raises(kind) as error:
        extend_bundle(str(bundle), options, plugins=robots)
    assert str(error.value) == message.format(bundle)


@pytest.mark.parametrize(
    ("changed", "command"),
    [
        ({}, "--format robot --set robot.joints=6 --fp16"),
        ({"options": {"joints": "none"}}, "--format robot --fp16"),
        ({"format": "robot; rm -r x", "precision": "fp32"}, "--format 'robot; rm -r x'"),
    ],
)
def test_the_command_of_a_pending_file_is_not_that_of_the_bundle(bundle, robots, changed, command):
    """Promise: commands that are shown are made by distillkit, and a shell runs nothing else.

    Attempt: a bundle whose pending file names another command.
    """
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["pending"][0] |= {"command": "distillkit export BUNDLE ; touch ran"} | changed
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError) as error:
        extend_bundle(str(bundle), ExportOptions(), plugins=robots)
    assert str(error.value) == (
        f"bundle '{bundle}' already has its ONNX files, which are made from the student; give --format NAME, or make "
        f"a pending file: distillkit export {bundle} {command}"
    )


def test_the_commands_of_other_pending_files_are_made_here(bundle, robots, robot_is_here):
    """Promise: commands that are shown are made by distillkit, and a shell runs nothing else.

    Attempt: a bundle with another command, whose manifest --json prints after another file was added.
    """
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["pending"][0]["command"] = "touch ran"
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    result = extend_bundle(str(bundle), ExportOptions(formats=("robot",), fp32=True), plugins=robots)
    made = "distillkit export BUNDLE --format robot --set robot.joints=6 --fp16"
    assert [card["command"] for card in result.as_dict()["manifest"]["pending"]] == [made]
    assert [card.command for card in open_bundle(bundle).manifest.pending] == [made]


def test_precision_without_onnx_and_existing_file_are_refused(bundle, robots, robot_is_here):
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["artifacts"].pop()
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError) as missing:
        extend_bundle(str(bundle), ExportOptions(formats=("robot",)), plugins=robots)
    assert str(missing.value) == (
        f"bundle '{bundle}' has no ONNX file in fp16 to make robot from; export the run again with --fp16"
    )
    single = ExportOptions(formats=("robot",), fp32=True)
    extend_bundle(str(bundle), single, plugins=robots)
    with pytest.raises(RunDirectoryError) as there:
        extend_bundle(str(bundle), single, plugins=robots)
    assert str(there.value) == f"bundle '{bundle}' already has robot/model.fp32.bin; give --force to replace it"
    extend_bundle(str(bundle), replace(single, force=True), plugins=robots).require()


def test_onnx_itself_is_not_written_from_a_bundle(tmp_path):
    from distillkit.contracts.exporter import ExportSource

    with pytest.raises(UnavailableError) as error:
        OnnxExporter(OnnxExporter.Options()).write(ExportSource(ExportRequest()), tmp_path, "fp32")
    assert str(error.value) == "ONNX files are exported from a student, not from a bundle; export the run again"


def test_exporter_with_flags_method_defines_its_own_flags():
    class Flagged(Robot):
        def flags(self):
            return ("--robot",)

    form = Format("robot", Flagged(RobotOptions()), RobotOptions())
    assert form.flags("fp32") == ["--robot"]
    assert form.flags("int8") == ["--robot", "--int8"]
