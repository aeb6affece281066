"""Base classes of the tables of a recipe, and types that several of them share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
# Not strict, here and in the tables: TOML has lists and no tuples.
FloatPair = Annotated[tuple[float, float], Field(strict=False)]


class Table(BaseModel):
    """A table of a recipe: frozen, strict, every number finite, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Entry(BaseModel):
    """A table that names a plugin; keys not listed here are options of that plugin."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to the plugin, unchecked."""
        return dict(self.model_extra or {})
