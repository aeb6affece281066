"""`distillkit doctor` tries every runtime, reports each in one line, and survives their crashes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from distillkit.plugin.registry import installed_plugins
from distillkit_cli.main import command_line
from distillkit_export.doctor import diagnosis, tiny_model
from distillkit_export.doctor.diagnosis import diagnose

PLUGIN = """
from distillkit.contracts.plugin import PluginSpec
from distillkit.contracts.runtime import Availability

def distillkit_runtimes():
    return [PluginSpec(name="third-party", summary="a runtime of a third party", factory="third_party:ThirdParty")]

class ThirdParty:
    formats = ("onnx",)
    def availability(self):
        {availability}
    def settings(self):
        return ({{}},)
    def open(self, servable, setting):
        {open}
"""
YES = 'return Availability(works=True, detail="third_party 1.0")'
CRASH = "import ctypes; ctypes.string_at(0)"
WRONG = "import numpy; return type('S', (), {'facts': {}, '__call__': lambda self, x: numpy.ones((len(x), 3))})()"
RIGHT = (
    "return type('S', (), {'facts': {'provider': 'third_party', 'device': 'npu'}, "
    "'__call__': lambda self, x: x.mean((2, 3))})()"
)


class Only:
    """The installed plugins, with only these runtimes."""

    def __init__(self, *names):
        self._found, self._names = installed_plugins(), names

    @property
    def broken(self):
        return self._found.broken

    def listing(self, role):
        return [plugin for plugin in self._found.listing(role) if plugin.spec.name in self._names]


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """Install a third-party runtime, for this process and its children."""

    def install(availability, opens):
        site = tmp_path / "site"
        info = site / "third_party-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third_party\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[distillkit]\nthird_party = third_party\n")
        (site / "third_party.py").write_text(PLUGIN.format(availability=availability, open=opens))
        monkeypatch.syspath_prepend(site)
        (report,) = diagnose(Only("third-party")).runtimes
        return report

    return install


def test_tiny_model_is_valid_and_outputs_channel_means():
    model = onnx.load_model_from_string(tiny_model.ONNX)
    onnx.checker.check_model(model, full_check=True)
    batch = tiny_model.images(4)
    (scores,) = ReferenceEvaluator(model).run(None, {"images": batch})
    np.testing.assert_allclose(scores, tiny_model.expected_output(batch), atol=1e-6)
    assert np.ptp(tiny_model.expected_output(batch)) > 0.5


def test_available_runtime_is_run():
    (report,) = diagnose(Only("onnxruntime-cpu")).runtimes
    assert (report.verdict, report.runs) == ("runs", True)
    assert report.trial == "CPUExecutionProvider, cpu, fp32"


def test_runtime_without_its_package_has_a_remedy():
    (report,) = diagnose(Only("tensorrt")).runtimes
    assert report.verdict == "not here"
    assert report.explanation == 'TensorRT is not installed; pip install "distillkit[trt]"'


ENDINGS = {
    "right": (YES, RIGHT, "runs", "third_party 1.0; ran on third_party, npu"),
    "wrong": (
        *(YES, WRONG, "does not run"),
        "third_party 1.0, but: its output is wrong: [1. 1. 1. 1. 1. 1.]",
    ),
    "raises": (YES, "raise RuntimeError('no\\nluck')", "does not run", "third_party 1.0, but: RuntimeError: no luck"),
    "crashes": (YES, CRASH, "not here", "its trial ended with signal SIGSEGV"),
    "crashes in availability": (CRASH, RIGHT, "not here", "its trial ended with signal SIGSEGV"),
    "raises in availability": ("raise KeyError('x')", RIGHT, "not here", "its trial failed: KeyError: 'x'"),
    "hangs": (YES, "import time; time.sleep(60)", "not here", "its trial took longer than 4 s"),
}


@pytest.mark.parametrize("kind", ENDINGS)
def test_every_outcome_of_a_trial_is_one_line(kind, third_party, monkeypatch):
    if kind == "hangs":
        monkeypatch.setattr(diagnosis, "TRIAL_S", 4)
    availability, opens, verdict, explanation = ENDINGS[kind]
    report = third_party(availability, opens)
    assert (report.verdict, report.explanation) == (verdict, explanation)
    assert report.owner == "third_party 1.0"


def test_hardware_that_cannot_be_read_is_a_finding(monkeypatch):
    def broken():
        raise ValueError("no such file")

    monkeypatch.setattr(diagnosis, "machine", broken)
    found = diagnose(Only())
    assert found.machine is None
    assert found.findings[0] == "the hardware of this machine cannot be read: ValueError: no such file"


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr("distillkit.plugin.registry.installed_plugins", lambda: Only("onnxruntime-cpu", "tensorrt"))


def test_command_shows_machine_and_runtimes(short, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert command_line(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == "trying onnxruntime-cpu\ntrying tensorrt\n"
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["python", "processor"]
    table = lines[lines.index("runtime          here      why") + 1 :]
    assert table[0].startswith("onnxruntime-cpu  runs      onnxruntime ")
    assert 'tensorrt         not here  TensorRT is not installed; pip install "distillkit[trt]"' in table


def test_command_with_json(short, capsys):
    assert command_line(["--quiet", "doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {
        *("schema_version", "distillkit", "python", "system", "machine", "runtimes", "findings"),
    }
    assert [(each["name"], each["verdict"]) for each in found["runtimes"]] == [
        ("onnxruntime-cpu", "runs"),
        ("tensorrt", "not here"),
    ]
    assert found["machine"]["cpus"] >= 1
