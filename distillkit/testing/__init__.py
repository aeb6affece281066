"""Conformance suite for plugin authors: one line in a test checks a plugin against its contract.

    from distillkit.testing import check_loss

    def test_conformance() -> None:
        check_loss("margin")

All violations are raised together, as one BrokenPluginError that lists them.
"""

from distillkit.testing.exporter import check_exporter
from distillkit.testing.loss import check_loss
from distillkit.testing.model import check_student, check_teacher
from distillkit.testing.registration import SlowListingWarning
from distillkit.testing.runtime import check_runtime
from distillkit.testing.synthetic import PAIRS, Pair, cnn, vit

__all__ = [
    "PAIRS",
    "Pair",
    "SlowListingWarning",
    "check_exporter",
    "check_loss",
    "check_runtime",
    "check_student",
    "check_teacher",
    "cnn",
    "vit",
]
