"""What a plugin says about itself before it is imported."""

from __future__ import annotations

from dataclasses import dataclass, field

from distillkit.contracts.model import Signal


@dataclass(frozen=True)
class PluginSpec:
    """What a registration hook returns: all that can be said about a plugin without importing it.

    `name` is what the user types, lower-case kebab. `factory` is "module:Class" and is imported only when the name is
    used. `argument` names what follows a colon ("timm:<any>"), None where nothing does. `signals` are those that a
    model may reveal, that a loss may read from the teacher, or that an evaluator reads. `licence` is that of the
    weights.
    """

    name: str
    summary: str
    factory: str
    signals: frozenset[Signal] = field(default_factory=frozenset)
    licence: str | None = None
    argument: str | None = None

    @property
    def shown_name(self) -> str:
        """The name as listings show it: "timm:<any>"."""
        return f"{self.name}:<{self.argument}>" if self.argument else self.name
