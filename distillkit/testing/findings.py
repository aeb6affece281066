"""What a conformance suite found, gathered into one error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from distillkit.errors import BrokenPluginError
from distillkit.messages.text import with_type

Case = TypeVar("Case")
ContractCheck = Callable[[Case], Iterator[str]]
"""Looks at one case and yields a sentence for each thing that is wrong. What it raises is a finding as well."""


class Findings:
    """The sentences about one plugin, each once, with the places where it is true."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._places: dict[str, None] = {}
        self._sentences: dict[str, list[str]] = {}
        self._raised: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._sentences) + len(self._raised)

    def add(self, sentence: str, place: str = "") -> None:
        """Keep one sentence; `place` says on what it was found."""
        self._visit(place)
        places = self._sentences.setdefault(sentence, [])
        if place not in places:
            places.append(place)

    def run(
        self,
        checks: Iterable[ContractCheck[Case]],
        case: Case,
        place: str = "",
        *,
        let_through: type[Exception] | tuple[()] = (),
    ) -> None:
        """Run checks on one case. An exception is kept once, with the names of the checks that it stopped.

        Raises: what is of type `let_through`.
        """
        self._visit(place)
        for check in checks:
            try:
                for sentence in check(case):
                    self.add(sentence, place)
            except let_through:
                raise
            # A plugin may fail in any way, and the checks after this one still say something.
            except Exception as error:  # noqa: BLE001
                stopped = self._raised.setdefault(with_type(error), [])
                name = check.__name__.replace("_", " ")
                if name not in stopped:
                    stopped.append(name)

    def raise_any(self) -> None:
        """Raise BrokenPluginError with all findings, or return where there are none."""
        if not len(self):
            return
        lines = [sentence + self._where(places) for sentence, places in self._sentences.items()]
        lines += [f"raised {error}; this stopped: {', '.join(checks)}" for error, checks in self._raised.items()]
        ways = "one way" if len(lines) == 1 else f"{len(lines)} ways"
        listing = "\n".join(f"  - {line}" for line in lines)
        raise BrokenPluginError(f"{self.subject} breaks the contract in {ways}:\n{listing}")

    def _visit(self, place: str) -> None:
        if place:
            self._places.setdefault(place)

    def _where(self, places: list[str]) -> str:
        return "" if places == [""] or len(places) == len(self._places) else f" ({', '.join(places)})"
