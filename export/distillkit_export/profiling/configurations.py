"""What is measured: one subject's artefact in one runtime with one setting, and which of them there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from distillkit.contracts.runtime import Runtime, Servable, Setting
from distillkit.errors import UnavailableError, UserError
from distillkit_export.profiling.schema import SubjectCard
from distillkit_export.runtimes.nvidia import cuda_devices

if TYPE_CHECKING:
    from distillkit.contracts.exporter import Precision
    from distillkit.plugin.registry import PluginRegistry

MEMORY = "torch"
"""The format of models in memory."""
BFLOAT16_OF_FLOAT32 = frozenset({"openvino"})
"""Runtimes that compute a float32 file in bfloat16 where they are asked to."""


@dataclass(frozen=True)
class Artefact:
    """One thing of a subject that runtimes can execute; `file_bytes` of a file."""

    servable: Servable
    file: str | None = None
    file_bytes: int | None = None


@dataclass(frozen=True)
class ProfiledStudent:
    """A student to be profiled: what goes into it, and in which forms it is there.

    `shape` is that of one image as its artefacts take it, without the batch.
    """

    card: SubjectCard
    shape: tuple[int, ...]
    dtype: str
    artefacts: tuple[Artefact, ...]

    @property
    def name(self) -> str:
        return self.card.name


@dataclass(frozen=True)
class Configuration:
    """One subject in one precision in one runtime with one setting."""

    subject: ProfiledStudent
    runtime: str
    artefact: Artefact
    setting: Setting = field(default_factory=dict)

    @property
    def precision(self) -> Precision:
        return self.artefact.servable.precision

    @property
    def name(self) -> str:
        """What rows and `--baseline` call it: "deit-ti/onnxruntime-cpu/fp32/threads=2"."""
        parts = [self.subject.name, self.runtime, self.precision]
        return "/".join(parts + [f"{key}={_shown(value)}" for key, value in self.setting.items()])


@dataclass(frozen=True)
class ProfileSelection:
    """What the user asked for. Empty means all; `threads` and `device` go where a runtime has such a setting."""

    runtimes: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ()
    threads: int | None = None
    device: str | None = None


class Runtimes:
    """The runtimes that are installed, and which of them work here."""

    def __init__(self, plugins: PluginRegistry) -> None:
        self._plugins = plugins
        self._made: dict[str, Runtime] = {}

    def names(self) -> tuple[str, ...]:
        return tuple(plugin.spec.name for plugin in self._plugins.listing("runtime"))

    def get(self, name: str) -> Runtime:
        """Raises: UnknownPluginError, and what loading the plugin raises."""
        if name not in self._made:
            self._made[name] = self._plugins.find("runtime", name).create()
        return self._made[name]

    def usable(self, wanted: ProfileSelection, formats: Collection[str]) -> tuple[dict[str, Runtime], list[str]]:
        """Those that work, and a line for each that does not and would load one of `formats`.

        Raises: UnavailableError for one that was asked for by name and does not work.
        """
        working, skipped = {}, []
        for name in wanted.runtimes or self.names():
            runtime = self.get(name)
            found = runtime.availability()
            if found.works:
                working[name] = runtime
            elif wanted.runtimes:
                raise UnavailableError(f"runtime '{name}' does not work here: {found.detail}; {found.remedy}")
            elif set(runtime.formats) & set(formats):
                skipped.append(f"{name}: {found.detail}; {found.remedy}")
        return working, skipped


def require_device(device: str | None) -> None:
    """Refuse a device that torch does not have, as far as the driver tells.

    Raises: UserError.
    """
    if device is None or device == "cpu":
        return
    named = re.fullmatch(r"cuda(?::(\d+))?", device, re.ASCII)
    if named is None:
        raise UserError(f"--device is '{device}'; use cpu, cuda or cuda:1")
    if int(named[1] or 0) >= cuda_devices():
        raise UserError(f"--device is '{device}' and there is no such device here; use cpu")


def configurations(
    subjects: Iterable[ProfiledStudent],
    runtimes: Mapping[str, Runtime],
    wanted: ProfileSelection,
    *,
    every_setting: bool = False,
) -> list[Configuration]:
    """Every artefact in every runtime that loads its format, with the runtime's default setting or with all of them."""
    found = []
    for subject in subjects:
        for name, runtime in runtimes.items():
            settings = _settings(runtime, wanted)
            for artefact in _artefacts(subject, name, runtime, wanted):
                for setting in settings if every_setting else settings[:1]:
                    found.append(Configuration(subject, name, artefact, setting))  # noqa: PERF401 - three loops deep
    return found


def _artefacts(subject: ProfiledStudent, name: str, runtime: Runtime, wanted: ProfileSelection) -> list[Artefact]:
    """What of a subject a runtime executes: its files, and models in memory in every precision that was asked for."""
    loads = [artefact for artefact in subject.artefacts if artefact.servable.format in runtime.formats]
    found = []
    for artefact in loads:
        there = artefact.servable.precision
        precisions = wanted.precisions or (there,)
        if artefact.servable.format == MEMORY:
            found += [_in(artefact, precision) for precision in precisions if precision in ("fp32", "fp16", "bf16")]
        elif there in precisions:
            found.append(artefact)
    has_bf16 = any(artefact.servable.precision == "bf16" for artefact in loads)
    if name in BFLOAT16_OF_FLOAT32 and "bf16" in wanted.precisions and not has_bf16:
        found += [_in(artefact, "bf16") for artefact in loads if artefact.servable.precision == "fp32"]
    return found


def _in(artefact: Artefact, precision: Precision) -> Artefact:
    return replace(artefact, servable=replace(artefact.servable, precision=precision))


def _settings(runtime: Runtime, wanted: ProfileSelection) -> Sequence[Setting]:
    """The runtime's own, but for the device and the number of threads where the user chose."""
    offered = list(runtime.settings()) or [{}]
    if wanted.device is not None and MEMORY in runtime.formats:
        offered = [dict(setting) | {"device": wanted.device} for setting in offered]
    if wanted.threads is not None and any("threads" in setting for setting in offered):
        on_gpu = [setting for setting in offered if setting.get("device") == "cuda"]
        chosen: list[Setting] = [dict(setting) | {"threads": wanted.threads} for setting in offered]
        offered = on_gpu or chosen
    return _distinct(offered, key=lambda setting: tuple(sorted(setting.items())))


def _distinct(settings: Iterable[Setting], key: Callable[[Setting], object]) -> list[Setting]:
    found: dict[object, Setting] = {}
    for setting in settings:
        found.setdefault(key(setting), setting)
    return list(found.values())


def _shown(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
