import numpy as np
import pytest
import torch

from distillkit.data.evaluation import EvaluationData
from distillkit.data.selection import Part, Selection
from distillkit.errors import DataError
from distillkit.recipe import Augment

CPU = torch.device("cpu")


@pytest.fixture
def measured(opened, recipe, spec):
    source = opened(recipe()).test
    return lambda batch_size=200, workers=0: EvaluationData(
        source, spec, Augment(), batch_size=batch_size, workers=workers, device=CPU
    )


def test_every_image_once_and_in_order(measured, opened, recipe, digits):
    source = opened(recipe()).test
    batches = list(measured())
    assert [tuple(images.shape) for images, _ in batches] == [(200, 3, 16, 16), (200, 3, 16, 16), (100, 3, 16, 16)]
    labels = torch.cat([labels for _, labels in batches])
    assert labels.dtype == torch.int64
    assert labels.tolist() == digits[1][[int(source.key(index)) for index in range(500)]].tolist()
    assert len(measured()) == 500


def test_loader_processes_change_no_bit_and_it_can_be_gone_through_again(measured):
    alone, there = list(measured()), measured(workers=2)
    for batches in (list(there), list(there)):
        for (images, labels), (same, too) in zip(batches, alone, strict=True):
            assert torch.equal(images, same)
            assert torch.equal(labels, too)


def test_one_batch_starts_no_process(measured):
    torch.manual_seed(2)
    expected = torch.rand(1)
    torch.manual_seed(2)
    ((images, _),) = measured(batch_size=500, workers=4)
    assert len(images) == 500
    assert torch.equal(torch.rand(1), expected)


def test_an_image_without_a_label(measured, opened, recipe, spec):
    source = opened(recipe()).test
    hidden = Selection("digits", None, [Part(source, np.arange(3), np.array([1, -1, 2]))])
    with pytest.raises(DataError) as caught:
        list(EvaluationData(hidden, spec, Augment(), batch_size=2, workers=0, device=CPU))
    assert str(caught.value) == f"image '{source.key(1)}' of 'digits' has no label to be measured against"
