"""Errors of `distillkit export` about image sizes, before anything is written."""

from __future__ import annotations

import pytest

TIMM_VIT = "model 'timm:vit_tiny_patch16_224' (vit_tiny_patch16_224)"
CONVIT = "model 'timm:convit_tiny' (convit_tiny)"
REFUSALS = {
    ("timm:resnet18", "--image-size", "12,5"): (
        "'12,5' is not an image size; give a number of pixels such as 224, or HEIGHTxWIDTH"
    ),
    ("timm:vit_tiny_patch16_224", "--image-size", "100"): (
        f"{TIMM_VIT} cannot run on 100x100 images: they are not a multiple of its 16x16 patches; choose another "
        "--image-size"
    ),
    ("timm:convit_tiny", "--dynamic-size"): (
        f"{CONVIT} has a fixed image size, so height and width cannot be dynamic; leave out --dynamic-size, or "
        "export one file per size with --image-size"
    ),
}


@pytest.mark.parametrize("arguments", REFUSALS)
def test_impossible_image_size_is_one_error(distillkit, tmp_path, arguments):
    done = distillkit("export", *arguments, "--weights", "none", "--out", str(tmp_path / "export"))
    assert (done.code, done.out) == (2, "")
    assert " ".join(done.err.split()) == f"error: {REFUSALS[arguments]}"
    assert list(tmp_path.iterdir()) == []
