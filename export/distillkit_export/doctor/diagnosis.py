"""The whole diagnosis: the machine, every runtime, tried one after another, and what contradicts what."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from distillkit.errors import DistillkitError
from distillkit.version import __version__
from distillkit_export.doctor.conflicts import conflicts
from distillkit_export.isolated_process import ChildError, result_of
from distillkit_export.profiling.machine import machine

if TYPE_CHECKING:
    from distillkit.plugin.plugin import Plugin
    from distillkit.plugin.registry import PluginRegistry
    from distillkit_export.profiling.schema import MachineCard

TRIAL_S = 300.0
"""torch.compile takes its time, and so does the first engine of TensorRT on a machine."""


@dataclass(frozen=True)
class RuntimeReport:
    """One runtime. `works` is what it says of itself; `runs` what came of trying, None where it was not tried.

    `detail` and `remedy` are those of its availability, `trial` what executed the tiny model or why it did not run.
    """

    name: str
    owner: str
    works: bool
    detail: str
    remedy: str
    runs: bool | None
    trial: str

    @property
    def verdict(self) -> str:
        """In a word."""
        return "runs" if self.runs else "does not run" if self.works else "not here"

    @property
    def explanation(self) -> str:
        """What runs, or why nothing does and what to do about it."""
        if self.runs:
            return f"{self.detail}; ran on {self.trial}" if self.trial else self.detail
        if self.works:
            return f"{self.detail}, but: {self.trial}"
        return f"{self.detail}; {self.remedy}" if self.remedy else self.detail


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found. `machine` is None where looking at it failed, and `findings` say why."""

    python: str
    system: str
    machine: MachineCard | None
    runtimes: tuple[RuntimeReport, ...]
    findings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "schema_version": 1,
            "distillkit": __version__,
            "python": self.python,
            "system": self.system,
            "machine": None if self.machine is None else self.machine.model_dump(mode="json"),
            "runtimes": [{**asdict(report), "verdict": report.verdict} for report in self.runtimes],
            "findings": list(self.findings),
        }


def diagnose(plugins: PluginRegistry, progress: Callable[[str], None] = lambda _: None) -> Diagnosis:
    """Look at the machine and try every runtime; `progress` hears which one. Never raises for what it finds."""
    findings = []
    card: MachineCard | None = None
    try:
        card = machine()
    except Exception as error:  # noqa: BLE001 - a machine that is unlike all others is a finding, not an end
        findings.append(f"the machine cannot be described: {type(error).__name__}: {error}")
    runtimes = tuple(_reports(plugins, progress))
    findings += conflicts(has_gpu=card is not None and bool(card.gpus))
    findings += [str(broken) for broken in plugins.broken]
    return Diagnosis(platform.python_version(), platform.platform(), card, runtimes, tuple(findings))


def _reports(plugins: PluginRegistry, progress: Callable[[str], None]) -> Iterator[RuntimeReport]:
    for plugin in plugins.listing("runtime"):
        progress(plugin.spec.name)
        yield _report(plugin)


def _report(plugin: Plugin) -> RuntimeReport:
    name, owner = plugin.spec.name, str(plugin.owner)
    try:
        found = result_of("distillkit_export.doctor.trial", {"runtime": name}, timeout_s=TRIAL_S)
    except (ChildError, DistillkitError) as error:
        what = str(error) if isinstance(error, ChildError) else f"failed: {error}"
        return RuntimeReport(name, owner, works=False, detail=f"trying it {what}", remedy="", runs=None, trial="")
    return RuntimeReport(name, owner, **found)
