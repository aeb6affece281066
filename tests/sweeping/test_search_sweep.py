"""A search: trials, pruning, the best one, and a search that was killed continues as one that was not."""

import json
import sqlite3

import pytest

from distillkit.sweeping.study import SearchSettings, SearchStudy

optuna = pytest.importorskip("optuna")
SPACE = ("--search", "optimizer.lr=1e-4..1e-1:log", "--search", "labels.smoothing=0..0.2:step=0.1", "--trials", "5")


def without_times(result):
    arms = [{key: value for key, value in arm.items() if key != "duration_s"} for arm in result["arms"]]
    # The folders differ.
    return result["best"], [
        {key: value for key, value in arm.items() if key not in {"directory", "command"}} for arm in arms
    ]


def records(folder):
    """What the study holds of every trial, as plain data, without times."""
    storage = optuna.storages.RDBStorage(
        "sqlite://", engine_kwargs={"creator": lambda: sqlite3.connect(folder / "study.db")}
    )
    study = optuna.load_study(study_name="distillkit", storage=storage)
    return [
        (trial.number, trial.state.name, trial.values, trial.params, trial.intermediate_values, trial.user_attrs)
        for trial in study.get_trials()
    ]


@pytest.mark.slow
def test_a_search_that_was_killed_equals_one_that_was_not(kill, finish, tmp_path):
    """Four times SIGKILL at random moments: trials, parameters, figures by epoch, states and the best are equal."""
    whole, code, err = finish(*SPACE, "--out", tmp_path / "whole")
    assert code == 0, err
    kill(*SPACE, "--out", tmp_path / "killed", seconds=5)
    again, code, err = finish(*SPACE, "--out", tmp_path / "killed")
    assert code == 0, err
    assert without_times(again) == without_times(whole)
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    states = {arm["name"]: arm["state"] for arm in whole["arms"]}
    assert list(states) == [f"trial-{number:03d}" for number in range(5)]
    assert set(states.values()) == {"done", "pruned"}
    # The test figure is reported for the best trial alone, which has the largest figure on validation images.
    reported = {arm["name"]: "test/top1" in arm["figures"] for arm in whole["arms"]}
    assert reported == {name: name == whole["best"] for name in states}
    done = [arm for arm in whole["arms"] if arm["state"] == "done"]
    assert whole["best"] == max(done, key=lambda arm: arm["figures"]["validation/top1"])["name"]


def test_a_study_of_another_recipe_is_refused(finish, tmp_path):
    options = ("--search", "optimizer.lr=1e-4..1e-1:log", "--trials", "1")
    result, code, err = finish(*options, "--set", "training.batch_size=512", "--out", "study")
    assert code == 0, err
    _, code, err = finish(*options, "--set", "training.batch_size=256", "--out", "study")
    assert (code, err) == (
        2,
        (
            "error: the study in this folder is of another recipe or search (different: training.batch_size); give the "
            "same options, or another --out\n"
        ),
    )
    _, code, err = finish(
        "--search", "optimizer.lr=1e-3..1e-1:log", "--set", "training.batch_size=512", "--out", "study"
    )
    assert (code, err) == (
        2,
        (
            "error: the study in this folder is of another recipe or search (different: search.optimizer.lr); give the "
            "same options, or another --out\n"
        ),
    )
    # More trials, and settings that change no result, are no other search.
    more, code, err = finish(
        *options[:2], "--trials", "2", "--set", "training.batch_size=512", "--set", "data.workers=1", "--out", "study"
    )
    assert code == 0, err
    assert more["arms"][0] == {**result["arms"][0], **more["arms"][0]}
    assert len(more["arms"]) == 2


@pytest.mark.parametrize("content", [b"no database", b""])
def test_a_damaged_study_is_refused(finish, tmp_path, content):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/sweep.json").write_text(json.dumps({"kind": "search", "arms": {}}))
    (tmp_path / "damaged/study.db").write_bytes(content)
    options = ("--set", "training.batch_size=512")
    _, code, err = finish("--search", "optimizer.lr=1e-4..1e-1:log", "--trials", "1", "--out", "damaged", *options)
    if content:
        assert code == 2
        assert err.splitlines()[-1].startswith(
            f"error: damaged/study.db is no study that Optuna {optuna.__version__} reads ("
        )
        assert err.splitlines()[-1].endswith("); restore it, or give another --out")
    else:  # an empty file holds nothing that could be lost
        assert code == 0, err


def test_a_search_stopped_while_its_study_is_made_leaves_no_half_made_study(monkeypatch, tmp_path):
    settings = SearchSettings(seed=0, keep=3, first_rung=1, last_epoch=4)
    create = optuna.create_study

    def stop(**options):
        create(**options)
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna, "create_study", stop)
    with pytest.raises(KeyboardInterrupt):
        SearchStudy(tmp_path / "study.db", {}, settings)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert SearchStudy(tmp_path / "study.db", {}, settings).rows() == []
    assert SearchStudy(tmp_path / "study.db", {}, settings).ask().number == 0
    assert [row.number for row in SearchStudy(tmp_path / "study.db", {}, settings).rows()] == [0]
