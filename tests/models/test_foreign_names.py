"""Weights with the names of torchvision and transformers: same outputs as the other library, or the same tensors."""

import re

import pytest
import torch
import torchvision

from distillkit.errors import WeightsError
from distillkit.models import TimmModel, TimmRequest, classes_of, load_weights
from distillkit.models.foreign_names import in_timm_names

SMALL = {"image_size": (32, 32), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def vit(classes=7, *, distilled=False):
    architecture = "deit_tiny_distilled_patch16_224" if distilled else "deit_tiny_patch16_224"
    return TimmModel.create(architecture, name="vit", classes=classes, **SMALL)


def randomised(network):
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 0.3)
    return network.eval()


def assert_loaded(model, weights, source, *, notes):
    """Whether all tensors of the model are those of the source after loading."""
    report = load_weights(model, weights, source="w.pth", fit="nothing")
    assert report.notes == notes
    own, other = model.network.state_dict(), source.network.state_dict()
    assert all(torch.equal(own[name], other[name]) for name in other)


@pytest.mark.parametrize(
    ("theirs", "architecture"), [("mobilenet_v2", "mobilenetv2_100"), ("convnext_tiny", "convnext_tiny")]
)
def test_a_network_whose_names_are_not_converted_is_refused_with_a_remedy(theirs, architecture):
    with torch.device("meta"):
        weights = torchvision.models.get_model(theirs, num_classes=3).state_dict()
        model = TimmModel.create(architecture, name="net", classes=7)
    with pytest.raises(WeightsError) as refused:
        load_weights(model, weights, source="w.pth", fit="nothing")
    assert str(refused.value).endswith(
        "; its tensors have the sizes of this network under the names of another library, such as torchvision; rename "
        "them to timm's"
    )
    own = model.network.state_dict()
    renamed = {
        name: tensor.reshape(own[name].shape) for name, tensor in zip(own, list(weights.values())[:-2], strict=False)
    }
    with pytest.raises(WeightsError, match="has no head and 'net' needs one for 7 classes"):
        load_weights(model, renamed, source="w.pth", fit="nothing")
    with pytest.raises(WeightsError, match=r"; give weights of exactly this architecture$"):
        load_weights(model, dict(list(weights.items())[1:]), source="w.pth", fit="nothing")


@pytest.mark.parametrize("prefix", ["", "model.", "net.encoder."])
def test_vit_of_torchvision_gives_its_outputs(prefix):
    theirs = randomised(torchvision.models.VisionTransformer(32, 8, 2, 3, 48, 192, num_classes=7))
    weights = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    sketch = TimmModel.sketch(TimmRequest("deit_tiny_patch16_224", "vit", 1000, (32, 32), vit().arguments))
    assert classes_of(weights, sketch) == 7
    model, images = vit(), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    report = load_weights(model, weights, source="w.pth", fit="nothing")
    assert report.notes == ("converted from the names of torchvision",)
    torch.testing.assert_close(model.eval().network(images), theirs(images))


def test_resnet_of_torchvision_gives_its_outputs():
    theirs = randomised(torchvision.models.resnet18(num_classes=5))
    model = TimmModel.create("resnet18", name="resnet", classes=5)
    assert load_weights(model, theirs.state_dict(), source="w.pth", fit="nothing").notes == ()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.eval().network(images), theirs(images))


OLD = {
    "query": "attention.attention.query", "key": "attention.attention.key", "value": "attention.attention.value",
    "proj": "attention.output.dense", "fc1": "intermediate.dense", "fc2": "output.dense", "layers": "encoder.layer",
}  # fmt: skip
NEW = {
    "query": "attention.q_proj", "key": "attention.k_proj", "value": "attention.v_proj",
    "proj": "attention.o_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2", "layers": "layers",
}  # fmt: skip
"""Names in transformers up to 4 and in files, and those in memory from 5 on."""


def transformers_vit(weights, names, prefix, heads):
    """The names that transformers 5.23 gives to the tensors of timm's ViT; checked against its own models."""
    theirs = {}
    for name, tensor in weights.items():
        block = re.match(r"blocks\.(\d+)\.(.+)\.(weight|bias)$", name)
        if block is None:
            known = {
                "cls_token": "embeddings.cls_token",
                "dist_token": "embeddings.distillation_token",
                "pos_embed": "embeddings.position_embeddings",
            }
            new = known.get(name, name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection"))
            new = re.sub(r"^norm\.", "layernorm.", new)
            for ours, head in heads.items():
                if name.startswith(f"{ours}."):
                    theirs[name.replace(ours, head, 1)] = tensor
                    break
            else:
                theirs[prefix + new] = tensor
            continue
        number, inner, kind = block.groups()
        start = f"{prefix}{names['layers']}.{number}."
        if inner == "attn.qkv":
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                theirs[f"{start}{names[part]}.{kind}"] = piece
        else:
            module = {"norm1": "layernorm_before", "norm2": "layernorm_after"}.get(inner)
            theirs[f"{start}{module or names[inner.rpartition('.')[2]]}.{kind}"] = tensor
    return theirs


@pytest.mark.parametrize("names", [OLD, NEW], ids=["4", "5"])
@pytest.mark.parametrize("outer", ["", "model."])
def test_vit_of_transformers(names, outer):
    model, source = vit(), vit()
    theirs = transformers_vit(source.network.state_dict(), names, "vit.", {"head": "classifier"})
    theirs = {outer + name: tensor for name, tensor in theirs.items()}
    assert f"{outer}vit.{names['layers']}.1.{names['query']}.bias" in theirs
    assert classes_of(theirs, model) == 7
    assert_loaded(model, theirs, source, notes=("converted from the names of transformers",))


@pytest.mark.parametrize("names", [OLD, NEW], ids=["4", "5"])
def test_distilled_deit_of_transformers(names):
    model, source = vit(distilled=True), vit(distilled=True)
    heads = {"head_dist": "distillation_classifier", "head": "cls_classifier"}
    theirs = transformers_vit(source.network.state_dict(), names, "deit.", heads)
    assert "deit.embeddings.distillation_token" in theirs
    assert_loaded(model, theirs, source, notes=("converted from the names of transformers",))


def test_model_of_transformers_without_head_but_with_parts_that_are_not_used():
    model, source = vit(classes=0), vit(classes=0)
    theirs = transformers_vit(source.network.state_dict(), OLD, "", {})
    theirs |= {"pooler.dense.weight": torch.zeros(48, 48), "embeddings.mask_token": torch.zeros(1, 1, 48)}
    notes = ("converted from the names of transformers", "left out: mask_token", "left out: pooler")
    assert_loaded(model, theirs, source, notes=notes)


def transformers_resnet(name):
    name = re.sub(r"^(conv|bn)1\.", r"embedder.embedder.\g<1>.", name)
    stage = re.match(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(.+)", name)
    if stage:
        numbers = f"encoder.stages.{int(stage[1]) - 1}.layers.{stage[2]}.layer.{int(stage[4]) - 1}."
        name = f"{numbers}{stage[3]}.{stage[5]}"
    name = re.sub(r"^layer(\d)\.(\d+)\.downsample\.0", lambda m: _shortcut(m, "conv"), name)
    name = re.sub(r"^layer(\d)\.(\d+)\.downsample\.1", lambda m: _shortcut(m, "bn"), name)
    name = re.sub(r"\.conv\.", ".convolution.", name)
    name = re.sub(r"\.bn\.", ".normalization.", name)
    return name.replace("fc.", "classifier.1.") if name.startswith("fc.") else f"resnet.{name}"


def _shortcut(found, kind):
    return f"encoder.stages.{int(found[1]) - 1}.layers.{found[2]}.shortcut.{kind}"


@pytest.mark.parametrize("architecture", ["resnet18", "resnet26"])
def test_resnet_of_transformers(architecture):
    """ResNet-26 has bottlenecks, as ResNet-50 has."""
    model, source = (TimmModel.create(architecture, name="resnet", classes=5) for _ in range(2))
    theirs = {transformers_resnet(name): tensor for name, tensor in source.network.state_dict().items()}
    assert "resnet.encoder.stages.1.layers.0.shortcut.normalization.running_mean" in theirs
    assert_loaded(model, theirs, source, notes=("converted from the names of transformers",))


def test_incomplete_projection_is_reported_by_name():
    source = vit()
    theirs = transformers_vit(source.network.state_dict(), OLD, "vit.", {"head": "classifier"})
    del theirs["vit.encoder.layer.0.attention.attention.key.weight"]
    converted, _ = in_timm_names(theirs, source.network.state_dict())
    assert "blocks.0.attn.query.weight" in converted
    assert "blocks.0.attn.qkv.bias" in converted


def test_names_that_the_network_has_are_not_changed():
    weights = {"embeddings.patch_embeddings.projection.weight": torch.zeros(1), "layernorm.weight": torch.zeros(1)}
    assert in_timm_names(weights, weights.keys()) == (weights, ())
    assert in_timm_names({"a": torch.zeros(1)}, ["a"]) == ({"a": torch.zeros(1)}, ())
