"""Raw tokens: exact where they are revealed, or refused with a reason."""

import pytest
import timm
import torch
from torch.nn import functional

from distillkit.contracts.model import Signal
from distillkit.models import TimmModel

VIT = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
SMALL = (64, 96)
RAW, PATCHES = Signal.RAW_TOKENS, Signal.PATCH_TOKENS


def create(architecture, **arguments):
    torch.manual_seed(0)
    model = TimmModel.create(architecture, name="model", classes=7, image_size=SMALL, **arguments).eval()
    return model, torch.randn(2, 3, *SMALL)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("vit_tiny_patch16_224", VIT),
        ("deit_tiny_distilled_patch16_224", VIT),
        ("eva02_tiny_patch14_224", VIT | {"img_size": SMALL}),
    ],
)
def test_blocks_of_a_vit_without_the_final_norm(architecture, arguments):
    model, images = create(architecture, **arguments)
    with torch.no_grad():
        outputs = model(images, {RAW: (0, 1), PATCHES: (1,)})
        expected = model.network.forward_intermediates(images, norm=False, output_fmt="NLC", intermediates_only=True)
    for found, tokens in zip(outputs.raw_tokens, expected, strict=True):
        torch.testing.assert_close(found, tokens, rtol=0, atol=0)
    normed = model.network.norm(outputs.raw_tokens[1])
    torch.testing.assert_close(outputs.patch_tokens[0], normed)


@pytest.mark.parametrize("architecture", ["regnety_002", "test_resnet"])
@pytest.mark.parametrize("training", [False, True])
def test_stages_of_a_cnn_before_their_last_relu(architecture, training):
    model, images = create(architecture)
    for parameter in model.parameters():  # the last norms of a residual block start at 0
        torch.nn.init.normal_(parameter, std=0.2)
    model.train(training)
    every = tuple(range(model.spec.layers))
    outputs = model(images, {RAW: every, PATCHES: every})
    for raw, tokens in zip(outputs.raw_tokens, outputs.patch_tokens, strict=True):
        assert raw.min() < 0
        assert torch.equal(functional.relu(raw), tokens)
    outputs.raw_tokens[0].sum().backward()  # not overwritten by the in-place ReLU that follows
    [alone] = model(images, {RAW: (1,)}).raw_tokens
    assert alone.shape == outputs.raw_tokens[1].shape


def test_stages_that_end_without_an_activation_are_raw_as_they_are():
    model, images = create("convnext_atto")
    with torch.no_grad():
        outputs = model(images, {RAW: (0, 3)})
        stages = model.network.forward_intermediates(images, intermediates_only=True)
    for found, stage in zip(outputs.raw_tokens, (stages[0], stages[3]), strict=True):
        assert torch.equal(found, stage.flatten(2).transpose(1, 2))


def test_reading_raw_tokens_changes_neither_the_network_nor_its_outputs():
    model, images = create("resnet10t")
    plain = timm.create_model("resnet10t", num_classes=7).eval()
    plain.load_state_dict(model.network.state_dict())
    with torch.no_grad():
        logits = model(images, {RAW: (0, 4), Signal.LOGITS: ()}).logits
        assert torch.equal(logits, plain(images))


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("efficientnet_lite0", "its last stage has 320 channels, and the map that its head pools 1,280"),
        ("vgg11_bn", "a stage ends in an operation before which its map cannot be read"),
    ],
)
def test_what_cannot_be_read_exactly_is_refused_with_a_reason(architecture, reason):
    spec = TimmModel.describe(architecture, name="model", classes=7, image_size=SMALL)
    assert RAW not in spec.signals
    assert PATCHES in spec.signals
    assert spec.silent[RAW] == reason
