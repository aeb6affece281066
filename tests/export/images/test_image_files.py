"""Image files of command-line arguments: files, all images below folders, matches of patterns."""

from __future__ import annotations

import pytest

from distillkit.errors import DataError
from distillkit_export.images.image_files import image_files


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("a/2.png", "a/10.JPG", "a/deep/1.webp", "a/.hidden.png", "a/.dot/3.png", "a/notes.txt", "b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "none").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["b.png", "a"], ["b.png", "a/10.JPG", "a/2.png", "a/deep/1.webp"]),
        (["a/notes.txt", "missing.png"], ["a/notes.txt", "missing.png"]),
        (["a/*.png"], ["a/2.png"]),
        (["**/*.webp", "a/[0-9].png"], ["a/deep/1.webp", "a/2.png"]),
        ([], []),
    ],
)
def test_files_are_in_the_order_of_the_arguments(arguments, found):
    assert [path.as_posix() for path in image_files(arguments).paths] == found


@pytest.mark.usefixtures("tree")
def test_an_existing_file_with_a_name_like_a_pattern_is_not_a_pattern(tmp_path):
    (tmp_path / "shot[1].png").touch()
    assert [path.name for path in image_files(["shot[1].png"]).paths] == ["shot[1].png"]


@pytest.mark.usefixtures("tree")
def test_other_files_in_folders_are_counted():
    assert image_files(["a", "b.png", "a"]).left_out == {".txt": 2}
    assert image_files(["a/notes.txt", "a/*.txt"]).left_out == {}


@pytest.mark.usefixtures("tree")
def test_folders_of_other_programs_are_ignored(tmp_path):
    for name in ("a/@eaDir/2.png", "a/__MACOSX/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert [path.as_posix() for path in image_files(["a"]).paths] == ["a/10.JPG", "a/2.png", "a/deep/1.webp"]


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("none", "folder 'none' contains no images that Pillow reads"),
        ("*.gif", "no file matches '*.gif'"),
    ],
)
def test_a_folder_or_pattern_without_images_is_refused(argument, message):
    with pytest.raises(DataError) as refused:
        image_files([argument])
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("-", "images are not read from stdin; save the image to a file and give its path"),
        (
            "https://host/cat.jpg",
            "'https://host/cat.jpg' is a URL, and images are read from files; download it and give its path",
        ),
        ("s3://bucket/", "'s3://bucket/' is a URL, and images are read from files; download it and give its path"),
    ],
)
def test_what_other_commands_accept_in_place_of_a_file(argument, message):
    with pytest.raises(DataError) as refused:
        image_files([argument])
    assert str(refused.value) == message
