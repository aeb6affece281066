"""Description of a plugin, available before it is imported."""

from __future__ import annotations

from dataclasses import dataclass, field

from distillkit.contracts.model import Signal


@dataclass(frozen=True)
class PluginSpec:
    """Description of one plugin, returned by a registration hook without importing its factory.

    `name` is what the user types, in lower-case kebab. `factory` is "module:Class" and is imported only when the name
    is used. `argument` names the text after a colon ("timm:<any>"), None if the plugin accepts none. `signals` are
    those that a model may reveal, that a loss may read from the teacher, or that an evaluator reads. `licence` is that
    of the weights.
    """

    name: str
    summary: str
    factory: str
    signals: frozenset[Signal] = field(default_factory=frozenset)
    licence: str | None = None
    argument: str | None = None

    @property
    def shown_name(self) -> str:
        """Name in listings: "timm:<any>"."""
        return f"{self.name}:<{self.argument}>" if self.argument else self.name
