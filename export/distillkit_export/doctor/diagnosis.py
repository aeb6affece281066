"""Diagnosis of `distillkit doctor`: hardware, a trial of every runtime, and package conflicts."""

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
    from distillkit.compute.machine import MachineCard
    from distillkit.plugin.plugin import Plugin
    from distillkit.plugin.registry import PluginRegistry

TRIAL_S = 300.0
"""Timeout of one trial; torch.compile and the first TensorRT engine on a machine are slow."""


@dataclass(frozen=True)
class RuntimeReport:
    """Result of one runtime.

    `works`, `detail` and `remedy` are from its `availability()`. `runs` is whether it executed the tiny model, None if
    it was not tried. `trial` is the provider, device and precision that executed the model, or why it did not run.
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
        """The result as a short label."""
        return "runs" if self.runs else "does not run" if self.works else "not here"

    @property
    def explanation(self) -> str:
        """What executed the model, or why it did not run and how to fix it."""
        if self.runs:
            return f"{self.detail}; ran on {self.trial}" if self.trial else self.detail
        if self.works:
            return f"{self.detail}, but: {self.trial}"
        return f"{self.detail}; {self.remedy}" if self.remedy else self.detail


@dataclass(frozen=True)
class Diagnosis:
    """The full diagnosis. `machine` is None if reading the hardware failed; `findings` then has the reason."""

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
    """Inspect the machine and try every runtime; `progress` receives the name of each.

    Problems are returned in the diagnosis, not raised.
    """
    findings = []
    card: MachineCard | None = None
    try:
        card = machine()
    except Exception as error:  # noqa: BLE001 - unusual hardware is a finding and must not end the diagnosis
        findings.append(f"the hardware of this machine cannot be read: {type(error).__name__}: {error}")
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
        # In a child process, because a native library may crash.
        result = result_of("distillkit_export.doctor.trial", {"runtime": name}, timeout_s=TRIAL_S)
    except (ChildError, DistillkitError) as error:
        reason = str(error) if isinstance(error, ChildError) else f"failed: {error}"
        return RuntimeReport(name, owner, works=False, detail=f"its trial {reason}", remedy="", runs=None, trial="")
    return RuntimeReport(name, owner, **result)
