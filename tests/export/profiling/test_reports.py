"""Profiles as JSON, Markdown, pictures and regressions."""

from __future__ import annotations

import json
import os
import re

import pytest
from matplotlib.figure import Figure

from distillkit.errors import GateError, UserError
from distillkit_export.profiling import charts, machine
from distillkit_export.profiling.caveats import busy_machine, doubts_of
from distillkit_export.profiling.charts import draw, frontier, points
from distillkit_export.profiling.latency import summarise
from distillkit_export.profiling.markdown import doubt_lines, markdown
from distillkit_export.profiling.regressions import changes, require_no_regression
from distillkit_export.profiling.schema import GpuCard, read_profile


@pytest.fixture
def card(profile_of):
    return profile_of({"torch": 10.0, "ort": 4.0})


def written(card, path):
    path.write_text(json.dumps(card.model_dump(mode="json")))
    return path


def test_profile_is_read_as_it_was_written(card, tmp_path):
    assert read_profile(written(card, tmp_path / "profile.json")) == card


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "something"}, r"^'[^']+' is no profile; give a JSON file that `distillkit profile` wrote$"),
        ({"schema_version": 2}, r"^profile '[^']+' has schema 2 and this distillkit reads 1; upgrade distillkit$"),
        ({"rows": [{}]}, r"^profile '[^']+' is torn: rows\.0\.configuration: Field required; measure again$"),
    ],
)
def test_what_is_no_profile_is_refused(card, tmp_path, change, sentence):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(card.model_dump(mode="json") | change))
    with pytest.raises(UserError, match=sentence):
        read_profile(path)


def test_unreadable_profile_is_refused(tmp_path):
    (tmp_path / "profile.json").write_text("{")
    with pytest.raises(UserError, match=r"^profile '[^']+' cannot be read \([^\n]+\); give a JSON file of"):
        read_profile(tmp_path / "profile.json")


def test_a_pipe_in_the_place_of_a_profile_is_refused(tmp_path):
    os.mkfifo(tmp_path / "profile.json")
    with pytest.raises(UserError) as refusal:
        read_profile(tmp_path / "profile.json")
    assert str(refusal.value) == (
        f"profile '{tmp_path}/profile.json' cannot be read (is a pipe, not a file); give a JSON file of "
        "`distillkit profile`"
    )


def test_page_has_a_table_per_batch_with_the_ratio_to_the_baseline(card):
    page = markdown(card)
    assert "## Batch 8, end to end" in page
    rows = [line for line in page.splitlines() if line.startswith("| ort/fp32 | ")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0][:2] == ["ort/fp32", "4.000"]
    assert cells[0][7:9] == ["250.0", "2.50 (2.50 to 2.50)"]
    header = next(line for line in page.splitlines() if line.startswith("| configuration | p50"))
    assert {row.count("|") for row in rows[:2]} == {header.count("|")}


def test_doubts_that_hold_for_everything_are_said_once(card):
    first, second, *rest = card.rows
    marked = [row.model_copy(update={"doubts": ("busy",)}) for row in (second, *rest)]
    both = card.model_copy(update={"rows": (first.model_copy(update={"doubts": ("busy", "restless")}), *marked)})
    assert list(doubt_lines(both)) == ["everything: busy", "torch/fp32, batch 1, end to end: restless"]
    assert "10.000*" in markdown(both)


def test_steady_figures_are_not_doubted_and_others_are_with_their_limit():
    assert doubts_of(summarise([10.0] * 20), [10.0, 10.0], clock="host", steady=True) == ()
    restless = summarise([10.0, 11.0] * 10)  # CV 4.76 %
    assert doubts_of(restless, [10.0, 10.0], clock="host", steady=True) == ()
    assert doubts_of(restless, [10.0, 10.0], clock="device", steady=True) == (
        "latencies vary by 4.8 % (CV, limit 2.5 %)",
    )
    assert doubts_of(summarise([1.0] * 4), [1.0, 1.2], clock="host", steady=False, sm_share=0.5) == (
        "rounds are 18 % apart (limit 10 %)",
        "it was not steady after the warm-up",
        "only 4 queries",
        "the GPU ran at 50 % of its highest clock (limit 80 %)",
    )


def test_other_work_on_more_than_half_of_the_cpus_is_a_doubt():
    assert busy_machine(0.72, 2) == busy_machine(1.0, 2) == busy_machine(None, 2) == ()
    assert busy_machine(1.01, 2) == ("the load average was 1.01 on 2 CPUs before it began",)
    assert busy_machine(1.5, 2) == ("the load average was 1.50 on 2 CPUs before it began",)


class TestRegressions:
    def test_slower_than_allowed_is_a_failed_gate_that_names_the_worst(self, profile_of):
        before, now = profile_of({"torch": 10.0, "ort": 4.0}), profile_of({"torch": 10.5, "ort": 6.0})
        found = changes(before, now)
        assert found[0].line() == "student/torch/fp32, batch 1, e2e: 10 -> 10.5 ms (+5.0 %)"
        with pytest.raises(GateError) as error:
            require_no_regression(found)
        assert str(error.value) == (
            "2 of 4 measurements are more than 10 % slower than the baseline; the worst is "
            "student/ort/fp32, batch 1, e2e: 4 -> 6 ms (+50.0 %)"
        )
        require_no_regression(found, allowed=60)

    def test_doubtful_measurements_are_not_judged(self, profile_of):
        before, now = profile_of({"ort": 4.0}), profile_of({"ort": 8.0})
        doubtful = [row.model_copy(update={"doubts": ("busy",)}) for row in now.rows]
        found = changes(before, now.model_copy(update={"rows": tuple(doubtful)}))
        assert found[0].line() == "student/ort/fp32, batch 1, e2e: 4 -> 8 ms (+100.0 %); not judged: now, busy"
        require_no_regression(found)

    def test_another_machine_is_no_baseline(self, profile_of, machine):
        before = profile_of({"ort": 4.0}, machine=machine(cpus=16, gpus=(GpuCard(name="H200"),)))
        with pytest.raises(UserError) as error:
            changes(before, profile_of({"ort": 4.0}))
        assert str(error.value) == (
            "the baseline was measured on Zen 5 with 16 CPUs and H200 and this is Zen 5 with 2 CPUs; measure a "
            "baseline here"
        )

    def test_nothing_in_common_is_said(self, profile_of):
        with pytest.raises(UserError) as error:
            changes(profile_of({"torch": 4.0}), profile_of({"ort": 4.0}))
        assert str(error.value) == (
            "the baseline has no configuration, batch and mode that was measured now; it has student/torch/fp32"
        )


class TestPictures:
    def test_three_pictures_where_an_accuracy_is_known(self, profile_of, subject, tmp_path):
        known = profile_of({"ort": 4.0}, of=subject("a", accuracy={"fp32": 72.2}))
        unknown = profile_of({"ort": 5.0}, of=subject("b"))
        drawn = draw([known, unknown], tmp_path)
        assert [file.name for file in drawn.files] == ["latency.png", "throughput.png", "accuracy.png"]
        assert all(file.read_bytes().startswith(b"\x89PNG") for file in drawn.files)
        assert drawn.notes == ("accuracy.png leaves out what has no measured accuracy: b",)

    def test_trade_off_takes_the_batch_of_highest_throughput(self, profile_of, subject):
        card = profile_of({"ort": 4.0}, of=subject("a", accuracy={"fp32": 72.2}))
        rows = tuple(row.model_copy(update={"images_per_s": 1000.0}) if row.batch == 8 else row for row in card.rows)
        (best,) = frontier(points([card.model_copy(update={"rows": rows})]))
        assert (best.batch, best.images_per_s, best.accuracy) == (8, 1000.0, 72.2)

    def test_without_any_accuracy_a_note_says_so(self, card, tmp_path):
        drawn = draw([card], tmp_path)
        assert [file.name for file in drawn.files] == ["latency.png", "throughput.png"]
        assert drawn.notes == ("accuracy.png is not drawn, because no accuracy was measured for student",)

    def test_one_batch_size_makes_no_picture_of_latency_against_batch(self, profile_of, tmp_path):
        drawn = draw([profile_of({"ort": 4.0}, batches=(1,))], tmp_path)
        assert [file.name for file in drawn.files] == ["throughput.png"]
        assert drawn.notes == (
            "latency.png is not drawn, because only one batch size was measured",
            "accuracy.png is not drawn, because no accuracy was measured for student",
        )

    @pytest.mark.parametrize("many", [1, 4])
    def test_shades_up_to_p99_are_left_out_where_they_would_hide_each_other(self, profile_of, many):
        card = profile_of({f"runtime-{number}": 4.0 for number in range(many)})
        axes, found = Figure().subplots(), points([card])
        charts._latency(axes, found, {point.line: 0 for point in found})
        expected = "latency, ms (p50, shaded to p99)" if many == 1 else "latency, ms (p50)"
        assert (axes.get_ylabel(), len(axes.collections)) == (expected, 1 if many == 1 else 0)

    def test_without_matplotlib_one_sentence_stands_for_all(self, card, tmp_path, monkeypatch):
        monkeypatch.setattr(charts, "find_spec", lambda name: None)
        assert draw([card], tmp_path / "new").notes == (
            'the pictures are left out, because matplotlib is not installed; pip install "distillkit[train]"',
        )
        assert not (tmp_path / "new").exists()


class TestSurroundings:
    def test_this_machine_describes_itself_without_naming_host_or_path(self):
        told = machine.machine()
        assert told.cpus >= told.cores >= 1
        assert told.processor
        text = json.dumps(told.model_dump(mode="json"))
        assert not re.search(r"/(home|tmp|work|root)/", text)

    def test_gpus_are_read_from_nvidia_smi_and_what_it_does_not_tell_is_none(self):
        line = "NVIDIA H200, 580.65, 143771, 345, 1980, [N/A], 31, 0x0000000000000001, Enabled\n"
        (gpu,) = machine.gpus(lambda command: line)
        assert (gpu.name, gpu.sm_mhz, gpu.max_sm_mhz, gpu.power_w) == ("NVIDIA H200", 345, 1980, None)
        assert machine.gpus(lambda command: None) == ()
        assert machine.gpus(lambda command: "Failed to initialize NVML\n") == ()

    def test_energy_is_none_where_nothing_counts_it(self):
        if not machine.gpus():
            assert machine.EnergyMeter().joules() is None
