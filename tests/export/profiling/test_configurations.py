"""Which subjects meet which runtimes, in which precision and setting."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distillkit.contracts.runtime import Servable
from distillkit.errors import UnavailableError, UserError
from distillkit_export.profiling.configurations import Artefact, ProfileSelection, Runtimes, configurations
from distillkit_export.profiling.subjects import precisions


def names(found):
    return [each.name.split("/", 1)[1] for each in found]


@pytest.fixture
def run(subject):
    """A run: in memory, and exported in two precisions."""
    exported = subject(precisions=("fp32", "int8"))
    return replace(exported, artefacts=(Artefact(Servable("torch", "runs/a")), *exported.artefacts))


@pytest.fixture
def runtimes(false_runtime):
    threads = ({}, {"threads": 2}, {"threads": 2, "spinning": False})
    return {
        "ort": false_runtime(threads),
        "torch": false_runtime(({}, {"threads": 4}), formats=("torch",)),
        "openvino": false_runtime(),
        "tensorrt": false_runtime(formats=("tensorrt",)),
    }


def test_each_artefact_meets_each_runtime_that_loads_its_format(run, runtimes):
    assert names(configurations([run], runtimes, ProfileSelection())) == [
        "ort/fp32",
        "ort/int8",
        "torch/fp32",
        "openvino/fp32",
        "openvino/int8",
    ]


def test_bfloat16_is_computed_from_float32_only_when_asked(run, runtimes):
    assert names(configurations([run], runtimes, ProfileSelection(precisions=("bf16",)))) == [
        "torch/bf16",
        "openvino/bf16",
    ]
    (found,) = configurations([run], {"openvino": runtimes["openvino"]}, ProfileSelection(precisions=("bf16",)))
    assert found.artefact.file == "fp32.onnx"


def test_a_bfloat16_file_goes_before_a_float32_file_computed_in_bfloat16(subject, runtimes):
    both = subject(precisions=("fp32", "bf16"))
    found = configurations([both], {"openvino": runtimes["openvino"]}, ProfileSelection(precisions=("bf16",)))
    assert [each.artefact.file for each in found] == ["bf16.onnx"]


def test_threads_go_where_a_runtime_has_them(run, runtimes):
    found = configurations([run], runtimes, ProfileSelection(precisions=("fp32",), threads=3))
    assert names(found) == ["ort/fp32/threads=3", "torch/fp32/threads=3", "openvino/fp32"]
    every = configurations([run], {"ort": runtimes["ort"]}, ProfileSelection(threads=3), every_setting=True)
    assert names(every)[:2] == ["ort/fp32/threads=3", "ort/fp32/threads=3/spinning=off"]


def test_device_is_where_models_in_memory_compute(run, runtimes):
    found = configurations([run], runtimes, ProfileSelection(precisions=("fp32",), device="cpu"))
    assert names(found) == ["ort/fp32", "torch/fp32/device=cpu", "openvino/fp32"]


def test_runtime_that_does_not_work_is_a_line_unless_it_was_asked_for(false_runtime, registry_of):
    factories = {"here": false_runtime, "absent": lambda: false_runtime(works=False)}
    found = Runtimes(registry_of("runtime", factories))
    assert found.usable(ProfileSelection(), {"tensorrt"})[1] == []  # it would not load that format anyway
    working, skipped = found.usable(ProfileSelection(), {"onnx", "tensorrt"})
    assert (list(working), skipped) == (["here"], ["absent: it is absent; install it"])
    with pytest.raises(UnavailableError) as error:
        found.usable(ProfileSelection(runtimes=("absent",)), {"onnx"})
    assert str(error.value) == "runtime 'absent' does not work here: it is absent; install it"


def test_precisions_come_by_comma_or_one_by_one():
    assert precisions(["fp32,fp16", "fp16"]) == ("fp32", "fp16")
    with pytest.raises(UserError, match=r"fp23.*fp32"):
        precisions(["fp23"])
