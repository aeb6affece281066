"""Networks without class token rows, and the reason for each."""

import pytest
import timm
import torch

from distillkit.contracts.model import Read, Signal
from distillkit.contracts.signal_matching import check_reads
from distillkit.errors import SignalError
from distillkit.models import TimmModel, sketching
from distillkit.models.cls_attention import why_no_rows

ROWS = Signal.CLS_ATTENTION
SILENT = {
    "swin_tiny_patch4_window7_224": "its attention is windowed",
    "maxvit_tiny_tf_224": "its attention is windowed",
    "samvit_base_patch16_224": "its attention is windowed",
    "vit_medium_patch16_rope_reg1_gap_256": "it has no class token",
    "deepseek_vit_412m": "it has no class token",
    "cait_xxs24_224": "its attention mixes the heads (talking heads)",
    "xcit_nano_12_p16_224": "its class token attends only in the last blocks",
    "beit_base_patch16_224": "its attention adds a relative position bias",
    "vit_relpos_medium_patch16_cls_224": "its attention adds a relative position bias",
    "levit_128s": "its attention adds a relative position bias",
    "vit_base_patch16_siglip_224": "it has no class token",
    "vit_medium_patch16_gap_240": "it has no class token",
    "vit_dwee_patch16_reg1_gap_256": "it has no class token",
    "naflexvit_base_patch16_gap": "it is a NaFlex network, whose batches may be padded",
    "naflexvit_base_patch16_radio_v3": "it is a NaFlex network, whose batches may be padded",
    "mixer_b16_224": "it has no attention",
    "vit_base_patch16_xp_224": "its blocks have a custom attention",
    "vit_small_patch16_18x2_224": "its blocks have a custom attention",
    "pit_ti_224": "its blocks have a custom attention",
}


@pytest.mark.parametrize("architecture", SILENT)
def test_spec_has_the_reason_why_attention_is_not_revealed(architecture):
    spec = TimmModel.describe(architecture, name="model")
    assert ROWS not in spec.signals
    assert spec.silent[ROWS] == SILENT[architecture]


@pytest.mark.parametrize("architecture", ["deit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_networks_that_drop_patches_in_training_reveal_no_rows(architecture):
    spec = TimmModel.describe(architecture, name="model", patch_drop_rate=0.5)
    assert spec.silent == {ROWS: "it drops patches in training"}


def test_subclasses_are_refused():
    class Reversed(timm.models.vision_transformer.VisionTransformer):
        """Puts its class token last."""

    with torch.device("meta"):
        assert why_no_rows(Reversed(depth=1)) == "its blocks have a custom attention"


def test_a_cnn_needs_no_reason():
    spec = TimmModel.describe("regnety_002", name="model")
    assert (spec.kind, dict(spec.silent)) == ("cnn", {})


def test_a_refused_loss_gives_the_reason():
    spec = TimmModel.describe("swin_tiny_patch4_window7_224", name="swin-t")
    others = {"hard": frozenset({Signal.LOGITS})}
    with pytest.raises(SignalError) as refusal:
        check_reads("advit-l1", [Read(ROWS, "all")], role="teacher", spec=spec, alternatives=others)
    assert str(refusal.value) == (
        "loss 'advit-l1' reads the teacher's CLS attention; teacher 'swin-t' does not reveal it because its attention "
        "is windowed; it reveals logits, embedding, patch tokens; try --loss hard"
    )


@pytest.mark.slow
def test_readable_network_classes_in_timm():
    """A new network class in timm does not become readable unnoticed."""
    readable = set()
    larger_twins = ["*large*", "*huge*", "*gi*ant*", "*gigantic*", "*so[14]*", "*_[0-9]b_*"]
    for architecture in timm.list_models(["*vit*", "*deit*", "*beit*", "eva*"], exclude_filters=larger_twins):
        with sketching():
            network = timm.create_model(architecture)
        if why_no_rows(network) is None:
            readable.add((type(network).__name__, type(network.blocks[0]).__name__))
    assert readable == {
        ("VisionTransformer", "Block"),
        ("VisionTransformerDistilled", "Block"),
        ("Eva", "EvaBlock"),
        ("Eva", "EvaBlockPostNorm"),
    }


@pytest.mark.parametrize("architecture", ["eva_giant_patch14_224", "eva_giant_patch14_clip_224"])
def test_eva_without_rotary_positions_is_read(architecture):
    spec = TimmModel.describe(architecture, name="model")
    assert ROWS in spec.signals
    assert (spec.heads, spec.layers, spec.prefix_tokens, dict(spec.silent)) == (16, 40, 1, {})
