"""Class token attention of models, compared with full attention maps that are computed independently."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from distillkit.contracts.model import ModelSpec, Outputs, Signal
from distillkit.errors import BrokenPluginError, SignalError
from distillkit.evaluation import see_attention, why_unreadable
from distillkit.models import ClassMap, FrozenTeacher, TimmModel

SMALL = {"image_size": (16, 24), "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
NETWORKS = {
    1: ("deit_tiny_patch16_224", {}),
    2: ("deit_tiny_distilled_patch16_224", {}),
    5: ("vit_small_patch14_reg4_dinov2", {}),
}


def create(prefix=1, **more):
    architecture, arguments = NETWORKS[prefix]
    torch.manual_seed(prefix)
    model = TimmModel.create(architecture, name="model", classes=5, **{**SMALL, **arguments, **more})
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def frozen(model, student, size="native"):
    return FrozenTeacher(model, student=student.spec, size=size, class_map=ClassMap())


def random_images(count=2, size=(16, 24)):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


def rows_of_maps(model, images, prefix):
    """Rows [L, B, A, 1 + N] as the contract defines them, from the softmax of all queries and keys in each block."""
    network = copy.deepcopy(model.network).eval().double()
    rows = []

    def add_row(attention, inputs):
        batch, tokens, _ = inputs[0].shape
        qkv = attention.qkv(inputs[0]).reshape(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = qkv[0] @ qkv[1].transpose(-2, -1) / qkv.shape[-1] ** 0.5  # [B, A, P + N, P + N]
        row = (scores.exp() / scores.exp().sum(dim=-1, keepdim=True))[:, :, 0]
        kept = torch.cat([row[..., :1], row[..., prefix:]], dim=-1)
        rows.append(kept / kept.sum(dim=-1, keepdim=True))

    for block in network.blocks:
        block.attn.register_forward_pre_hook(add_row)
    with torch.no_grad():
        network(images.double())
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("prefix", NETWORKS)
def test_rows_equal_those_of_the_full_maps_for_any_number_of_prefix_tokens(prefix):
    model, images = create(prefix), random_images()
    expected = rows_of_maps(model, images, prefix)
    sights = see_attention("student deit", model, {}, images)
    for number, (sight,) in enumerate(sights):
        assert (sight.name, sight.layers, sight.grid) == ("student deit", (0, 1, 2, 3), (2, 3))
        assert sight.rows.shape == (4, 3, 7)
        np.testing.assert_allclose(sight.rows, expected[:, number], rtol=1e-5, atol=1e-7)


def test_a_teacher_is_read_at_its_own_image_size_and_at_the_matched_layers():
    """Two layers of an eight-layer teacher match a two-layer student: the fourth and the last."""
    student = create(depth=2)
    teacher = create(image_size=(32, 48), depth=8)
    images = random_images(1)
    ((of_teacher, of_student),) = see_attention("student deit", student, {"dino": frozen(teacher, student)}, images)
    assert (of_teacher.name, of_teacher.layers, of_teacher.grid) == ("teacher dino", (3, 7), (4, 6))
    assert (of_student.name, of_student.layers) == ("student deit", (0, 1))
    larger = nn.functional.interpolate(images, size=(32, 48), mode="bicubic")
    np.testing.assert_allclose(of_teacher.rows, rows_of_maps(teacher, larger, 1)[[3, 7], 0], rtol=1e-4, atol=1e-6)


def test_layers_of_a_shallow_teacher_repeat():
    student = create()
    teachers = {"t": frozen(create(2, depth=2), student)}
    ((of_teacher, of_student),) = see_attention("s", student, teachers, random_images(1))
    assert (of_student.layers, of_teacher.layers) == ((0, 1, 2, 3), (0, 0, 1, 1))
    np.testing.assert_array_equal(of_teacher.rows[0], of_teacher.rows[1])


def test_pixels_are_the_colours_of_each_models_input():
    student = create()
    mean, std = (np.array(values, np.float32) for values in (student.spec.mean, student.spec.std))
    colours = np.random.default_rng(0).random((16, 24, 3), np.float32)
    images = torch.from_numpy((colours - mean) / std).permute(2, 0, 1).unsqueeze(0)
    larger = create(image_size=(32, 48))
    ((of_teacher, of_student),) = see_attention("s", student, {"t": frozen(larger, student)}, images)
    np.testing.assert_allclose(of_student.pixels, colours, atol=1e-6)
    assert of_teacher.pixels.shape == (32, 48, 3)
    assert 0 <= of_teacher.pixels.min() < of_teacher.pixels.max() <= 1


@pytest.mark.parametrize(("layers", "shown"), [("last", (3,)), ((2, 0, 2), (0, 2))])
def test_chosen_layers(layers, shown):
    model, images = create(), random_images(1)
    ((every,),), ((some,),) = (see_attention("s", model, {}, images, option) for option in ("all", layers))
    assert some.layers == shown
    np.testing.assert_allclose(some.rows, every.rows[list(shown)], rtol=1e-6)


def test_a_layer_that_the_model_does_not_have():
    with pytest.raises(SignalError) as error:
        see_attention("student deit", create(), {}, random_images(1), (0, 4))
    assert str(error.value) == "student deit has no layer 4; choose from its layers 0 to 3"


def test_the_model_is_not_changed_and_nothing_is_compiled():
    """In training mode drop path would draw random numbers; a compiled model runs in eager mode."""
    model = create(drop_path_rate=0.9).train()
    compiled = []
    model.compile(backend=lambda graph, inputs: compiled.append(graph) or graph.forward)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, second = (see_attention("s", model, {}, random_images(1))[0][0].rows for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert model.training
    assert compiled == []
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_why_attention_cannot_be_read():
    cnn = TimmModel.describe("resnet10t", name="cnn", classes=5)
    swin = TimmModel.describe("swin_tiny_patch4_window7_224", name="swin", classes=5)
    other = ModelSpec("other", "other", "other", 5, frozenset(), (8, 8))
    assert why_unreadable(create().spec) is None
    assert why_unreadable(cnn) == "it is a CNN and reveals no class-token attention"
    assert why_unreadable(swin) == "its attention is windowed"
    assert why_unreadable(other) == "it is neither ViT nor CNN and reveals no class-token attention"


class Silent(nn.Module):
    """Has CLS attention in its spec, and returns none."""

    spec = ModelSpec("silent", "silent", "vit", 5, frozenset({Signal.CLS_ATTENTION}), (8, 8), grids=((1, 1),))

    def forward(self, images, wanted):
        return Outputs()


def test_a_model_that_does_not_return_the_attention_of_its_spec():
    with pytest.raises(BrokenPluginError) as error:
        see_attention("student silent", Silent(), {}, random_images(1, (8, 8)))
    assert str(error.value) == (
        "student silent was asked for its CLS attention and returned none; its plugin breaks the contract"
    )
