"""Signals by loss, from which errors suggest alternatives."""

from types import SimpleNamespace

from distillkit.contracts.model import Signal
from distillkit.planning.losses import signals_by_loss


def plugin(name: str, distribution: str, *signals: Signal) -> SimpleNamespace:
    return SimpleNamespace(
        spec=SimpleNamespace(name=name, signals=frozenset(signals)), owner=SimpleNamespace(distribution=distribution)
    )


def test_built_in_losses_come_first_in_their_order() -> None:
    listed = [
        plugin("acme", "acme-losses", Signal.EMBEDDING),
        plugin("soft", "distillkit", Signal.LOGITS),
        plugin("zeta", "zeta-losses"),
        plugin("advit-l1", "distillkit", Signal.CLS_ATTENTION),
    ]
    assert list(signals_by_loss(listed).items()) == [
        ("soft", {Signal.LOGITS}),
        ("advit-l1", {Signal.CLS_ATTENTION}),
        ("acme", {Signal.EMBEDDING}),
        ("zeta", set()),
    ]
