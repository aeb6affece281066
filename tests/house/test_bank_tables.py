"""The tables on target banks: costs of pairs of runs, and accuracies by number of views."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from writers import bank


def of(**changes):
    return {"cpu_s": 10.0, "figures": {"test/top1": 30.0}, "losses": {}, "weights": "a", "bank": {}} | changes


def stored(monkeypatch, tmp_path, name, runs):
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"runs": runs}))
    monkeypatch.setattr(bank, name, path)


def test_a_sweep_counts_the_pairs_that_are_equal(monkeypatch, tmp_path):
    filling = {"soft": {"read": 0, "computed": 1000, "written": 1000}}
    reading = {"soft": {"read": 1000, "computed": 0, "written": 0}}
    runs = {
        "small-cnn soft:tau=2 0 live": of(),
        "small-cnn soft:tau=2 0 bank": of(cpu_s=11.0, bank=filling),
        "small-cnn soft:tau=4 0 live": of(weights="b"),
        "small-cnn soft:tau=4 0 bank": of(cpu_s=2.0, bank=reading),
        "vit-ti hard 0 live": of(),
    }
    stored(monkeypatch, tmp_path, "SWEEP", runs)
    assert bank.sweep().splitlines()[2:] == [
        "| small-cnn | `soft:tau=2` | 1 | 10.0 | 11.0 | 1.10 | 0 | 1,000 |",
        "| small-cnn | `soft:tau=4` | 1 | 10.0 | 2.0 | 0.20 | 1,000 | 0 |",
        "| all |  | 2 | 20.0 | 13.0 | 0.65 | 1,000 | 1,000 |",
        "",
        "In 1 of 2 pairs all results are bit-equal: every weight, loss and figure.",
    ]


def test_views_are_in_order_and_seeds_complete(monkeypatch, tmp_path):
    runs = {
        f"{views}, {mixing} mixing, {seed}": of(figures={"test/top1": top1 + seed}, precision="bf16")
        for views, top1 in (("fresh", 40.0), ("K = 16", 39.0), ("K = 4", 35.0))
        for mixing in ("with", "without")
        for seed in (0, 1)
    }
    runs["fresh, with mixing, 2"] = of(precision="fp32")
    stored(monkeypatch, tmp_path, "VIEWS", runs)
    *lines, _, precision = bank.views().splitlines()
    assert lines[0] == "| views | mixing | seed 0 | seed 1 | mean | spread |"
    assert precision == "Precision of teacher and student: bf16 for seed 0, bf16 for seed 1."
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        [f"| {views}", mixing] for mixing in ("without", "with") for views in ("K = 4", "K = 16", "fresh")
    ]
    assert lines[2] == "| K = 4 | without | 35.0 | 36.0 | 35.5 | 1.0 |"


def test_a_seed_that_is_complete_without_mixing_only(monkeypatch, tmp_path):
    runs = {
        f"{views}, {mixing} mixing, {seed}": of(figures={"test/top1": 40.0 + seed}, precision=precision)
        for views in ("fresh", "K = 4")
        for mixing, seed, precision in (("without", 0, "bf16"), ("without", 1, "fp32"), ("with", 0, "bf16"))
    }
    stored(monkeypatch, tmp_path, "VIEWS", runs)
    assert bank.views().splitlines()[2:] == [
        "| K = 4 | without | 40.0 | 41.0 | 40.5 | 1.0 |",
        "| fresh | without | 40.0 | 41.0 | 40.5 | 1.0 |",
        "| K = 4 | with | 40.0 |  | 40.0 | 0.0 |",
        "| fresh | with | 40.0 |  | 40.0 | 0.0 |",
        "",
        "Precision of teacher and student: bf16 for seed 0, fp32 for seed 1.",
    ]
