"""The tables on `features`: means and spreads of the arms, and of every normalisation and distance."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from writers import features


def of(knn, linear, one, ten, cpu_s=10.0):
    figures = dict(zip(features.FIGURES, (knn, linear, one, ten), strict=True))
    return {"cpu_s": cpu_s, "figures": figures}


RUNS = {
    "teacher": {"figures": of(80.0, 81.0, 82.0, 83.0)["figures"]},
    "small-cnn, random, 0": of(20.0, 30.0, 10.0, 25.0, cpu_s=0.2),
    "small-cnn, features, 0": of(40.0, 50.0, 30.0, 44.0, cpu_s=20.0),
    "vit-ti, attndistill, 0": of(30.0, 40.0, 20.0, 34.0),
    "small-cnn, features phi-s mse, 0": of(41.0, 51.0, 31.0, 45.0),
    "small-cnn, features none cosine, 0": of(39.0, 49.0, 29.0, 43.0),
    "small-cnn, features, 1": of(42.0, 50.5, 31.0, 44.0, cpu_s=30.0),
    "small-cnn, features phi-s mse, 1": of(42.0, 51.0, 33.0, 47.0),
}
CELLS = {
    "features layernorm smooth-l1": {seed: RUNS[f"small-cnn, features, {seed}"] for seed in ("0", "1")},
    "features phi-s mse": {seed: RUNS[f"small-cnn, features phi-s mse, {seed}"] for seed in ("0", "1")},
    "features none cosine": {"0": RUNS["small-cnn, features none cosine, 0"]},
}


def test_arms_have_the_mean_and_the_spread_of_their_seeds():
    assert features.arms(RUNS).splitlines() == [
        "| student | arm | seeds | k-NN | linear | 1 % | 10 % | CPU s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| teacher |  | 1 | 80.0 | 81.0 | 82.0 | 83.0 |  |",
        "| small-cnn | random | 1 | 20.0 | 30.0 | 10.0 | 25.0 | 0 |",
        "| small-cnn | features | 2 | 41.0 (2.0) | 50.2 (0.5) | 30.5 (1.0) | 44.0 (0.0) | 25 |",
        "| vit-ti | attndistill | 1 | 30.0 | 40.0 | 20.0 | 34.0 | 10 |",
    ]


def test_the_ablation_compares_one_seed_and_the_default_is_an_arm():
    assert features.ablation(CELLS).splitlines()[2:] == [
        "| `layernorm` | `smooth-l1` | 40.0 | 50.0 | 30.0 | 44.0 | 41.0 |",
        "| `phi-s` | `mse` | 41.0 | 51.0 | 31.0 | 45.0 | 42.0 |",
        "| `none` | `cosine` | 39.0 | 49.0 | 29.0 | 43.0 | 40.0 |",
    ]


def test_combinations_with_several_seeds_are_repeated():
    assert features.repeated(CELLS).splitlines()[2:] == [
        "| `layernorm` | `smooth-l1` | 2 | 41.0 (2.0) | 50.2 (0.5) | 30.5 (1.0) | 44.0 (0.0) |",
        "| `phi-s` | `mse` | 2 | 41.5 (1.0) | 51.0 (0.0) | 32.0 (2.0) | 46.0 (2.0) |",
    ]


@pytest.mark.parametrize(("last", "tables"), [(2, 1), (4, 1), (5, 2), (7, 2), (8, 3)])
def test_the_page_has_the_tables_that_have_run(monkeypatch, tmp_path, last, tables):
    path = tmp_path / "found.json"
    runs = {name: RUNS[name] for name in [*RUNS][:last]} | {"small-cnn, features, 0": RUNS["small-cnn, features, 0"]}
    path.write_text(json.dumps({"runs": runs}))
    monkeypatch.setattr(features, "RESULTS", path)
    assert features.page().count("| --- |") == tables
