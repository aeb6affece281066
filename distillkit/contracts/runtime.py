"""What a runtime and those who execute a model with it promise each other.

Nothing here imports torch at run time, so that the half that runs on the target machine needs none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distillkit.contracts.exporter import ExportRequest, Precision

Setting = Mapping[str, Any]
"""One way to run a runtime, by names and values that can be written as JSON: {"threads": 2}."""


@dataclass(frozen=True)
class Availability:
    """Whether a runtime works on this machine: its version and devices, or why not and what to do about it."""

    works: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Servable:
    """One thing that a runtime can execute.

    `format` is that of an exported file and `source` its path; format "torch" is a model in memory and `source` what
    `distillkit export` takes as its target. `request` says how such a model answers, by default as in its run, and
    `weights` are those of a model by name; both are None for files. `precision` is that of the file, or what the
    runtime shall compute a float32 file or a model in memory in.
    """

    format: str
    source: str
    precision: Precision = "fp32"
    request: ExportRequest | None = None
    weights: str | None = None


class Bound(Protocol):
    """One batch that lies where the device reads it, ready to be computed again and again."""

    def time(self, queries: int) -> Sequence[float]:
        """Compute the batch `queries` times, one after another, and return the milliseconds of each.

        By the device's own clock where it has one (CUDA events round the launch), without any transfer. A device with
        a queue gets the next query while it computes one, never two ahead, so that the queries of a second may be more
        than one latency would allow.
        """


class InferenceSession(Protocol):
    """A loaded model.

    `facts` are what really runs, read back from it where the runtime tells: `device` ("cpu", "cuda:0"), `clock` ("host"
    or "device", that of `Bound.time`), provider, precision, threads, whether graphs are used. They may grow as it runs.
    """

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """From images in host memory to scores in host memory."""

    def bind(self, images: NDArray[Any]) -> Bound:
        """Put a batch where the device reads it; returns once it lies there."""


class Runtime(Protocol):
    """One way to execute models. `formats` are those it loads."""

    formats: tuple[str, ...]

    def availability(self) -> Availability:
        """Whether it works here. Never raises, and never touches a device in a way that may end the process."""

    def settings(self) -> Sequence[Setting]:
        """The settings worth trying on this machine; the first is the default."""

    def open(self, servable: Servable, setting: Setting) -> InferenceSession:
        """Load a model.

        Raises: UnavailableError where this machine or this runtime cannot execute it; GateError where it is broken.
        """


class RuntimeFactory(Protocol):
    """What `PluginSpec.factory` of a runtime names: a class, called without arguments."""

    def __call__(self) -> Runtime: ...
