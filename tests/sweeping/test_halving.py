"""Successive halving: the same decisions as Optuna's pruner."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillkit.sweeping.halving import first_stop, is_stopped, rungs

optuna = pytest.importorskip("optuna")
EPOCHS = 10


@pytest.mark.parametrize(
    ("first", "keep", "last", "expected"),
    [(1, 3, 30, [1, 3, 9, 27]), (3, 3, 30, [3, 9, 27]), (5, 2, 20, [5, 10]), (4, 3, 4, [])],
)
def test_rungs_grow_by_a_factor_and_end_before_the_run(first, keep, last, expected):
    assert list(rungs(first, keep, last)) == expected


@pytest.mark.parametrize(
    ("value", "others", "stopped"),
    [
        (1.0, [], False),  # the first trial continues
        (1.0, [2.0], True),  # fewer than 3: only the best continues
        (2.0, [2.0], False),  # ties continue
        (5.0, [1, 2, 3, 4, 6], False),  # the best 2 of 6
        (4.0, [1, 2, 3, 5, 6], True),
    ],
)
def test_one_of_three_continues(value, others, stopped):
    assert is_stopped(value, others, keep=3) is stopped


def test_epochs_that_are_not_evaluated_are_compared_at_the_next():
    earlier = [{2: 5.0, 4: 6.0, 6: 7.0}]
    assert first_stop({2: 5.0, 4: 1.0}, earlier, first=3, keep=3, last=9) == 4
    assert first_stop({2: 1.0}, earlier, first=3, keep=3, last=9) is None
    # Nothing is saved by a stop after the last epoch.
    assert first_stop({2: 5.0, 9: 1.0}, earlier, first=3, keep=3, last=9) is None


figures = st.lists(st.integers(0, 20).map(float), min_size=EPOCHS, max_size=EPOCHS)


@settings(max_examples=30, deadline=None)
@given(st.lists(figures, min_size=1, max_size=8), st.integers(1, 3), st.integers(2, 4))
def test_decisions_are_those_of_optunas_pruner(trials, first, keep):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=keep)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    earlier = []
    for values in trials:
        trial = study.ask()
        reported, stop = {}, None
        for epoch, value in enumerate(values, start=1):
            reported[epoch] = value
            trial.report(value, epoch)
            # Optuna has no rung at the last epoch of a run, because it does not know it; there is nothing to save.
            if epoch < EPOCHS and trial.should_prune():
                stop = epoch
                break
        assert first_stop(reported, earlier, first=first, keep=keep, last=EPOCHS) == stop
        earlier.append(reported)
        study.tell(trial, values[-1])
