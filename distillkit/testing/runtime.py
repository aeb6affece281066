"""`check_runtime`: check a runtime against its contract."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.contracts.runtime import Availability, InferenceSession, Runtime, Servable
from distillkit.errors import DistillkitError, UnavailableError
from distillkit.messages.text import with_type
from distillkit.testing.findings import ContractCheck, Findings
from distillkit.testing.registration import listing_is_clear, warn_of_slow_listing
from distillkit.testing.subject import find_subject

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1e-3
"""Tolerated difference between batch sizes, relative to the largest score: they may use different kernels."""


@dataclass(frozen=True)
class RuntimeCase:
    """A runtime under test, a servable that it executes, and images for it.

    Shapes: images [B, ...] as the servable takes them -> scores [B, K].
    """

    runtime: Runtime
    servable: Servable
    images: NDArray[Any]

    @cached_property
    def session(self) -> InferenceSession:
        """Session with the servable and the default setting."""
        return self.runtime.open(self.servable, self.runtime.settings()[0])

    def scores(self, images: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self.session(images.copy()))


def check_runtime(runtime: str | type[Runtime], servable: Servable, images: NDArray[Any]) -> None:
    """Check a runtime, registered or not, against the complete contract.

    `servable` is a file or model that it must execute.
    Shapes: images [B, ...] as the servable takes them, B at least 3.
    Raises: BrokenPluginError that lists every finding; UnavailableError if the runtime does not work on this machine,
    after the checks that are possible there; UnknownPluginError.
    Warns: SlowListingWarning if the registering module imports torch or timm.
    """
    __tracebackhide__ = True
    subject = find_subject("runtime", runtime)
    warn_of_slow_listing(subject, stacklevel=2)
    findings = Findings(subject.title)
    findings.run((listing_is_clear,), subject)
    case = RuntimeCase(subject.factory(), servable, images)
    findings.run((formats, availability, settings), case)
    findings.raise_any()
    here = case.runtime.availability()
    if not here.works:
        raise UnavailableError(f"{subject.title} cannot be checked further on this machine: {here.detail}")
    findings.run((scores,), case)
    if not len(findings):
        findings.run(CHECKS, case)
    findings.raise_any()


def formats(case: RuntimeCase) -> Iterator[str]:
    """`formats` is a tuple of names that includes the format of the servable."""
    given: Any = case.runtime.formats  # a plugin may say anything
    if not isinstance(given, tuple) or not given or not all(isinstance(name, str) for name in given):
        yield f"formats is {given!r}; it must be a tuple of at least one name"
    elif case.servable.format not in given:
        yield f"formats is {given!r}, but the servable of this check has format {case.servable.format!r}"


def availability(case: RuntimeCase) -> Iterator[str]:
    """`availability` never fails, its detail is one line, and its remedy at most one."""
    here = case.runtime.availability()
    if not isinstance(here, Availability):
        yield f"availability() returns {type(here).__name__}; it must return an Availability"
    elif not here.detail.strip() or "\n" in here.detail + here.remedy:
        yield (
            f"availability() has detail {here.detail!r} and remedy {here.remedy!r}; "
            f"detail must be one line, and remedy at most one"
        )


def settings(case: RuntimeCase) -> Iterator[str]:
    """There is at least one setting, and each can be written to a profile as JSON."""
    given = case.runtime.settings()
    if not given:
        yield "settings() is empty; return at least the default setting, as in ({},)"
    for setting in given:
        if not _is_data(setting):
            yield f"setting {setting!r} cannot be written as JSON"


def scores(case: RuntimeCase) -> Iterator[str]:
    """Scores are finite, float32, and have one row per image."""
    scores = case.scores(case.images)
    if scores.dtype != np.float32:
        yield f"scores have dtype {scores.dtype}; they must be float32, whatever precision the file computes in"
    if scores.ndim != 2 or len(scores) != len(case.images):
        yield f"scores of {len(case.images)} images have shape {list(scores.shape)}; they must be [batch, classes]"
    elif not np.isfinite(scores).all():
        yield "scores are not finite"


def batches_agree(case: RuntimeCase) -> Iterator[str]:
    """The scores of an image do not depend on the size of the batch, nor on previous batches."""
    together = case.scores(case.images)
    scale = max(float(np.abs(together).max()), 1e-12)
    for size in (1, 3):
        difference = float(np.abs(case.scores(case.images[:size]) - together[:size]).max()) / scale
        if difference > TOLERANCE:
            yield f"scores of a batch of {size} differ by {difference:.1g} from those in a batch of {len(case.images)}"


def memory_is_not_shared(case: RuntimeCase) -> Iterator[str]:
    """The session changes neither the caller's images nor scores that it has returned."""
    given = case.images.copy()
    first = case.session(given)
    kept = np.array(first)
    case.session(np.zeros_like(given))
    if not np.array_equal(given, case.images):
        yield "changes the images in place"
    if not np.array_equal(first, kept):
        yield "reuses the memory of returned scores: they change when the next batch is computed"


def bound_batches(case: RuntimeCase) -> Iterator[str]:
    """A bound batch can be timed repeatedly; every time is a positive number of milliseconds."""
    bound = case.session.bind(case.images)
    for queries in (1, 5):
        times = list(bound.time(queries))
        if len(times) != queries or not all(math.isfinite(time) and time > 0 for time in times):
            yield f"bind(images).time({queries}) returns {times}; it must return {queries} positive times in ms"


def facts(case: RuntimeCase) -> Iterator[str]:
    """`facts` include device and clock, and can be written to a profile as JSON."""
    found = dict(case.session.facts)
    if not _is_data(found):
        yield f"facts are {found!r}, which cannot be written as JSON"
    missing = {"device", "clock"} - found.keys()
    if missing:
        yield f"facts lack {' and '.join(sorted(missing))}"


def refusals(case: RuntimeCase) -> Iterator[str]:
    """A servable that cannot be loaded is refused with an error of distillkit, so that it has an exit code."""
    setting = case.runtime.settings()[0]
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / f"broken{Path(case.servable.source).suffix}"
        broken.write_bytes(b"this is not a model")
        wrong = {
            "another format": replace(case.servable, format="no-such-format"),
            "a missing file": replace(case.servable, source=str(Path(folder) / "missing")),
            "a broken file": replace(case.servable, source=str(broken)),
        }
        for what, servable in wrong.items():
            try:
                case.runtime.open(servable, setting)
            except DistillkitError:
                continue
            except Exception as error:  # noqa: BLE001 - a plugin may fail in any way
                yield (
                    f"open() of {what} raises {with_type(error)}; "
                    f"it must raise UnavailableError, GateError or a UserError"
                )
            else:
                yield f"open() of {what} raises no error"


CHECKS: tuple[ContractCheck[RuntimeCase], ...] = (batches_agree, memory_is_not_shared, bound_batches, facts, refusals)


def _is_data(value: Any) -> bool:
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
