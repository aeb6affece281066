"""Every message about an invalid recipe, in full."""

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from distillkit.messages.validation import explain, known_keys, problems, together
from distillkit.recipe.schema import Recipe


def problems_of(tables):
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(tables)
    return problems(caught.value, Recipe, tables)


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"training": {"epoch": 3}}, "unknown key 'training.epoch'; did you mean 'training.epochs'?"),
        ({"training": {"lr": 0.1}}, "unknown key 'training.lr'; did you mean 'optimizer.lr'?"),
        ({"epochs": 3}, "unknown key 'epochs'; did you mean 'training.epochs'?"),
        ({"batchsize": 3}, "unknown key 'batchsize'; did you mean 'training.batch_size'?"),
        ({"trainning": {}}, "unknown key 'trainning'; did you mean 'training'?"),
        (
            {"labels": {"qqq": 1}},
            "unknown key 'labels.qqq'; known: labels.smoothing, labels.weight",
        ),
        ({"training": {"epochs": "ten"}}, "'training.epochs' is 'ten'; it should be a whole number"),
        ({"training": {"epochs": -1}}, "'training.epochs' is -1; it should be greater than 0"),
        ({"training": {"compile": 1}}, "'training.compile' is 1; it should be true or false"),
        ({"training": {"device": True}}, "'training.device' is true; it should be a string"),
        ({"optimizer": {"lr": "fast"}}, "'optimizer.lr' is 'fast'; it should be a number"),
        ({"training": 5}, "'training' is 5; it should be a table"),
        ({"trackers": "report"}, "'trackers' is 'report'; it should be a list, such as [\"report\"]"),
        (
            {"augment": {"crop": "resize"}},
            "'augment.crop' is 'resize'; it should be 'resized', 'padded' or 'none'",
        ),
        ({"augment": {"scale": [0.1]}}, "'augment.scale.1' is missing"),
        *(
            (
                {"data": {"validation": value}},
                f"'data.validation' is {shown}; it should be a share from 0 to 1, a folder, or the name of a data set",
            )
            for value, shown in ((-1, "-1"), (1.5, "1.5"), (True, "true"), ([0.1], "[0.1]"))
        ),
        (
            {"training": {"epochs": 1, "steps": 2}},
            "'training': give training.epochs or training.steps, not both",
        ),
        ({"teachers": [{"weights": "a.pth"}]}, "'teachers.0.model' is missing"),
        (
            {"teachers": [{"model": "regnety16gf"}, {"model": "vit-b", "size": "huge"}]},
            "'teachers.vit-b.size' is 'huge'; it should be 'auto', 'student' or 'native' or a whole number",
        ),
        (
            {"losses": [{"loss": "hard", "name": "my hard"}]},
            "'losses.my hard.name' is 'my hard'; it should be a name without spaces, '/' or '.'",
        ),
        ({"losses": 3}, "'losses' is 3; it should be a list"),
        ({"augment": {"scale": 3}}, "'augment.scale' is 3; it should be a list"),
        ({"losses": [3]}, "'losses.0' is 3; it should be a table"),
        (
            {"losses": [{"loss": "hard", "teacher": "me"}]},
            "loss 'hard' names teacher 'me'; the recipe has: none",
        ),
        (
            {"teachers": [{"model": "a"}, {"model": "b"}], "losses": [{"loss": "hard"}]},
            "loss 'hard' must name its teacher (`teacher = ...`), one of: a, b",
        ),
        (
            {"losses": [{"loss": "hard"}, {"loss": "hard"}]},
            "losses need unique names; set `name` for one of those named 'hard'",
        ),
    ],
)
def test_each_problem_is_one_sentence(tables, sentence):
    assert problems_of(tables) == [sentence]


def test_without_the_validated_data_entries_of_a_list_are_numbered():
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"teachers": [{"model": "vit-b", "size": "huge"}]})
    assert problems(caught.value, Recipe) == [
        "'teachers.0.size' is 'huge'; it should be 'auto', 'student' or 'native' or a whole number"
    ]


def test_one_problem_is_one_line_and_several_are_a_list():
    assert together(["a"]) == ["a"]
    assert together(["a"], prefix="loss 'soft'") == ["loss 'soft': a"]
    assert together(["a", "b"], prefix="loss 'soft'") == ["loss 'soft': 2 problems", "a", "b"]
    assert together(["a", "b"]) == ["2 problems", "a", "b"]


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    tau: float = 1.0
    reduction: str = "batchmean"


def test_the_options_of_a_plugin_are_explained_in_the_same_way():
    with pytest.raises(ValidationError) as caught:
        Options.model_validate({"tua": 2, "reduction": 3})
    assert explain(caught.value, Options, prefix="loss 'soft'") == [
        "loss 'soft': 2 problems",
        "'reduction' is 3; it should be a string",
        "unknown key 'tua'; did you mean 'tau'?",
    ]
    assert known_keys(Options) == ["tau", "reduction"]
