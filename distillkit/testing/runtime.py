"""`check_runtime` says whether a runtime keeps the contract."""

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
"""Of the largest score. A kernel may be chosen by the size of the batch; the answer must not depend on it."""


@dataclass(frozen=True)
class RuntimeCase:
    """A runtime, something that it says it executes, and images for it."""

    runtime: Runtime
    servable: Servable
    images: NDArray[Any]

    @cached_property
    def session(self) -> InferenceSession:
        """The servable, loaded with the default setting."""
        return self.runtime.open(self.servable, self.runtime.settings()[0])

    def answer(self, images: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self.session(images.copy()))


def check_runtime(runtime: str | type[Runtime], servable: Servable, images: NDArray[Any]) -> None:
    """Check a runtime, registered or not, against everything that the contract promises.

    `servable` is one file or model that it shall execute, and `images` a batch of three or more for it.
    Raises: BrokenPluginError that lists every finding; UnavailableError where the runtime does not work on this
    machine, after what can be checked there; UnknownPluginError.
    Warns: SlowListingWarning where the registering module imports torch or timm.
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
    findings.run((answers,), case)
    if not len(findings):
        findings.run(CHECKS, case)
    findings.raise_any()


def formats(case: RuntimeCase) -> Iterator[str]:
    """`formats` says what can be loaded, and the servable is among it."""
    given: Any = case.runtime.formats  # a plugin may say anything
    if not isinstance(given, tuple) or not given or not all(isinstance(name, str) for name in given):
        yield f"formats is {given!r}; it is a tuple of names, at least one"
    elif case.servable.format not in given:
        yield f"formats is {given!r}, and the servable given to this check is {case.servable.format!r}"


def availability(case: RuntimeCase) -> Iterator[str]:
    """Asking costs nothing and never fails; why it does not work is a sentence."""
    here = case.runtime.availability()
    if not isinstance(here, Availability):
        yield f"availability() returns {type(here).__name__}; it is an Availability"
    elif not here.detail.strip() or "\n" in here.detail + here.remedy:
        yield f"availability() says {here.detail!r} and {here.remedy!r}; one line of detail is what doctor shows"


def settings(case: RuntimeCase) -> Iterator[str]:
    """At least one setting, as data, since a profile is written with it."""
    given = case.runtime.settings()
    if not given:
        yield "settings() is empty; without anything to choose it is ({},), whose first is the default"
    for setting in given:
        if not _is_data(setting):
            yield f"setting {setting!r} cannot be written as JSON"


def answers(case: RuntimeCase) -> Iterator[str]:
    """Scores are float32, one row for each image, and numbers."""
    scores = case.answer(case.images)
    if scores.dtype != np.float32:
        yield f"answers in {scores.dtype}; scores are float32, whatever the file computes in"
    if scores.ndim != 2 or len(scores) != len(case.images):
        yield f"answers {list(scores.shape)} for {len(case.images)} images; scores are [batch, classes]"
    elif not np.isfinite(scores).all():
        yield "answers with numbers that are not finite"


def batches_agree(case: RuntimeCase) -> Iterator[str]:
    """An image has its answer whatever is beside it, and however many were asked before."""
    together = case.answer(case.images)
    scale = max(float(np.abs(together).max()), 1e-12)
    for size in (1, 3):
        difference = float(np.abs(case.answer(case.images[:size]) - together[:size]).max()) / scale
        if difference > TOLERANCE:
            yield f"a batch of {size} differs from the same images in a batch of {len(case.images)} by {difference:.1g}"


def images_stay(case: RuntimeCase) -> Iterator[str]:
    """The caller's images are the caller's, and so are the scores that were handed out."""
    given = case.images.copy()
    first = case.session(given)
    kept = np.array(first)
    case.session(np.zeros_like(given))
    if not np.array_equal(given, case.images):
        yield "changes the images that it is given"
    if not np.array_equal(first, kept):
        yield "hands out the same memory twice: scores change when the next batch is computed"


def bound_batches(case: RuntimeCase) -> Iterator[str]:
    """A batch on the device can be computed again and again, and every time is a duration."""
    bound = case.session.bind(case.images)
    for queries in (1, 5):
        times = list(bound.time(queries))
        if len(times) != queries or not all(math.isfinite(time) and time > 0 for time in times):
            yield f"bind(images).time({queries}) returns {times}; it is {queries} positive milliseconds"


def facts(case: RuntimeCase) -> Iterator[str]:
    """What really ran goes into reports."""
    found = dict(case.session.facts)
    if not _is_data(found):
        yield f"facts are {found!r}, which cannot be written as JSON"
    missing = {"device", "clock"} - found.keys()
    if missing:
        yield f"facts lack {' and '.join(sorted(missing))}"


def refusals(case: RuntimeCase) -> Iterator[str]:
    """What cannot be loaded is refused with an error of distillkit, which has a sentence and an exit code."""
    setting = case.runtime.settings()[0]
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / f"broken{Path(case.servable.source).suffix}"
        broken.write_bytes(b"this is no model")
        wrong = {
            "another format": replace(case.servable, format="no-such-format"),
            "a file that is not there": replace(case.servable, source=str(Path(folder) / "missing")),
            "a broken file": replace(case.servable, source=str(broken)),
        }
        for what, servable in wrong.items():
            try:
                case.runtime.open(servable, setting)
            except DistillkitError:
                continue
            except Exception as error:  # noqa: BLE001 - a plugin may fail in any way
                yield f"open() of {what} raises {with_type(error)}; it is UnavailableError, GateError or a UserError"
            else:
                yield f"open() of {what} raises nothing"


CHECKS: tuple[ContractCheck[RuntimeCase], ...] = (batches_agree, images_stay, bound_batches, facts, refusals)


def _is_data(value: Any) -> bool:
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
