"""`check_student` and `check_teacher`: check a model against its contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from distillkit.contracts.model import ModelFactory, ModelRequest
from distillkit.errors import UserError
from distillkit.plugin.registry import split_name
from distillkit.testing import model_description, model_outputs
from distillkit.testing.findings import ContractCheck, Findings
from distillkit.testing.model_case import ModelCase
from distillkit.testing.network import no_network
from distillkit.testing.registration import (
    listing_is_clear,
    options_are_data,
    options_survive_a_file,
    warn_of_slow_listing,
)
from distillkit.testing.subject import PluginUnderTest, find_subject

FOUNDATION: tuple[ContractCheck[ModelCase], ...] = (model_description.description, model_description.build)
"""If one of these finds something, the other checks would only repeat it."""

CHECKS: tuple[ContractCheck[ModelCase], ...] = (
    model_description.network,
    model_description.initialisation,
    model_description.meta_device,
    model_outputs.signals,
    model_outputs.attention_is_a_distribution,
    model_outputs.batch_of_one,
    model_outputs.deterministic,
    model_outputs.gradients,
    model_outputs.precision,
    model_outputs.flexible_size,
    model_outputs.compiled,
    model_description.state,
)


def check_student(
    student: str | type[ModelFactory],
    options: Mapping[str, Any] | None = None,
    *,
    classes: int = 10,
    weights: str | None = None,
    device: str = "cpu",
    backend: str | None = "aot_eager",
) -> None:
    """Check a student, registered or not, against the complete contract.

    Choose `options` that make it small: it is built and run several times. `weights` is a file, or None for random
    weights; the check must not download anything. `backend` is that of torch.compile; None skips compilation.
    Raises: BrokenPluginError that lists every finding; RecipeError for invalid `options`; UnknownPluginError.
    Warns: SlowListingWarning if the registering module imports torch or timm.

    >>> check_student("deit-ti", {"image_size": 16, "patch": 4, "width": 24, "depth": 2, "heads": 2})
    """
    __tracebackhide__ = True
    subject = find_subject("student", student)
    warn_of_slow_listing(subject, stacklevel=2)
    request = _request(student, weights, classes)
    _check(subject, options, ModelCase(subject, "student", request, device, backend))


def check_teacher(
    teacher: str | type[ModelFactory],
    options: Mapping[str, Any] | None = None,
    *,
    weights: str = "none",
    device: str = "cpu",
    backend: str | None = "aot_eager",
) -> None:
    """Check a teacher, registered or not, against the complete contract.

    `weights` is a file, or "none" for random weights; the check must not download anything. The other parameters, and
    what is raised, are as in `check_student`.

    >>> check_teacher("timm:resnet10t")
    """
    __tracebackhide__ = True
    subject = find_subject("teacher", teacher)
    warn_of_slow_listing(subject, stacklevel=2)
    request = _request(teacher, weights, None)
    _check(subject, options, ModelCase(subject, "teacher", request, device, backend))


def _request(plugin: str | type[ModelFactory], weights: str | None, classes: int | None) -> ModelRequest:
    """Request as from a recipe, without options yet."""
    name = plugin if isinstance(plugin, str) else plugin.__name__
    return ModelRequest(name, split_name(name)[1], None, weights=weights, classes=classes)


def _check(subject: PluginUnderTest, given: Mapping[str, Any] | None, case: ModelCase) -> None:
    """Run all checks and raise their findings."""
    __tracebackhide__ = True
    findings = Findings(subject.title)
    findings.run((listing_is_clear, options_are_data), subject)
    findings.raise_any()
    options = subject.options(given)
    findings.run((options_survive_a_file,), options)
    case = replace(case, request=replace(case.request, options=options))
    # The checks seed torch; the caller's random state must not change.
    devices = [case.device] if case.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices), no_network() as hosts:
        findings.run(FOUNDATION, case, let_through=UserError)
        if not len(findings):
            findings.run(CHECKS, case)
    for host in dict.fromkeys(hosts):
        findings.add(f'opens a network connection to {host}; with `weights` a file or "none" it must not download')
    findings.raise_any()
