"""An unreadable image gets the same replacement in every process, and is reported when its window is used."""

import shutil
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data._utils.pin_memory import pin_memory

from distillkit import BrokenImage, DataError
from distillkit.data.batches import TrainingData
from distillkit.data.replacement_images import ATTEMPTS, Replacements
from tests.data.breaking import BREAKERS, FOR_ALL, break_some

CPU = torch.device("cpu")
PLAIN = {"augment": {"auto": "", "erasing": 0.0, "crop": "none", "flip": 0.0}, "mixing": {"mixup": 0.0, "cutmix": 0.0}}

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")


@pytest.fixture(scope="session")
def folders(write_pictures, tmp_path_factory):
    """64 PNG files of two classes and 32 unlabelled ones, 14 and 4 of them broken; and the kind of each broken one."""
    root = tmp_path_factory.mktemp("broken")
    write_pictures(root / "labelled", {"cat": 40, "dog": 24})
    write_pictures(root / "plain", {"": 32}, start=64)
    broken = break_some(root / "labelled", 14)
    broken |= {f"unlabeled/{key}": kind for key, kind in break_some(root / "plain", 4).items()}
    return {"train": str(root / "labelled"), "unlabeled": str(root / "plain"), "validation": 0}, broken


@pytest.fixture(scope="session")
def training(opened, spec):
    """Training data of a recipe, and the list of the broken images in its windows."""

    class Noting(TrainingData):
        def windows(self, start, end):
            for window in super().windows(start, end):
                noted[self] += window.broken
                yield window

    noted = defaultdict(list)

    def make(recipe, **layout):
        data = Noting(opened(recipe), recipe, spec=spec, device=CPU, replace_broken=True, **layout)
        return data, noted[data]

    return make


def seen(windows):
    """All samples of windows with everything about them, as a flat list."""
    return [
        (window.step, window.labelled, key, image.tolist(), label.tolist(), mass.item())
        for window in windows
        for batch in window.micro_batches
        for key, image, label, mass in zip(batch.keys, batch.images, batch.labels, batch.label_mass, strict=True)
    ]


@pytest.mark.parametrize("workers", [1, 3])
def test_windows_and_broken_images_are_equal_for_any_number_of_loader_processes(training, recipe, folders, workers):
    tables = {"augment": {"repeats": 2}, "training": {"batch_size": 14, "micro_batch_size": 4}}
    (alone, noted), (there, too) = (
        training(recipe(data={**folders[0], "workers": count}, **tables)) for count in (0, workers)
    )
    assert seen(there.windows(0, 9)) == seen(alone.windows(0, 9))
    assert too == noted
    assert noted


@given(start=st.integers(0, 11), repeats=st.integers(1, 3), batch=st.integers(7, 40))
@settings(max_examples=12)
def test_starting_at_any_step_gives_the_rest_of_the_windows(training, recipe, folders, start, repeats, batch):
    made = recipe(data=folders[0], augment={"repeats": repeats, "auto": ""}, training={"batch_size": batch})
    whole, tail = (seen(training(made)[0].windows(first, 12)) for first in (0, start))
    assert tail == [sample for sample in whole if sample[0] >= start]


@given(world=st.integers(2, 3), repeats=st.integers(1, 3), micro=st.sampled_from([None, 2, 4]))
@settings(max_examples=12)
def test_ranks_partition_a_window(training, recipe, folders, world, repeats, micro):
    made = recipe(
        data=folders[0],
        augment={"repeats": repeats, "auto": ""},
        training={"batch_size": 14, "micro_batch_size": micro},
    )
    alone, noted = training(made)
    expected = sorted(seen(alone.windows(0, 5)))
    shares = [training(made, rank=rank, world=world) for rank in range(world)]
    assert sorted(sample for data, _ in shares for sample in seen(data.windows(0, 5))) == expected
    assert sorted(image for _, found in shares for image in found) == sorted(noted)


def test_an_epoch_reports_every_broken_image_with_its_kind(training, recipe, folders):
    configured, broken = folders
    data, noted = training(recipe(data=configured, training={"batch_size": 16}))
    list(data.windows(0, data.steps_per_epoch))
    assert {image.key: image.kind for image in noted} == broken
    assert {image.split for image in noted} == {"train"}
    assert set(broken.values()) == set(FOR_ALL)


def test_a_replacement_is_labelled_like_the_original_and_keeps_its_label_and_pixels(training, recipe, opened, folders):
    configured, broken = folders
    made = recipe(data=configured, training={"batch_size": 16}, labels={"smoothing": 0.0}, **PLAIN)
    source = opened(made).train
    index_of = {source.key(index): index for index in range(len(source))}
    counts = Counter()
    for window in training(made)[0].windows(0, 6):
        (batch,) = window.micro_batches
        assert window.labelled == batch.label_mass.sum()
        assert list(batch.label_mass) == sorted(batch.label_mass, reverse=True)  # labelled ones still come first
        for key, image, row, mass in zip(batch.keys, batch.images, batch.labels, batch.label_mass, strict=True):
            assert key not in broken
            label = source.label(index_of[key])
            assert mass == float(label is not None)
            assert row.tolist() == [float(number == label) for number in range(10)]
            pixels = np.asarray(source.image(index_of[key]).resize((16, 16), 3)).transpose(2, 0, 1)
            np.testing.assert_allclose(image, (pixels / 255 - 0.5) / 0.25, atol=1e-5)
            counts[key] += 1
    assert sum(counts.values()) == 96
    assert sum(counts.values()) - len(counts) == len(broken)  # a replacement is seen twice


def test_a_replacement_is_augmented_like_any_other_image(training, recipe, folders):
    """With its own key, and the view and repeat of the image that it replaces."""
    made = recipe(data=folders[0], mixing={"mixup": 0.0, "cutmix": 0.0}, training={"batch_size": 32})
    samples = [(key, image) for _, _, key, image, _, _ in seen(training(made)[0].windows(0, 3))]
    twice = next(key for key, count in Counter(key for key, _ in samples).items() if count > 1)
    first, second, *_ = (image for key, image in samples if key == twice)
    assert first == second


def test_another_epoch_or_seed_draws_another_replacement(training, recipe, folders):
    def drawn(epoch, seed):
        made = recipe(data={**folders[0], "seed": seed}, training={"batch_size": 96})
        ((window),) = training(made)[0].windows(epoch, epoch + 1)
        counts = Counter(window.micro_batches[0].keys)
        return {key for key, count in counts.items() if count > 1}

    assert drawn(0, 0) == drawn(0, 0)
    assert len({frozenset(drawn(epoch, seed)) for epoch in (0, 1) for seed in (0, 1)}) == 4


def test_broken_images_of_prefetched_windows_are_not_reported(training, recipe, folders):
    made = recipe(data={**folders[0], "workers": 1}, training={"batch_size": 16})
    whole, noted = training(made)
    expected = [len(noted) for _ in whole.windows(0, 3)]
    data, found = training(made)
    windows = data.windows(0, 6)
    for count in expected:
        next(windows)
        assert len(found) == count
    windows.close()
    assert found == noted


def test_without_replacement_the_first_broken_image_is_an_error(opened, recipe, spec, folders):
    made = recipe(data=folders[0], training={"batch_size": 96})
    data = TrainingData(opened(made), made, spec=spec, device=CPU)
    with pytest.raises(DataError, match=r"^image '.*' of '.*' cannot be read: .*; repair or remove it$"):
        list(data.windows(0, 1))


@pytest.mark.parametrize("workers", [0, 1])
def test_no_readable_replacement_is_an_error(training, recipe, write_pictures, tmp_path, workers):
    write_pictures(tmp_path, {"cat": 2, "dog": 2})
    for path in tmp_path.rglob("*.png"):
        BREAKERS["empty"](path)
    data, _ = training(recipe(data={"train": str(tmp_path), "validation": 0, "workers": workers}))
    with pytest.raises(DataError) as caught:
        list(data.windows(0, 1))
    first = str(caught.value).split("'")[1]
    assert str(caught.value) == (
        f"image '{first}' of '{tmp_path}' cannot be read (the file has no bytes), and neither can any of the 100 "
        "images tried as a replacement; run `distillkit data check` to list the unreadable images"
    )


def test_a_folder_deleted_while_it_is_read_is_an_error(training, recipe, write_pictures, tmp_path):
    write_pictures(tmp_path / "data", {"cat": 8, "dog": 8})
    made = recipe(data={"train": str(tmp_path / "data"), "validation": 0}, training={"batch_size": 4})
    windows = training(made)[0].windows(0, 4)
    next(windows)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DataError, match=r"cannot be read \(\[Errno 2\] No such file or directory: "):
        list(windows)


@given(
    st.lists(st.booleans(), min_size=1, max_size=40),
    st.integers(0, 3),
    st.text(max_size=3),
    st.integers(0, 2),
    st.data(),
)
def test_candidates_are_bounded_labelled_alike_and_a_pure_function(labelled, seed, key, repeat, data):
    mask = np.array(labelled)
    index = data.draw(st.integers(0, len(mask) - 1))
    first, again = (list(Replacements(mask, seed).candidates(index, key, (1, repeat))) for _ in range(2))
    assert first == again
    assert len(first) == ATTEMPTS
    assert {bool(mask[drawn]) for drawn in first} == {bool(mask[index])}


def test_replacements_are_spread_evenly():
    drawn = Counter(next(Replacements(np.ones(10, np.bool_), 0).candidates(0, str(key), (0, 0))) for key in range(5000))
    assert sorted(drawn) == list(range(10))
    assert all(abs(count - 500) < 100 for count in drawn.values())  # 4.7 standard deviations


def test_broken_images_can_be_pinned():
    """torch rebuilds what it pins: a tuple becomes a list, a named tuple stays one."""
    images = (BrokenImage("train", "a", "empty", "why"),)
    assert tuple(pin_memory(images)) == images
    assert type(pin_memory(images)[0]) is BrokenImage
