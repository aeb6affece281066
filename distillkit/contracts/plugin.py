"""Description of a plugin, and of a file that it downloads, available before the plugin is imported."""

from __future__ import annotations

from dataclasses import dataclass, field

from distillkit.contracts.model import Signal


@dataclass(frozen=True)
class MissingFile:
    """A file that is not on this machine and that a plugin downloads.

    `what` names it in messages ("the weights of teacher 'regnety16gf'"), `remedy` says where to put it if it was
    fetched by other means ("give the file with --teacher-weights").
    """

    what: str
    url: str
    remedy: str


@dataclass(frozen=True)
class PluginSpec:
    """Description of one plugin, returned by a registration hook without importing its factory.

    `name` is what the user types, in lower-case kebab. `factory` is "module:Class" and is imported only when the name
    is used. `argument` names the text after a colon ("timm:<any>"), None if the plugin accepts none. `signals` are
    those that a model may reveal, that a loss may read from the teacher, or that an evaluator reads. `licence` is that
    of the weights. `default_data` is the data of a recipe with this teacher and no data. `missing_file` is
    "module:function" of a function that returns the `MissingFile` of a plugin's name and its entry in a recipe, None if
    nothing has to be downloaded. `options` is "module:Class" of the `Options` of the factory, in a module that
    imports neither torch nor timm: a wrong option is then reported at once. None: they are known once the factory is
    imported.
    """

    name: str
    summary: str
    factory: str
    signals: frozenset[Signal] = field(default_factory=frozenset)
    licence: str | None = None
    argument: str | None = None
    default_data: str | None = None
    missing_file: str = ""
    options: str | None = None

    @property
    def shown_name(self) -> str:
        """Name in listings: "timm:<any>"."""
        return f"{self.name}:<{self.argument}>" if self.argument else self.name
