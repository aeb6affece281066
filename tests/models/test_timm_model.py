from contextlib import contextmanager
from dataclasses import replace

import pytest
import timm
import torch

from distillkit.contracts.model import LAYERED, Signal
from distillkit.errors import RecipeError
from distillkit.models import TimmModel, TimmRequest
from distillkit.models.build import check_model

LOGITS = {Signal.LOGITS: ()}
BOTH = {Signal.LOGITS: (), Signal.DISTILL_LOGITS: ()}
RAW = {Signal.RAW_TOKENS}
ONE_HEAD = frozenset({Signal.LOGITS, Signal.EMBEDDING, Signal.PATCH_TOKENS}) | RAW
TWO_HEADS = ONE_HEAD | {Signal.DISTILL_LOGITS}
ROWS = {Signal.CLS_ATTENTION}
VIT = {"image_size": (32, 48), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
FAMILIES = {
    # architecture: (arguments, kind, signals, widths, grids, attention heads, prefix tokens, flexible, head modules)
    "deit_tiny_distilled_patch16_224": (
        VIT, "vit", TWO_HEADS | ROWS, (48, 48), ((4, 6), (4, 6)), 3, 2, False, ("head", "head_dist"),
    ),
    "deit_tiny_patch16_224": (VIT, "vit", ONE_HEAD | ROWS, (48, 48), ((4, 6), (4, 6)), 3, 1, False, ("head",)),
    "vit_tiny_patch16_224": (
        {**VIT, "class_token": False, "global_pool": "avg", "dynamic_img_size": True},
        "vit", ONE_HEAD, (48, 48), ((4, 6), (4, 6)), 3, 0, True, ("head",),
    ),
    "regnety_002": (
        {"image_size": (64, 96)},
        "cnn", ONE_HEAD, (32, 24, 56, 152, 368),
        ((32, 48), (16, 24), (8, 12), (4, 6), (2, 3)), None, 0, True, ("head.fc",),
    ),
    "resnet10t": (
        {"image_size": (64, 64)},
        "cnn", ONE_HEAD, (64, 64, 128, 256, 512),
        ((32, 32), (16, 16), (8, 8), (4, 4), (2, 2)), None, 0, True, ("fc",),
    ),
    "efficientnet_lite0": (  # the last layer is the map that the head pools, 1,280 channels, not the last stage's 320
        {"image_size": (64, 64)},
        "cnn", ONE_HEAD - RAW, (16, 24, 40, 112, 1280),
        ((32, 32), (16, 16), (8, 8), (4, 4), (2, 2)), None, 0, True, ("classifier",),
    ),
    "mobilenetv3_small_050": (  # widens after pooling, so the embedding is the mean of the map before pooling
        {"image_size": (64, 64)},
        "cnn", ONE_HEAD, (16, 8, 16, 24, 288),
        ((32, 32), (16, 16), (8, 8), (4, 4), (2, 2)), None, 0, True, ("classifier",),
    ),
    "convnext_atto": (
        {"image_size": (64, 64)},
        "cnn", ONE_HEAD, (40, 80, 160, 320),
        ((16, 16), (8, 8), (4, 4), (2, 2)), None, 0, True, ("head.fc",),
    ),
    "levit_128s": (
        {}, "other", TWO_HEADS - RAW, (128, 256, 384),
        ((14, 14), (7, 7), (4, 4)), None, 0, False, ("head.linear", "head_dist.linear"),
    ),
}  # fmt: skip


def create(architecture, **more):
    torch.manual_seed(0)
    return TimmModel.create(architecture, name="model", classes=7, **FAMILIES[architecture][0], **more)


def everything(spec):
    """Every signal of every layer."""
    layers = tuple(range(spec.layers))
    return {signal: () if signal in BOTH else layers for signal in spec.signals}


def random_images(spec, batch=2):
    return torch.randn(batch, 3, *spec.image_size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("architecture", FAMILIES)
def test_spec(architecture):
    arguments, kind, signals, widths, grids, heads, prefix, flexible, head_modules = FAMILIES[architecture]
    spec = TimmModel.describe(architecture, name="mine", classes=7, class_names=tuple("abcdefg"), **arguments)
    assert (spec.name, spec.architecture, spec.kind, spec.classes) == ("mine", architecture, kind, 7)
    assert spec.class_names == tuple("abcdefg")
    assert (spec.signals, spec.layers, spec.widths, spec.grids) == (signals, len(widths), widths, grids)
    assert (spec.heads, spec.prefix_tokens, spec.flexible_size) == (heads, prefix, flexible)
    assert spec.head_modules == head_modules
    assert spec.image_size == arguments.get("image_size", (224, 224))
    assert spec.parameters == sum(each.numel() for each in create(architecture).network.parameters())
    assert spec == replace(create(architecture, class_names=tuple("abcdefg")).spec, name="mine")


def test_spec_has_the_preprocessing_of_the_published_weights():
    spec = TimmModel.describe("vit_base_patch16_224.augreg2_in21k_ft_in1k", name="vit-b")
    assert (spec.mean, spec.std, spec.interpolation, spec.crop) == ((0.5,) * 3, (0.5,) * 3, "bicubic", 0.9)
    assert (spec.licence, spec.classes, spec.image_size) == ("apache-2.0", 1000, (224, 224))
    spec = TimmModel.describe("regnety_160.deit_in1k", name="regnety16gf")
    assert (spec.mean, spec.std, spec.crop) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.95)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_outputs_have_the_shapes_of_the_spec(architecture):
    model = create(architecture).eval()
    spec = model.spec
    with torch.no_grad():
        outputs = model(random_images(spec), everything(spec))
    assert check_model(model, "timm") is model
    assert tuple(outputs.logits.shape) == (2, 7)
    assert (outputs.distill_logits is not None) == (Signal.DISTILL_LOGITS in spec.signals)
    assert [tuple(each.shape) for each in outputs.embedding] == [(2, width) for width in spec.widths]
    assert [tuple(each.shape) for each in outputs.patch_tokens] == [
        (2, rows * columns, width) for (rows, columns), width in zip(spec.grids, spec.widths, strict=True)
    ]


@pytest.mark.parametrize("architecture", FAMILIES)
def test_logits_are_timms_own(architecture):
    model = create(architecture).eval()
    images = random_images(model.spec)
    with torch.no_grad():
        timms = model.network(images)
        logits_only = model(images, BOTH if Signal.DISTILL_LOGITS in model.spec.signals else LOGITS)
        all_signals = model(images, everything(model.spec))
    for outputs in (logits_only, all_signals):
        two = outputs.distill_logits is not None
        fused = (outputs.logits + outputs.distill_logits) / 2 if two else outputs.logits
        torch.testing.assert_close(fused, timms, rtol=0, atol=0)


def test_two_heads_on_one_pooled_feature_are_timms_own():
    model = TimmModel.create("efficientformer_l1", name="model", classes=7, depths=(1, 1, 1, 1)).eval()
    images = random_images(model.spec, batch=1)
    with torch.no_grad():
        outputs, timms = model(images, BOTH), model.network(images)
    assert model.spec.head_modules == ("head", "head_dist")
    torch.testing.assert_close((outputs.logits + outputs.distill_logits) / 2, timms, rtol=0, atol=0)


@pytest.mark.parametrize("signal", sorted(TWO_HEADS | ROWS))
def test_exactly_the_wanted_signals_are_returned(distilled, images, signal):
    outputs = distilled(images, {signal: () if signal in BOTH else (1,)})
    revealed = {
        Signal.LOGITS: outputs.logits is not None,
        Signal.DISTILL_LOGITS: outputs.distill_logits is not None,
        Signal.EMBEDDING: bool(outputs.embedding),
        Signal.CLS_ATTENTION: outputs.cls_attention is not None,
        Signal.PATCH_TOKENS: bool(outputs.patch_tokens),
        Signal.RAW_TOKENS: bool(outputs.raw_tokens),
    }
    assert [name for name, is_there in revealed.items() if is_there] == [signal]


def test_nothing_is_computed_if_no_signal_is_wanted(plain):
    assert plain(None, {}).logits is None


@pytest.mark.parametrize("training", [True, False])
def test_both_heads_in_training_and_evaluation(distilled, images, training):
    distilled.train(training)
    outputs = distilled(images, BOTH)
    assert distilled.network.distilled_training is False
    distilled.network.train().set_distilled_training(True)
    class_logits, distill_logits = distilled.network(images)
    torch.testing.assert_close(outputs.logits, class_logits, rtol=0, atol=0)
    torch.testing.assert_close(outputs.distill_logits, distill_logits, rtol=0, atol=0)


def test_a_head_that_is_not_wanted_gets_no_gradient(distilled, images):
    distilled(images, LOGITS).logits.sum().backward()
    assert distilled.network.head.weight.grad is not None
    assert distilled.network.head_dist.weight.grad is None


def test_tokens_and_embedding_of_a_vit_are_block_outputs_after_the_norm(distilled, images):
    distilled.eval()
    network, normed = distilled.network, []
    for block in network.blocks:
        block.register_forward_hook(lambda module, inputs, output: normed.append(network.norm(output)))
    with torch.no_grad():
        outputs = distilled(images, {Signal.EMBEDDING: (0, 1), Signal.PATCH_TOKENS: (0, 1)})
    for layer in (0, 1):
        torch.testing.assert_close(outputs.embedding[layer], normed[layer][:, 0])
        torch.testing.assert_close(outputs.patch_tokens[layer], normed[layer][:, 2:])
    torch.testing.assert_close(outputs.embedding[1], network.forward_features(images)[:, 0])


def test_layers_are_returned_in_the_requested_order(distilled, images):
    outputs = distilled.eval()(images, {Signal.EMBEDDING: (1,), Signal.PATCH_TOKENS: (0, 1)})
    last = distilled(images, {Signal.EMBEDDING: (1,), Signal.PATCH_TOKENS: (1,)})
    assert torch.equal(outputs.embedding[0], last.embedding[0])
    assert torch.equal(outputs.patch_tokens[1], last.patch_tokens[0])


@contextmanager
def recorded_calls(network):
    """The names of the modules that are called inside the block."""
    called = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name)) for name, module in network.named_modules()
    ]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_signal_of_one_layer_is_that_of_all_signals_bit_for_bit(architecture):
    model = create(architecture).eval()
    images, wanted = random_images(model.spec), everything(model.spec)
    with torch.no_grad():
        together = model(images, wanted)
        for signal in wanted.keys() & LAYERED:
            for layer in range(model.spec.layers):
                alone = getattr(model(images, {signal: (layer,)}), signal.value)
                every = getattr(together, signal.value)
                if signal is Signal.CLS_ATTENTION:
                    assert torch.equal(alone[:, 0], every[:, layer])
                else:
                    assert torch.equal(alone[0], every[layer])


@pytest.mark.parametrize(
    ("wanted", "last", "missing"),
    [
        ({Signal.CLS_ATTENTION: (0, 1)}, "blocks.1.attn", {"blocks.1", "blocks.1.mlp", "norm", "head"}),
        ({Signal.CLS_ATTENTION: (0,)}, "blocks.0", {"blocks.1", "norm", "head"}),
        ({Signal.PATCH_TOKENS: (0,)}, "norm", {"blocks.1", "head"}),
        ({Signal.EMBEDDING: (1,)}, "norm", {"head"}),
        ({Signal.EMBEDDING: (0,), Signal.CLS_ATTENTION: (1,)}, "blocks.1.attn", {"head"}),
    ],
    ids=["attention of all layers", "attention of the first", "tokens", "embedding", "attention behind an embedding"],
)
def test_a_vit_computes_nothing_behind_what_is_wanted(plain, images, wanted, last, missing):
    with torch.no_grad(), recorded_calls(plain.eval().network) as called:
        plain(images, wanted)
    assert last in called
    assert called.isdisjoint(missing)


def test_a_cnn_computes_nothing_behind_what_is_wanted():
    model = create("regnety_002").eval()
    with torch.no_grad(), recorded_calls(model.network) as called:
        model(random_images(model.spec), {Signal.PATCH_TOKENS: (2,)})
    assert "s2" in called
    assert called.isdisjoint({"s3", "s4", "head"})


def test_maps_of_a_cnn_are_flattened_row_by_row():
    model = create("regnety_002").eval()
    images = random_images(model.spec)
    with torch.no_grad():
        (tokens,) = model(images, {Signal.PATCH_TOKENS: (3,)}).patch_tokens
        maps = model.network.s3(model.network.s2(model.network.s1(model.network.stem(images))))
    assert model.spec.grids[3] == tuple(maps.shape[2:]) == (4, 6)
    torch.testing.assert_close(tokens[:, 1 * 6 + 4], maps[:, :, 1, 4], rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ["regnety_002", "efficientnet_lite0", "convnext_atto", "levit_128s"])
def test_last_embedding_of_a_cnn_is_the_feature_that_its_head_pools(architecture):
    model = create(architecture).eval()
    images = random_images(model.spec)
    with torch.no_grad():
        (embedding,) = model(images, {Signal.EMBEDDING: (model.spec.layers - 1,)}).embedding
        pooled = model.network.forward_head(model.network.forward_features(images), pre_logits=True)
    torch.testing.assert_close(embedding, pooled, rtol=0, atol=0)


def test_embedding_without_class_token_is_the_mean_or_timms_pool():
    model = create("vit_tiny_patch16_224").eval()
    images = random_images(model.spec)
    with torch.no_grad():
        outputs = model(images, {Signal.EMBEDDING: (0, 1), Signal.PATCH_TOKENS: (0, 1)})
        pooled = model.network.forward_head(model.network.forward_features(images), pre_logits=True)
    torch.testing.assert_close(outputs.embedding[0], outputs.patch_tokens[0].mean(dim=1))
    torch.testing.assert_close(outputs.embedding[1], pooled, rtol=0, atol=0)


@pytest.mark.parametrize(("given", "returned"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_outputs_are_at_least_float32(distilled, images, given, returned):
    outputs = distilled.to(given)(images.to(given), everything(distilled.spec))
    dtypes = {outputs.logits.dtype, outputs.distill_logits.dtype}
    dtypes |= {each.dtype for each in (*outputs.embedding, *outputs.patch_tokens)}
    assert dtypes == {returned}


@pytest.mark.parametrize("architecture", ["deit_tiny_distilled_patch16_224", "regnety_002"])
def test_under_autocast(architecture):
    model = create(architecture).eval()
    images = random_images(model.spec)
    with torch.no_grad():
        exact = model(images, everything(model.spec))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(images, everything(model.spec))
    assert rough.logits.dtype is torch.float32
    torch.testing.assert_close(rough.logits, exact.logits, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("architecture", ["deit_tiny_distilled_patch16_224", "resnet10t"])
def test_compiles_into_one_graph(architecture):
    model = create(architecture).eval()
    images, wanted = random_images(model.spec), everything(model.spec)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        outputs, expected = compiled(images, wanted), model(images, wanted)
    torch.testing.assert_close(outputs.logits, expected.logits)
    torch.testing.assert_close(outputs.embedding, expected.embedding)
    torch.testing.assert_close(outputs.patch_tokens, expected.patch_tokens)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_batch_of_one(architecture):
    model = create(architecture).eval()
    images = random_images(model.spec)
    with torch.no_grad():
        batch, one = model(images, everything(model.spec)), model(images[:1], everything(model.spec))
    torch.testing.assert_close(one.logits, batch.logits[:1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.embedding[-1], batch.embedding[-1][:1], rtol=1e-4, atol=1e-5)


def test_a_network_without_classifier_reveals_everything_else():
    model = TimmModel.create("vit_small_patch16_224.dino", name="dino", depth=1)
    assert (model.spec.classes, model.spec.head_modules) == (0, ())
    assert model.spec.signals == (ONE_HEAD | ROWS) - LOGITS.keys()
    outputs = model(torch.zeros(1, 3, 224, 224), everything(model.spec))
    assert outputs.logits is None
    assert tuple(outputs.embedding[0].shape) == (1, 384)


def test_blocks_without_an_attribute_for_their_attention():
    spec = TimmModel.describe("vit_base_patch16_xp_224", name="vit", depth=1)
    assert (spec.kind, spec.heads, spec.layers) == ("vit", None, 1)


def test_training_size_of_the_weights_is_accepted_even_if_not_a_multiple_of_the_patches():
    spec = TimmModel.describe("vit_so400m_patch14_siglip_gap_384", name="vit", classes=5, depth=1)
    assert (spec.image_size, spec.grid) == ((384, 384), (27, 27))


def test_describing_draws_no_random_numbers_and_allocates_no_memory():
    state = torch.get_rng_state()
    sketch = TimmModel.sketch(TimmRequest("deit_base_distilled_patch16_224", "deit-b"))
    assert all(tensor.is_meta for tensor in sketch.network.state_dict().values())
    assert sketch.spec.parameters == 87_338_192
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("architecture", ["deit_base_distilled_patch16_224", "regnety_160.deit_in1k", "resnet18"])
def test_describing_computes_next_to_nothing(architecture, computed):
    with computed() as values:
        TimmModel.describe(architecture, name="model")
    assert values.count < 10_000


def test_create_uses_torchs_seed():
    one, same = create("deit_tiny_patch16_224"), create("deit_tiny_patch16_224")
    torch.manual_seed(1)
    other = TimmModel.create("deit_tiny_patch16_224", name="model", classes=7, **VIT)
    assert torch.equal(one.network.head.weight, same.network.head.weight)
    assert not torch.equal(one.network.head.weight, other.network.head.weight)


def test_arguments_build_the_same_network():
    model = create("deit_tiny_distilled_patch16_224")
    rebuilt = timm.create_model(model.spec.architecture, num_classes=7, **model.arguments)
    rebuilt.load_state_dict(model.network.state_dict())
    images = torch.rand(2, 3, 32, 48)
    assert torch.equal(rebuilt.eval()(images), model.network.eval()(images))


@pytest.mark.parametrize(
    ("architecture", "arguments", "sentence"),
    [
        ("resnet81", {}, f"timm {timm.__version__} has no model 'resnet81'; did you mean 'resnet18'?"),
        (
            "qqqqqqqqqqqq",
            {},
            f"timm {timm.__version__} has no model 'qqqqqqqqqqqq'; `timm.list_models()` lists its models",
        ),
        (
            "regnety_002.in22k",
            {},
            f"timm {timm.__version__} has no weights 'in22k' for 'regnety_002'; known: pycls_in1k",
        ),
        (
            "mobilenetv5_300m_enc",
            {},
            "'mine' is not a classifier; choose a timm model with a class head",
        ),
        (
            "vgg11",
            {"drop_path_rate": 0.1},
            (
                "'mine' cannot be built with drop_path_rate=0.1: VGG.__init__() got an unexpected keyword argument "
                "'drop_path_rate'"
            ),
        ),
        (
            "vit_tiny_patch16_224",
            {"image_size": (30, 32)},
            (
                "'mine' does not accept images of 30x32 pixels: the size is not a multiple of its 16x16 patches; "
                "16 or 32 would be"
            ),
        ),
        (
            "inception_v3",
            {"image_size": (16, 16)},
            (
                "'mine' does not accept images of 16x16 pixels: Calculated padded input size per channel: (2 x 2). "
                "Kernel size: (3 x 3). Kernel size can't be greater than actual input size"
            ),
        ),
    ],
)
def test_what_timm_cannot_build_is_reported(architecture, arguments, sentence):
    with pytest.raises(RecipeError) as error:
        TimmModel.describe(architecture, name="mine", classes=7, **arguments)
    assert str(error.value) == sentence
