"""Which artefacts are measured in which runtimes, precisions and settings."""

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
def runtimes(fake_runtime):
    threads = ({}, {"threads": 2}, {"threads": 2, "spinning": False})
    return {
        "ort": fake_runtime(threads),
        "torch": fake_runtime(({}, {"threads": 4}), formats=("torch",)),
        "openvino": fake_runtime(),
        "tensorrt": fake_runtime(formats=("tensorrt",)),
    }


def test_each_artefact_runs_in_each_runtime_that_loads_its_format(run, runtimes):
    assert names(configurations([run], runtimes, ProfileSelection())) == [
        "ort/fp32",
        "ort/int8",
        "torch/fp32",
        "openvino/fp32",
        "openvino/int8",
    ]


def test_bfloat16_is_computed_from_float32_only_on_request(run, runtimes):
    assert names(configurations([run], runtimes, ProfileSelection(precisions=("bf16",)))) == [
        "torch/bf16",
        "openvino/bf16",
    ]
    (found,) = configurations([run], {"openvino": runtimes["openvino"]}, ProfileSelection(precisions=("bf16",)))
    assert found.artefact.file == "fp32.onnx"


def test_a_bfloat16_file_is_preferred_to_a_float32_file_computed_in_bfloat16(subject, runtimes):
    both = subject(precisions=("fp32", "bf16"))
    found = configurations([both], {"openvino": runtimes["openvino"]}, ProfileSelection(precisions=("bf16",)))
    assert [each.artefact.file for each in found] == ["bf16.onnx"]


def test_threads_apply_to_runtimes_with_that_setting(run, runtimes):
    found = configurations([run], runtimes, ProfileSelection(precisions=("fp32",), threads=3))
    assert names(found) == ["ort/fp32/threads=3", "torch/fp32/threads=3", "openvino/fp32"]
    every = configurations([run], {"ort": runtimes["ort"]}, ProfileSelection(threads=3), every_setting=True)
    assert names(every)[:2] == ["ort/fp32/threads=3", "ort/fp32/threads=3/spinning=off"]


def test_device_applies_to_models_in_memory(run, runtimes):
    found = configurations([run], runtimes, ProfileSelection(precisions=("fp32",), device="cpu"))
    assert names(found) == ["ort/fp32", "torch/fp32/device=cpu", "openvino/fp32"]


def test_runtime_that_does_not_work_is_skipped_unless_requested(fake_runtime, registry_of):
    factories = {"here": fake_runtime, "absent": lambda: fake_runtime(works=False)}
    found = Runtimes(registry_of("runtime", factories))
    assert found.usable(ProfileSelection(), {"tensorrt"})[1] == []  # it would not load that format anyway
    working, skipped = found.usable(ProfileSelection(), {"onnx", "tensorrt"})
    assert (list(working), skipped) == (["here"], ["absent: it is absent; install it"])
    with pytest.raises(UnavailableError) as error:
        found.usable(ProfileSelection(runtimes=("absent",)), {"onnx"})
    assert str(error.value) == "runtime 'absent' does not work here: it is absent; install it"


def test_precisions_are_separated_by_commas_or_given_one_by_one():
    assert precisions(["fp32,fp16", "fp16"]) == ("fp32", "fp16")
    with pytest.raises(UserError, match=r"fp23.*fp32"):
        precisions(["fp23"])
