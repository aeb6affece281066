"""DINOv2, DINOv3, SigLIP2, CLIP, TIPSv2, C-RADIO and EVA02 by name, from files in timm's and in published layouts."""

from dataclasses import replace

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg
from torch.nn import functional

from distillkit.contracts.model import ModelRequest, Signal
from distillkit.errors import WeightsError
from distillkit.plugin.registry import installed_plugins
from distillkit_plugins.teachers.known import KNOWN

PLUGINS = installed_plugins()
TOKENS = frozenset({Signal.EMBEDDING, Signal.PATCH_TOKENS, Signal.RAW_TOKENS})
ROWS = TOKENS | {Signal.CLS_ATTENTION}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF, RAW = ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3)
APACHE, DINOV3, NVIDIA = "apache-2.0", "dinov3-license", "nvidia-open-model-license"
S, B, L = (384, 12, 6), (768, 12, 12), (1024, 24, 16)
TEACHERS = {
    # name: (width, layers, heads), image size, grid, prefix tokens, normalisation, signals, licence
    **{
        f"dinov2-vit{size}14{suffix}": (geometry, 224, 16, prefix, IMAGENET, ROWS, APACHE)
        for size, geometry in (("s", S), ("b", B), ("l", L))
        for suffix, prefix in (("", 1), ("-reg", 5))
    },
    **{
        f"dinov3-vit{size}16": (geometry, 256, 16, 5, IMAGENET, ROWS, DINOV3)
        for size, geometry in (("s", S), ("b", B), ("l", L))
    },
    "dinov3-convnext-t": ((768, 4, None), 224, 7, 0, IMAGENET, TOKENS, DINOV3),
    "dinov3-convnext-s": ((768, 4, None), 224, 7, 0, IMAGENET, TOKENS, DINOV3),
    "dinov3-convnext-b": ((1024, 4, None), 224, 7, 0, IMAGENET, TOKENS, DINOV3),
    "siglip2-b16": (B, 224, 14, 0, HALF, TOKENS, APACHE),
    "clip-b16": (B, 224, 14, 1, CLIP, ROWS, APACHE),
    "tipsv2-b14": (B, 224, 16, 2, RAW, ROWS, APACHE),
    "c-radio-b16": (B, 256, 16, 8, CLIP, ROWS, NVIDIA),
    "eva02-s14": (S, 224, 16, 1, CLIP, ROWS, "mit"),
}
BY_CLASS_TOKEN = [name for name, facts in TEACHERS.items() if Signal.CLS_ATTENTION in facts[5]]
NARROW = {"depth": 1, "embed_dim": 48, "num_heads": 3}
SHALLOW = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
SMALLEST = ["dinov2-vits14", "dinov2-vits14-reg", "dinov3-vits16", "dinov3-convnext-t", *list(TEACHERS)[-5:]]
"""One of each family."""


def request_of(name, weights=None, **options):
    return ModelRequest(name, None, PLUGINS.find("teacher", name).options(options), weights=weights and str(weights))


def describe(name, weights=None, **options):
    return PLUGINS.find("teacher", name).call("describe", request_of(name, weights, **options))


def build(name, weights=None, **options):
    return PLUGINS.find("teacher", name).call("build", request_of(name, weights, **options))


@pytest.fixture
def small(monkeypatch):
    """Make the network of a named teacher small; return timm's arguments for the same."""

    def shrink(name):
        known = KNOWN[name]
        arguments = SHALLOW if "convnext" in name else NARROW
        monkeypatch.setitem(KNOWN, name, replace(known, arguments={**known.arguments, **arguments}))
        return arguments

    return shrink


def published(name, arguments, *, biases=False):
    """The state dict of timm's repository: its own size, pooling and head, here with random weights."""
    torch.manual_seed(0)
    network = timm.create_model(KNOWN[name].with_biases if biases else KNOWN[name].network, **arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return network.state_dict()


@pytest.mark.parametrize("name", TEACHERS)
def test_description(name):
    (width, layers, heads), side, grid, prefix, normalisation, signals, licence = TEACHERS[name]
    spec, plugin = describe(name), PLUGINS.find("teacher", name).spec
    assert (spec.width, spec.layers, spec.heads, spec.prefix_tokens) == (width, layers, heads, prefix)
    assert (spec.image_size, spec.grid, (spec.mean, spec.std)) == ((side, side), (grid, grid), normalisation)
    assert (spec.classes, spec.class_names, spec.head_modules) == (0, None, ())
    assert (spec.signals, spec.licence) == (signals, licence)
    assert (plugin.signals, plugin.licence) == (signals, licence)
    assert describe(name, "none").licence is None
    assert get_pretrained_cfg(KNOWN[name].network).license == licence


@pytest.mark.parametrize("name", SMALLEST)
def test_embedding_and_patch_tokens_are_those_of_timm(tmp_path, small, name):
    arguments = small(name)
    weights = published(name, arguments)
    torch.save(weights, tmp_path / "w.pth")
    teacher = build(name, tmp_path / "w.pth").eval()
    size = teacher.spec.image_size[0]
    options = {} if "convnext" in name else {"img_size": size}
    pooling = {"global_pool": "token"} if name in BY_CLASS_TOKEN else {}
    network = timm.create_model(KNOWN[name].network, num_classes=0, **arguments, **options, **pooling).eval()
    moved = {name.replace("fc_norm", "norm"): tensor for name, tensor in weights.items() if name[:5] != "head."}
    if "convnext" in name:
        moved = weights
    if "pos_embed" in moved:
        patch = network.patch_embed.patch_size[0]
        patches = (get_pretrained_cfg(KNOWN[name].network).input_size[1] // patch) ** 2
        prefix, mode = moved["pos_embed"].shape[1] - patches, "bilinear" if "radio" in name else "bicubic"
        moved["pos_embed"] = resized(moved["pos_embed"], prefix, size // patch, mode)
    network.load_state_dict(moved)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        outputs = teacher(images, dict.fromkeys(teacher.spec.signals, (teacher.spec.layers - 1,)))
        tokens = network.forward_features(images)
        pooled = network.forward_head(tokens, pre_logits=True)
    expected = tokens[:, teacher.spec.prefix_tokens :] if tokens.dim() == 3 else tokens.flatten(2).transpose(1, 2)
    torch.testing.assert_close(outputs.patch_tokens[0], expected)
    torch.testing.assert_close(outputs.embedding[0], pooled)
    if name in BY_CLASS_TOKEN:
        torch.testing.assert_close(outputs.embedding[0], tokens[:, 0])
        assert outputs.cls_attention.shape == (2, 1, 3, 1 + expected.shape[1])


def resized(positions, prefix, side, mode):
    """Position embedding of a square grid of another side; the prefix tokens keep theirs."""
    kept, grid = positions[:, :prefix], positions[:, prefix:]
    old = round(grid.shape[1] ** 0.5)
    grid = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    if old != side:
        grid = functional.interpolate(grid, size=(side, side), mode=mode, align_corners=False)
    return torch.cat([kept, grid.flatten(2).transpose(1, 2)], dim=1)


def renamed(weights, *pairs):
    """The weights with parts of their names replaced, in this order."""
    result = weights
    for old, new in pairs:
        result = {name.replace(old, new): tensor for name, tensor in result.items()}
    return result


def of_dinov2(weights):
    return {**weights, "mask_token": torch.zeros(1, 48)}


def of_dinov2_with_registers(weights):
    shift = torch.full((1, 1, 48), 0.5)
    rest = {name: tensor for name, tensor in weights.items() if name not in ("reg_token", "cls_token", "pos_embed")}
    return rest | {
        "mask_token": torch.zeros(1, 48),
        "register_tokens": weights["reg_token"],
        "cls_token": weights["cls_token"] - shift,
        "pos_embed": torch.cat([shift, weights["pos_embed"]], dim=1),
    }


def of_dinov3(weights):
    """With one bias of query, key and value: zeros for the keys, masked in training."""
    rest = renamed(weights, ("gamma_", "ls"), ("reg_token", "storage_tokens"))
    rest = {f"{name}.gamma" if name.endswith((".ls1", ".ls2")) else name: tensor for name, tensor in rest.items()}
    query, value = (rest.pop(f"blocks.0.attn.{part}_bias") for part in "qv")
    return rest | {
        "blocks.0.attn.qkv.bias": torch.cat([query, torch.zeros(48), value]),
        "blocks.0.attn.qkv.bias_mask": torch.ones(144),
        "mask_token": torch.zeros(1, 48),
        "rope_embed.periods": torch.ones(4),
    }


def of_dinov3_convnext(weights):
    names = renamed(
        weights,
        ("stem.", "downsample_layers.0."),
        ("blocks.", ""),
        ("conv_dw", "dwconv"),
        ("mlp.fc", "pwconv"),
        ("head.norm", "norm"),
    )
    for stage in (1, 2, 3):
        names = renamed(names, (f"stages.{stage}.downsample.", f"downsample_layers.{stage}."))
    return names | {"norms.3.weight": names["norm.weight"], "norms.3.bias": names["norm.bias"]}


def of_open_clip(weights):
    return {f"visual.trunk.{name}": tensor for name, tensor in weights.items()} | {
        "text.token_embedding.weight": torch.zeros(9, 48),
        "logit_scale": torch.zeros(()),
    }


def of_openai(weights):
    names = renamed(
        {name: tensor for name, tensor in weights.items() if not name.startswith("head.")},
        ("norm_pre", "ln_pre"),
        ("norm1", "ln_1"),
        ("norm2", "ln_2"),
        ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj", "attn.out_proj"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("blocks.", "transformer.resblocks."),
        ("patch_embed.proj", "conv1"),
        ("pos_embed", "positional_embedding"),
        ("cls_token", "class_embedding"),
    )
    names = {f"ln_post.{name[5:]}" if name.startswith("norm.") else name: tensor for name, tensor in names.items()}
    names["positional_embedding"] = names["positional_embedding"][0]
    names["class_embedding"] = names["class_embedding"][0, 0]
    names["proj"] = weights["head.weight"].T
    text = {"transformer.resblocks.0.ln_1.weight": torch.ones(48), "positional_embedding": torch.zeros(77, 48)}
    return {f"visual.{name}": tensor for name, tensor in names.items()} | text | {"logit_scale": torch.zeros(())}


def of_tips(weights):
    inner = of_dinov2_with_registers(weights)
    return {f"vision_encoder.{name}": tensor for name, tensor in inner.items()} | {
        "text_encoder.ln_final.weight": torch.ones(48)
    }


def of_radio(weights):
    tokens = torch.cat([weights["cls_token"][0], weights["reg_token"][0]])
    blocks = {name: tensor for name, tensor in weights.items() if name.startswith("blocks.")}
    inner = blocks | {
        "patch_generator.embedder.weight": weights["patch_embed.proj.weight"].flatten(1),
        "patch_generator.pos_embed": weights["pos_embed"],
        "patch_generator.cls_token.token": tokens,
    }
    return {f"radio_model.model.{name}": tensor for name, tensor in inner.items()} | {
        "radio_model.summary_idxs": torch.tensor([0, 1]),
        "radio_model.input_conditioner.norm_mean": torch.zeros(3, 1, 1),
    }


def of_eva02(weights):
    names = renamed(weights, ("mlp.fc1", "mlp.w12"), ("mlp.fc2", "mlp.w3"), ("fc_norm", "norm"))
    extra = {"mask_token": torch.zeros(1, 1, 48), "lm_head.weight": torch.zeros(9, 48)}
    rope = {"rope.freqs_cos": torch.zeros(256, 16), "blocks.0.attn.rope.freqs_sin": torch.zeros(256, 16)}
    return {"module": names | extra | rope}


PUBLISHED = {
    "dinov2-vits14": of_dinov2,
    "dinov2-vits14-reg": of_dinov2_with_registers,
    "dinov3-vits16": of_dinov3,
    "dinov3-convnext-t": of_dinov3_convnext,
    "siglip2-b16": of_open_clip,
    "clip-b16": of_openai,
    "tipsv2-b14": of_tips,
    "c-radio-b16": of_radio,
    "eva02-s14": of_eva02,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_file_of_the_authors_loads_as_timms_does(tmp_path, small, name):
    arguments = small(name)
    weights = published(name, arguments, biases=name == "dinov3-vits16")
    if name == "c-radio-b16":
        weights["patch_embed.proj.bias"].zero_()  # the authors' projection has none
    torch.save(weights, tmp_path / "timm.pth")
    torch.save(PUBLISHED[name](weights), tmp_path / "authors.pth")
    by_timm, by_authors = (build(name, tmp_path / f"{who}.pth") for who in ("timm", "authors"))
    expected = by_timm.network.state_dict()
    for key, tensor in by_authors.network.state_dict().items():
        torch.testing.assert_close(tensor, expected[key], msg=key)
    assert by_authors.spec == by_timm.spec
    assert by_authors.spec.licence == TEACHERS[name][-1]


def test_a_file_with_attention_biases_gets_the_network_that_has_them(tmp_path, small):
    arguments = small("dinov3-vits16")
    for biases in (False, True):
        torch.save(published("dinov3-vits16", arguments, biases=biases), tmp_path / f"{biases}.pth")
    without, with_biases = (describe("dinov3-vits16", tmp_path / f"{each}.pth") for each in (False, True))
    assert without.architecture == "vit_small_patch16_dinov3.lvd1689m"
    assert with_biases.architecture == "vit_small_patch16_dinov3_qkvb.lvd1689m"


def test_another_image_size_and_its_note(tmp_path, small):
    torch.save(published("dinov2-vits14", small("dinov2-vits14")), tmp_path / "w.pth")
    resizing = "the position embedding was resized from 37x37 to {0}x{0} patches"
    for options, grid in (({}, 16), ({"image_size": 112}, 8)):
        teacher = build("dinov2-vits14", tmp_path / "w.pth", **options)
        assert teacher.load_report.notes == (resizing.format(grid),)
    assert build("dinov2-vits14", tmp_path / "w.pth", image_size=518).load_report.notes == ()


def test_a_file_without_the_class_token_is_refused_for_that(tmp_path, small):
    arguments = small("dinov2-vits14")
    torch.save(timm.create_model("vit_base_patch16_siglip_224", **arguments).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError) as refusal:
        describe("dinov2-vits14", tmp_path / "w.pth")
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path / 'w.pth'} does not fit 'dinov2-vits14' (vit_small_patch14_dinov2.lvd142m): ")
    assert "tensors are missing (cls_token, " in message
    assert message.endswith("give weights of exactly this architecture")


def test_a_vit_whose_norm_was_trained_after_mean_pooling_is_refused(tmp_path, small):
    """A DINOv3 file of timm has the same tensors, but there the class token was trained under that norm."""
    network = timm.create_model("vit_small_patch14_dinov2", **small("dinov2-vits14"), num_classes=0, global_pool="avg")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError) as refusal:
        describe("dinov2-vits14", tmp_path / "w.pth")
    assert "tensors are missing (norm.weight, norm.bias)" in str(refusal.value)
    assert str(refusal.value).endswith(
        "; it was trained with mean pooling (fc_norm), and this network reads the class token, whose norm is missing; "
        "give weights with the pooling of this architecture"
    )


def test_a_file_of_another_pooling_is_refused(tmp_path, small):
    arguments = small("siglip2-b16")
    torch.save(timm.create_model("vit_base_patch16_siglip_gap_224", **arguments).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError) as refusal:
        describe("siglip2-b16", tmp_path / "w.pth")
    assert str(refusal.value) == (
        f"{tmp_path / 'w.pth'} does not fit 'siglip2-b16' (vit_base_patch16_siglip_224.v2_webli): 13 of 30 tensors are "
        "missing (attn_pool.latent, attn_pool.q.weight, attn_pool.q.bias, ...); give weights of exactly this "
        "architecture"
    )
