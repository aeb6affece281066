"""A third-party loss that uses public names only is found, conforms to the contract, and is trained by name."""

import ast
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import distillkit

SOURCE = Path(__file__).parent / "distillkit-margin" / "distillkit_margin.py"


def test_it_imports_only_public_names():
    imports = [
        node for node in ast.walk(ast.parse(SOURCE.read_text())) if isinstance(node, ast.ImportFrom | ast.Import)
    ]
    ours = [node for node in imports if "distillkit" in ast.unparse(node)]
    assert [node.module for node in ours] == ["distillkit"]
    assert {alias.name for alias in ours[0].names} <= set(distillkit.__all__)


def test_it_is_found_with_its_owner(python):
    code = """
from distillkit.plugin.registry import installed_plugins
plugins = installed_plugins()
margin = plugins.find("loss", "margin")
print(margin.owner, margin.owner.module, margin.load().__qualname__, sep=" | ")
print([str(broken) for broken in plugins.broken if broken.owner.distribution == "distillkit-margin"])
"""
    done = python("-c", code)
    assert done.stdout.splitlines() == ["distillkit-margin 1.2.0 | distillkit_margin | MarginDistillation", "[]"], (
        done.stderr
    )


def test_it_conforms_with_a_warning_that_it_slows_down_listings(python):
    code = """
import warnings
from distillkit.testing import check_loss
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    check_loss("margin")
    check_loss("margin", {"margin": 0.5}, backend=None)
print({str(warning.message) for warning in caught if warning.category.__name__ == "SlowListingWarning"}.pop())
print({warning.filename for warning in caught if warning.category.__name__ == "SlowListingWarning"})
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        (
            "loss 'margin' of distillkit-margin 1.2.0: module distillkit_margin imports torch when it registers its "
            "plugins, which slows down `distillkit plugins` and errors about misspelt names; move the class to a "
            "separate module and name it in `factory`"
        ),
        "{'<string>'}",
    ]


RECIPE = """
[student]
{student}
[data]
workers = 0
[augment]
crop = "none"
flip = 0.0
[training]
steps = 5
batch_size = 32
log_every = 1
device = "cpu"
"""
COMMANDS = """
from distillkit_cli.main import command_line
teach = "run --recipe teacher.toml --out teacher"
learn = "run --recipe student.toml --teacher run:teacher --loss margin:margin=0.5,weight=2 --out student"
print([command_line(verb.split()) for verb in (teach, learn)])
"""


def test_it_is_listed(python):
    listed = json.loads(python("-m", "distillkit_cli.main", "plugins", "--json").stdout)["plugins"]
    (margin,) = (plugin for plugin in listed if plugin["name"] == "margin")
    assert (margin["role"], margin["distribution"], margin["version"]) == ("loss", "distillkit-margin", "1.2.0")


def test_it_runs_by_name(python, tmp_path):
    teacher = 'model = "small-cnn"\nimage_size = 8\nwidth = 4'
    student = 'model = "vit-ti"\nimage_size = 8\npatch = 4\nwidth = 12\ndepth = 2'
    (tmp_path / "teacher.toml").write_text(RECIPE.format(student=teacher))
    (tmp_path / "student.toml").write_text(RECIPE.format(student=student))
    done = python("-c", COMMANDS, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[0, 0]", done.stderr
    records = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss/margin/margin" in record]
    assert len(steps) == 5
    for record in steps:
        assert record["loss"] == pytest.approx(record["loss/labels"] + 2 * record["loss/margin/margin"], rel=1e-5)


BANKED = """
from distillkit_cli.main import command_line
verbs = ["run --recipe teacher.toml --out teacher"]
for out, bank in (("live", ""), ("filling", "--bank bank"), ("reading", "--bank bank")):
    verbs.append(f"run --recipe student.toml --teacher run:teacher --loss margin:margin=0.5 --out {out} {bank}")
print([command_line(verb.split()) for verb in verbs])
"""


def test_its_targets_are_banked_without_a_line_of_its_own(python, tmp_path):
    student = 'model = "vit-ti"\nimage_size = 8\npatch = 4\nwidth = 12\ndepth = 2'
    (tmp_path / "teacher.toml").write_text(RECIPE.format(student='model = "small-cnn"\nimage_size = 8\nwidth = 4'))
    (tmp_path / "student.toml").write_text(RECIPE.format(student=student))
    done = python("-c", BANKED, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0]", done.stderr
    results = {name: json.loads((tmp_path / name / "result.json").read_text()) for name in ("filling", "reading")}
    assert [result["bank"]["margin"] for result in results.values()] == [
        {"read": 0, "computed": 5 * 32, "written": 5 * 32},
        {"read": 5 * 32, "computed": 0, "written": 0},
    ]
    weights = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("live", *results)]
    assert weights[0] == weights[1] == weights[2]
    (shelf,) = (tmp_path / "bank").iterdir()
    key = json.loads((shelf / "shelf.json").read_text())["key"]["loss"]
    assert (key["plugin"], key["from"], key["options"]["margin"]) == ("margin", "distillkit-margin 1.2.0", 0.5)


def test_its_formula():
    """Against Weston & Watkins' formula, computed class by class."""
    specification = importlib.util.spec_from_file_location("distillkit_margin", SOURCE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    loss = module.MarginDistillation(0.5, distillkit.Signal.LOGITS)
    teacher, student = np.random.default_rng(0).normal(size=(2, 6, 5))
    target = loss.target(distillkit.Outputs(logits=torch.from_numpy(teacher)))
    batch = distillkit.BatchInfo(labels=None, label_mass=torch.zeros(6))
    margins = loss(distillkit.Outputs(logits=torch.from_numpy(student)), target, batch)["margin"]
    expected = [
        np.mean([max(0.0, 0.5 - logits[chosen] + logits[other]) for other in range(5) if other != chosen])
        for logits, chosen in zip(student, teacher.argmax(axis=1), strict=True)
    ]
    np.testing.assert_allclose(margins, expected, rtol=1e-6)
