"""The table `[sweep]` of a recipe file, and what the command line adds to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, PositiveInt, ValidationError

from distillkit.errors import RecipeError
from distillkit.messages.validation import problems, together
from distillkit.recipe.files import SWEEP, read_tables
from distillkit.recipe.table import Table
from distillkit.sweeping.grid import GridAxis, axes_of_table, dotted, parse_axis


class SweepTable(Table):
    """What a sweep runs: the combinations of a grid, or the trials of a search."""

    grid: dict[str, Any] = Field({}, description="a list of values per recipe key; the arms are all combinations")
    search: dict[str, Any] = Field(
        {}, description="a range such as '1e-4..1e-2:log', or a list of values, per recipe key"
    )
    trials: PositiveInt = Field(20, description="trials of a search, with those that were pruned or failed")
    seed: int = Field(0, description="seed of the sampler of a search")
    min_epochs: PositiveInt | None = Field(
        None, description="epochs after which a search first compares trials; default: a tenth of a run"
    )
    keep: PositiveInt = Field(3, ge=2, description="a search keeps one of this many trials at each comparison")


def read_sweep_table(recipe: str | None) -> SweepTable:
    """The table `[sweep]` of a recipe file, merged with those of its bases; the defaults without one.

    Raises: RecipeError with everything that is wrong; as `read_tables`.
    """
    table = read_tables(str(recipe)).get(SWEEP, {}) if recipe else {}
    prefix = f"recipe '{recipe}', [sweep]"
    if not isinstance(table, Mapping):
        raise RecipeError(f"{prefix} should be a table with a table grid or search")
    try:
        return SweepTable.model_validate(table)
    except ValidationError as error:
        raise RecipeError(*together(problems(error, SweepTable, table), prefix=prefix)) from None


def merged_axes(table: Mapping[str, Any], given: Sequence[str]) -> list[GridAxis]:
    """The axes of `[sweep.grid]`, and those typed after `--grid`, which replace axes of the same keys.

    Raises: RecipeError.
    """
    typed = [parse_axis(text) for text in given]
    replaced = {dotted(key) for axis in typed for key in axis.keys}
    kept = [axis for axis in axes_of_table(table) if not replaced & {dotted(key) for key in axis.keys}]
    return [*kept, *typed]
