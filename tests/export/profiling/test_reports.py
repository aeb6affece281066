"""Profiles as JSON, Markdown and charts; regressions."""

from __future__ import annotations

import json
import os
import re

import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from distillkit.compute.busy_machine import busy_machine
from distillkit.compute.machine import GpuCard, gpus
from distillkit.errors import GateError, UserError
from distillkit_export.profiling import charts, machine
from distillkit_export.profiling.caveats import caveats_of
from distillkit_export.profiling.charts import draw, frontier, points
from distillkit_export.profiling.latency import summarise
from distillkit_export.profiling.markdown import caveat_lines, markdown
from distillkit_export.profiling.regressions import changes, require_no_regression
from distillkit_export.profiling.schema import read_profile


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
        ({"kind": "something"}, r"^'[^']+' is not a profile; give a JSON file written by `distillkit profile`$"),
        ({"schema_version": 2}, r"^profile '[^']+' has schema 2 and this distillkit reads 1; upgrade distillkit$"),
        ({"rows": [{}]}, r"^profile '[^']+' is invalid: rows\.0\.configuration: Field required; measure again$"),
    ],
)
def test_files_that_are_not_profiles_are_refused(card, tmp_path, change, sentence):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(card.model_dump(mode="json") | change))
    with pytest.raises(UserError, match=sentence):
        read_profile(path)


def test_unreadable_profile_is_refused(tmp_path):
    (tmp_path / "profile.json").write_text("{")
    with pytest.raises(UserError, match=r"^profile '[^']+' cannot be read \([^\n]+\); give a JSON file written by"):
        read_profile(tmp_path / "profile.json")


def test_a_pipe_instead_of_a_profile_is_refused(tmp_path):
    os.mkfifo(tmp_path / "profile.json")
    with pytest.raises(UserError) as refusal:
        read_profile(tmp_path / "profile.json")
    assert str(refusal.value) == (
        f"profile '{tmp_path}/profile.json' cannot be read (is a pipe, not a file); give a JSON file written by "
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


@pytest.mark.parametrize("name", ["<img src=http://a>", "![x](http://a)", "a|b", "a\n# b", "\x9b2J"])
def test_page_shows_the_names_of_a_profile_as_they_are(card, name):
    """Promise: names of classes, files and models are text.

    Attempt: a bundle in a folder whose name is HTML, an image or a cell of a table.
    """
    text = json.dumps(card.model_dump(mode="json")).replace("ort", json.dumps(name)[1:-1])
    page = markdown(type(card).model_validate_json(text))
    parsed = MarkdownIt("commonmark").enable("table").parse(page)
    kinds = {each.type for token in parsed for each in (token, *(token.children or ()))}
    assert not {"html_block", "html_inline", "link_open", "image"} & kinds
    headings = [token.markup for token in parsed if token.type == "heading_open"]
    assert headings[0] == "#"
    assert set(headings[1:]) == {"##"}
    header = next(line for line in page.splitlines() if line.startswith("| configuration | p50"))
    rows = [line for line in page.splitlines() if line.startswith("| ") and "4.000 |" in line]
    assert {row.replace("\\|", "").count("|") for row in rows} == {header.count("|")}


def test_caveats_of_all_rows_are_shown_once(card):
    first, second, *rest = card.rows
    marked = [row.model_copy(update={"caveats": ("busy",)}) for row in (second, *rest)]
    both = card.model_copy(update={"rows": (first.model_copy(update={"caveats": ("busy", "restless")}), *marked)})
    assert list(caveat_lines(both)) == ["all rows: busy", "torch/fp32, batch 1, end to end: restless"]
    assert "10.000*" in markdown(both)


def test_caveats_keep_their_key_in_files(card, tmp_path):
    marked = card.model_copy(update={"rows": (card.rows[0].model_copy(update={"caveats": ("busy",)}),)})
    (row,) = json.loads(written(marked, tmp_path / "profile.json").read_text())["rows"]
    assert (row["doubts"], "caveats" in row) == (["busy"], False)
    assert read_profile(tmp_path / "profile.json") == marked


def test_steady_figures_have_no_caveats_and_others_name_the_limit():
    assert caveats_of(summarise([10.0] * 20), [10.0, 10.0], clock="host", steady=True) == ()
    restless = summarise([10.0, 11.0] * 10)  # CV 4.76 %
    assert caveats_of(restless, [10.0, 10.0], clock="host", steady=True) == ()
    assert caveats_of(restless, [10.0, 10.0], clock="device", steady=True) == (
        "latencies vary by 4.8 % (CV, limit 2.5 %)",
    )
    assert caveats_of(summarise([1.0] * 4), [1.0, 1.2], clock="host", steady=False, sm_share=0.5) == (
        "round medians differ by 18 % (limit 10 %)",
        "latency was not steady after the warm-up",
        "only 4 queries",
        "the GPU ran at 50 % of its highest clock (limit 80 %)",
    )


def test_load_on_more_than_half_of_the_cpus_is_a_caveat():
    assert busy_machine(0.72, 2) == busy_machine(1.0, 2) == busy_machine(None, 2) == ()
    assert busy_machine(1.01, 2) == ("the load average was 1.01 on 2 CPUs before the measurement",)
    assert busy_machine(1.5, 2) == ("the load average was 1.50 on 2 CPUs before the measurement",)


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

    def test_measurements_with_caveats_are_not_judged(self, profile_of):
        before, now = profile_of({"ort": 4.0}), profile_of({"ort": 8.0})
        marked = [row.model_copy(update={"caveats": ("busy",)}) for row in now.rows]
        found = changes(before, now.model_copy(update={"rows": tuple(marked)}))
        assert found[0].line() == "student/ort/fp32, batch 1, e2e: 4 -> 8 ms (+100.0 %); not judged (now: busy)"
        require_no_regression(found)

    def test_baseline_of_another_machine_is_refused(self, profile_of, machine):
        before = profile_of({"ort": 4.0}, machine=machine(cpus=16, gpus=(GpuCard(name="H200"),)))
        with pytest.raises(UserError) as error:
            changes(before, profile_of({"ort": 4.0}))
        assert str(error.value) == (
            "the baseline was measured on Zen 5 with 16 CPUs and H200, but this machine is Zen 5 with 2 CPUs; measure "
            "a baseline here"
        )

    def test_profiles_with_nothing_in_common_are_refused(self, profile_of):
        with pytest.raises(UserError) as error:
            changes(profile_of({"torch": 4.0}), profile_of({"ort": 4.0}))
        assert str(error.value) == (
            "the baseline and this profile have no configuration, batch and mode in common; the baseline has "
            "student/torch/fp32"
        )


class TestCharts:
    def test_three_charts_if_an_accuracy_is_known(self, profile_of, subject, tmp_path):
        known = profile_of({"ort": 4.0}, subject=subject("a", accuracy={"fp32": 72.2}))
        unknown = profile_of({"ort": 5.0}, subject=subject("b"))
        drawn = draw([known, unknown], tmp_path)
        assert [file.name for file in drawn.files] == ["latency.png", "throughput.png", "accuracy.png"]
        assert all(file.read_bytes().startswith(b"\x89PNG") for file in drawn.files)
        assert drawn.notes == ("accuracy.png leaves out subjects without a measured accuracy: b",)

    def test_accuracy_chart_uses_the_batch_of_highest_throughput(self, profile_of, subject):
        card = profile_of({"ort": 4.0}, subject=subject("a", accuracy={"fp32": 72.2}))
        rows = tuple(row.model_copy(update={"images_per_s": 1000.0}) if row.batch == 8 else row for row in card.rows)
        (best,) = frontier(points([card.model_copy(update={"rows": rows})]))
        assert (best.batch, best.images_per_s, best.accuracy) == (8, 1000.0, 72.2)

    def test_no_accuracy_is_a_note(self, card, tmp_path):
        drawn = draw([card], tmp_path)
        assert [file.name for file in drawn.files] == ["latency.png", "throughput.png"]
        assert drawn.notes == ("accuracy.png is not drawn, because no accuracy was measured for student",)

    def test_one_batch_size_makes_no_chart_of_latency_against_batch(self, profile_of, tmp_path):
        drawn = draw([profile_of({"ort": 4.0}, batches=(1,))], tmp_path)
        assert [file.name for file in drawn.files] == ["throughput.png"]
        assert drawn.notes == (
            "latency.png is not drawn, because only one batch size was measured",
            "accuracy.png is not drawn, because no accuracy was measured for student",
        )

    @pytest.mark.parametrize("many", [1, 4])
    def test_shades_up_to_p99_are_left_out_for_many_configurations(self, profile_of, many):
        card = profile_of({f"runtime-{number}": 4.0 for number in range(many)})
        axes, found = Figure().subplots(), points([card])
        charts._latency(axes, found, {point.line: 0 for point in found})
        expected = "latency, ms (p50, shaded to p99)" if many == 1 else "latency, ms (p50)"
        assert (axes.get_ylabel(), len(axes.collections)) == (expected, 1 if many == 1 else 0)

    def test_without_matplotlib_there_is_one_note(self, card, tmp_path, monkeypatch):
        monkeypatch.setattr(charts, "find_spec", lambda name: None)
        assert draw([card], tmp_path / "new").notes == (
            'no charts, because matplotlib is not installed; pip install "distillkit[train]"',
        )
        assert not (tmp_path / "new").exists()


class TestMachine:
    def test_description_of_this_machine_has_no_host_name_or_path(self):
        here = machine.machine()
        assert here.cpus >= here.cores >= 1
        assert here.processor
        text = json.dumps(here.model_dump(mode="json"))
        assert not re.search(r"/(home|tmp|work|root)/", text)

    def test_energy_without_a_counter_is_unknown(self):
        if not gpus():
            assert machine.EnergyMeter().joules() is None
