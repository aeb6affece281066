"""The interleaved benchmark: rounds, failures, sweeps and figures, with fake workers."""

from __future__ import annotations

import pytest

from distillkit.compute.machine import GpuCard
from distillkit_export.profiling import rounds
from distillkit_export.profiling.rounds import InterleavedBenchmark, MeasurementPlan, baseline_for
from distillkit_export.profiling.worker_process import ConfigurationFailedError


def constant(name, batch, number):
    return {"slow": 20.0, "fast": 5.0}.get(name, 10.0) * batch


def test_rounds_are_interleaved_and_each_starts_with_another_configuration(measured, diary, configuration):
    measured(constant, configuration("a"), configuration("b"), configuration("c"))
    first = diary[0][0]
    order = [pid - first for pid, do, _ in diary if do == "round"]
    assert order == [0, 1, 2, 1, 2, 0, 2, 0, 1]


def test_figures_of_a_row(measured, configuration):
    found = measured(constant, configuration("slow"), configuration("fast"), baseline="student/slow/fp32")
    slow, fast = found.rows
    assert (fast.configuration, fast.queries, fast.p50_ms, fast.p99_ms) == ("student/fast/fp32", 30, 5.0, 5.0)
    assert fast.images_per_s == pytest.approx(200)
    assert (fast.ratio.median, fast.ratio.low, fast.ratio.high, fast.ratio.rounds) == (4, 4, 4, 3)
    assert slow.ratio.median == 1
    assert (fast.first_ms, fast.peak_rss_bytes, fast.round_medians_ms) == (9.0, 3 * 2**20, (5.0, 5.0, 5.0))
    assert fast.caveats == ()
    assert found.cards["student/fast/fp32"].load_s == 0.5


def test_slowdown_of_a_round_does_not_change_the_ratio_but_is_a_caveat(measured, configuration):
    def noisy(name, batch, number):
        return constant(name, batch, number) * (1, 4, 2)[number]

    found = measured(noisy, configuration("slow"), configuration("fast"), baseline="student/slow/fp32")
    assert found.rows[1].ratio.median == found.rows[1].ratio.low == 4
    assert "round medians differ by 150 % (limit 10 %)" in found.rows[1].caveats


def test_model_that_does_not_load_is_reported_and_the_others_are_measured(measured, configuration):
    found = measured(constant, configuration("broken"), configuration("fast"))
    assert found.cards["student/broken/fp32"].failed == "the file is broken"
    assert [row.configuration for row in found.rows] == ["student/fast/fp32"]


def test_worker_that_dies_in_a_round_is_a_failed_row_and_not_used_again(measured, diary, configuration):
    def dying(name, batch, number):
        if name == "slow" and number == 1:
            return ConfigurationFailedError("its process was killed by SIGSEGV")
        return constant(name, batch, number)

    plan = MeasurementPlan(batches=(1, 2), rounds=3, seconds=0.3)
    found = measured(dying, configuration("slow"), configuration("fast"), plan=plan)
    failed = [row for row in found.rows if row.failed]
    assert [(row.configuration, row.batch, row.failed) for row in failed] == [
        ("student/slow/fp32", 1, "its process was killed by SIGSEGV")
    ]
    assert [row.batch for row in found.rows if row.configuration == "student/fast/fp32"] == [1, 2]


def test_worker_that_fails_on_one_batch_is_used_for_the_next(measured, configuration):
    def small(name, batch, number):
        if batch == 8:
            return ConfigurationFailedError("too little memory for a batch of 8", has_ended=False)
        return 1.0

    plan = MeasurementPlan(batches=(1, 8, 16), rounds=2, seconds=0.2)
    found = measured(small, configuration("a"), plan=plan)
    assert [(row.batch, row.failed) for row in found.rows] == [
        (1, None),
        (8, "too little memory for a batch of 8"),
        (16, None),
    ]


def test_sweep_doubles_until_no_configuration_gains_five_percent(measured, configuration):
    def saturating(name, batch, number):
        return {"a": max(4.0, batch), "b": 10.0 * batch}[name]

    found = measured(saturating, configuration("a"), configuration("b"), plan=MeasurementPlan(rounds=2, seconds=0.2))
    assert found.batches == [1, 2, 4, 8]


def test_cpu_defaults_to_end_to_end_and_a_gpu_to_both_modes(measured, configuration):
    assert {row.mode for row in measured(constant, configuration("a")).rows} == {"e2e"}
    gpu = measured(constant, configuration("a"), facts={"device": "cuda:0", "clock": "device"})
    assert [(row.mode, row.clock) for row in gpu.rows] == [("compute", "device"), ("e2e", "host")]
    plan = MeasurementPlan(batches=(1,), modes=("compute",), rounds=1, seconds=0.1)
    assert [row.mode for row in measured(constant, configuration("a"), plan=plan).rows] == ["compute"]


def test_gpu_below_its_clock_is_a_caveat(measured, monkeypatch, configuration):
    monkeypatch.setattr(rounds, "gpus", lambda: (GpuCard(name="GPU", sm_mhz=900, max_sm_mhz=1800),))
    plan = MeasurementPlan(batches=(1,), modes=("compute",), rounds=2, seconds=0.02)
    (row,) = measured(constant, configuration("a"), plan=plan, facts={"device": "cuda:0", "clock": "device"}).rows
    assert row.caveats == ("the GPU ran at 50 % of its highest clock (limit 80 %)",)
    assert row.sm_mhz == 900


def test_energy_is_divided_by_all_computed_images(measured, monkeypatch, configuration):
    readings = iter(range(0, 10_000, 11))
    monkeypatch.setattr(rounds.EnergyMeter, "joules", lambda meter: float(next(readings)))
    plan = MeasurementPlan(batches=(4,), modes=("compute",), rounds=2, seconds=0.02)
    (row,) = measured(constant, configuration("a"), plan=plan, facts={"device": "cuda:0"}).rows
    # 11 J a round; ten measured queries and one to settle, of four images each.
    assert row.joules_per_image == pytest.approx(11 / (11 * 4))


def test_observer_receives_every_step_and_the_last_is_the_total(measured, configuration):
    received = []

    class ProfileObserver:
        def begin(self, what):
            received.append(what)

        def done(self, steps, total):
            received.append((steps, total))

    measured(constant, configuration("a"), configuration("b"), observer=ProfileObserver())
    steps = [each for each in received if isinstance(each, tuple)]
    assert steps[-1] == (10, 10)
    assert [step for step, _ in steps] == list(range(1, 11))
    assert "loading student/a/fp32" in received


def test_interrupt_ends_all_workers(diary, configuration, fake_worker):
    made = []

    def start():
        made.append(fake_worker(lambda *given: KeyboardInterrupt(), diary))
        return made[-1]

    def interrupted():
        with InterleavedBenchmark(
            [configuration("a"), configuration("b")], MeasurementPlan(batches=(1,)), start=start
        ) as benchmark:
            benchmark.sweep()

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [worker.closed for worker in made] == [True, True]


def test_baseline_is_found_by_its_name_by_its_runtime_or_is_the_first():
    names = ["a/torch/fp32", "a/onnxruntime-cpu/fp32", "b/onnxruntime-cpu/fp32/threads=1"]
    assert baseline_for(names, None) == "a/torch/fp32"
    assert baseline_for(names, "onnxruntime-cpu") == "a/onnxruntime-cpu/fp32"
    assert baseline_for(names, "onnxruntime-cpu/fp32/threads=1") == "b/onnxruntime-cpu/fp32/threads=1"
    assert baseline_for(names, "b/onnxruntime-cpu/fp32/threads=1") == "b/onnxruntime-cpu/fp32/threads=1"
    assert baseline_for(names, "openvino") is None


def test_names_distinguish_configurations(configuration, subject):
    assert configuration("ort", threads=2, spinning=False).name == "student/ort/fp32/threads=2/spinning=off"
    assert configuration("ort", subject("other", precisions=("int8",))).name == "other/ort/int8"
