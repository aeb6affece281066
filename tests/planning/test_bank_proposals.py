"""Large banks get a note with the options of the loss that make its targets smaller, and their sizes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from distillkit.bank.row_format import RowFormat
from distillkit.planning.bank_proposals import LARGE, large_shelves
from distillkit.planning.plan import BankPlan, ShelfPlan
from distillkit.plugin.registry import installed_plugins
from distillkit.testing import vit

STUDENT = vit("student", layers=2, width=4, heads=1, grid=(7, 7))
TEACHER = vit("teacher", layers=2, width=768, heads=1, grid=(14, 14))


def notes(loss: str, rows: int, losses: int = 1) -> list[str]:
    plugin: Any = installed_plugins().find("loss", loss)
    options = plugin.options({})
    built = plugin.call("build", options, STUDENT, TEACHER)
    row = RowFormat.of(built.targets).bytes + 8
    shelf = ShelfPlan(row, rows * row, False, {})
    bank = BankPlan(Path("bank"), "", 1, rows, rows, {loss: shelf})
    planned: Any = SimpleNamespace(loss=built, plugin=plugin, options=options, teacher_spec=TEACHER)
    return list(large_shelves(bank, dict.fromkeys([loss, *map(str, range(losses - 1))], planned), STUDENT))


def test_a_view_of_imagenet() -> None:
    [note] = notes("features", 1_281_167)
    assert note == (
        "the targets of features take 387.7 GB in the bank; 98.4 GB with --set loss.resample=teacher, "
        "2.0 GB with --set loss.patch_weight=0.0"
    )
    [note] = notes("similarity", 1_281_167, losses=2)
    assert note == (
        "the targets of similarity take 385.7 GB in the bank; 96.4 GB with --set losses.similarity.resample=teacher"
    )


def test_a_small_bank_needs_no_note_and_a_loss_without_proposals_gets_a_plain_one() -> None:
    assert notes("features", LARGE // 400_000) == []
    assert notes("anchors", 10_000_000) == ["the targets of anchors take 15.5 GB in the bank"]
