"""The cases of export_parity.py: students of distillkit, options of the graph, and architectures of timm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One student, and its export options `graph`. `trained_by` is the loss with which it is trained first."""

    kind: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    graph: dict[str, Any] = field(default_factory=dict)
    trained_by: str | None = None

    @property
    def name(self) -> str:
        """Unique, and short enough for a table: "deit-ti, patch=8; head=class", with the graph options last."""
        shown = self.options | ({"loss": self.trained_by} if self.trained_by else {})
        student = ", ".join([self.model, *(f"{key}={_shown(value)}" for key, value in shown.items())])
        graph = ", ".join(f"{key}={_shown(value)}" for key, value in self.graph.items())
        return f"{student}; {graph}" if graph else student


def _shown(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


SMALL = {"image_size": 32, "patch": 4, "width": 96, "depth": 4, "heads": 3}
DIGITS = {"image_size": 8, "patch": 2, "width": 48, "depth": 2, "heads": 3}

STUDENTS = (
    *(Case("students", f"{kind}-ti") for kind in ("deit", "vit")),
    *(Case("students", f"{kind}-{size}", {"image_size": 96}) for kind in ("deit", "vit") for size in ("s", "b")),
    Case("students", "deit-ti", SMALL),
    Case("students", "vit-ti", SMALL),
    Case("students", "deit-ti", SMALL | {"position": "sincos"}),
    Case("students", "vit-ti", SMALL | {"position": "sincos"}),
    Case("students", "deit-ti", SMALL | {"image_size": [32, 48], "patch": 8}),
    Case("students", "vit-ti", {"patch": 32, "depth": 8}),
    Case("students", "vit-ti", {"drop_path": 0.1, "dropout": 0.1}),
    Case("students", "small-cnn"),
    Case("students", "small-cnn", {"image_size": [8, 12], "width": 8}),
    Case("students", "deit-ti", DIGITS, trained_by="hard"),
    Case("students", "deit-ti", DIGITS, trained_by="soft"),
    Case("students", "vit-ti", DIGITS, trained_by="advit-l1"),
    Case("students", "vit-ti", DIGITS, trained_by="attndistill"),
    *(
        Case("graph options", "deit-ti", SMALL, {"head": head, "fusion": fusion})
        for head, fusion in (("class", "logits"), ("distill", "logits"), ("fused", "softmax"))
    ),
    Case("graph options", "deit-ti", SMALL, {"softmax": True}),
    Case("graph options", "deit-ti", SMALL, {"fusion": "softmax", "softmax": True}),
    Case("graph options", "deit-ti", SMALL, {"uint8": True}),
    Case("graph options", "deit-ti", SMALL, {"image_size": (48, 64)}),
    Case("graph options", "vit-ti", SMALL | {"position": "sincos"}, {"image_size": (48, 64)}),
    Case("graph options", "deit-ti", SMALL, {"dynamic_size": True}),
    Case("graph options", "vit-ti", SMALL, {"dynamic_size": True, "uint8": True, "softmax": True}),
    *(Case("graph options", "deit-ti", SMALL, {"opset": opset}) for opset in (18, 19, 21, 22, 23)),
    Case("graph options", "small-cnn", {}, {"dynamic_size": True}),
    *(
        Case("graph options", f"timm:{name}", {"image_size": 96}, {"dynamic_size": True})
        for name in ("resnet18", "convnext_atto", "efficientnet_b0", "mobilenetv3_small_100", "regnety_002")
    ),
    Case("graph options", "timm:mobileone_s0", {"image_size": 96}, {"dynamic_size": True, "uint8": True}),
    Case("graph options", "timm:vit_tiny_patch16_224", {"image_size": 96}, {"dynamic_size": True}),
    Case("graph options", "timm:vit_small_patch16_dinov3", {"image_size": 96}, {"dynamic_size": True}),
    Case("graph options", "timm:swin_tiny_patch4_window7_224", {}, {"image_size": (256, 256)}),
    Case("graph options", "timm:eva02_tiny_patch14_224", {}, {"image_size": (168, 224)}),
)

ARCHITECTURES = {
    "vision transformers": (
        "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224",
        "vit_small_patch16_dinov3", "vit_small_patch14_reg4_dinov2", "vit_medium_patch16_reg4_gap_256",
        "vit_relpos_small_patch16_224", "vit_base_patch32_siglip_256", "flexivit_small",
        "eva02_tiny_patch14_224", "beit_base_patch16_224", "cait_xxs24_224", "xcit_nano_12_p16_224",
        "convit_tiny", "crossvit_9_240", "volo_d1_224", "tiny_vit_5m_224",
    ),
    "windows and stages": (
        "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_ns_224", "hiera_tiny_224",
        "twins_svt_small", "twins_pcpvt_small", "pvt_v2_b0", "davit_tiny", "mvitv2_tiny", "nest_tiny",
        "gcvit_xxtiny", "focalnet_tiny_srf", "pit_ti_224", "pit_ti_distilled_224", "coat_lite_tiny",
    ),
    "convolution and attention": (
        "levit_128s", "maxvit_nano_rw_256", "coatnet_nano_rw_224", "mobilevit_xxs", "mobilevitv2_050",
        "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "efficientvit_b0", "efficientvit_m0",
        "fastvit_t8", "visformer_tiny", "poolformer_s12", "caformer_s18", "nextvit_small", "repvit_m0_9",
        "shvit_s1", "swiftformer_xs", "halonet26t", "sebotnet33ts_256", "lambda_resnet26t",
    ),
    "perceptrons and recurrence": (
        "mixer_s32_224", "resmlp_12_224", "gmlp_s16_224", "sequencer2d_s", "mambaout_femto",
    ),
    "convolutions": (
        "resnet18", "resnet50d", "seresnext26d_32x4d", "resnest14d", "skresnet18", "res2net50_14w_8s",
        "resnetv2_50x1_bit", "regnetx_002", "regnety_002", "efficientnet_b0", "tf_efficientnetv2_b0",
        "mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv4_conv_small", "mobileone_s0", "repvgg_a0",
        "ghostnet_100", "ghostnetv3_050", "densenet121", "inception_v3", "inception_next_atto", "xception41",
        "convnext_atto", "convnextv2_atto", "convmixer_768_32", "hrnet_w18_small", "dla34", "dpn48b", "vgg11",
        "ese_vovnet19b_dw", "cspresnet50", "nf_regnet_b0", "eca_nfnet_l0", "rexnet_100", "tresnet_m",
        "hgnetv2_b0", "starnet_s1", "lcnet_050", "tinynet_e", "rdnet_tiny",
    ),
}  # fmt: skip
SMALLER = {
    "vit_tiny_patch16_224": 112, "deit_tiny_distilled_patch16_224": 112, "deit3_small_patch16_224": 112,
    "vit_small_patch16_dinov3": 112, "vit_small_patch14_reg4_dinov2": 112, "vit_medium_patch16_reg4_gap_256": 128,
    "vit_relpos_small_patch16_224": 112, "vit_base_patch32_siglip_256": 128, "flexivit_small": 112,
    "eva02_tiny_patch14_224": 112, "beit_base_patch16_224": 112, "cait_xxs24_224": 112,
    "swinv2_tiny_window8_256": 128, "maxvit_nano_rw_256": 128, "convmixer_768_32": 64, "poolformer_s12": 128,
    "caformer_s18": 128, "nextvit_small": 128, "mambaout_femto": 128, "fastvit_t8": 128, "focalnet_tiny_srf": 128,
}  # fmt: skip
"""Image sizes in pixels for networks that are slow at their native size."""
CONVOLUTION_SIZE = 128
"""Image size in pixels for networks without attention, for the same reason."""


def cases() -> tuple[Case, ...]:
    """All cases, in the order of the table."""
    known = []
    for kind, names in ARCHITECTURES.items():
        for name in names:
            size = SMALLER.get(name, CONVOLUTION_SIZE if kind == "convolutions" else None)
            known.append(Case(kind, f"timm:{name}", {} if size is None else {"image_size": size}))
    return *STUDENTS, *known
