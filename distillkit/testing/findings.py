"""Findings of a conformance check, collected into one error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from distillkit.errors import BrokenPluginError
from distillkit.messages.text import with_type

Case = TypeVar("Case")
ContractCheck = Callable[[Case], Iterator[str]]
"""Checks one case and yields a sentence per violation. An exception that it raises is a finding as well."""


class Findings:
    """Findings about one plugin: each sentence once, with the cases it applies to."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._places: dict[str, None] = {}
        self._sentences: dict[str, list[str]] = {}
        self._raised: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._sentences) + len(self._raised)

    def add(self, sentence: str, place: str = "") -> None:
        """Add one sentence; `place` names the case it applies to."""
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
        """Run checks on one case. Each exception is kept once, with the names of the checks that raised it.

        Raises: exceptions of type `let_through`.
        """
        self._visit(place)
        for check in checks:
            try:
                for sentence in check(case):
                    self.add(sentence, place)
            except let_through:
                raise
            # A plugin may raise anything, and the remaining checks are still informative.
            except Exception as error:  # noqa: BLE001
                failed = self._raised.setdefault(with_type(error), [])
                name = check.__name__.replace("_", " ")
                if name not in failed:
                    failed.append(name)

    def raise_any(self) -> None:
        """Raise BrokenPluginError with all findings, if any."""
        if not len(self):
            return
        lines = [sentence + self._where(places) for sentence, places in self._sentences.items()]
        lines += [f"raised {error}; in these checks: {', '.join(checks)}" for error, checks in self._raised.items()]
        ways = "one way" if len(lines) == 1 else f"{len(lines)} ways"
        raise BrokenPluginError(f"{self.subject} breaks the contract in {ways}:", *(f"- {line}" for line in lines))

    def _visit(self, place: str) -> None:
        if place:
            self._places.setdefault(place)

    def _where(self, places: list[str]) -> str:
        return "" if places == [""] or len(places) == len(self._places) else f" ({', '.join(places)})"
