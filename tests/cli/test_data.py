"""`distillkit data check`, --strict-data, and unreadable images in an evaluation."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests import forked
from tests.data.breaking import BREAKERS


@pytest.fixture
def folder(tmp_path):
    """60 training and 20 test images of digits, one folder per class."""
    shades, labels = load_digits(return_X_y=True)
    pixels = np.rint(shades * 255 / 16).astype(np.uint8).reshape(-1, 8, 8)
    for number in range(80):
        path = tmp_path / "data" / ("train" if number < 60 else "test") / str(labels[number]) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number]).save(path)
    return tmp_path / "data"


def test_check_passes_readable_images(distillkit, folder):
    code, out, err = distillkit("data", "check", str(folder), "--workers", "0")
    assert (code, err) == (0, "")
    assert out == (
        f"data     {folder}\ntrain    60 images; all readable\ntest     20 images; all readable\nclasses  10\n"
        "note     training.batch_size = 64 is more than the 60 training images, so every step uses all of\n"
        "         them; lower it for more steps per epoch\n"
    )


def test_check_counts_and_lists_unreadable_images(distillkit, folder):
    BREAKERS["empty"](folder / "train/0/0000.png")
    BREAKERS["wrong-mode"](folder / "train/1/0001.png")
    BREAKERS["damaged"](folder / "test/9/0069.png")
    code, out, err = distillkit("data", "check", str(folder))
    assert (code, err) == (1, "")
    assert out.splitlines()[:4] == [
        f"data     {folder}",
        "train    60 images; 2 unreadable: 1 empty, 1 wrong-mode",
        "test     20 images; 1 unreadable: 1 damaged",
        "classes  10",
    ]
    assert out.splitlines()[6:] == [
        "note     1 unreadable image may be 16-bit grey: --grey16 scale reads it in 8 bits, as does a run",
        "         with --set data.grey16=scale",
        "",
        "split  image       kind        reason",
        "train  0/0000.png  empty       the file has no bytes",
        "train  1/0001.png  wrong-mode  pixels of mode 'I;16' would be clipped to 8 bits",
        "test   9/0069.png  damaged     broken data stream when reading image file",
    ]


def test_16_bit_grey_is_read_with_the_option(distillkit, folder):
    BREAKERS["wrong-mode"](folder / "train/1/0001.png")
    code, out, _ = distillkit("data", "check", str(folder), "--grey16", "scale", "--workers", "0")
    assert (code, out.splitlines()[1]) == (0, "train    60 images; all readable")


def test_an_invalid_background_is_named(distillkit, folder):
    code, _, err = distillkit("data", "check", str(folder), "--background", "blak")
    assert (code, " ".join(err.split())) == (
        2,
        "error: 'data.background' is 'blak'; it should be a colour such as white or #ff8800, or none",
    )


def test_json_lists_every_unreadable_image(distillkit, folder):
    for path in sorted((folder / "train").rglob("*.png"))[:12]:
        BREAKERS["empty"](path)
    (folder / "train" / "emu").mkdir()
    _, out, err = distillkit("data", "check", str(folder), "--workers", "0")
    assert err == "and 2 more; --json lists all\n"
    assert (
        f"problem 1 class of '{folder}/train' has no image: 'emu' problem train: no image of class '0' can be "
        in " ".join(out.split())
    )
    code, out, err = distillkit("data", "check", str(folder), "--workers", "0", "--json")
    found = json.loads(out)
    assert (code, err) == (1, "")
    assert found["kinds"] == {"train": {"empty": 12}, "test": {}}
    assert len(found["broken"]) == 12
    first = {"split": "train", "key": "0/0000.png", "kind": "empty", "reason": "the file has no bytes"}
    assert found["broken"][0] == first
    assert found["wrong"] == [
        f"1 class of '{folder}/train' has no image: 'emu'",
        "train: no image of class '0' can be read",
    ]


def test_check_of_a_missing_folder(distillkit, tmp_path):
    code, out, err = distillkit("data", "check", str(tmp_path / "none"))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: '{tmp_path}/none' is neither a folder nor a data set; data sets: ")


def test_a_check_of_a_folder_needs_no_torch(folder):
    code = (
        "import sys; from distillkit_cli.main import command_line\n"
        "assert command_line(['data', 'check', sys.argv[1], '--workers', '1']) == 0\n"
        "print([name for name in ('torch', 'timm', 'torchvision', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_ctrl_c_stops_a_check_at_once_without_output(folder):
    """Every process of the group gets SIGINT, as from a terminal. 4,000 links make the check long enough."""
    for number in range(4000):
        (folder / "train/0" / f"link{number}.png").symlink_to(folder / "train/0/0000.png")
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from distillkit_cli.main import command_line; from distillkit_cli import progress\n"
        "progress.show_images_read = lambda *_: print('reads', file=sys.stderr, flush=True)\n"
        "sys.exit(command_line(['data', 'check', sys.argv[1], '--workers', '2']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr.readline() == "reads\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, set(err.splitlines()) - {"reads"}) == (130, "", set())


def test_reader_processes_end_when_the_check_is_killed(folder):
    for number in range(4000):
        (folder / "train/0" / f"link{number}.png").symlink_to(folder / "train/0/0000.png")
    code = (
        "import multiprocessing, sys; from distillkit_cli.main import command_line; from distillkit_cli import "
        "progress\n"
        "progress.show_images_read = lambda *_: print(*[child.pid for child in "
        "multiprocessing.active_children()], file=sys.stderr, flush=True)\n"
        "command_line(['data', 'check', sys.argv[1], '--workers', '2'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stderr=subprocess.PIPE, text=True)
    readers = process.stderr.readline().split()
    assert len(readers) == 2
    assert all(is_alive(pid) for pid in readers)
    process.kill()
    process.wait(timeout=60)
    deadline = time.monotonic() + 60
    while any(is_alive(pid) for pid in readers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_alive(pid) for pid in readers)


def is_alive(pid):
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_strict_data_fails_at_the_first_unreadable_image(distillkit, tiny, folder, tmp_path):
    BREAKERS["empty"](folder / "train/0/0000.png")
    arguments = (*tiny, "--data", str(folder), "--validation", "0", "--out", str(tmp_path / "run"))
    expected = (
        f"error: image '0/0000.png' of '{folder}/train' cannot be read: the file has no bytes; repair or remove it\n"
    )
    for verb in (("run",), ("finetune", "deit-ti", "--weights", "none")):
        code, _, err = distillkit("-q", *verb, *arguments, "--strict-data")
        assert (code, err) == (2, expected)
        assert not (tmp_path / "run").exists()
    assert distillkit("-q", "run", *arguments).code == 0


@pytest.fixture
def trained_here(distillkit, tiny, folder, tmp_path):
    """A run on the folder; two of its test images are damaged afterwards."""
    assert distillkit("-q", "run", *tiny, "--data", str(folder), "--out", str(tmp_path / "run")).code == 0
    for kind, path in zip(("empty", "truncated"), sorted((folder / "test").rglob("*.png")), strict=False):
        BREAKERS[kind](path)
    return tmp_path / "run"


@pytest.mark.parametrize(
    "protocol",
    [
        ("top1", "--per-class"),
        ("knn", "--k", "5"),
        ("linear", "--epochs", "1"),
        ("few-label", "--set", "shares=[0.5]"),
        ("few-label", "--method", "finetune", "--epochs", "1", "--set", "shares=[0.5]", "--set", "batch_size=20"),
    ],
    ids=" ".join,
)
def test_evaluation_skips_and_reports_unreadable_images(distillkit, trained_here, protocol):
    code, out, err = distillkit("evaluate", str(trained_here), "--protocol", *protocol, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["figures"]["images"] == 18.0
    assert json.loads(out)["notes"][-1] == "2 test images cannot be read and are left out: 1 empty, 1 truncated"


def test_real_labels_stay_aligned_when_images_are_skipped(distillkit, trained_here, folder, tmp_path):
    """The ReaL label of each image is its class, so both accuracies agree unless the labels are shifted."""
    keys = sorted((folder / "test").rglob("*.png"), key=lambda path: path.name)
    (tmp_path / "real.json").write_text(json.dumps([[int(path.parent.name)] for path in keys]))
    code, out, err = distillkit("evaluate", str(trained_here), "--real", str(tmp_path / "real.json"), "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)["figures"]
    assert figures["real_images"] == 18.0
    assert figures["real_top1"] == figures["top1"]


def test_strict_evaluation_names_the_first_unreadable_image(distillkit, trained_here, folder):
    code, out, err = distillkit("evaluate", str(trained_here), "--strict-data")
    assert (code, out) == (2, "")
    first = min((folder / "test").rglob("*.png")).relative_to(folder / "test")
    assert err == (
        f"error: image '{first}' of '{folder}/test' cannot be read: the file has no bytes; repair or remove it\n"
    )


def test_evaluation_without_a_readable_image_is_an_error(distillkit, trained_here, folder):
    for path in (folder / "test").rglob("*.png"):
        BREAKERS["empty"](path)
    code, out, err = distillkit("evaluate", str(trained_here))
    assert (code, out) == (2, "")
    assert err == (
        f"error: none of the 20 images of '{folder}/test' can be read; `distillkit data check` lists the reasons\n"
    )


@pytest.mark.slow
def test_two_processes_skip_the_same_images_as_one(distillkit, trained_here, folder, tmp_path):
    """Batches of four: the first and the second, which another process evaluates, have one damaged image each."""
    keys = sorted((folder / "test").rglob("*.png"), key=lambda path: path.name)
    (tmp_path / "real.json").write_text(json.dumps([[int(path.parent.name)] for path in keys]))
    BREAKERS["damaged"](sorted((folder / "test").rglob("*.png"))[5])
    arguments = ["evaluate", str(trained_here), "--real", str(tmp_path / "real.json"), "--json"]
    recipe = trained_here / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("batch_size = 256", "batch_size = 4"))
    assert "batch_size = 4" in recipe.read_text()
    alone = json.loads(distillkit(*arguments).out)
    path = os.pathsep.join(sys.path)
    done = forked.run(
        ["-m", "distillkit_cli", *arguments, "--nproc", "2"], env=os.environ | {"PYTHONPATH": path}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    together = json.loads(done.stdout)
    assert together["figures"] == pytest.approx(alone["figures"])
    assert together["figures"]["images"] == together["figures"]["real_images"] == 17.0
    assert together["notes"] == alone["notes"]
    assert together["notes"][-1] == ("3 test images cannot be read and are left out: 1 damaged, 1 empty, 1 truncated")
