"""Configurations to measure: one subject's artefact in one runtime with one setting."""

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
"""The format of models in memory, which torch runs."""
BFLOAT16_OF_FLOAT32 = frozenset({"openvino"})
"""Runtimes that can compute a float32 file in bfloat16 on request."""


@dataclass(frozen=True)
class Artefact:
    """A file or model of a subject that runtimes can execute; `file` and `file_bytes` only for a file."""

    servable: Servable
    file: str | None = None
    file_bytes: int | None = None


@dataclass(frozen=True)
class ProfiledStudent:
    """A student to profile: its input and its artefacts.

    `shape` is the input shape of one image, without the batch.
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
        """Its name in rows and `--baseline`: "deit-ti/onnxruntime-cpu/fp32/threads=2"."""
        parts = [self.subject.name, self.runtime, self.precision]
        return "/".join(parts + [f"{key}={_shown(value)}" for key, value in self.setting.items()])


@dataclass(frozen=True)
class ProfileSelection:
    """The user's selection. Empty means all; `threads` and `device` apply to runtimes with that setting."""

    runtimes: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ()
    threads: int | None = None
    device: str | None = None


class Runtimes:
    """The installed runtimes, and which of them work on this machine."""

    def __init__(self, plugins: PluginRegistry) -> None:
        self._plugins = plugins
        self._runtimes: dict[str, Runtime] = {}

    def names(self) -> tuple[str, ...]:
        return tuple(plugin.spec.name for plugin in self._plugins.listing("runtime"))

    def get(self, name: str) -> Runtime:
        """The runtime of this name. Raises: UnknownPluginError; errors of loading the plugin."""
        if name not in self._runtimes:
            self._runtimes[name] = self._plugins.find("runtime", name).create()
        return self._runtimes[name]

    def usable(self, wanted: ProfileSelection, formats: Collection[str]) -> tuple[dict[str, Runtime], list[str]]:
        """Runtimes that work, and a line for each one that does not but would load one of `formats`.

        Raises: UnavailableError if a runtime requested by name does not work.
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
    """Refuse a device that does not exist, as reported by the driver, without importing torch.

    Raises: UserError.
    """
    if device is None or device == "cpu":
        return
    named = re.fullmatch(r"cuda(?::(\d+))?", device, re.ASCII)
    if named is None:
        raise UserError(f"--device '{device}' is invalid; use cpu, cuda or cuda:1")
    if int(named[1] or 0) >= cuda_devices():
        raise UserError(f"--device '{device}' does not exist on this machine; use cpu")


def configurations(
    subjects: Iterable[ProfiledStudent],
    runtimes: Mapping[str, Runtime],
    wanted: ProfileSelection,
    *,
    every_setting: bool = False,
) -> list[Configuration]:
    """Every artefact in every runtime that loads its format, with the default setting or every setting."""
    found = []
    for subject in subjects:
        for name, runtime in runtimes.items():
            settings = _settings(runtime, wanted)
            for artefact in _artefacts(subject, name, runtime, wanted):
                for setting in settings if every_setting else settings[:1]:
                    found.append(Configuration(subject, name, artefact, setting))  # noqa: PERF401 - three loops deep
    return found


def _artefacts(subject: ProfiledStudent, name: str, runtime: Runtime, wanted: ProfileSelection) -> list[Artefact]:
    """The subject's artefacts that a runtime executes: files, and models in memory in every requested precision."""
    loads = [artefact for artefact in subject.artefacts if artefact.servable.format in runtime.formats]
    found = []
    for artefact in loads:
        own = artefact.servable.precision
        precisions = wanted.precisions or (own,)
        if artefact.servable.format == MEMORY:
            found += [
                _with_precision(artefact, precision)
                for precision in precisions
                if precision in ("fp32", "fp16", "bf16")
            ]
        elif own in precisions:
            found.append(artefact)
    has_bf16 = any(artefact.servable.precision == "bf16" for artefact in loads)
    if name in BFLOAT16_OF_FLOAT32 and "bf16" in wanted.precisions and not has_bf16:
        found += [_with_precision(artefact, "bf16") for artefact in loads if artefact.servable.precision == "fp32"]
    return found


def _with_precision(artefact: Artefact, precision: Precision) -> Artefact:
    return replace(artefact, servable=replace(artefact.servable, precision=precision))


def _settings(runtime: Runtime, wanted: ProfileSelection) -> Sequence[Setting]:
    """The runtime's settings, with the device and number of threads replaced by the user's."""
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
