"""Fake workers with known latencies, and small profiles made from them."""

from __future__ import annotations

import itertools

import pytest

from distillkit.compute.machine import MachineCard
from distillkit.contracts.runtime import Availability, Servable
from distillkit_export.profiling import rounds
from distillkit_export.profiling.configurations import Artefact, Configuration, ProfiledStudent
from distillkit_export.profiling.rounds import InterleavedBenchmark, MeasurementPlan
from distillkit_export.profiling.schema import AccuracyCard, ProfileCard, SubjectCard
from distillkit_export.profiling.worker_process import ConfigurationFailedError


class FakeWorker:
    """A fake worker: `latency(name, batch, round)` gives the milliseconds of each query, or an exception to raise."""

    pids = itertools.count(1000)

    def __init__(self, latency, diary, facts=None):
        self.pid = next(self.pids)
        self.latency, self.diary, self.facts = latency, diary, {"device": "cpu", "clock": "host"} | (facts or {})
        self.closed = False
        self.round, self.batch = 0, 0

    def ask(self, do, *, within_s, **given):
        self.diary.append((self.pid, do, given))
        if self.closed:
            raise ConfigurationFailedError("asked after its end")
        return getattr(self, f"do_{do}")(**given)

    def do_open(self, runtime, servable, setting):
        self.name = runtime + "".join(f"/{key}={value}" for key, value in setting.items())
        if runtime == "broken":
            raise ConfigurationFailedError("the file is broken", has_ended=False)
        return {"load_s": 0.5, "facts": self.facts}

    def do_prepare(self, shape, dtype, mode, max_s):
        self.batch, self.round = shape[0], 0
        self._latency()
        return {"first_ms": 9.0, "facts": self.facts, "seconds": 0.2, "queries": 9, "last_ms": 1.0, "steady": True}

    def do_round(self, mode, seconds, min_queries):
        latency = self._latency()
        self.round += 1
        return {"milliseconds": [latency] * 10, "wall_s": latency / 100, "settled": 1}

    def do_memory(self):
        return {"peak_rss_bytes": 3 * 2**20, "device_bytes": None}

    def _latency(self):
        found = self.latency(self.name, self.batch, self.round)
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self):
        self.closed = True


class FakeRuntime:
    formats = ("onnx",)

    def __init__(self, settings=({},), works=True, formats=("onnx",)):
        self._settings, self._works, self.formats = settings, works, formats

    def availability(self):
        return Availability(self._works, "fine" if self._works else "it is absent", "" if self._works else "install it")

    def settings(self):
        return self._settings


def make_subject(name="student", *, shape=(3, 8, 8), precisions=("fp32",), accuracy=None):
    artefacts = tuple(
        Artefact(Servable("onnx", f"{precision}.onnx", precision), f"{precision}.onnx", 1000)
        for precision in precisions
    )
    known = {key: AccuracyCard(top1=value, images=100, source="parity.json") for key, value in (accuracy or {}).items()}
    return ProfiledStudent(SubjectCard(name=name, accuracy=known), shape, "float32", artefacts)


def make_configuration(runtime, subject=None, **setting):
    subject = subject or make_subject()
    return Configuration(subject, runtime, subject.artefacts[0], setting)


@pytest.fixture
def diary():
    return []


@pytest.fixture
def measured(diary):
    """Run a benchmark of runtimes by name on fake workers."""

    def run(latency, *configurations, plan=None, baseline=None, facts=None, observer=None):
        made = []

        def start():
            made.append(FakeWorker(latency, diary, facts))
            return made[-1]

        plan = plan or MeasurementPlan(batches=(1,), rounds=3, seconds=0.3)
        with InterleavedBenchmark(configurations, plan, baseline=baseline, start=start, observer=observer) as benchmark:
            benchmark.sweep()
        assert all(worker.closed for worker in made)
        return benchmark

    return run


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch):
    monkeypatch.setattr(rounds, "gpus", lambda: ())


def make_machine(**changes):
    given = {
        "processor": "Zen 5",
        "cpus": 2,
        "cores": 2,
        "memory_bytes": 2**34,
        "governor": None,
        "boost": None,
        "load_average": 0.1,
        "system": "Linux x86_64",
        "software": {"distillkit": "0.1.0"},
        "gpus": (),
    }
    return MachineCard(**(given | changes))


@pytest.fixture
def profile_of(measured):
    """A profile whose latencies are `milliseconds` by runtime, times the batch."""

    def make(milliseconds, *, batches=(1, 8), subject=None, machine=None, best=None):
        subject = subject or make_subject()
        found = measured(
            lambda name, batch, number: milliseconds[name] * batch,
            *(make_configuration(runtime, subject) for runtime in milliseconds),
            plan=MeasurementPlan(batches=batches, rounds=3, seconds=0.3),
            baseline=f"{subject.name}/{next(iter(milliseconds))}/fp32",
        )
        return ProfileCard(
            made="2026-01-01T00:00:00+00:00",
            machine=machine or make_machine(),
            method=found.plan.method(found.batches, {"e2e"}),
            baseline=found.baseline,
            subjects=(subject.card,),
            configurations=tuple(found.cards.values()),
            rows=tuple(found.rows),
            best=best or {},
        )

    return make


@pytest.fixture
def subject():
    """Make a subject; its files need not exist for fake workers."""
    return make_subject


@pytest.fixture
def configuration():
    """Make a configuration by the name of its runtime."""
    return make_configuration


@pytest.fixture
def machine():
    """Make a machine with the given changes."""
    return make_machine


@pytest.fixture
def fake_worker():
    """The class of fake workers."""
    return FakeWorker


@pytest.fixture
def fake_runtime():
    """The class of fake runtimes."""
    return FakeRuntime
