"""Incidents in the report: table of unreadable images, and list of skipped steps."""

import pytest

from distillkit import Incidents
from distillkit.contracts.incidents import BrokenImage
from distillkit_plugins.trackers.incidents_section import incidents_section


def test_without_incidents_there_is_no_paragraph() -> None:
    assert list(incidents_section(Incidents())) == []


def test_table_has_a_row_per_kind_and_a_column_per_split() -> None:
    images = [BrokenImage("train", f"{index}", "empty", "why") for index in range(1200)]
    images += [BrokenImage("test", "a", "truncated", "why"), BrokenImage("validation", "b", "empty", "why")]
    sentence, table = incidents_section(Incidents(images))
    assert sentence.text[0].startswith("1,202 images could not be read")
    assert table.headings == ("unreadable images", "test", "train", "validation")
    assert [row.cells for row in table.rows] == [("empty", "0", "1,200", "1"), ("truncated", "1", "0", "0")]


@pytest.mark.parametrize(
    ("count", "beginning", "end"), [(1, "1 step ", "."), (10, "10 steps ", "."), (11, "11 steps ", " and others.")]
)
def test_the_first_ten_skipped_steps_are_listed(count: int, beginning: str, end: str) -> None:
    (sentence,) = incidents_section(Incidents(skipped=range(1000, 1000 + count)))
    listed = ", ".join(f"1,00{step}" for step in range(min(count, 10)))
    assert sentence.text.startswith(beginning)
    assert sentence.text.endswith(f": {listed}{end}")
