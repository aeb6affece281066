"""The bank in a plan: its size, the images that its views show, and in what the nearest shelf differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distillkit.errors import BankError
from distillkit.planning.bank_plan import bank_lines, plan_bank
from distillkit.plugin.registry import installed_plugins
from distillkit.running.start import plan, run

EPOCH = 18 * 64
"""Images of an epoch: 1,167 digits to train on, in batches of 64."""


@pytest.fixture
def planned(recipe_of: Any, teacher_run: str, tmp_path: Path) -> Any:
    """Plan two epochs with a bank."""

    def make(*changes: dict[str, Any]) -> Any:
        tables = {"teachers": [{"model": teacher_run}], "losses": [{"loss": "hard"}], "labels": {"weight": 0.5}}
        bank = {"bank": str(tmp_path / "bank"), "training": {"steps": 36}}
        return plan(recipe_of(tables, bank, *changes), installed_plugins())

    return make


def test_an_empty_bank_gets_a_new_shelf(planned: Any, tmp_path: Path) -> None:
    assert bank_lines(planned({"data": {"views": 1}}).bank) == [
        f"{tmp_path / 'bank'}: 18.4 kB for 1 view of this run, showing 1,152 images",
        "hard: 16 bytes a row, a new shelf",
    ]
    assert bank_lines(planned().bank)[0] == (
        f"{tmp_path / 'bank'}: 36.9 kB for 2 views of this run, showing 1,167 images"
    )


def test_with_repeats_a_view_shows_a_part_of_the_images(planned: Any, tmp_path: Path) -> None:
    made = planned({"data": {"views": 1}, "augment": {"repeats": 3}})
    assert bank_lines(made.bank)[0] == f"{tmp_path / 'bank'}: 16.4 kB for 1 view of this run, showing 342 images"
    assert made.notes[-1] == (
        "342 of 1,167 images are in 1 view; raise data.views or lower augment.repeats to train on more of them"
    )


def test_the_nearest_shelf_is_named_by_what_differs(planned: Any, tmp_path: Path) -> None:
    run(planned({"training": {"steps": 1}}).recipe, tmp_path / "run", installed_plugins())
    assert bank_lines(planned().bank)[1] == "hard: 16 bytes a row, a shelf fits, if the teacher's weights are the same"
    one = planned({"augment": {"padding": 2}}).bank
    assert bank_lines(one)[1] == (
        "hard: 16 bytes a row, a new shelf; the nearest one differs in augment.padding 1 there, 2 here"
    )
    many = {"augment": {"padding": 2, "erasing": 0.0, "flip": 0.0}, "data": {"seed": 3, "background": "black"}}
    # The other two are data.seed and, as other images are held out, data.images.
    assert bank_lines(planned(many).bank)[1] == (
        "hard: 16 bytes a row, a new shelf; the nearest one differs in augment.erasing 0.5 there, 0.0 here; "
        "augment.flip 0.5 there, 0.0 here; augment.padding 1 there, 2 here; data.background 'white' there, 'black' "
        "here and 2 more"
    )


def test_a_stream_has_no_bank(planned: Any) -> None:
    made = planned()
    stream = SimpleNamespace(name="wds/shards", class_names=None, shards=2, __len__=None, read=None)
    with pytest.raises(BankError) as refused:
        plan_bank(replace(made, datasets=replace(made.datasets, train=stream)))
    assert str(refused.value) == (
        "a bank needs images with an index, and 'wds/shards' is a stream; leave out --bank, or name a folder or an "
        "indexed data set"
    )
