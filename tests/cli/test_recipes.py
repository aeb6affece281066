"""`distillkit recipes`."""

import json
import re
import shlex

import pytest
import typer

from distillkit.recipe.files import load_recipe, named_recipes
from distillkit_cli.main import app


def test_list_has_a_paragraph_per_family(distillkit):
    code, out, err = distillkit("recipes")
    assert (code, err) == (0, "for the source, cost and keys of a recipe: distillkit recipes NAME\n")
    paragraphs = [[line.split()[0] for line in block.splitlines() if line[0] != " "] for block in out.split("\n\n")]
    assert [name for names in paragraphs for name in names] == [recipe.name for recipe in named_recipes()]
    assert paragraphs[3:5] == [["default"], ["deit-384", "deit-b", "deit-s", "deit-ti"]]
    assert out.split("\n\n")[1].splitlines()[:2] == [
        "attndistill-dino-vits8-vits16       AttnDistill: ViT-S/16 from DINO ViT-S/8, no labels, 800 epochs.",
        "attndistill-mugs-vitb16-vits16      AttnDistill: ViT-S/16 from Mugs ViT-B/16, no labels, 800 epochs.",
    ]


def test_list_as_json(distillkit):
    code, out, _ = distillkit("recipes", "--json")
    listed = json.loads(out)["recipes"]
    assert code == 0
    assert [entry["name"] for entry in listed] == [recipe.name for recipe in named_recipes()]
    assert set(listed[0]) == {"name", "summary", "source", "cost", "path"}


def test_printed_recipe_loads_as_the_same_recipe(distillkit, tmp_path):
    code, out, err = distillkit("recipes", "deit-s")
    assert (code, err) == (0, "")
    path = tmp_path / "mine.toml"
    path.write_text(out, encoding="utf-8")
    assert load_recipe(str(path)) == load_recipe("deit-s")


def test_comment_of_a_recipe_is_printed_at_the_top(distillkit):
    """After the comment of its base."""
    _, out, _ = distillkit("recipes", "transfer-cars")
    comment = out.partition("\n\nseed = 0\n")[0].splitlines()
    assert all(line.startswith("#") for line in comment)
    of_base, own = (load_comment(name) for name in ("transfer-cifar10", "transfer-cars"))
    assert comment[-len(own) :] == own
    assert comment[-len(own) - 1 - len(of_base) : -len(own) - 1] == of_base


def load_comment(name):
    path = next(recipe.path for recipe in named_recipes() if recipe.name == name)
    lines = path.read_text(encoding="utf-8").splitlines()
    return lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]


def test_one_recipe_as_json(distillkit):
    _, out, _ = distillkit("recipes", "deit-s", "--json")
    assert json.loads(out)["student"] == {"model": "deit-s", "drop_path": 0.1}


@pytest.mark.parametrize("recipe", named_recipes(), ids=lambda recipe: recipe.name)
def test_commands_in_recipe_comments_parse(recipe):
    """Verbs, options and recipe names exist."""
    comments = "\n".join(line[1:] for line in recipe.path.read_text(encoding="utf-8").splitlines() if line[:1] == "#")
    verbs = typer.main.get_command(app).commands
    for command in re.findall(r"^ +distillkit (.*)$", comments.replace("\\\n", " "), re.MULTILINE):
        verb, *words = shlex.split(command)
        known = {option for parameter in verbs[verb].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
        assert load_recipe(words[words.index("--recipe") + 1])
