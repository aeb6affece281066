"""Signals that losses read, matched with those that models reveal."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distillkit.contracts.model import ModelSpec, Outputs, Read, Signal
from distillkit.contracts.signal_matching import check_reads, restrict, wanted_signals
from distillkit.errors import SignalError

CNN = ModelSpec(
    name="regnety16gf",
    architecture="regnety_160",
    kind="cnn",
    classes=1000,
    signals=frozenset({Signal.LOGITS, Signal.EMBEDDING}),
    image_size=(224, 224),
    layers=4,
)
VIT = ModelSpec(
    name="vit",
    architecture="vit",
    kind="vit",
    classes=10,
    signals=frozenset(Signal),
    image_size=(32, 32),
    layers=6,
)
OTHERS = {"hard": frozenset({Signal.LOGITS}), "attndistill": frozenset({Signal.CLS_ATTENTION, Signal.EMBEDDING})}


def test_a_signal_that_the_teacher_does_not_reveal_is_refused_with_an_alternative() -> None:
    with pytest.raises(SignalError) as caught:
        check_reads("advit-l1", [Read(Signal.CLS_ATTENTION, "all")], role="teacher", spec=CNN, alternatives=OTHERS)
    assert str(caught.value) == (
        "loss 'advit-l1' reads the teacher's CLS attention; "
        "teacher 'regnety16gf' is a CNN and reveals logits, embedding; try --loss hard"
    )


def test_of_several_missing_signals_the_same_is_named_whatever_the_order() -> None:
    reads = [Read(Signal.PATCH_TOKENS), Read(Signal.CLS_ATTENTION)]
    for order in (reads, reads[::-1]):
        with pytest.raises(SignalError) as caught:
            check_reads("features", order, role="student", spec=CNN, alternatives=OTHERS)
        assert str(caught.value) == (
            "loss 'features' reads the student's CLS attention; "
            "student 'regnety16gf' is a CNN and reveals logits, embedding; choose another student"
        )


def test_a_signal_that_the_student_does_not_reveal_asks_for_another_student() -> None:
    with pytest.raises(SignalError) as caught:
        check_reads("advit-l1", [Read(Signal.CLS_ATTENTION)], role="student", spec=CNN, alternatives=OTHERS)
    assert str(caught.value) == (
        "loss 'advit-l1' reads the student's CLS attention; "
        "student 'regnety16gf' is a CNN and reveals logits, embedding; choose another student"
    )


def test_the_reason_for_a_missing_signal_is_quoted() -> None:
    swin = replace(CNN, name="swin", kind="other", silent={Signal.CLS_ATTENTION: "its attention is windowed"})
    sentences = []
    for role in ("teacher", "student"):
        with pytest.raises(SignalError) as caught:
            check_reads("advit-l1", [Read(Signal.CLS_ATTENTION)], role=role, spec=swin, alternatives=OTHERS)
        sentences.append(str(caught.value))
    reason = "'swin' does not reveal it because its attention is windowed; it reveals logits, embedding"
    assert sentences == [
        f"loss 'advit-l1' reads the teacher's CLS attention; teacher {reason}; try --loss hard",
        f"loss 'advit-l1' reads the student's CLS attention; student {reason}; choose another student",
    ]


def test_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SignalError) as caught:
        check_reads("f", [Read(Signal.EMBEDDING, (1, 7))], role="teacher", spec=CNN, alternatives={})
    assert str(caught.value) == (
        "loss 'f' reads layer 7 of the teacher's embedding; teacher 'regnety16gf' has layers 0 to 3; choose among these"
    )


def test_a_signal_that_is_read_twice_is_refused() -> None:
    reads = [Read(Signal.EMBEDDING, (1,)), Read(Signal.EMBEDDING, (2,))]
    with pytest.raises(SignalError) as caught:
        check_reads("f", reads, role="teacher", spec=CNN, alternatives={})
    assert str(caught.value) == (
        "loss 'f' reads the teacher's embedding twice; the contract allows one Read per signal, with all layers"
    )


def test_a_model_reveals_the_union_of_reads_and_each_loss_receives_its_layers_in_its_order() -> None:
    first = [Read(Signal.EMBEDDING, (4, 1)), Read(Signal.LOGITS)]
    second = [Read(Signal.EMBEDDING, "last"), Read(Signal.CLS_ATTENTION, (0, 2))]
    wanted = wanted_signals([*first, *second], VIT)
    assert wanted == {Signal.LOGITS: (), Signal.EMBEDDING: (1, 4, 5), Signal.CLS_ATTENTION: (0, 2)}
    outputs = Outputs(
        logits=torch.zeros(2, 10),
        embedding=tuple(torch.full((2, 3), float(layer)) for layer in (1, 4, 5)),
        cls_attention=torch.stack([torch.full((2, 3, 5), 0.0), torch.full((2, 3, 5), 2.0)], dim=1),
    )
    seen = restrict(outputs, wanted, first, VIT)
    assert [float(tensor[0, 0]) for tensor in seen.embedding] == [4.0, 1.0]
    assert seen.logits is outputs.logits
    assert seen.cls_attention is None
    seen = restrict(outputs, wanted, [Read(Signal.CLS_ATTENTION, (2,))], VIT)
    assert seen.cls_attention is not None
    assert seen.cls_attention.shape == (2, 1, 3, 5)
    assert float(seen.cls_attention[0, 0, 0, 0]) == 2.0
