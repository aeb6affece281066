"""Fill a target bank, or compare it with the teacher, without training a student."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distillkit.bank.directory import accessible
from distillkit.bank.row_format import Rows
from distillkit.bank.shelf import Addresses
from distillkit.data.batches import MicroBatch
from distillkit.errors import BankError
from distillkit.planning.plan import Plan
from distillkit.running.prepare_losses import prepare_session
from distillkit.running.session import TrainingSession, build_session
from distillkit.training.target_bank import ShelfUse, StoredTargets, TargetBank, different_rows
from distillkit.training.teacher_targets import TeacherTargets

OnProgress = Callable[[int, int], None]
"""Called with the number of images done, and of all images."""


@dataclass
class ShelfCheck:
    """The result of comparing stored targets with the teacher's: how many are stored, missing, and different."""

    stored: int = 0
    missing: int = 0
    different: int = 0

    def add(self, use: ShelfUse, stored: StoredTargets, fresh: Rows) -> None:
        """Count the rows of a micro-batch; `fresh` [B, bytes] are the teacher's."""
        hits = stored.hits
        self.stored += int(hits.sum())
        self.missing += int((~hits).sum())
        if hits.any():
            different = different_rows(use.shelf.row_format, stored.payloads[hits], fresh[hits], use.tolerance)
            self.different += int(different.sum())


def fill_bank(plan: Plan, on_progress: OnProgress) -> TargetBank:
    """Compute and store what the views of a plan need and its bank lacks. Returns the bank, with its counts.

    Raises: BankError without a bank, or if targets could not be stored; the errors of building the models.
    """
    session, bank, steps = _opened(plan)
    done, total = 0, steps * plan.samples_per_step
    for window in session.data.windows(0, steps):
        for batch in window.micro_batches:
            session.stepper.teacher_targets(batch.images, batch.addresses)
            done += len(batch.images)
            on_progress(done, total)
        if bank.notes:
            raise BankError(bank.notes[0].removeprefix("bank: "))
    return bank


def check_bank(plan: Plan, rows: int, on_progress: OnProgress) -> dict[str, ShelfCheck]:
    """Compare the stored targets of at least `rows` images with the teacher's, by loss, spread over the views.

    Raises: BankError without a bank, or if it cannot be read; the errors of building the models.
    """
    session, bank, steps = _opened(plan)
    targets = session.stepper.teacher_targets
    live = TeacherTargets(targets.teachers, targets.losses)
    checks = {name: ShelfCheck() for name in bank.uses}
    chosen = min(steps, -(-rows // plan.samples_per_step))
    for number in range(chosen):
        step = number * steps // chosen
        for window in session.data.windows(step, step + 1):
            for batch in window.micro_batches:
                addresses, fresh = _addresses(batch), live(batch.images)
                for name, use in bank.uses.items():
                    with accessible(use.shelf.path):
                        stored = StoredTargets(*use.shelf.read(addresses))
                    checks[name].add(use, stored, use.shelf.row_format.encode(fresh[name]))
        on_progress((number + 1) * plan.samples_per_step, chosen * plan.samples_per_step)
    return checks


def _opened(plan: Plan) -> tuple[TrainingSession, TargetBank, int]:
    """The session of a plan, its bank, and the number of steps that show each view once."""
    session = None if plan.bank is None else build_session(plan)
    if session is not None and plan.prepares_targets:
        prepare_session(session)
    if plan.bank is None or session is None or session.bank is None:
        raise BankError("there is no bank; give --bank DIR")
    return session, session.bank, min(plan.steps, plan.bank.views * plan.steps_per_epoch)


def _addresses(batch: MicroBatch) -> Addresses:
    """Where a bank has the targets of a micro-batch, [B, 4].

    Raises: BankError for images of a stream, which have no index.
    """
    if batch.addresses is None:
        raise BankError("the images of a stream have no index, so that no bank can have their targets")
    return batch.addresses.numpy()
