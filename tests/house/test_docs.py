"""Documentation is correct: links resolve, code blocks run, commands and recipes are valid."""

import pkgutil
import re
import runpy
import shlex
import tomllib
from dataclasses import astuple

import numpy as np
import onnx
import pytest
import torch
import typer
from onnx import TensorProto, helper, numpy_helper

from distillkit.contracts.exporter import ExportRequest, ExportSource
from distillkit.contracts.plugin import PluginSpec
from distillkit.contracts.runtime import Servable
from distillkit.errors import BundleError, GateError, UnavailableError
from distillkit.evaluation import Features, View
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.files import load_recipe
from distillkit.recipe.image_tables import Data
from distillkit.testing import check_exporter, check_runtime
from distillkit_cli.main import app
from distillkit_export.gate.limits import DEFAULT

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)")
FILE = re.compile(r"`((?:[\w-]+/)+\w+\.py)`")
DOTTED = re.compile(r"`(distillkit(?:_cli|_export|_plugins)?\.[\w.]+)`")
PYTHON_PAGE = "docs/python.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def pages(root):
    paths = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def blocks(pages, language):
    return [(name, code) for name, text in pages.items() for kind, code in BLOCK.findall(text) if kind == language]


def test_every_link_between_pages_resolves(pages, root):
    broken = [
        f"{name}: {target}"
        for name, text in pages.items()
        for target in LINK.findall(text)
        if "://" not in target and not (root / name).parent.joinpath(target).exists()
    ]
    assert broken == []


def test_every_module_that_a_page_names_exists(pages, root):
    sources = [
        root,
        *(source for role in (".", "cli", "export", "plugins") for source in root.glob(f"{role}/distillkit*")),
    ]
    pages = {name: text for name, text in pages.items() if not name.startswith("docs/changelog/")}
    files = {(name, path) for name, text in pages.items() for path in FILE.findall(text)}
    assert [pair for pair in sorted(files) if not any((source / pair[1]).exists() for source in sources)] == []
    for name, dotted in {(name, dotted) for name, text in pages.items() for dotted in DOTTED.findall(text)}:
        assert pkgutil.resolve_name(dotted) is not None, name


def test_the_map_has_every_module(pages, root):
    """The room of any module in a traceback is found in architecture.md."""
    sections = pages["docs/architecture.md"].split("\n### `")[1:]
    rooms = {
        f"{section.partition('`')[0]}{room}"
        for section in sections
        for room in re.findall(r"^\| `(\S+)` \|", section, re.MULTILINE)
    }
    assert len(sections) == 4
    sources = [root / package for package in ("distillkit", *(path.partition("`")[0] for path in sections[1:]))]
    modules = [path for source in sources for path in source.rglob("*.py") if path != source / "__init__.py"]
    names = {path.relative_to(root).as_posix() for path in modules}
    missing = [name for name in sorted(names) if not any(name == room or name.startswith(room) for room in rooms)]
    assert missing == []


def test_every_page_is_linked_from_the_index(pages, root):
    linked = {
        (root / "docs" / target).resolve() for target in LINK.findall(pages["docs/index.md"]) if "://" not in target
    }
    own = {
        name for name in pages if name.startswith("docs/") and not name.startswith(("docs/changelog/", "docs/index"))
    }
    assert [name for name in sorted(own) if (root / name).resolve() not in linked] == []


def test_every_command_uses_verbs_and_options_that_exist(pages):
    group = typer.main.get_command(app)
    wrong = []
    for name, code in blocks(pages, "console"):
        for line in code.replace("\\\n", " ").splitlines():
            match = re.match(r"\$ distillkit (.*)", line)
            if match is None:
                continue
            words = shlex.split(match[1], comments=True)
            verb = group.commands.get(words[0])
            if hasattr(verb, "commands"):  # "bank build"
                verb = verb.commands.get(words[1])
            known = [option for parameter in (verb or group).params for option in parameter.opts]
            options = [word.partition("=")[0] for word in words if word.startswith("--")]
            if (verb is None and not words[0].startswith("-")) or set(options) - {*known, "--help"}:
                wrong.append(f"{name}: {line}")
    assert wrong == []


def test_every_recipe_shown_is_valid(pages, tmp_path):
    for name, code in blocks(pages, "toml"):
        if {"project", "tool"} & tomllib.loads(code).keys():
            continue
        path = tmp_path / "shown.toml"
        path.write_text(code, encoding="utf-8")
        assert load_recipe(str(path)), name


@pytest.fixture
def execute(tmp_path):
    """Run a code block as a module named "shown", and return its globals."""

    def run(code):
        path = tmp_path / "shown.py"
        path.write_text(code, encoding="utf-8")
        return runpy.run_path(str(path), run_name="shown")

    return run


@pytest.fixture
def shown(pages, execute):
    """A class or function shown in docs/plugins.md: `shown("Colours")`."""

    def find(name):
        code = next(code for page, code in blocks(pages, "python") if page == "docs/plugins.md" and name in code)
        return execute(code)[name]

    return find


def shortened(code):
    """The code with runs of 6 steps, which write what longer ones write."""
    return re.sub(r'"steps": \d+', '"steps": 6', code)


def test_every_python_block_runs(pages, execute, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, code in blocks(pages, "python"):
        if not name.startswith(("docs/reference/", PYTHON_PAGE)):
            assert execute(shortened(code)), name


@pytest.mark.slow
def test_the_page_about_python_runs_from_top_to_bottom(pages, execute, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = execute(shortened("".join(code for name, code in blocks(pages, "python") if name == PYTHON_PAGE)))
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        "teacher",
        "deit-ti-digits-soft-seed0-001",
        "deit-ti-digits-soft-seed1-001",
        "module-network-digits-soft-seed0-001",
        "together-0",
        "together-1",
        "together-2",
    }
    assert names["probabilities"].sum().item() == pytest.approx(1)
    assert "0.1 * labels + 0.9 * soft 6" in capsys.readouterr().out.replace("\n", " ")


def test_the_data_set_shown_gives_labelled_images(shown):
    colours = shown("Colours")
    source = colours.open(None, Data(), "train")
    assert colours.open(None, Data(), "validation") is None
    assert (len(source), source.key(7), source.label(7)) == (300, "007", 1)
    assert source.image(7).getpixel((0, 0)) == (0, 59, 0)
    assert shown("distillkit_datasets")() == [
        PluginSpec(name="colours", summary="300 images of one colour each", factory="shown:Colours")
    ]


def test_the_tracker_shown_prints_the_best_epochs(shown, capsys):
    plugins = installed_plugins()
    plugins.add_observers(shown("Best")())
    for epoch, top1 in ((1.0, 50.0), (2.0, 40.0), (3.0, 60.0)):
        plugins.epoch_ended(None, {"step": 10 * epoch, "epoch": epoch, "validation/top1": top1})
    assert capsys.readouterr().out == "epoch 1: 50.0 %, the best so far\nepoch 3: 60.0 %, the best so far\n"


class TwoClusters:
    """A subject for the evaluator shown, with two training images of each class and three to measure."""

    classes = 2
    training = Features(torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1]))
    measured = Features(torch.tensor([[3.0], [7.0], [8.0]]), torch.tensor([0, 0, 1]))

    def features(self, images, view):
        assert view == View()
        return images


def test_the_evaluator_shown_finds_the_nearest_mean(shown):
    """The means are 1 and 11: 3 is nearer to the first, 7 and 8 to the second."""
    measurement = shown("ClassMeans")(None).measure(TwoClusters())
    assert measurement.figures == {"top1": pytest.approx(200 / 3), "images": 3.0}


def test_the_teacher_shown_is_registered_as_shown(shown):
    (spec,) = shown("distillkit_teachers")()
    assert installed_plugins().find("teacher", "cifar-resnet20").spec == spec


def test_the_format_shown_and_its_runtime_conform(shown, tmp_path):
    """On a minimal ONNX file with the parts of any student: an input, weights, scores and a dynamic batch."""
    weights = np.random.default_rng(0).normal(size=(3 * 4 * 4, 5)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 4, 4])
    scores = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])
    graph = helper.make_graph(nodes, "g", [images], [scores], [numpy_helper.from_array(weights, "w")])
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "model.onnx")
    batch = np.random.default_rng(1).normal(size=(4, 3, 4, 4)).astype(np.float32)
    source = ExportSource(ExportRequest(), onnx={"fp32": tmp_path / "model.onnx"}, images=batch)
    check_exporter(shown("GzipExporter"), {"level": 1}, source=source)
    exporter = shown("GzipExporter")(shown("GzipExporter").Options())
    written = exporter.write(source, tmp_path, "fp32")
    check_runtime(shown("GzipRuntime"), Servable("gzip", str(tmp_path / written.file)), batch)
    with pytest.raises(UnavailableError) as refused:
        exporter.write(source, tmp_path, "fp16")
    assert str(refused.value) == "gzip is made from ONNX in fp16, which is not there"


def test_the_limits_shown_are_those_of_the_parity_check(pages):
    rows = re.findall(r"^\| (fp32|fp16|bf16|int8|fp8) \| (.*) \|$", pages["docs/export.md"], re.MULTILINE)
    shown_limits = {name: [None if cell == "-" else float(cell) for cell in row.split(" | ")] for name, row in rows}
    assert shown_limits == {name: list(astuple(limits)) for name, limits in DEFAULT.items()}


def test_the_exit_codes_shown_are_those_of_the_errors(pages):
    shown_codes = {int(code) for code in re.findall(r"^\| (\d) \| ", pages["docs/export.md"], re.MULTILINE)}
    assert shown_codes == {0, BundleError.exit_code, UnavailableError.exit_code, GateError.exit_code}
