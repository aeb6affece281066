"""Incident log of a run: every unreadable image once, every skipped step, unchanged by a checkpoint."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillkit import BrokenImage, DataError, Incidents
from distillkit.contracts.incidents import notes_on_broken
from distillkit.recipe.image_tables import Data
from distillkit.running.incident_log import check_broken

images = st.builds(
    BrokenImage,
    split=st.sampled_from(["train", "validation", "test"]),
    key=st.text(max_size=3),
    kind=st.sampled_from(["empty", "truncated"]),
    reason=st.just("why"),
)


def image(split: str, key: str, kind: str = "empty") -> BrokenImage:
    return BrokenImage(split, key, kind, "it has no bytes")


@given(st.lists(images), st.lists(st.integers(1, 99)))
def test_an_image_counts_once_and_a_checkpoint_keeps_the_log(broken: list[BrokenImage], skipped: list[int]) -> None:
    incidents = Incidents(skipped=skipped)
    for each in broken:
        incidents.add_broken([each])
    assert len(incidents.broken) == len({(each.split, each.key) for each in broken})
    assert sum(sum(kinds.values()) for kinds in incidents.counts().values()) == len(incidents.broken)
    restored = Incidents.from_dict(json.loads(json.dumps(incidents.as_dict())))
    assert restored.as_dict() == incidents.as_dict()
    assert restored.add_broken(broken) == ()


def test_the_same_key_in_two_splits_is_two_images() -> None:
    incidents = Incidents([image("train", "a.png"), image("test", "a.png"), image("test", "b.png", "truncated")])
    assert incidents.counts() == {"test": {"empty": 1, "truncated": 1}, "train": {"empty": 1}}
    assert incidents.summary() == {"broken": incidents.counts(), "skipped_steps": 0}


def test_each_split_has_one_note_on_its_new_images() -> None:
    broken = [image("train", f"{number}.png") for number in range(5)] + [image("test", "x.png", "damaged")]
    assert notes_on_broken(broken) == (
        (
            "5 train images cannot be read and are replaced by others: 0.png (empty), 1.png (empty), 2.png (empty) "
            "and 2 more"
        ),
        "1 test image cannot be read and is left out: x.png (damaged)",
    )


def test_more_unreadable_images_than_the_recipe_allows_end_the_run() -> None:
    from distillkit.data.splits import open_datasets
    from distillkit.plugin.registry import installed_plugins

    datasets = open_datasets(Data(train="digits"), installed_plugins())
    size = len(datasets.test or ())
    assert size
    allowed = [image("test", str(number)) for number in range(size // 10)]
    check_broken(Incidents(allowed), datasets, 0.1)
    with pytest.raises(DataError) as refused:
        check_broken(Incidents([*allowed, image("test", "last", "damaged")]), datasets, 0.1)
    assert str(refused.value) == (
        f"{len(allowed) + 1} of {size} test images cannot be read (1 damaged, {len(allowed)} empty), more than "
        "data.broken = 0.1 allows; the first is '0': it has no bytes; list them all with `distillkit data check`, "
        "then repair or remove them, or raise data.broken"
    )
