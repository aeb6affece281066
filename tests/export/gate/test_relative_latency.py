"""Relative latency of files, on a clock that the test moves."""

import numpy as np
import pytest

from distillkit.compute.busy_machine import busy_machine
from distillkit.contracts.exporter import Artifact
from distillkit_export.gate import relative_latency as module
from distillkit_export.gate.gate import Verdict
from distillkit_export.gate.parity import Reference
from distillkit_export.gate.relative_latency import relative_latency
from distillkit_export.gate.report import lines
from distillkit_export.images.gate_images import ImageSet


class File:
    """A file whose every call takes the next of `times_ms` on the test's clock."""

    def __init__(self, clock, *times_ms):
        self.clock, self.times_ms, self.calls = clock, times_ms, 0

    def __call__(self, image):
        self.clock[0] += self.times_ms[self.calls % len(self.times_ms)] / 1000
        self.calls += 1
        return image


def test_latency_is_relative_to_the_first_file(monkeypatch):
    """1 ms is repeated 5 times per round, so that a round takes the least time of 5 ms."""
    clock = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: clock[0])
    files = {"first": File(clock, 1), "slower": File(clock, 2), "faster": File(clock, 0.5)}
    assert relative_latency(files, np.zeros(1)) == pytest.approx({"first": 1.0, "slower": 2.0, "faster": 0.5})
    assert files["slower"].calls == module.WARM_UP + 5 * module.ROUNDS


def test_an_interrupted_round_does_not_change_the_median(monkeypatch):
    """One call in 30 takes 1 s instead of 10 ms, which moves the mean but not the median."""
    clock = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: clock[0])
    files = {"first": File(clock, 10), "second": File(clock, *[20] * 10, 1000, *[20] * 19)}
    assert relative_latency(files, np.zeros(1)) == pytest.approx({"first": 1.0, "second": 2.0})


@pytest.mark.parametrize(
    ("caveats", "cell", "note"),
    [
        ((), "2.00x", []),
        (
            busy_machine(1.5, 2),
            "2.00x*",
            ["* the load average was 1.50 on 2 CPUs before the measurement"],
        ),
    ],
)
def test_latencies_of_a_busy_machine_are_marked(caveats, cell, note):
    images = ImageSet(np.zeros((1, 3, 4, 4), np.float32), "noise")
    reference = Reference(images, np.zeros((1, 2), np.float32), "torch")
    verdicts = [
        Verdict(
            Artifact("onnx", f"{name}.onnx", "fp32", {}),
            "passed",
            "r",
            1,
            relative_latency=time,
            latency_caveats=caveats if time else (),
        )
        for name, time in (("model", 1.0), ("other", 2.0), ("third", None))
    ]
    _, first, second, third, *notes = lines(verdicts, reference)
    assert (first.split()[-2], second.split()[-2], third.split()[-2]) == (cell.replace("2", "1", 1), cell, "-")
    assert [each for each in notes if each.startswith("*")] == note
    assert verdicts[1].as_dict()["latency_caveats"] == list(caveats)
