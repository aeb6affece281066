"""Patch and image size of the ViT in a weight file."""

import pytest
import torch

from distillkit.models import FileGeometry, TimmModel, TimmRequest, geometry_of

VIT = TimmModel.sketch(TimmRequest("vit_tiny_patch16_224", "vit", 10))
DEIT = TimmModel.sketch(TimmRequest("deit_tiny_distilled_patch16_224", "deit", 10))
CNN = TimmModel.sketch(TimmRequest("regnety_002", "cnn", 10))


def shapes(patch, tokens, prefix=""):
    return {
        f"{prefix}patch_embed.proj.weight": torch.empty(192, 3, patch, patch, device="meta"),
        f"{prefix}pos_embed": torch.empty(1, tokens, 192, device="meta"),
        f"{prefix}cls_token": torch.empty(1, 1, 192, device="meta"),
    }


def in_torchvision_names(patch, tokens):
    names = {"conv_proj.weight": (192, 3, patch, patch), "encoder.pos_embedding": (1, tokens, 192)}
    names["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"] = (576, 192)
    return {name: torch.empty(shape, device="meta") for name, shape in names.items()}


def in_transformers_names(patch, tokens):
    names = {"patch_embeddings.projection.weight": (192, 3, patch, patch), "position_embeddings": (1, tokens, 192)}
    return {f"vit.embeddings.{name}": torch.empty(shape, device="meta") for name, shape in names.items()}


@pytest.mark.parametrize(
    ("model", "weights", "geometry"),
    [
        (VIT, shapes(16, 197), FileGeometry()),
        (VIT, shapes(16, 17), FileGeometry(None, (64, 64))),
        (VIT, shapes(8, 65), FileGeometry((8, 8), (64, 64))),
        (VIT, shapes(32, 50), FileGeometry((32, 32), None)),
        (VIT, shapes(16, 577, "backbone."), FileGeometry(None, (384, 384))),
        (DEIT, shapes(16, 18), FileGeometry(None, (64, 64))),
        (VIT, shapes(16, 198), FileGeometry()),  # 197 patches are no square grid
        (VIT, in_torchvision_names(16, 5), FileGeometry(None, (32, 32))),
        (VIT, in_transformers_names(8, 65), FileGeometry((8, 8), (64, 64))),
        (VIT, {}, FileGeometry()),
        (CNN, shapes(8, 65), FileGeometry()),
    ],
)
def test_geometry(model, weights, geometry):
    assert geometry_of(weights, model) == geometry


def test_notes():
    assert FileGeometry().note is None
    assert FileGeometry(None, (64, 64)).note == "built for images of 64x64 pixels, as its weights are"
    assert FileGeometry((8, 8), None).note == "built for patches of 8x8 pixels, as its weights are"
