import numpy as np
import pytest
import torch
from PIL import Image

from distillkit.data.evaluation import EvaluationData
from distillkit.data.samples import spread_indices
from distillkit.data.selection import SelectedPart, Selection
from distillkit.errors import DataError
from distillkit.recipe.image_tables import Augment
from tests.data.breaking import break_some

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


def test_batches_are_bit_equal_for_any_number_of_loader_processes_and_repeatable(measured):
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
    hidden = Selection("digits", None, [SelectedPart(source, np.arange(3), np.array([1, -1, 2]))])
    with pytest.raises(DataError) as caught:
        list(EvaluationData(hidden, spec, Augment(), batch_size=2, workers=0, device=CPU))
    assert (
        str(caught.value) == f"image '{source.key(1)}' of 'digits' has no label; evaluation needs one for every image"
    )


@pytest.fixture
def broken_folder(write_pictures, tmp_path, opened, recipe):
    """40 images, 14 of them broken, and the kind of each broken one."""
    write_pictures(tmp_path, {"cat": 20, "dog": 20})
    broken = break_some(tmp_path, 14)
    return opened(recipe(data={"train": str(tmp_path), "validation": 0})).train, broken


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_left_out_and_reported(broken_folder, spec, workers):
    source, broken = broken_folder
    noted = []
    there = EvaluationData(
        source,
        spec,
        Augment(),
        batch_size=2,
        workers=workers,
        device=CPU,
        split="validation",
        broken=noted,
    )
    labels = torch.cat([labels for images, labels in there if len(images) == len(labels) > 0])
    readable = [index for index in range(40) if source.key(index) not in broken]
    assert labels.tolist() == [source.label(index) for index in readable]
    assert {image.key: image.kind for image in noted} == broken
    assert {image.split for image in noted} == {"validation"}
    assert len(noted) == 14


def test_each_shard_reports_its_own_broken_images(broken_folder, spec):
    source, broken = broken_folder
    found = []
    for rank in range(3):
        noted = []
        there = EvaluationData(source, spec, Augment(), batch_size=5, workers=0, device=CPU, broken=noted)
        list(there.shard_images(rank, 3))
        found += noted
    assert sorted(image.key for image in found) == sorted(broken)


def test_without_a_list_of_broken_images_the_first_one_is_an_error(broken_folder, spec):
    with pytest.raises(DataError, match=r"^image '.*' of '.*' cannot be read: .*; repair or remove it$"):
        list(EvaluationData(broken_folder[0], spec, Augment(), batch_size=5, workers=0, device=CPU))


def test_an_evaluation_set_without_readable_images_is_an_error(write_pictures, tmp_path, opened, recipe, spec):
    for path in write_pictures(tmp_path, {"cat": 2, "dog": 1}).rglob("*.png"):
        path.write_bytes(b"")
    source = opened(recipe(data={"train": str(tmp_path), "validation": 0})).train
    there = EvaluationData(source, spec, Augment(), batch_size=2, workers=0, device=CPU, broken=[])
    with pytest.raises(DataError) as caught:
        list(there)
    assert str(caught.value) == (
        f"none of the 3 images of '{tmp_path}' can be read; `distillkit data check` lists the reasons"
    )
    assert list(there.shard_images(0, 2)) == []  # other ranks may have readable images
    with pytest.raises(DataError) as caught:
        list(there.shard_batches(0, 2))
    assert str(caught.value) == (
        f"none of the 2 images of a batch of '{tmp_path}' can be read, and several processes need at least one to keep "
        "the order of the batches; start one process, or repair the images that `distillkit data check` lists"
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failing_stream_is_a_one_line_error_from_any_process(spec, workers):
    with pytest.raises(DataError) as caught:
        list(EvaluationData(FailingStream(), spec, Augment(), batch_size=2, workers=workers, device=CPU))
    assert str(caught.value) == ("the stream 'failing' failed: no more of it; repair the shard that it was reading")


class FailingStream:
    name, class_names, shards = "failing", None, 1

    def __len__(self):
        return 3

    def read(self, number):
        yield Image.new("RGB", (8, 8)), 0
        raise OSError("no more of it")


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (64, 64), (250, 250), (499, 499), (500, 500), (9_999, 500)])
def test_a_limit_spreads_the_images_evenly(opened, recipe, spec, limit, count):
    source = opened(recipe()).test
    data = EvaluationData(source, spec, Augment(), batch_size=100, workers=0, device=CPU, limit=limit)
    labels = torch.cat([labels for _, labels in data]).tolist()
    assert len(labels) == len(data) == count
    assert labels == [source.label(index) for index in spread_indices(500, limit)]


def test_the_images_measured_so_far_are_reported(opened, recipe, spec):
    source, seen = opened(recipe()).test, []
    data = EvaluationData(
        source, spec, Augment(), batch_size=100, workers=0, device=CPU, report=lambda *facts: seen.append(facts)
    )
    list(data)
    assert seen == [("test", images, 500) for images in (100, 200, 300, 400, 500)]
    seen.clear()
    list(data.shard_images(1, 3))  # the others are assumed to be as far
    assert seen == [("test", 300, 500), ("test", 500, 500)]
