import io
import os
import pickle
import struct
import sys
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_in_tar import _TarInfoUnpickler

from distillkit.data.sources import load_image
from distillkit.data.splits import open_datasets
from distillkit.errors import DataError, MissingExtraError, UnreadableImageError
from distillkit.recipe.image_tables import Data
from distillkit_plugins.datasets.timm_data import TimmData

# timm's reader of .tar files leaves closing them to Python's garbage collection.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def mnist(digits, tmp_path):
    """Real digits in MNIST's file format, as torchvision reads it: 60 training and 20 test images."""
    pixels, labels = digits
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, part in (("train", slice(0, 60)), ("t10k", slice(60, 80))):
        count = len(labels[part])
        images = struct.pack(">IIII", 0x803, count, 8, 8) + pixels[part].tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(images)
        classes = struct.pack(">II", 0x801, count) + labels[part].astype(np.uint8).tobytes()
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(classes)
    return str(tmp_path)


@pytest.fixture
def pictures_tar(write_pictures, tmp_path):
    """A .tar file of class folders."""
    write_pictures(tmp_path / "pictures", {"cat": 3, "dog10": 2, "dog9": 2})
    path = tmp_path / "pictures.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(tmp_path / "pictures", arcname=".")
    return str(path)


def sentence(name, error=DataError, split="train", **data):
    with pytest.raises(error) as caught:
        TimmData.open(name, Data(**data), split)
    return str(caught.value)


def test_a_data_set_of_torchvision(mnist, digits, plugins):
    found = open_datasets(Data(train="timm:torch/mnist", root=mnist), plugins)
    assert (len(found.train), len(found.validation), len(found.test)) == (54, 6, 20)
    assert found.class_names[3] == "3 - three"
    assert found.train.name == "timm:torch/mnist"
    assert [found.test.label(index) for index in range(20)] == digits[1][60:80].tolist()
    assert found.test.key(5) == "00000005"
    picture = found.test.image(5)
    assert picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture)[:, :, 0], digits[0][65])


def test_a_tar_file(pictures_tar, plugins, digits):
    found = open_datasets(Data(train=f"timm:{pictures_tar}", validation=0), plugins)
    assert found.class_names == ("cat", "dog9", "dog10")  # timm sorts numerically
    keys = [found.train.key(index) for index in range(7)]
    assert keys[:4] == ["./cat/0000.png", "./cat/0001.png", "./cat/0002.png", "./dog9/0005.png"]
    assert [found.train.label(index) for index in range(7)] == [0, 0, 0, 1, 1, 2, 2]
    assert np.array_equal(np.asarray(found.train.image(3))[:, :, 0], digits[0][5])
    assert found.test is None


def test_a_tar_file_is_read_with_every_extension_of_a_folder(write_pictures, tmp_path, plugins):
    write_pictures(tmp_path / "data", {"cat": 2, "dog": 2})
    for number, extension in (("0000", "gif"), ("0002", "jfif")):
        (path,) = (tmp_path / "data").rglob(f"{number}.png")
        Image.open(path).convert("L").save(path.with_suffix(f".{extension}"))
        path.unlink()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "data", arcname=".")
    before = get_img_extensions()
    assert len(open_datasets(Data(train=f"timm:{tmp_path}/a.tar", validation=0), plugins).train) == 4
    assert get_img_extensions() == before


def test_other_files_of_a_tar_file_are_counted(pictures_tar, write_pictures, tmp_path, plugins):
    """Also those in a tar file inside, without hidden files and folders of other programs."""
    write_pictures(tmp_path / "inner", {"emu": 2})
    (tmp_path / "inner" / "emu" / "c.heic").write_bytes(b"c")
    with tarfile.open(tmp_path / "emu.tar", "w") as tar:
        tar.add(tmp_path / "inner" / "emu", arcname="emu")
    for name in ("a.heic", "b.HEIC", "labels.csv", "README", ".hidden", "._1.txt"):
        (tmp_path / name).write_bytes(b"x")
    with tarfile.open(pictures_tar, "a") as tar:
        tar.add(tmp_path / "emu.tar", arcname="emu.tar")
        for name in ("a.heic", "b.HEIC", "labels.csv", "README", ".hidden", "._1.txt"):
            tar.add(tmp_path / name, arcname=f"./cat/{name}")
        tar.add(tmp_path / "README", arcname="__MACOSX/cat/README")
    found = open_datasets(Data(train=f"timm:{pictures_tar}", validation=0), plugins)
    assert [note for note in found.notes if note.startswith("left out")] == [
        (
            f"left out of 'timm:{pictures_tar}': 3 HEIF images (3 .heic), which Pillow cannot read: convert them to "
            "JPEG; 2 files that are not images (1 .csv, 1 without extension)"
        )
    ]


class Planted:
    """A pickle that writes a file when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.fixture
def large_tar(pictures_tar):
    """A tar file for which timm caches an index: it has a hole, and more than 10 GB with it."""
    os.truncate(pictures_tar, 11 * 1024**3)
    return pictures_tar


def test_a_cached_index_next_to_a_tar_file_is_not_read(large_tar, tmp_path, plugins):
    """Promise: a data set in a tar file runs no code, and nothing but the tar file is read or written.

    Attempt: an index of the tar file, as timm caches it, whose pickle writes a file.
    """
    (tmp_path / "_pictures_tarinfos.pickle").write_bytes(pickle.dumps(Planted(tmp_path / "ran")))
    assert len(open_datasets(Data(train=f"timm:{large_tar}", validation=0), plugins).train) == 7
    assert not (tmp_path / "ran").exists()


def test_no_index_of_a_tar_file_is_written(large_tar, tmp_path, plugins):
    """Promise: a data set in a tar file runs no code, and nothing but the tar file is read or written.

    Attempt: a broken link to a file elsewhere, in place of the index that timm caches.
    """
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "_pictures_tarinfos.pickle").symlink_to(tmp_path / "elsewhere" / "written")
    assert len(open_datasets(Data(train=f"timm:{large_tar}", validation=0), plugins).train) == 7
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_oldest_allowed_timm_refuses_code_in_an_index():
    """Promise: a data set in a tar file runs no code, and nothing but the tar file is read or written.

    Attempt: the same pickle, read by another function of timm.
    """
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    (wanted,) = [text for text in project["optional-dependencies"]["train"] if text.startswith("timm")]
    assert not Requirement(wanted).specifier.contains("1.0.27")
    assert Requirement(wanted).specifier.contains("1.0.28")
    with pytest.raises(pickle.UnpicklingError, match=r"^Global \S+\.open is not permitted"):
        _TarInfoUnpickler(io.BytesIO(pickle.dumps(Planted("nowhere")))).load()


def test_a_tar_file_for_validation(pictures_tar, write_pictures, tmp_path, plugins):
    write_pictures(tmp_path / "train", {"cat": 3, "dog9": 2, "dog10": 2})
    found = open_datasets(Data(train=str(tmp_path / "train"), validation=f"timm:{pictures_tar}"), plugins)
    assert found.class_names == ("cat", "dog10", "dog9")
    assert [found.validation.label(index) for index in range(7)] == [0, 0, 0, 2, 2, 1, 1]


def test_a_broken_image_in_a_tar_file_is_named_and_not_replaced(tmp_path, plugins):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_text("not an image")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("cat", "dog"):
            tar.add(tmp_path / name / "1.png", arcname=f"{name}/1.png")
    source = open_datasets(Data(train=f"timm:{tmp_path}/a.tar", validation=0), plugins).train
    with pytest.raises(UnreadableImageError) as caught:
        load_image(source, 0)
    assert (caught.value.kind, caught.value.reason) == ("not-an-image", "the file has no known image format")


def test_a_data_set_of_hugging_face(write_pictures, tmp_path, plugins, digits):
    pytest.importorskip("datasets", reason="the package datasets is not installed")
    write_pictures(tmp_path / "data" / "train", {"cat": 4, "dog": 4})
    write_pictures(tmp_path / "data" / "test", {"cat": 1, "dog": 1}, start=20)
    data = Data(train=f"timm:hfds/{tmp_path}/data", root=str(tmp_path / "cache"), validation=0.25)
    found = open_datasets(data, plugins)
    assert (len(found.train), len(found.validation), len(found.test)) == (6, 2, 2)
    assert found.class_names == ("cat", "dog")
    assert [found.test.label(index) for index in range(2)] == [0, 1]
    assert np.array_equal(np.asarray(found.test.image(1))[:, :, 0], digits[0][21])


def test_names_that_timm_does_not_read():
    assert sentence("cifar10") == (
        "'timm:cifar10' is not a data set of timm; use timm:torch/<name>, timm:hfds/<name>, timm:wds/<name>, "
        "timm:tfds/<name>, timm:hfids/<name> or timm:<path>.tar, or a folder without 'timm:'"
    )
    assert sentence("torch/cifar11", root="/data") == (
        "'timm:torch/cifar11' is not a torchvision data set that timm supports; use one of: cifar10, cifar100, "
        "fashion_mnist, imagenet, inat, inaturalist, kmnist, mnist, places365, qmnist"
    )


def test_missing_data(tmp_path):
    assert sentence("torch/cifar10") == "'timm:torch/cifar10' needs data.root, the folder that contains it"
    assert sentence("torch/cifar10", root=str(tmp_path)) == (
        "'timm:torch/cifar10' cannot be opened: Dataset not found or corrupted. "
        "You can use download=True to download it; to download it, set data.download = true"
    )
    assert sentence(f"{tmp_path}/no.tar") == f"tar file '{tmp_path}/no.tar' does not exist"
    (tmp_path / "no.tar").write_text("no tar")
    assert sentence(f"{tmp_path}/no.tar") == (f"tar file '{tmp_path}/no.tar' cannot be opened: truncated header")


def test_a_command_instead_of_a_folder_is_not_run(tmp_path, monkeypatch):
    """webdataset runs names that start with "pipe:"; here such a name is a folder."""
    monkeypatch.chdir(tmp_path)
    root = "pipe:touch planted;"
    assert sentence("wds/x", root=root) == f"'timm:wds/x' is read from data.root, and '{root}' is not a folder"
    (tmp_path / root).mkdir()
    assert sentence("wds/x", root=root).startswith("'timm:wds/x' cannot be opened: ")
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    ("name", "package", "requirement"),
    [
        ("hfds/a", "datasets", '"distillkit[timm-data]"'),
        ("hfids/a", "datasets", '"distillkit[timm-data]"'),
        ("wds/a", "webdataset", '"distillkit[timm-data]"'),
        ("tfds/a", "tensorflow_datasets", "tensorflow_datasets"),
    ],
)
def test_a_package_that_is_not_installed(monkeypatch, name, package, requirement):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("distillkit_plugins.datasets.timm_data.find_spec", lambda module: None)
    assert sentence(name, MissingExtraError) == (
        f"'timm:{name}' needs {package}, which is not installed; pip install {requirement}"
    )


def test_splits_that_torchvision_does_not_have(mnist):
    data = Data(train="timm:torch/mnist", root=mnist)
    assert TimmData.open("torch/mnist", data, "validation") is None
    assert TimmData.open("torch/imagenet", data, "test") is None
