"""--tune: successive halving, final measurement, and best.json."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from distillkit.contracts.runtime import Servable
from distillkit_export.profiling import tuning
from distillkit_export.profiling.configurations import Artefact, Configuration
from distillkit_export.profiling.rounds import MeasurementPlan
from distillkit_export.profiling.tuning import best_choices, best_setting, search, write_best

PLAN = MeasurementPlan(batches=(1, 32), rounds=3, seconds=0.3)
MILLISECONDS = {"a": 9.0, "a/threads=1": 8.0, "a/threads=2": 3.0, "b": 7.0, "b/threads=2": 6.0}


@pytest.fixture
def candidates(configuration):
    return [
        configuration("a"),
        configuration("a", threads=1),
        configuration("a", threads=2),
        configuration("b"),
        configuration("b", threads=2),
    ]


@pytest.fixture
def found(candidates, fake_worker, diary):
    def latency(name, batch, number):
        turned = {"a/threads=2": 30.0} if batch == 32 else {}
        return (MILLISECONDS | turned)[name]

    return search(candidates, PLAN, start=lambda: fake_worker(latency, diary))


def test_fastest_setting_wins_at_every_batch_size(found):
    assert {batch: winner.name for batch, winner in found.items()} == {
        1: "student/a/fp32/threads=2",
        32: "student/b/fp32/threads=2",
    }


def test_slower_half_is_dropped_and_the_rest_measured_longer(found, diary):
    prepared = [given["shape"][0] for _, do, given in diary if do == "prepare"]
    assert prepared == [1] * (5 + 3 + 2) + [32] * (5 + 3 + 2)
    seconds = sorted({round(given["seconds"], 3) for _, do, given in diary if do == "round"})
    assert seconds == [0.15, 0.2, 0.3]


def test_candidate_that_dies_cannot_win(configuration, fake_worker, diary):
    candidates = [configuration("broken"), configuration("b")]
    found = search(candidates, replace(PLAN, batches=(1,)), start=lambda: fake_worker(lambda *given: 1.0, diary))
    assert found[1].name == "student/b/fp32"


def test_models_in_memory_run_with_default_settings_only(subject, fake_worker, diary):
    memory = Artefact(Servable("torch", "runs/a"))
    candidates = [Configuration(subject(), "torch", memory, setting) for setting in ({}, {"threads": 1})]
    search(candidates, replace(PLAN, batches=(1,)), start=lambda: fake_worker(lambda *given: 1.0, diary))
    assert sum(do == "open" for _, do, _ in diary) == 1


@pytest.fixture
def tuned(profile_of, configuration):
    """The final measurement of a winner that is twice as fast as the default setting."""
    card = profile_of({"plain": 10.0, "winner": 5.0}, batches=(1, 32))
    winner = configuration("winner")
    best = best_choices({1: winner, 32: winner}, [configuration("plain"), winner], card.rows)
    return card.model_copy(update={"best": best})


def test_winner_is_compared_with_the_default_settings_round_by_round(tuned):
    choice = tuned.best["32"]
    assert (choice.runtime, choice.file, choice.p50_ms) == ("winner", "fp32.onnx", 160.0)
    assert list(choice.against) == ["student/plain/fp32"]
    ratio = choice.against["student/plain/fp32"]
    assert (ratio.median, ratio.low, ratio.high) == (2, 2, 2)


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(tuning, "processor", lambda: "Zen 5")
    monkeypatch.setattr(tuning, "usable_cpus", lambda: 2)
    monkeypatch.setattr(tuning, "gpus", lambda: ())


@pytest.mark.usefixtures("here")
def test_best_setting_is_that_of_the_batch_or_the_next_smaller(tuned, tmp_path):
    (tmp_path / "profile").mkdir()
    write_best(tmp_path / "profile", tuned)
    assert best_setting(tmp_path, 1) == tuned.best["1"]
    assert best_setting(tmp_path, 31) == tuned.best["1"]
    assert best_setting(tmp_path, 500) == tuned.best["32"]


@pytest.mark.usefixtures("here")
def test_missing_or_invalid_best_setting_or_that_of_another_machine_is_ignored(tuned, tmp_path, monkeypatch):
    assert best_setting(tmp_path, 1) is None
    (tmp_path / "profile").mkdir()
    write_best(tmp_path / "profile", tuned)
    monkeypatch.setattr(tuning, "usable_cpus", lambda: 16)
    assert best_setting(tmp_path, 1) is None
    (tmp_path / "profile" / "best.json").write_text(json.dumps({"kind": "something else"}))
    assert best_setting(tmp_path, 1) is None
