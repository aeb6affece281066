"""A format that this machine cannot make: pending in the bundle with its ONNX files, and made on the target."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from pydantic import BaseModel

from distillkit.contracts.exporter import Artifact, ExportRequest
from distillkit.errors import GateError, RunDirectoryError, UnavailableError, UserError
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
