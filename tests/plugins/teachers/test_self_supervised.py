"""Named DINO, Mugs and MAE teachers, loaded from files in their published layouts."""

import argparse
from dataclasses import replace
from functools import cache

import pytest
import timm
import torch
from safetensors.torch import save_file

from distillkit.contracts.model import ModelRequest, Signal
from distillkit.errors import WeightsError
from distillkit.plugin.registry import installed_plugins

PLUGINS = installed_plugins()
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
REVEALED = frozenset({Signal.EMBEDDING, Signal.PATCH_TOKENS, Signal.RAW_TOKENS, Signal.CLS_ATTENTION})
NOT_COMMERCIAL = "cc-by-nc-4.0"
S16, B16, L16 = (
    f"vit_{size}_patch16_224.{tag}" for size, tag in (("small", "dino"), ("base", "dino"), ("large", "mae"))
)
NETWORKS = {"ViT-S/16": S16, "ViT-B/16": B16, "ViT-L/16": L16}
GIVE_A_FILE = "; give a file with --teacher-weights"
SAME = "give weights of exactly this architecture"


def request_of(name, weights=None):
    return ModelRequest(name, None, PLUGINS.find("teacher", name).options({}), weights=weights and str(weights))


def describe(name, weights=None):
    return PLUGINS.find("teacher", name).call("describe", request_of(name, weights))


def build(name, weights=None):
    return PLUGINS.find("teacher", name).call("build", request_of(name, weights))


def refused(name, weights):
    """The error message, which is the same from `describe` and `build`."""
    with pytest.raises(WeightsError) as error:
        describe(name, weights)
    with pytest.raises(WeightsError) as of_build:
        build(name, weights)
    assert str(of_build.value) == str(error.value)
    return str(error.value)


def tensors(sizes, value=0.0):
    """Tensors of these sizes with a single value, which take almost no disk space."""
    return {name: torch.full((), value).expand(tuple(size)) for name, size in sizes.items()}


@cache
def shapes(architecture, classes):
    with torch.device("meta"):
        network = timm.create_model(architecture, num_classes=classes)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def backbone(architecture, value=0.0, *, classes=0):
    return tensors(shapes(architecture, classes), value)


def prefixed(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


def block(name, value=0.0):
    """One block of ViT-S under another name."""
    found = {each: tensor for each, tensor in backbone(S16, value).items() if each.startswith("blocks.0.")}
    return {each.replace("blocks.0.", f"{name}.0.", 1): tensor for each, tensor in found.items()}


DINO_HEAD = tensors({"head.mlp.0.weight": (2048, 384), "head.mlp.0.bias": (2048,), "head.last_layer.weight_g": (8, 1)})
MUGS_HEADS = tensors(
    {"instance_head.mlp.0.weight": (2048, 384), "instance_head.norm.weight": (8,), "group_head.norm.weight": (8,)}
)
MAE_DECODER = {
    **tensors({"mask_token": (1, 1, 512), "decoder_pos_embed": (1, 197, 512), "decoder_embed.weight": (512, 384)}),
    **block("decoder_blocks"),
    **tensors({"decoder_norm.weight": (512,), "decoder_pred.bias": (768,)}),
}


def dino_checkpoint():
    """What DINO's main_dino.py saves: the student is wrapped for data parallelism, the teacher is not."""
    return {
        "student": prefixed("module.", {**prefixed("backbone.", backbone(S16, 1.0)), **DINO_HEAD}),
        "teacher": {**prefixed("backbone.", backbone(S16, 2.0)), **DINO_HEAD},
        "optimizer": {"state": {0: {"step": torch.tensor(5.0)}}, "param_groups": [{"lr": 5e-4}]},
        "epoch": 800,
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }


def mugs_checkpoint():
    """What Mugs' main.py saves: both wrapped, with relation blocks inside the backbone."""
    parts = {
        role: prefixed(
            "module.",
            {
                **prefixed("backbone.", {**backbone(S16, value), **block("relation_blocks", value)}),
                **MUGS_HEADS,
            },
        )
        for role, value in (("student", 1.0), ("teacher", 2.0))
    }
    memories = {f"{role}_mem": {"queue": torch.zeros(4, 8)} for role in parts}
    return parts | memories | {"optimizer": {"state": {}}, "epoch": 99, "fp16_scaler": {"scale": 2.0}}


def mae_checkpoint():
    """What MAE's main_pretrain.py saves, with the decoder."""
    weights = {**backbone(S16, 2.0), **MAE_DECODER}
    return {"model": weights, "optimizer": {"state": {}}, "epoch": 399, "scaler": {}, "args": argparse.Namespace()}


@pytest.mark.parametrize(
    ("name", "architecture", "geometry", "parameters", "licence"),
    [
        ("dino-vits8", "vit_small_patch8_224.dino", (384, 12, 6, 28), 21_670_272, "apache-2.0"),
        ("dino-vits16", "vit_small_patch16_224.dino", (384, 12, 6, 14), 21_665_664, "apache-2.0"),
        ("dino-vitb8", "vit_base_patch8_224.dino", (768, 12, 12, 28), 85_807_872, "apache-2.0"),
        ("dino-vitb16", "vit_base_patch16_224.dino", (768, 12, 12, 14), 85_798_656, "apache-2.0"),
        ("mae-vitb16", "vit_base_patch16_224.mae", (768, 12, 12, 14), 85_798_656, NOT_COMMERCIAL),
        ("mae-vits16", "ViT-S/16", (384, 12, 6, 14), 21_665_664, None),
        ("mugs-vits16", "ViT-S/16", (384, 12, 6, 14), 21_665_664, "apache-2.0"),
        ("mugs-vitb16", "ViT-B/16", (768, 12, 12, 14), 85_798_656, "apache-2.0"),
        ("mugs-vitl16", "ViT-L/16", (1024, 24, 16, 14), 303_301_632, "apache-2.0"),
    ],
)
def test_description(tmp_path, name, architecture, geometry, parameters, licence):
    weights = None
    if "/" in architecture:
        weights = tmp_path / "weights.pth"
        torch.save(backbone(NETWORKS[architecture]), weights)
    spec = describe(name, weights)
    assert (spec.name, spec.architecture, spec.kind, spec.parameters) == (name, architecture, "vit", parameters)
    assert (spec.width, spec.layers, spec.heads, spec.grid[0]) == geometry
    assert (spec.classes, spec.class_names, spec.head_modules, spec.prefix_tokens) == (0, None, (), 1)
    assert (spec.signals, spec.silent) == (REVEALED, {})
    assert ((spec.mean, spec.std), spec.image_size) == (IMAGENET, (224, 224))
    assert spec.licence == licence == PLUGINS.find("teacher", name).spec.licence
    assert PLUGINS.find("teacher", name).spec.signals == REVEALED
    assert describe(name, "none").licence is None


@pytest.mark.parametrize("name", ["mugs-vits16", "mugs-vitb16", "mugs-vitl16"])
def test_mugs_comes_from_a_file(name):
    reason = f"the weights of '{name}' cannot be downloaded: its authors publish them at github.com/sail-sg/mugs"
    for weights in (None, "pretrained"):
        assert PLUGINS.find("teacher", name).load().why_unavailable(request_of(name, weights)) == reason
        assert refused(name, weights) == reason + GIVE_A_FILE


def test_small_mae_comes_from_a_file():
    assert refused("mae-vits16", None) == (
        "the weights of 'mae-vits16' cannot be downloaded: the authors of MAE (github.com/facebookresearch/mae) "
        "publish no weights of this size" + GIVE_A_FILE
    )


@pytest.mark.parametrize(
    ("name", "content", "left_out"),
    [
        ("dino-vits16", dino_checkpoint, "head (3 tensors)"),
        (
            "mugs-vits16",
            mugs_checkpoint,
            "backbone.relation_blocks (12 tensors), instance_head (2 tensors), group_head",
        ),
        (
            "mae-vits16",
            mae_checkpoint,
            ("mask_token, decoder_pos_embed, decoder_embed, decoder_blocks (12 tensors), decoder_norm, decoder_pred"),
        ),
    ],
)
def test_complete_training_checkpoint(tmp_path, name, content, left_out):
    """Of DINO and Mugs the teacher's backbone (2.0), not the student's (1.0)."""
    path = tmp_path / "checkpoint.pth"
    torch.save(content(), path)
    teacher = build(name, path)
    assert teacher.spec == describe(name, path)
    part = f"{path} has 'student' besides 'teacher', which is loaded; {path}#student loads the other"
    of_file = () if name == "mae-vits16" else (part,)
    assert teacher.load_report.notes == (*of_file, f"left out: {left_out}")
    assert (teacher.load_report.source, teacher.load_report.loaded) == (str(path), 150)
    assert all((tensor == 2).all() for tensor in teacher.network.state_dict().values())


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "encoder.", "module.backbone.", "module.encoder."])
def test_backbone_alone(tmp_path, prefix):
    path, weights = tmp_path / "backbone.pth", prefixed(prefix, backbone(S16, 2.0))
    torch.save({"state_dict": weights} if prefix else weights, path)
    teacher = build("mugs-vits16", path)
    assert teacher.load_report.notes == ()
    assert all((tensor == 2).all() for tensor in teacher.network.state_dict().values())
    assert teacher.spec.licence == "apache-2.0"


def test_backbone_in_safetensors(tmp_path):
    weights = {name: tensor.contiguous() for name, tensor in backbone(S16, 2.0).items()}
    save_file(weights, tmp_path / "backbone.safetensors")
    assert build("mugs-vits16", tmp_path / "backbone.safetensors").load_report.loaded == 150


@pytest.mark.parametrize(
    ("name", "architecture"), [("mugs-vitb16", B16), ("mugs-vitl16", L16), ("dino-vits8", "vit_small_patch8_224.dino")]
)
def test_every_size_is_checked_against_its_file(tmp_path, name, architecture):
    torch.save(backbone(architecture), tmp_path / "backbone.pth")
    spec = describe(name, tmp_path / "backbone.pth")
    assert spec == replace(describe(name, "none"), licence="apache-2.0")


def test_class_head_is_left_out(tmp_path):
    torch.save(backbone(S16, 2.0, classes=10), tmp_path / "supervised.pth")
    teacher = build("dino-vits16", tmp_path / "supervised.pth")
    assert teacher.load_report.notes == ("left out: head (2 tensors)",)
    assert (teacher.spec.classes, teacher.spec.signals) == (0, REVEALED)


def test_missing_tensor(tmp_path):
    content = mae_checkpoint()
    del content["model"]["blocks.3.attn.qkv.bias"]
    torch.save(content, tmp_path / "w.pth")
    assert refused("mae-vits16", tmp_path / "w.pth") == (
        f"{tmp_path / 'w.pth'} does not fit 'mae-vits16' (ViT-S/16): "
        f"1 of 150 tensors are missing (blocks.3.attn.qkv.bias); {SAME}"
    )


def test_deeper_network_is_refused(tmp_path):
    more = {name.replace("blocks.0.", "blocks.12."): tensor for name, tensor in block("blocks").items()}
    torch.save({**backbone(S16), **more}, tmp_path / "w.pth")
    assert refused("mugs-vits16", tmp_path / "w.pth") == (
        f"{tmp_path / 'w.pth'} does not fit 'mugs-vits16' (ViT-S/16): 12 of 150 tensors are unexpected "
        f"(blocks.12.norm1.weight, blocks.12.norm1.bias, blocks.12.attn.qkv.weight, ...); {SAME}"
    )


def test_wrong_size(tmp_path):
    torch.save(mugs_checkpoint(), tmp_path / "w.pth")
    assert refused("mugs-vitb16", tmp_path / "w.pth") == (
        f"{tmp_path / 'w.pth'} does not fit 'mugs-vitb16' (ViT-B/16): 150 of 150 tensors have another shape "
        "(cls_token [1, 1, 384] instead of [1, 1, 768], pos_embed [1, 197, 384] instead of [1, 197, 768], "
        f"patch_embed.proj.weight [384, 3, 16, 16] instead of [768, 3, 16, 16], ...); {SAME}"
    )


def test_wrong_patch(tmp_path):
    torch.save(backbone(S16), tmp_path / "w.pth")
    assert refused("dino-vits8", tmp_path / "w.pth") == (
        f"{tmp_path / 'w.pth'} does not fit 'dino-vits8' without resampling pos_embed from [1, 197, 384] to "
        f"[1, 785, 384] and resampling patch_embed.proj.weight from [384, 3, 16, 16] to [384, 3, 8, 8]; {SAME}"
    )


def test_file_of_another_layout(tmp_path):
    weights = timm.create_model("test_resnet").state_dict()
    torch.save(weights, tmp_path / "w.pth")
    assert refused("mugs-vits16", tmp_path / "w.pth") == (
        f"{tmp_path / 'w.pth'} does not fit 'mugs-vits16' (ViT-S/16): 150 of 150 tensors are missing "
        f"(cls_token, pos_embed, patch_embed.proj.weight, ...); {len(weights)} of 150 tensors are unexpected "
        f"({', '.join(list(weights)[:3])}, ...); {SAME}"
    )


@pytest.mark.parametrize("name", ["mugs-vits16", "mae-vits16"])
def test_embedding_is_the_class_token_after_the_final_norm(tmp_path, name):
    torch.manual_seed(0)
    network = timm.create_model(S16, num_classes=0).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    teacher, images = build(name, tmp_path / "w.pth").eval(), torch.randn(1, 3, 224, 224)
    last = dict.fromkeys(REVEALED, (11,))
    with torch.no_grad():
        outputs, tokens = teacher(images, last), network.forward_features(images)
    assert outputs.logits is None
    torch.testing.assert_close(outputs.embedding[0], tokens[:, 0])
    torch.testing.assert_close(outputs.patch_tokens[0], tokens[:, 1:])
    assert tuple(outputs.cls_attention.shape) == (1, 1, 6, 197)
    torch.testing.assert_close(outputs.cls_attention.sum(dim=-1), torch.ones(1, 1, 6))
