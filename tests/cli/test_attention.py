"""`distillkit attention` from the command line: the figures it writes, and its errors."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillkit_cli.main import command_line

TINY = [
    *("--set", "student.image_size=8"),
    *("--set", "student.patch=4"),
    *("--set", "student.width=16"),
    *("--set", "student.depth=2"),
    *("--set", "student.heads=2"),
    *("--set", "training.steps=1"),
    *("--set", "training.batch_size=8"),
    *("--set", "training.threads=1"),
    *("--set", "data.workers=0"),
    *("--set", "trackers=[]"),
    *("--device", "cpu"),
]
CNN = ["--student", "small-cnn", "--set", "student.width=8", "--set", "student.image_size=8", *TINY[10:]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A CNN, a ViT, and a student distilled from each, after one step."""
    root = tmp_path_factory.mktemp("runs")
    recipe = root / "cnn.toml"
    recipe.write_text('[data]\ntrain = "digits"\n[student]\nmodel = "small-cnn"\n', encoding="utf-8")
    cnn = ["--recipe", str(recipe), *CNN]
    assert command_line(["--quiet", "run", "--loss", "ce", *cnn, "--out", str(root / "cnn")]) == 0
    assert command_line(["--quiet", "run", "--loss", "ce", *TINY, "--out", str(root / "vit")]) == 0
    for name in ("cnn", "vit"):
        distill = ["--teacher", f"run:{root / name}", "--loss", "hard", "--out", str(root / f"by-{name}")]
        assert command_line(["--quiet", "run", *TINY, *distill]) == 0
    return root


@pytest.fixture
def cat(tmp_path):
    return write_image(tmp_path / "cat.png")


def write_image(path):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return str(path)


def files(folder):
    return sorted(path.name for path in folder.rglob("*"))


def size(path):
    with Image.open(path) as image:
        return image.size


def test_draws_one_figure_per_image(distillkit, runs, cat, tmp_path):
    other, out = write_image(tmp_path / "more" / "cat.png"), tmp_path / "out"
    done = distillkit("attention", str(runs / "by-vit"), cat, other, "--out", str(out))
    assert done == (0, f"{out}/cat-attention.png\n{out}/cat-attention-2.png\n", "")
    assert files(out) == ["cat-attention-2.png", "cat-attention.png"]
    alone = distillkit("attention", str(runs / "by-vit"), cat, "--no-teacher", "--out", str(tmp_path / "alone"))
    assert (alone.code, alone.err) == (0, "")
    assert size(out / "cat-attention.png")[1] > size(tmp_path / "alone" / "cat-attention.png")[1]


def test_figures_are_written_to_the_run_by_default(distillkit, runs, cat):
    done = distillkit("attention", str(runs / "vit"), cat, "--layers", "0,1", "--heads", "each")
    assert done == (0, f"{runs}/vit/attention/cat-attention.png\n", "drawn without a teacher: the run has none\n")


def test_model_by_name_with_a_teacher(distillkit, runs, cat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--weights", "none", "--layers", "last", "--teacher", f"run:{runs / 'vit'}")
    assert distillkit("attention", "timm:test_vit", cat, *options) == (0, "attention/cat-attention.png\n", "")


def test_a_teacher_that_cannot_be_drawn_is_left_out(distillkit, runs, cat, tmp_path):
    name = f"run:{runs / 'cnn'}"
    code, _, err = distillkit("attention", str(runs / "by-cnn"), cat, "--out", str(tmp_path / "out"))
    assert (code, err) == (
        0,
        (
            f"drawn without teacher '{name}': the attention of '{name}' cannot be drawn, because "
            "it is a CNN and reveals no class-token attention\n"
        ),
    )


def test_a_missing_teacher_is_left_out(distillkit, runs, cat, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(runs / "by-vit", moved)
    recipe = (moved / "recipe.toml").read_text(encoding="utf-8")
    (moved / "recipe.toml").write_text(recipe.replace(str(runs / "vit"), "gone"), encoding="utf-8")
    assert distillkit("attention", str(moved), cat) == (
        0,
        f"{moved}/attention/cat-attention.png\n",
        (
            "drawn without teacher 'run:gone': teacher 'run:gone': there is no run directory 'gone'; "
            "check the path, or train the teacher first, for example with distillkit finetune MODEL --out gone\n"
        ),
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("{runs}/vit", "{tmp}/dog.png"), "there is no image '{tmp}/dog.png'; check the path"),
        (("{runs}/vit", "{tmp}"), "'{tmp}' is a folder; name the images in it, such as {tmp}/*.png"),
        (
            ("{runs}/vit", "{tmp}/cat.png", "{tmp}/note.png"),
            "image '{tmp}/note.png' cannot be read: cannot identify image file '{tmp}/note.png'; leave it out",
        ),
        (
            ("{runs}/vit", "{tmp}/cat.png", "{tmp}/truncated.png"),
            "image '{tmp}/truncated.png' cannot be read: image file is truncated; leave it out",
        ),
        (
            ("{runs}/cnn", "{tmp}/cat.png"),
            (
                "the attention of '{runs}/cnn' cannot be drawn, because it is a CNN and reveals no "
                "class-token attention; "
                "choose a ViT with a class token"
            ),
        ),
        (
            ("timm:resnet10t", "{tmp}/cat.png", "--weights", "none"),
            (
                "the attention of 'timm:resnet10t' cannot be drawn, because it is a CNN and reveals no "
                "class-token attention; "
                "choose a ViT with a class token"
            ),
        ),
        (
            ("{runs}/vit", "{tmp}/cat.png", "--layers", "1,2"),
            "'{runs}/vit' has no layer 2; choose from its layers 0 to 1",
        ),
        (
            ("{runs}/vit", "{tmp}/cat.png", "--layers", "first"),
            "--layers is 'first'; give all, last, or numbers such as 0,5,11",
        ),
        (
            ("{runs}/vit", "{tmp}/cat.png", "--teacher", "vit-b", "--no-teacher"),
            "give --teacher or --no-teacher, not both",
        ),
        (
            ("{runs}/vit", "{tmp}/cat.png", "--teacher-weights", "x.pth"),
            "--teacher-weights needs --teacher; add --teacher NAME",
        ),
        (
            ("{runs}/vit", "{tmp}/cat.png", "--teacher", "run:{runs}/cnn"),
            (
                "the attention of 'run:{runs}/cnn' cannot be drawn, because it is a CNN and reveals no "
                "class-token attention"
            ),
        ),
        (
            ("{runs}/vit", "{tmp}/cat.png", "--out", "{tmp}/cat.png"),
            "cannot write to '{tmp}/cat.png' ('{tmp}/cat.png' is a file); give another --out",
        ),
    ],
)
def test_user_errors_are_one_line_and_write_nothing(distillkit, runs, cat, tmp_path, arguments, sentence):
    (tmp_path / "note.png").write_text("not an image", encoding="utf-8")
    (tmp_path / "truncated.png").write_bytes(Path(cat).read_bytes()[:900])
    before = files(tmp_path), files(runs / "vit" / "attention")
    given = [argument.format(runs=runs, tmp=tmp_path) for argument in arguments]
    out = () if "--out" in given else ("--out", str(tmp_path / "out"))
    expected = sentence.format(runs=runs, tmp=tmp_path)
    assert distillkit("attention", *given, *out) == (2, "", f"error: {expected}\n")
    assert (files(tmp_path), files(runs / "vit" / "attention")) == before


def test_a_failed_write_leaves_nothing(distillkit, runs, cat, tmp_path):
    """A folder has the name of the figure, so that writing fails even for root."""
    out = tmp_path / "out"
    (out / "cat-attention.png").mkdir(parents=True)
    assert distillkit("attention", str(runs / "vit"), cat, "--no-teacher", "--out", str(out)) == (
        2,
        "",
        f"error: {out}/cat-attention.png cannot be written (Is a directory); give another --out\n",
    )
    assert files(out) == ["cat-attention.png"]


def test_without_matplotlib(distillkit, monkeypatch, runs, cat):
    monkeypatch.setattr("distillkit.plugin.extras.find_spec", lambda module: None if module == "matplotlib" else module)
    assert distillkit("attention", str(runs / "vit"), cat) == (
        2,
        "",
        'error: distillkit attention needs matplotlib, which is not installed; pip install "distillkit[train]"\n',
    )
