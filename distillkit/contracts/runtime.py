"""Contract of a runtime that executes exported models.

Does not import torch at run time: the target machine needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distillkit.errors import BundleError
from distillkit.storage.untrusted import verified

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distillkit.contracts.exporter import ExportRequest, Precision

Setting = Mapping[str, Any]
"""One configuration of a runtime, with values that JSON can hold: {"threads": 2}."""


@dataclass(frozen=True)
class Availability:
    """Whether a runtime works on this machine: its version and devices, or the reason why not and a remedy."""

    works: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Servable:
    """A model that a runtime can execute: an exported file, or a model in memory.

    For a file, `format` is its format and `source` its path. For a model in memory, `format` is "torch" and `source` is
    a target of `distillkit export`; `request` selects its output, by default as in its run, and `weights` are the
    weights of a model given by name. Both are None for files. `precision` is that of the file, or the one in which the
    runtime computes a float32 file or a model in memory. `sha256` is the digest of a checked file of a bundle; load
    what `checked()` gives instead of `source`, which may be replaced between the check and the load.
    """

    format: str
    source: str
    precision: Precision = "fp32"
    request: ExportRequest | None = None
    weights: str | None = None
    sha256: str | None = None

    @contextmanager
    def checked(self) -> Iterator[str | bytes]:
        """What to load of a file: with `sha256` the file that was checked, as a path or as bytes, else `source`.

        Raises: BundleError for a file that was changed or cannot be read.
        """
        if self.sha256 is None:
            yield self.source
            return
        with ExitStack() as stack:
            try:
                model = stack.enter_context(verified(Path(self.source), self.sha256))
            except (OSError, ValueError) as error:
                why = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else error
                raise BundleError(f"{Path(self.source).name} {why}; copy or export the bundle again") from error
            yield model


class Bound(Protocol):
    """One batch in device memory, for repeated timing."""

    def time(self, queries: int) -> Sequence[float]:
        """Run the batch `queries` times in sequence and return the latency of each, in milliseconds.

        Timed by the device's clock if it has one (CUDA events around the launch), without transfers. A device with a
        queue receives the next query while it computes one, never two ahead, so that throughput can be higher than
        1 / latency.
        """


class InferenceSession(Protocol):
    """A loaded model.

    Shapes: images [B, C, H, W], or [B, H, W, C] uint8 for a file with uint8 input; scores [B, K], or embedding [B, D].
    `facts` describe the actual execution, read back from the runtime if it reports them: `device` ("cpu", "cuda:0"),
    `clock` ("host" or "device", that of `Bound.time`), provider, precision, threads, use of graphs. Entries may be
    added while it runs.
    """

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Scores in host memory for images in host memory."""

    def bind(self, images: NDArray[Any]) -> Bound:
        """Copy a batch to device memory; returns when the copy is complete."""


class Runtime(Protocol):
    """Executes models. `formats` are those it loads."""

    formats: tuple[str, ...]

    def availability(self) -> Availability:
        """Whether it works on this machine. Never raises, and never uses a device in a way that may end the process."""

    def settings(self) -> Sequence[Setting]:
        """Settings worth profiling on this machine; the first is the default."""

    def open(self, servable: Servable, setting: Setting) -> InferenceSession:
        """Load a model.

        Raises: UnavailableError if this machine or this runtime cannot execute it; GateError if it is broken.
        """


class RuntimeFactory(Protocol):
    """The class that `PluginSpec.factory` of a runtime names, called without arguments."""

    def __call__(self) -> Runtime: ...
