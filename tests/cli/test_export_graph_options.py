"""What `distillkit export` says to sizes that cannot be, before anything is written."""

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


@pytest.mark.parametrize("asked", REFUSALS)
def test_size_that_cannot_be_is_one_sentence(distillkit, tmp_path, asked):
    done = distillkit("export", *asked, "--weights", "none", "--out", str(tmp_path / "export"))
    assert (done.code, done.out) == (2, "")
    assert " ".join(done.err.split()) == f"error: {REFUSALS[asked]}"
    assert list(tmp_path.iterdir()) == []
