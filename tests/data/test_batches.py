import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from distillkit.compute.cpus import loader_processes
from distillkit.data.batches import TrainingData
from distillkit.data.worker_loader import Layout
from distillkit.errors import DataError, RecipeError

CPU = torch.device("cpu")
PLAIN = {"augment": {"auto": "", "erasing": 0.0, "crop": "none"}, "mixing": {"mixup": 0.0, "cutmix": 0.0}}

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")


@pytest.fixture
def training(opened, spec):
    """Training data of a recipe."""
    return lambda recipe, **layout: TrainingData(opened(recipe), recipe, spec=spec, device=CPU, **layout)


@pytest.fixture(scope="session")
def folders(write_pictures, tmp_path_factory):
    """40 labelled PNG files of two classes and 20 unlabelled ones."""
    root = tmp_path_factory.mktemp("images")
    write_pictures(root / "labelled", {"cat": 24, "dog": 16})
    write_pictures(root / "plain", {"": 20}, start=40)
    return {"train": str(root / "labelled"), "unlabeled": str(root / "plain"), "validation": 0}


def assert_equal(first, second):
    """Assert that windows are bit-equal."""
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert replace(one, micro_batches=()) == replace(other, micro_batches=())
        for batch, same in zip(one.micro_batches, other.micro_batches, strict=True):
            assert batch.keys == same.keys
            assert torch.equal(batch.images, same.images)
            assert torch.equal(batch.label_mass, same.label_mass)
            assert (batch.labels is None) == (same.labels is None)
            assert batch.labels is None or torch.equal(batch.labels, same.labels)


def whole(window):
    """The images, labels and keys of a rank's window, in order."""
    batches = window.micro_batches
    labels = None if batches[0].labels is None else torch.cat([batch.labels for batch in batches])
    return torch.cat([batch.images for batch in batches]), labels, [key for batch in batches for key in batch.keys]


@pytest.mark.parametrize("workers", [1, 3])
def test_windows_are_bit_equal_for_any_number_of_loader_processes(training, recipe, folders, workers):
    tables = {"augment": {"repeats": 2}, "training": {"batch_size": 14, "micro_batch_size": 4}}
    alone = list(training(recipe(data=folders, **tables)).windows(0, 9))
    made = recipe(data={**folders, "workers": workers}, **tables)
    assert_equal(list(training(made).windows(0, 9)), alone)


@pytest.mark.parametrize("mode", ["pair", "batch"])
@pytest.mark.parametrize("workers", [0, 1])
def test_windows_finished_on_the_device_are_bit_equal(training, recipe, folders, mode, workers):
    data = folders if mode == "pair" else folders | {"unlabeled": None}
    tables = {
        "augment": {"repeats": 2, "erasing": 0.5, "flip": 0.5},
        "mixing": {"mixup": 0.8, "cutmix": 1.0, "mode": mode},
        "training": {"batch_size": 14, "micro_batch_size": 4},
    }
    finished = recipe(data={**data, "workers": workers, "finish": "device"}, **tables)
    assert_equal(list(training(finished).windows(0, 9)), list(training(recipe(data=data, **tables)).windows(0, 9)))


def test_starting_at_a_later_step_gives_the_rest_of_the_windows(training, recipe, folders):
    made = recipe(data=folders, training={"batch_size": 13})  # 4 steps an epoch
    data = training(made)
    assert data.steps_per_epoch == 4
    complete = list(data.windows(0, 10))
    for start in (1, 4, 7):
        assert_equal(list(training(made).windows(start, 10)), complete[start:])


def test_windows_have_step_epoch_and_sample_counts(training, recipe, folders):
    windows = list(training(recipe(data=folders, training={"batch_size": 13})).windows(2, 9))
    assert [window.step for window in windows] == [2, 3, 4, 5, 6, 7, 8]
    assert [window.epoch for window in windows] == [0, 0, 1, 1, 1, 1, 2]
    assert [window.ends_epoch for window in windows] == [False, True, False, False, False, True, False]
    for window in windows:
        assert window.samples == sum(len(batch.keys) for batch in window.micro_batches) == 13
        assert window.labelled == sum(batch.label_mass.sum() for batch in window.micro_batches)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("repeats", [1, 3])
def test_ranks_partition_a_window(training, recipe, folders, world, repeats):
    made = recipe(data=folders, augment={"repeats": repeats}, training={"batch_size": 14})
    ranks = [list(training(made, rank=rank, world=world).windows(0, 5)) for rank in range(world)]
    for step, window in enumerate(training(made).windows(0, 5)):
        images, labels, keys = whole(window)
        expected = sorted(zip(keys, images.flatten(1).tolist(), labels.tolist(), strict=True))
        found = []
        for windows in ranks:
            assert (windows[step].samples, windows[step].labelled) == (window.samples, window.labelled)
            part, rows, names = whole(windows[step])
            found += zip(names, part.flatten(1).tolist(), rows.tolist(), strict=True)
        assert sorted(found) == expected


def test_micro_batches_split_a_window_between_pairs(training, recipe, folders):
    made = recipe(data=folders, training={"batch_size": 22})
    split = recipe(data=folders, training={"batch_size": 22, "micro_batch_size": 8})
    for one, other in zip(training(made).windows(0, 4), training(split).windows(0, 4), strict=True):
        assert [len(batch.keys) for batch in other.micro_batches] == [8, 8, 6]
        for left, right in zip(whole(one), whole(other), strict=True):
            assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def test_an_epoch_sees_every_image_once(training, recipe, folders):
    data = training(recipe(data=folders, training={"batch_size": 15}))
    keys = [key for window in data.windows(0, 4) for batch in window.micro_batches for key in batch.keys]
    assert len(set(keys)) == len(keys) == 60


def test_labels_and_pixels_without_augmentation(training, recipe, opened, folders, spec):
    made = recipe(
        data=folders,
        training={"batch_size": 20},
        labels={"smoothing": 0.0},
        **{**PLAIN, "augment": {**PLAIN["augment"], "flip": 0.0}},
    )
    source = opened(made).train
    by_key = {source.key(index): index for index in range(len(source))}
    for window in training(made).windows(0, 3):
        images, labels, keys = whole(window)
        for image, row, key in zip(images, labels, keys, strict=True):
            index = by_key[key]
            picture = source.image(index).resize((16, 16), 3)
            expected = (np.asarray(picture).transpose(2, 0, 1) / 255 - 0.5) / 0.25
            np.testing.assert_allclose(image, expected, atol=1e-5)
            label = source.label(index)
            assert row.tolist() == [float(number == label) for number in range(10)]
            assert (label is None) == key.startswith("unlabeled/")


def test_views_repeat_images_including_mixing(training, recipe, folders):
    tables = {"training": {"batch_size": 20}}
    epochs = [
        list(training(recipe(data={**folders, "views": 2}, **tables)).windows(3 * n, 3 * n + 3)) for n in range(3)
    ]
    for first, third in zip(epochs[0], epochs[2], strict=True):
        assert torch.equal(whole(first)[0], whole(third)[0])
    assert not torch.equal(whole(epochs[0][0])[0], whole(epochs[1][0])[0])


def test_only_the_data_seed_changes_the_images(training, recipe, folders):
    first, second, third = (list(training(recipe(data={**folders, "seed": seed})).windows(0, 2)) for seed in (0, 0, 1))
    assert_equal(first, second)
    assert not torch.equal(first[0].micro_batches[0].images, third[0].micro_batches[0].images)


def test_repeats_of_an_image_differ(training, recipe, folders):
    made = recipe(
        data=folders, augment={"repeats": 3}, mixing={"mixup": 0.0, "cutmix": 0.0}, training={"batch_size": 60}
    )
    images, _, keys = whole(next(training(made).windows(0, 1)))
    first = [position for position, key in enumerate(keys) if key == keys[0]]
    assert len(first) == 3
    assert not torch.equal(images[first[0]], images[first[1]])


def test_global_generators_are_untouched(training, recipe, folders):
    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()

    for workers in (0, 1):
        data = training(recipe(data={**folders, "workers": workers}))
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(5)
        expected = draws()
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(5)
        for _ in data.windows(0, 3):
            pass
        assert draws() == expected


def test_unlabelled_data_has_no_label_rows(training, recipe, folders):
    made = recipe(data={"unlabeled": folders["unlabeled"]}, training={"batch_size": 10})
    for window in training(made).windows(0, 2):
        assert window.labelled == 0
        assert window.micro_batches[0].labels is None
        assert window.micro_batches[0].label_mass.tolist() == [0.0] * 10


def test_labelled_samples_come_first_and_are_spread_over_the_steps(training, recipe):
    made = recipe(data={"labels": 100, "labeled_fraction": 0.25})
    for window in training(made).windows(0, 6):
        (batch,) = window.micro_batches
        assert window.labelled == 8
        assert batch.label_mass.tolist() == [1.0] * 8 + [0.0] * 24
        torch.testing.assert_close(batch.labels.sum(1), batch.label_mass)


def test_batch_mode_works_if_all_images_are_labelled(training, recipe):
    (window,) = training(recipe(mixing={"mode": "batch"})).windows(0, 1)
    torch.testing.assert_close(window.micro_batches[0].labels.sum(1), torch.ones(32))


def test_closing_ends_the_loader_processes(training, recipe, folders):
    import multiprocessing

    before = set(multiprocessing.active_children())
    windows = training(recipe(data={**folders, "workers": 2})).windows(0, 50)
    next(windows)
    assert len(set(multiprocessing.active_children()) - before) == 2
    windows.close()
    assert set(multiprocessing.active_children()) == before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_a_one_line_error_from_any_process(training, recipe, write_pictures, tmp_path, workers):
    write_pictures(tmp_path, {"cat": 6, "dog": 6})
    (tmp_path / "dog" / "0008.png").write_text("not a picture")
    made = recipe(data={"train": str(tmp_path), "validation": 0, "workers": workers}, training={"batch_size": 4})
    with pytest.raises(DataError) as caught:
        list(training(made).windows(0, 3))
    assert str(caught.value) == (
        f"image 'dog/0008.png' of '{tmp_path}' cannot be read: cannot identify image file "
        f"'{tmp_path}/dog/0008.png'; repair or remove it"
    )


def test_an_odd_micro_batch_size_is_refused_with_mixing(training, recipe):
    with pytest.raises(RecipeError) as caught:
        training(recipe(training={"micro_batch_size": 5}))
    assert str(caught.value) == (
        "training.micro_batch_size = 5 is odd and would split a pair of mixed images; make it even, or set "
        "mixing.mixup and mixing.cutmix to 0"
    )
    training(recipe(training={"micro_batch_size": 5}, mixing={"mixup": 0.0, "cutmix": 0.0}))


def test_batch_mode_with_unlabelled_images_is_refused(training, recipe):
    with pytest.raises(RecipeError) as caught:
        training(recipe(data={"labels": 100}, mixing={"mode": "batch"}))
    assert str(caught.value) == (
        "mixing.mode = 'batch' needs a label for every image, and only 100 of 1,167 have one; set mixing.mode = "
        "'pair', which mixes labelled and unlabelled images separately"
    )


def test_more_processes_than_pairs_are_refused(training, recipe):
    with pytest.raises(RecipeError) as caught:
        training(recipe(training={"batch_size": 6}), rank=0, world=4)
    assert str(caught.value) == (
        "a step has 6 samples, too few for 4 processes, which need at least two each; "
        "use fewer processes or raise training.batch_size to 8 or more"
    )


def test_the_default_number_of_loader_processes_follows_the_cores(monkeypatch):
    monkeypatch.setattr("distillkit.compute.cpus.usable_cpus", lambda: 32)
    assert loader_processes(None) == 8
    assert loader_processes(0) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert loader_processes(None) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert loader_processes(None) == 1


def test_micro_batches_of_a_layout():
    layout = Layout(rank=0, world=1, micro_batch_size=4, workers=0, pin=False)
    assert layout.micro_batches(10) == (slice(0, 4), slice(4, 8), slice(8, 10))
    assert replace(layout, micro_batch_size=None).micro_batches(10) == (slice(0, 10),)


@pytest.mark.gpu
@pytest.mark.parametrize("finish", ["loader", "device"])
def test_batches_reach_a_busy_gpu_unchanged_and_do_not_wait_for_it(opened, recipe, spec, folders, finish):
    made = recipe(data={**folders, "workers": 2, "finish": finish})
    there = TrainingData(opened(made), made, spec=spec, device=torch.device("cuda"))
    here = TrainingData(opened(made), made, spec=spec, device=CPU)
    windows, tolerance = there.windows(0, 4), {"rtol": 0, "atol": 0 if finish == "loader" else 1e-6}
    for number, other in enumerate(here.windows(0, 4)):
        if number > 0:  # the first one is waited for until the loader processes have started
            torch.cuda._sleep(2_000_000_000)  # about a second of the GPU
        one = next(windows)
        there._copies._stream.synchronize()
        assert number == 0 or not torch.cuda.current_stream().query(), "the copies waited for the step"
        copied = [batch.images * 1 for batch in one.micro_batches]  # queued behind the step
        for images, left, right in zip(copied, one.micro_batches, other.micro_batches, strict=True):
            assert images.device.type == "cuda"
            assert left.keys == right.keys
            torch.testing.assert_close(images.cpu(), right.images, **tolerance)
            assert torch.equal(left.labels.cpu(), right.labels)
