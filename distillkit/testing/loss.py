"""`check_loss`: check a loss against its contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distillkit.contracts.loss import Loss
from distillkit.contracts.signal_matching import check_reads
from distillkit.errors import UserError
from distillkit.messages.text import with_type
from distillkit.testing import loss_declarations, loss_preparation, loss_storage, loss_terms
from distillkit.testing.findings import ContractCheck, Findings
from distillkit.testing.loss_case import LossCase
from distillkit.testing.loss_reads import undeclared
from distillkit.testing.network import no_network
from distillkit.testing.registration import (
    listing_is_clear,
    options_are_data,
    options_survive_a_file,
    warn_of_slow_listing,
)
from distillkit.testing.subject import find_subject
from distillkit.testing.synthetic import PAIRS, Pair

CHECKS: tuple[ContractCheck[LossCase], ...] = (
    loss_declarations.reads,
    loss_declarations.listed_signals,
    loss_declarations.build,
    loss_declarations.meta_device,
    loss_declarations.target,
    loss_declarations.teacher_unchanged,
    loss_declarations.target_dtypes,
    loss_declarations.batch_effects,
    loss_declarations.target_is_deterministic,
    loss_preparation.prepared_buffers,
    loss_preparation.preparation_is_deterministic,
    loss_preparation.named_buffers_of_target,
    loss_preparation.smaller_targets,
    loss_preparation.index_is_declared,
    loss_storage.target_options,
    loss_storage.target_geometry,
    loss_storage.target_without_trained_parameters,
    loss_terms.terms,
    loss_terms.inputs_unchanged,
    loss_terms.gradients,
    loss_terms.target_is_sufficient,
    loss_storage.stored_target,
    loss_terms.batch_of_one,
    loss_terms.sample_by_sample,
    loss_terms.double_precision,
    loss_terms.finite_differences,
    loss_terms.half_precision,
    loss_terms.compiled,
    loss_terms.deterministic,
    loss_terms.unlabelled,
    loss_terms.state,
)


def check_loss(
    loss: str | type[Loss],
    options: Mapping[str, Any] | None = None,
    *,
    pairs: Sequence[Pair] = PAIRS,
    device: str = "cpu",
    backend: str | None = "aot_eager",
) -> None:
    """Check a loss, registered or not, against the complete contract.

    It is built for pairs of model specs, without real models. Pairs that it refuses with a UserError, or whose models
    do not reveal the signals it reads, are skipped. `options` are keys and values as in a recipe. `backend` is that of
    torch.compile; None skips compilation.
    Raises: BrokenPluginError that lists every finding; RecipeError for invalid `options`; UnknownPluginError.
    Warns: SlowListingWarning if the registering module imports torch or timm.

    >>> check_loss("soft", {"tau": 2.0})
    """
    __tracebackhide__ = True
    subject = find_subject("loss", loss)
    warn_of_slow_listing(subject, stacklevel=2)
    findings = Findings(subject.title)
    findings.run((listing_is_clear, options_are_data), subject)
    findings.raise_any()
    chosen = subject.options(options)
    findings.run((options_survive_a_file,), chosen)
    # The checks seed torch; the caller's random state must not change.
    devices = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices), no_network() as hosts:
        _check_pairs(findings, [LossCase(subject, chosen, pair, device, backend) for pair in pairs])
    for host in dict.fromkeys(hosts):
        findings.add(f"opens a network connection to {host}; a loss must not use the network")
    findings.raise_any()


def _check_pairs(findings: Findings, cases: Sequence[LossCase]) -> None:
    """Run all checks on the pairs that the loss supports; if it supports no pair, that is a finding."""
    refusals: list[str] = []
    for case in cases:
        try:
            _check_pair(findings, case)
        except UserError as refusal:
            refusals.append(f"{case.pair.title}: {refusal}")
    if len(refusals) == len(cases):
        findings.add(f"does not support any of the pairs of models tried: {'; '.join(refusals)}")


def _check_pair(findings: Findings, case: LossCase) -> None:
    """Run the checks on one pair. Most need valid attributes and declared signals, so these are checked first.

    Raises: UserError if the loss does not support the pair.
    """
    place = case.pair.title
    try:
        wrong = list(loss_declarations.attributes(case))
    except UserError:
        raise
    # Any error of `build` other than a UserError would reach a user as a stack trace.
    except Exception as error:  # noqa: BLE001
        wrong = [f"build raised {with_type(error)}"]
    wrong = wrong or list(loss_preparation.preparation_works(case))
    if not wrong:
        name = case.subject.name
        check_reads(name, case.loss.reads_teacher, role="teacher", spec=case.pair.teacher, alternatives={})
        check_reads(name, case.loss.reads_student, role="student", spec=case.pair.student, alternatives={})
        wrong = list(undeclared(case))
    for sentence in wrong:
        findings.add(sentence, place)
    if not wrong:
        findings.run(CHECKS, case, place)
