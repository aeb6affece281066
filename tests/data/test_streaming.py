import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from distillkit.data.batches import TrainingData
from distillkit.data.evaluation import EvaluationData
from distillkit.data.order import steps_per_epoch
from distillkit.data.splits import open_datasets
from distillkit.data.streaming import StreamedWindows
from distillkit.data.worker_loader import Layout
from distillkit.errors import DataError, RecipeError
from distillkit.recipe.image_tables import Augment, Data

pytest.importorskip("webdataset", reason="the package webdataset is not installed")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shards(digits, tmp_path_factory):
    """Real digits as a webdataset: 4 shards of 15 training images, one of 20 validation images."""
    root = tmp_path_factory.mktemp("shards")
    pixels, labels = digits
    splits = {}
    number = 0
    for split, lengths in (("train", (15, 15, 15, 15)), ("validation", (20,))):
        names = [f"{split}-{shard}.tar" for shard in range(len(lengths))]
        for name, length in zip(names, lengths, strict=True):
            with tarfile.open(root / name, "w") as tar:
                for _ in range(length):
                    picture = io.BytesIO()
                    Image.fromarray(pixels[number]).save(picture, "PNG")
                    for ending, content in (("png", picture.getvalue()), ("cls", str(labels[number]).encode())):
                        member = tarfile.TarInfo(f"{number:04d}.{ending}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
                    number += 1
        splits[split] = {
            "name": split,
            "filenames": names,
            "shard_lengths": list(lengths),
            "num_samples": sum(lengths),
        }
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
    (root / "classes.txt").write_text("\n".join("0123456789"))
    return str(root)


@pytest.fixture
def streamed(shards, plugins, recipe, spec):
    """Datasets and training data of a recipe on the stream."""

    def make(rank=0, world=1, workers=0, **tables):
        data = {"train": "timm:wds/digits", "root": shards, "workers": workers}
        made = recipe(data=data, training={"batch_size": 12}, **tables)
        datasets = open_datasets(made.data, plugins)
        return datasets, made, lambda: TrainingData(datasets, made, spec=spec, device=CPU, rank=rank, world=world)

    return make


def test_a_stream_is_opened(streamed):
    datasets, made, _ = streamed()
    assert datasets.streaming
    assert datasets.classes == 10
    assert len(datasets.train) == 60
    assert datasets.labelled.all()
    assert steps_per_epoch(datasets, made) == 5
    assert datasets.test is None
    assert datasets.notes == (
        "train: 60 images of the stream 'timm:wds/digits'; resuming is exact to the epoch",
        "validation: 20 images of 'timm:wds/digits'",
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_a_stream(streamed, workers):
    _, _, data = streamed(workers=workers)
    windows = list(data().windows(0, 7))
    assert [(window.step, window.epoch, window.ends_epoch) for window in windows[3:6]] == [
        (3, 0, False),
        (4, 0, True),
        (5, 1, False),
    ]
    for window in windows:
        (batch,) = window.micro_batches
        assert (window.samples, window.labelled, tuple(batch.images.shape)) == (12, 12, (12, 3, 16, 16))
        torch.testing.assert_close(batch.labels.sum(1), torch.ones(12))


def test_an_epoch_of_a_stream_can_be_repeated(streamed):
    _, _, data = streamed()
    complete = list(data().windows(0, 10))
    for one, other in zip(data().windows(5, 10), complete[5:], strict=True):
        assert replace(one, micro_batches=()) == replace(other, micro_batches=())
        assert torch.equal(one.micro_batches[0].images, other.micro_batches[0].images)
        assert one.micro_batches[0].keys[0].startswith("0/0/")


def test_micro_batches_of_a_stream(streamed):
    _, _, data = streamed()
    host = data()._host
    split = StreamedWindows(host.stream, 12, 5, host.preparation, Layout(1, 2, 4, 0, pin=False), None)
    assert [[len(batch.keys) for batch in window] for window in split.windows(0, 2)] == [[4, 2], [4, 2]]
    assert host.counts(3) == (12, 12)


def test_a_stream_is_evaluated_once_and_in_order(streamed, spec, digits):
    datasets, _, _ = streamed()
    batches = list(EvaluationData(datasets.validation, spec, Augment(), batch_size=8, workers=0, device=CPU))
    assert [len(labels) for _, labels in batches] == [8, 8, 4]
    assert torch.cat([labels for _, labels in batches]).tolist() == digits[1][60:80].tolist()
    again = list(EvaluationData(datasets.validation, spec, Augment(), batch_size=8, workers=2, device=CPU))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(batches, again, strict=True))


def refused(plugins, **data):
    with pytest.raises(DataError) as caught:
        open_datasets(Data(**data), plugins)
    return str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("labels", 10), ("labeled_fraction", 0.5), ("unlabeled", "digits")])
def test_options_that_need_an_index_are_refused_for_a_stream(shards, plugins, key, value):
    assert refused(plugins, train="timm:wds/digits", root=shards, **{key: value}) == (
        f"data.{key} does not work with a stream, and 'timm:wds/digits' is one; leave it out or name an indexed data "
        "set"
    )


def test_a_stream_is_refused_as_unlabelled_images(shards, plugins):
    assert refused(plugins, unlabeled="timm:wds/digits", root=shards) == (
        "data.unlabeled: 'timm:wds/digits' is a stream; name a folder or an indexed data set"
    )


def test_repeated_augmentation_of_a_stream_is_refused(streamed):
    _, _, data = streamed(augment={"repeats": 3})
    with pytest.raises(RecipeError) as caught:
        data()
    assert str(caught.value) == (
        "augment.repeats = 3 does not work with a stream, and 'timm:wds/digits' is one; set it to 1"
    )


def test_nothing_is_held_out_of_a_stream(shards, plugins, tmp_path):
    info = json.loads((tmp_path.__class__(shards) / "_info.json").read_text())
    del info["splits"]["validation"]
    for path in tmp_path.__class__(shards).glob("*.tar"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "_info.json").write_text(json.dumps(info))
    assert refused(plugins, train="timm:wds/digits", root=str(tmp_path)) == (
        f"data.train: stream 'timm:wds/digits' has no class names; list them in '{tmp_path}/classes.txt', one per line"
    )
    (tmp_path / "classes.txt").write_text("\n".join("0123456789"))
    found = open_datasets(Data(train="timm:wds/digits", root=str(tmp_path)), plugins)
    assert found.validation is None
    assert found.notes[1] == (
        "validation: none, because images cannot be held out of a stream; name a data set in data.validation"
    )


def test_a_stream_with_another_class_order_is_refused(shards, plugins, write_pictures, tmp_path):
    class Names:
        name = "backwards"
        class_names = tuple("9876543210")

    from distillkit.data.class_names import agreed_names

    stream = open_datasets(Data(train="timm:wds/digits", root=shards), plugins).train
    with pytest.raises(DataError) as caught:
        agreed_names({"train": Names(), "validation": stream})
    assert str(caught.value) == (
        "data.validation: the stream 'timm:wds/digits' does not list the classes of 'backwards' in the same order; use "
        "the same list in both"
    )


def test_a_stream_without_images(streamed):
    class Empty:
        name, class_names, shards = "empty", None, 1

        def __len__(self):
            return 12

        def read(self, number):
            return iter(())

    _, _, data = streamed()
    host = data()._host
    with pytest.raises(DataError) as caught:
        next(replace(host, stream=Empty()).windows(0, 1))
    assert str(caught.value) == "the stream 'empty' has no images; check its path"


def test_a_missing_stream_is_an_error(plugins, tmp_path):
    assert refused(plugins, train="timm:wds/digits", root=str(tmp_path)) == (
        "data.train: 'timm:wds/digits' cannot be opened: split train not found in info (dict_keys([]))"
    )
    assert refused(plugins, train="timm:wds/digits") == (
        "data.train: 'timm:wds/digits' needs data.root, the folder that contains it"
    )


def test_pixels_of_a_stream(streamed, digits):
    datasets, _, _ = streamed()
    image, label = next(datasets.validation.read(0))
    assert (image.mode, label) == ("RGB", digits[1][60])
    assert np.array_equal(np.asarray(image)[:, :, 0], digits[0][60])
