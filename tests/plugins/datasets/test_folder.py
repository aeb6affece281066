import os

import pytest
from PIL import Image

from distillkit.errors import DataError
from distillkit.recipe.image_tables import Data
from distillkit_plugins.datasets.folder import Folder


def opened(path, split="train", **data):
    return Folder.open(str(path), Data(**{"train": str(path), **data}), split)


def listing(source):
    return [(source.key(index), source.label(index)) for index in range(len(source))]


def test_classes_are_sorted_and_keys_are_paths(write_pictures, tmp_path):
    write_pictures(tmp_path, {"dog": 1, "cat/young": 1, "Bird": 1})
    source = opened(tmp_path)
    assert source.class_names == ("Bird", "cat", "dog")
    assert listing(source) == [("Bird/0002.png", 0), ("cat/young/0001.png", 1), ("dog/0000.png", 2)]
    assert source.name == str(tmp_path)


def test_a_flat_folder_has_no_labels(write_pictures, tmp_path):
    source = opened(write_pictures(tmp_path, {"": 2}))
    assert source.class_names is None
    assert listing(source) == [("0000.png", None), ("0001.png", None)]


def test_images_next_to_class_folders_have_no_label(write_pictures, tmp_path):
    source = opened(write_pictures(tmp_path, {"cat": 1, "": 1}))
    assert listing(source) == [("0001.png", None), ("cat/0000.png", 0)]


def test_other_files_are_ignored(write_pictures, tmp_path):
    write_pictures(tmp_path, {"cat": 1, ".thumbnails": 1, "notes": 0})
    (tmp_path / "cat" / "readme.txt").write_text("a text")
    (tmp_path / "cat" / ".hidden.png").write_text("nothing")
    (tmp_path / "cat" / "0000.png").rename(tmp_path / "cat" / "0000.PNG")
    source = opened(tmp_path)
    assert listing(source) == [("cat/0000.PNG", 0)]
    assert source.left_out == {".txt": 1}


@pytest.mark.parametrize("extension", ["jfif", "jpe", "gif", "avif", "jp2", "JPG", "tga", "ico", "pbm", "apng"])
def test_everything_that_pillow_reads_is_an_image(tmp_path, extension):
    (tmp_path / "cat").mkdir()
    form = Image.registered_extensions()[f".{extension.lower()}"]
    Image.new("RGB", (16, 16), (200, 100, 0)).save(tmp_path / "cat" / f"a.{extension}", form)
    source = opened(tmp_path)
    assert (len(source), source.left_out) == (1, {})
    assert source.image(0).size == (16, 16)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000"])
def test_a_file_without_an_extension_is_an_image_by_its_first_bytes(tmp_path, form):
    (tmp_path / "cat").mkdir()
    for name in ("a1b2", "img.01"):
        Image.new("RGB", (16, 16)).save(tmp_path / "cat" / name, form)
    source = opened(tmp_path)
    assert (len(source), source.left_out) == (2, {})
    assert source.image(0).size == source.image(1).size == (16, 16)


def test_files_that_are_not_images_are_counted_by_extension(write_pictures, tmp_path):
    write_pictures(tmp_path, {"cat": 1, "dog": 1})
    for name in ("a.HEIC", "cat/b.heic", "cat/LICENSE", "dog/x.eps", "data.json", ".DS_Store", "gone"):
        (tmp_path / name).write_bytes(b"II")
    (tmp_path / "gone").unlink()
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    source = opened(tmp_path)
    assert len(source) == 2
    assert source.left_out == {"without extension": 3, ".heic": 2, ".eps": 1, ".json": 1}
    assert next(iter(source.left_out)) == "without extension"


def test_links_are_followed(write_pictures, tmp_path):
    write_pictures(tmp_path / "elsewhere", {"": 1})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    assert listing(opened(tmp_path / "data")) == [("cat/0000.png", 0)]


def test_images_of_any_mode_become_rgb(tmp_path):
    (tmp_path / "cat").mkdir()
    for mode in ("L", "1", "P", "RGBA", "CMYK"):
        name = f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (5, 4)).save(tmp_path / "cat" / name)
    source = opened(tmp_path)
    assert len(source) == 5
    assert {(source.image(index).mode, source.image(index).size) for index in range(5)} == {("RGB", (5, 4))}


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "eval", "Val", "DEV"])
def test_a_split_folder(write_pictures, tmp_path, train, name):
    write_pictures(tmp_path / train, {"cat": 3})
    write_pictures(tmp_path / name, {"cat": 2})
    assert len(opened(tmp_path)) == 3
    assert len(opened(tmp_path, "validation")) == 2
    assert opened(tmp_path, "test") is None


@pytest.mark.parametrize("name", ["test", "testing", "Test"])
def test_a_test_folder(write_pictures, tmp_path, name):
    write_pictures(tmp_path / "training", {"cat": 3})
    write_pictures(tmp_path / name, {"cat": 2})
    assert len(opened(tmp_path, "test")) == 2
    assert opened(tmp_path, "validation") is None


def test_of_two_folders_of_one_split_the_usual_name_is_read_and_the_other_listed(write_pictures, tmp_path):
    for name in ("Training", "TRAIN", "train", "Dev", "val"):
        write_pictures(tmp_path / name, {"cat": 1})
    assert opened(tmp_path).name == str(tmp_path / "train")
    assert opened(tmp_path, "validation").name == str(tmp_path / "val")
    assert opened(tmp_path).unread == ("Dev", "TRAIN", "Training")


def test_folders_next_to_the_splits_are_listed(write_pictures, tmp_path):
    for name in ("train", "val", "extra", "@eaDir"):
        write_pictures(tmp_path / name, {"cat": 1})
    assert opened(tmp_path).unread == ("extra",)
    assert opened(tmp_path, "validation").unread == ()


@pytest.mark.parametrize("name", ["@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "#recycle", ".thumbnails"])
def test_folders_of_other_programs_are_ignored_at_any_depth(write_pictures, tmp_path, name):
    write_pictures(tmp_path, {"cat": 2, name: 1, f"cat/{name}": 1, "dog": 1})
    source = opened(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert len(source) == 3
    assert source.empty_classes == ()


def test_folders_with_the_same_sub_folders_are_not_classes(write_pictures, tmp_path):
    write_pictures(tmp_path, {"fold1/cat": 1, "fold1/dog": 1, "fold2/cat": 1, "fold2/dog": 1, "": 1})
    assert opened(tmp_path).wrong_root == (
        f"every folder in '{tmp_path}' (fold1, fold2) has no image, only folders (cat, dog), so they are not classes; "
        f"give one of them, such as '{tmp_path}/fold1', name the folder of training images 'train', or, if they are "
        "classes, move the images of each into it"
    )


@pytest.mark.parametrize(
    ("counts", "inner", "folders"),
    [
        ({"data/cat": 1, "data/dog": 1}, "data", "cat, dog"),
        ({"a/b/cat": 1, "a/b/dog/young": 1}, "a/b", "cat, dog"),
        ({"archive/Train/cat": 1}, "archive", "Train"),
        ({"a/train/cat": 1, "a/test/cat": 1}, "a", "test, train"),
    ],
)
def test_the_right_root_is_named_for_a_single_folder(write_pictures, tmp_path, counts, inner, folders):
    write_pictures(tmp_path, counts)
    assert opened(tmp_path).wrong_root == (
        f"the only folder in '{tmp_path}', '{inner}', has no image, only folders ({folders}), so it is not a class; "
        f"give '{tmp_path}/{inner}'"
    )


@pytest.mark.parametrize(
    "counts",
    [
        {"cat/images": 1, "dog/images": 1},  # as in Tiny ImageNet
        {"pets/cat": 1, "pets/dog": 1, "birds/owl": 1},
        {"cat": 1, "cat/young": 1, "cat/old": 1, "dog/young": 1, "dog/old": 1},
        {"cat": 1},
        {"cat/images": 1},
        {"": 2},
    ],
)
def test_nested_class_folders_stay_classes(write_pictures, tmp_path, counts):
    write_pictures(tmp_path, counts)
    assert opened(tmp_path).wrong_root is None


def test_a_folder_without_train_inside_has_no_splits(write_pictures, tmp_path):
    write_pictures(tmp_path, {"cat": 3, "test": 2})
    assert opened(tmp_path).class_names == ("cat", "test")
    assert opened(tmp_path, "validation") is None
    assert len(opened(tmp_path, "validation", train="digits")) == 5


def test_train_can_be_a_class(write_pictures, tmp_path):
    write_pictures(tmp_path, {"train": 3, "bus": 2})
    assert opened(tmp_path).class_names == ("bus", "train")


def test_a_split_folder_of_unlabelled_images(write_pictures, tmp_path):
    write_pictures(tmp_path, {"train": 3, "test": 2})
    assert opened(tmp_path).class_names is None
    assert len(opened(tmp_path)) == 3


def sentence(path, split="train"):
    with pytest.raises(DataError) as caught:
        opened(path, split)
    return str(caught.value)


def test_folders_that_cannot_be_opened(tmp_path):
    assert sentence(tmp_path / "none") == f"folder '{tmp_path}/none' does not exist"
    (tmp_path / "empty").mkdir()
    expected = "expected DIR/class/image.jpg, or DIR/image.jpg without labels; check the path"
    assert sentence(tmp_path / "empty") == f"folder '{tmp_path}/empty' contains no images that Pillow reads; {expected}"
    (tmp_path / "empty" / "a.heic").write_text("")
    assert sentence(tmp_path / "empty") == (
        f"folder '{tmp_path}/empty' contains no images that Pillow reads, only 1 HEIF image (1 .heic), "
        "which Pillow cannot read: convert it to JPEG; "
        f"{expected}"
    )
    (tmp_path / "a.zip").write_text("")
    assert sentence(tmp_path / "a.zip") == f"'{tmp_path}/a.zip' is a file, not a folder of images"
    (tmp_path / "a.tar").write_text("")
    assert sentence(tmp_path / "a.tar") == (
        f"'{tmp_path}/a.tar' is a file, not a folder of images; to read the images in it, use timm:{tmp_path}/a.tar"
    )


def test_an_empty_split(write_pictures, tmp_path):
    write_pictures(tmp_path / "train", {"cat": 3})
    (tmp_path / "val").mkdir()
    assert sentence(tmp_path, "validation") == (
        f"folder '{tmp_path}/val' contains no images that Pillow reads; "
        "expected DIR/class/image.jpg, or DIR/image.jpg without labels; check the path"
    )
