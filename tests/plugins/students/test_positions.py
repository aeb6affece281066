"""`student.position = "sincos"`: a position embedding that is computed and never trained."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from distillkit.contracts.model import ModelRequest
from distillkit.errors import RecipeError
from distillkit.models import load_saved_student, save_student, sincos_position_embedding
from distillkit.models.heads import Answer
from distillkit.plugin.registry import installed_plugins

PLUGINS = installed_plugins()
SMALL = {"image_size": 32, "patch": 8, "width": 48, "depth": 2}


def request_of(name, weights=None, **options):
    return ModelRequest(name, None, PLUGINS.find("student", name).options(options), weights=weights, classes=5)


def build(name, **options):
    torch.manual_seed(0)
    return PLUGINS.find("student", name).call("build", request_of(name, **options))


def by_the_formula(width, rows, columns, prefix):
    """[1, prefix + N, D] from "Attention Is All You Need", section 3.5, each coordinate in its half of the width."""
    table = np.zeros((1, prefix + rows * columns, width))
    quarter = width // 4
    for row in range(rows):
        for column in range(columns):
            for k in range(quarter):
                rate = 1 / 10000 ** (k / quarter)
                at = table[0, prefix + row * columns + column]
                at[k], at[quarter + k] = np.sin(column * rate), np.cos(column * rate)
                at[2 * quarter + k], at[3 * quarter + k] = np.sin(row * rate), np.cos(row * rate)
    return table


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 5), (14, 14)])
@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_values_of_the_formula(rows, columns, prefix):
    found = sincos_position_embedding(16, (rows, columns), prefix_tokens=prefix)
    assert found.dtype is torch.float32
    np.testing.assert_allclose(found.numpy(), by_the_formula(16, rows, columns, prefix), atol=1e-6)


def test_known_entries():
    """By hand: width 4 has the single rate 1; the last patch of a 2 x 3 grid is in row 1 and column 2."""
    last = sincos_position_embedding(4, (2, 3), prefix_tokens=1)[0, -1]
    torch.testing.assert_close(last, torch.tensor([0.909297427, -0.416146837, 0.841470985, 0.540302306]))


@pytest.mark.parametrize(("name", "prefix"), [("vit-ti", 1), ("deit-ti", 2)])
def test_student_has_fixed_positions_and_does_not_train_them(name, prefix):
    model = build(name, **{**SMALL, "image_size": [16, 32]}, position="sincos")
    positions = model.network.pos_embed
    np.testing.assert_allclose(positions.detach().numpy(), by_the_formula(48, 2, 4, prefix), atol=1e-6)
    assert positions[:, :prefix].abs().max() == 0
    assert [name for name, each in model.network.named_parameters() if not each.requires_grad] == ["pos_embed"]


def test_other_parameters_are_as_with_learned_positions():
    fixed, learned = (build("deit-ti", **SMALL, position=position).network for position in ("sincos", "learned"))
    expected = learned.state_dict()
    assert [name for name, each in fixed.state_dict().items() if not torch.equal(each, expected[name])] == ["pos_embed"]
    assert learned.pos_embed.requires_grad
    assert build("deit-ti", **SMALL).network.pos_embed.requires_grad


@pytest.fixture
def saved(tmp_path):
    """`saved(position="sincos")`: a run directory with a small ViT."""

    def save(**options):
        request = request_of("vit-ti", **SMALL, **options)
        model = build("vit-ti", **SMALL, **options)
        save_student(tmp_path, model, request, Answer("class", "logits"))
        return tmp_path, model

    return save


def test_timm_loads_a_saved_student(saved):
    directory, model = saved(position="sincos")
    again, description = load_saved_student(directory, PLUGINS)
    assert not again.network.pos_embed.requires_grad
    network = timm.create_model(
        description.spec.architecture,
        **description.arguments,
        checkpoint_path=str(directory / "student.safetensors"),
    )
    for each in (again.network, network):
        assert torch.equal(each.pos_embed, model.network.pos_embed)


@pytest.mark.parametrize("position", ["learned", "sincos"])
def test_starting_weights_do_not_change_fixed_positions(saved, position):
    """With another image size, and starting from a student without distillation token."""
    directory, source = saved(position=position)
    model = build("deit-ti", weights=str(directory), **{**SMALL, "image_size": 48}, position="sincos")
    np.testing.assert_allclose(model.network.pos_embed.detach().numpy(), by_the_formula(48, 6, 6, 2), atol=1e-6)
    assert not model.network.pos_embed.requires_grad
    assert torch.equal(model.network.cls_token, source.network.cls_token)
    assert model.load_report.notes == (
        (
            "the distillation token and its position start as copies of the class token's, "
            "its head as a copy of the class head"
        ),
        "pos_embed is not loaded: the student keeps its own",
    )


def test_fixed_positions_may_be_trained_further_as_learned_ones(saved):
    directory, source = saved(position="sincos")
    model = build("vit-ti", weights=str(directory), **SMALL, position="learned")
    assert torch.equal(model.network.pos_embed, source.network.pos_embed)
    assert model.network.pos_embed.requires_grad
    assert load_file(directory / "student.safetensors")["pos_embed"].shape == (1, 17, 48)


def test_width_that_is_not_divisible_by_4():
    with pytest.raises(RecipeError) as error:
        build("vit-ti", **{**SMALL, "width": 54}, position="sincos")
    assert str(error.value) == (
        'student.width = 54 is not divisible by 4, which student.position = "sincos" requires; 52 or 56 would be'
    )


def test_unknown_position():
    with pytest.raises(RecipeError) as error:
        request_of("vit-ti", position="rotary")
    assert str(error.value) == "student 'vit-ti': 'position' is 'rotary'; it should be 'learned' or 'sincos'"


# The students of AttnDistill's poster on ImageNet-1k and ImageNet-Subset, and those of ADViT, without distillation
# token. The poster's 65 tokens of patches of 32 pixels are 8 x 8 of them, which is 256 pixels.
@pytest.mark.parametrize(
    ("name", "options", "tokens", "millions"),
    [
        ("vit-ti", {}, 197, 5.5),
        ("vit-s", {}, 197, 21.7),
        ("vit-ti", {"heads": 6, "position": "sincos"}, 197, 5.5),
        ("vit-ti", {"heads": 3, "position": "sincos"}, 197, 5.5),
        ("vit-ti", {"patch": 32, "image_size": 256, "position": "sincos"}, 65, 5.9),
        ("vit-ti", {"depth": 8, "position": "sincos"}, 197, 3.7),
        ("vit-ti", {"depth": 8, "patch": 32, "image_size": 256, "position": "sincos"}, 65, 4.2),
        ("vit-s", {"depth": 8, "heads": 3, "patch": 32}, 50, 15.4),
    ],
)
def test_geometries_of_the_papers(name, options, tokens, millions):
    request = ModelRequest(name, None, PLUGINS.find("student", name).options(options), classes=0)
    spec = PLUGINS.find("student", name).call("describe", request)
    with torch.device("meta"):
        model = PLUGINS.find("student", name).call("build", request)
    assert model.spec == spec
    assert tuple(model.network.pos_embed.shape) == (1, tokens, spec.width)
    assert (spec.layers, spec.heads) == (
        options.get("depth", 12),
        options.get("heads", {"vit-ti": 3, "vit-s": 6}[name]),
    )
    assert (spec.width, spec.prefix_tokens) == ({"vit-ti": 192, "vit-s": 384}[name], 1)
    assert round(spec.parameters / 1e6, 1) == millions
