"""`distillkit recipes`."""

import json

from distillkit.recipe_files import load_recipe, named_recipes


def test_the_list_says_what_each_is_and_costs(distillkit):
    code, out, err = distillkit("recipes")
    assert (code, err) == (0, "")
    assert out.split("\n\n")[-1] == (
        "digits              A small DeiT on scikit-learn's 8-pixel digits; needs no file and no network.\n"
        "  source            distillkit's own trials: shifted images make this student underfit, and patches\n"
        "                    of 2 px learn far slower than of 4\n"
        "  cost              about 20 s on one CPU core, for 96 % of the test images\n"
    )
    assert [block.split()[0] for block in out.split("\n\n")] == [recipe.name for recipe in named_recipes()]


def test_the_list_for_programs(distillkit):
    code, out, _ = distillkit("recipes", "--json")
    listed = json.loads(out)["recipes"]
    assert code == 0
    assert [entry["name"] for entry in listed] == [recipe.name for recipe in named_recipes()]
    assert set(listed[0]) == {"name", "summary", "source", "cost", "path"}


def test_one_recipe_is_shown_whole_and_loads_again(distillkit, tmp_path):
    code, out, err = distillkit("recipes", "deit-s")
    assert (code, err) == (0, "")
    path = tmp_path / "mine.toml"
    path.write_text(out, encoding="utf-8")
    assert load_recipe(str(path)) == load_recipe("deit-s")


def test_one_recipe_for_programs(distillkit):
    _, out, _ = distillkit("recipes", "deit-s", "--json")
    assert json.loads(out)["student"] == {"model": "deit-s", "drop_path": 0.1}
