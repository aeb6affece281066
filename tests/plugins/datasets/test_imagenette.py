"""`imagenette`: files of its layout, the download from a server on this machine, and errors."""

import hashlib
import os
import subprocess
import sys
import tarfile
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from threading import Thread

import pytest
from torchvision.datasets import Imagenette as TorchvisionImagenette

from distillkit.data.splits import open_datasets
from distillkit.errors import DataError
from distillkit.models.class_matching import imagenet_class_names
from distillkit.recipe.image_tables import Data
from distillkit_plugins.datasets import imagenette, imagenette_files
from tests.imagenette_files import WNIDS, write_imagenette


@pytest.fixture(autouse=True)
def user_folder(tmp_path, monkeypatch):
    """The user's data directory, empty."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    return tmp_path / "share" / "distillkit" / "imagenette"


class QuietServer(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on this machine with an archive of the same layout; returns the archive."""
    served = tmp_path / "served"
    folder = write_imagenette(served / "content", train=1, test=1)
    archive = served / imagenette_files.ARCHIVE
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)
    with HTTPServer(("127.0.0.1", 0), partial(QuietServer, directory=str(served))) as listening:
        thread = Thread(target=listening.serve_forever)
        thread.start()
        digest = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
        url = f"http://127.0.0.1:{listening.server_port}/{archive.name}"
        for module in (imagenette, imagenette_files):
            monkeypatch.setattr(module, "URL", url)
            monkeypatch.setattr(module, "MD5", digest)
        yield archive
        listening.shutdown()
        thread.join()


def test_the_address_and_checksum_are_those_of_torchvision():
    assert TorchvisionImagenette._ARCHIVES["160px"] == (imagenette_files.URL, imagenette_files.MD5)


def test_the_files_become_training_and_test_images(plugins, tmp_path):
    write_imagenette(tmp_path, train=4, test=2)
    sets = open_datasets(Data(train="imagenette", root=str(tmp_path), validation=0.25), plugins)
    assert (len(sets.train), len(sets.validation), len(sets.test)) == (30, 10, 20)
    assert sets.class_names == WNIDS
    assert set(WNIDS) < set(imagenet_class_names())
    assert sets.test.key(2) == "n02102040/n02102040_0.JPEG"
    assert [sets.test.label(index) for index in (0, 2, 19)] == [0, 1, 9]
    assert sets.test.image(0).size == (60, 40)


def test_the_archive_is_downloaded_once_checked_and_unpacked(plugins, user_folder, server, capfd):
    sets = open_datasets(Data(train="imagenette", validation=0.0), plugins)
    assert (len(sets.train), len(sets.test)) == (10, 10)
    assert "100%" in capfd.readouterr().err
    assert sorted(path.name for path in user_folder.iterdir()) == [".lock", "imagenette2-160", "imagenette2-160.tgz"]
    server.unlink()
    assert len(open_datasets(Data(train="imagenette", validation=0.0), plugins).train) == 10


def test_an_archive_put_there_by_hand_is_unpacked(plugins, user_folder, server):
    user_folder.mkdir(parents=True)
    server.rename(user_folder / server.name)
    assert imagenette_files.missing_archive("imagenette", Data()) is None
    assert len(open_datasets(Data(train="imagenette", validation=0.0), plugins).train) == 10


@pytest.mark.parametrize("fault", ["another file", "no file"])
def test_what_cannot_be_downloaded_is_one_sentence_and_leaves_no_images(fault, plugins, user_folder, server):
    if fault == "no file":
        server.unlink()
        reason = "HTTP Error 404: File not found"
    else:
        server.write_bytes(b"another file")
        reason = "File not found or corrupted."
    with pytest.raises(DataError) as error:
        open_datasets(Data(train="imagenette"), plugins)
    assert str(error.value) == (
        f"data.train: 'imagenette' cannot be downloaded from {imagenette.URL} to {user_folder} or read there "
        f"({reason}); put the archive there yourself, set data.root to a folder that has it, or give --data DIR"
    )
    assert not (user_folder / "imagenette2-160").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_no_download_is_written_through_a_link_or_a_pipe(kind, plugins, user_folder, server, tmp_path):
    """Promise: Nothing outside a run, bundle or bank is written through a link.

    Attempt: A folder of data with a link to a file elsewhere, or a pipe, in place of the archive of `imagenette`.
    """
    outside, archive = tmp_path / "outside", user_folder / server.name
    outside.write_text("mine")
    user_folder.mkdir(parents=True)
    if kind == "link":
        archive.symlink_to(outside)
        reason = f"{archive} is a link, and not to the archive"
    else:
        os.mkfifo(archive)
        reason = f"{archive} is not a file"
    with pytest.raises(DataError) as error:
        open_datasets(Data(train="imagenette"), plugins)
    assert str(error.value) == (
        f"data.train: 'imagenette' cannot be downloaded from {imagenette.URL} to {user_folder} or read there "
        f"({reason}); put the archive there yourself, set data.root to a folder that has it, or give --data DIR"
    )
    assert outside.read_text() == "mine"


def test_a_link_to_the_archive_is_unpacked(plugins, user_folder, server):
    user_folder.mkdir(parents=True)
    (user_folder / server.name).symlink_to(server)
    assert len(open_datasets(Data(train="imagenette", validation=0.0), plugins).train) == 10


def test_a_download_that_stops_while_unpacking_leaves_no_images(plugins, user_folder, server, monkeypatch):
    def stop(*_, extract_root, **__):
        write_imagenette(imagenette.Path(extract_root), train=1, test=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(imagenette, "download_and_extract_archive", stop)
    with pytest.raises(KeyboardInterrupt):
        open_datasets(Data(train="imagenette"), plugins)
    assert [path.name for path in user_folder.iterdir()] == [".lock"]


def test_an_incomplete_archive_counts_as_missing(user_folder):
    user_folder.mkdir(parents=True)
    (user_folder / imagenette_files.ARCHIVE).write_bytes(b"half")
    missing = imagenette_files.missing_archive("imagenette", Data())
    assert missing.what == "the data set 'imagenette'"
    assert missing.remedy == (
        f"{user_folder / imagenette_files.ARCHIVE} does not match the MD5 {imagenette_files.MD5}; replace it, or give "
        "--data DIR"
    )


def test_looking_for_the_archive_does_not_import_torch():
    code = "import sys, distillkit_plugins.datasets.imagenette_files as f; "
    code += "from distillkit.recipe.image_tables import Data; "
    code += "f.missing_archive('imagenette', Data()); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
