from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from distillkit.contracts.model import ModelRequest, Signal
from distillkit.errors import RecipeError, RunDirectoryError, WeightsError
from distillkit.models import save_student
from distillkit.models.build import check_model
from distillkit.models.heads import Answer
from distillkit.plugin.registry import installed_plugins, split_name

COUNTS = {
    "vit-ti": (5_717_416, 1),
    "vit-s": (22_050_664, 1),
    "vit-b": (86_567_656, 1),
    "deit-ti": (5_910_800, 2),
    "deit-s": (22_436_432, 2),
    "deit-b": (87_338_192, 2),
}
SMALL = {"image_size": 32, "patch": 8, "width": 48, "depth": 2}
LOGITS = {Signal.LOGITS: ()}
PLUGINS = installed_plugins()


def request_of(name, classes=10, weights=None, **options):
    return ModelRequest(
        name, split_name(name)[1], PLUGINS.find("student", name).options(options), weights=weights, classes=classes
    )


def describe(name, **arguments):
    return PLUGINS.find("student", name).call("describe", request_of(name, **arguments))


def build(name, *, seed=0, **arguments):
    torch.manual_seed(seed)
    return PLUGINS.find("student", name).call("build", request_of(name, **arguments))


def refused(error, function, *arguments, **options):
    with pytest.raises(error) as caught:
        function(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize(("name", "parameters", "prefix"), [(name, *counts) for name, counts in COUNTS.items()])
def test_parameters_and_prefix_tokens_of_the_paper(name, parameters, prefix):
    spec = describe(name, classes=1000)
    assert (spec.parameters, spec.prefix_tokens) == (parameters, prefix)
    assert (spec.kind, spec.layers, spec.grid, spec.image_size) == ("vit", 12, (14, 14), (224, 224))
    assert (spec.width, spec.heads) == {"ti": (192, 3), "s": (384, 6), "b": (768, 12)}[name.partition("-")[2]]
    assert (Signal.DISTILL_LOGITS in spec.signals) == (prefix == 2)
    assert spec.head_modules == (("head", "head_dist") if prefix == 2 else ("head",))
    assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert spec.flexible_size is False


@pytest.mark.parametrize("name", ["vit-ti", "deit-ti"])
def test_built_network_has_the_described_parameters(name):
    network = build(name, classes=1000).network
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[name][0]


@pytest.mark.parametrize("name", [*COUNTS, "small-cnn", "timm:resnet18"])
def test_describing_computes_next_to_nothing_and_draws_nothing(name, computed):
    state = torch.get_rng_state()
    with computed() as values:
        describe(name)
    assert values.count < 10_000
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [*COUNTS, "small-cnn", "timm:regnety_002"])
def test_description_matches_the_built_student(name):
    options = {"image_size": [32, 64]} if ":" in name or "cnn" in name else {**SMALL, "image_size": [32, 64]}
    model = build(name, **options)
    spec = describe(name, **options)
    assert check_model(model, name) is model
    assert model.spec == spec
    assert (spec.name, spec.classes, spec.class_names, spec.image_size) == (name, 10, None, (32, 64))
    assert spec.parameters == sum(parameter.numel() for parameter in model.network.parameters())
    layers = tuple(range(spec.layers))
    outputs = model.eval()(torch.zeros(1, 3, 32, 64), {Signal.EMBEDDING: layers, Signal.PATCH_TOKENS: layers})
    assert [tuple(each.shape) for each in outputs.embedding] == [(1, width) for width in spec.widths]
    assert [each.shape[1] for each in outputs.patch_tokens] == [rows * columns for rows, columns in spec.grids]


def test_prefix_tokens_match_the_network():
    for name, (_, prefix) in COUNTS.items():
        network = build(name, **SMALL, heads=4).network
        assert network.num_prefix_tokens == prefix
        assert tuple(network.pos_embed.shape) == (1, prefix + 16, 48)
        assert hasattr(network, "dist_token") == (prefix == 2)


def test_geometry():
    spec = describe("deit-s", image_size=[32, 48], patch=4, width=96, depth=4, heads=3)
    assert (spec.grids, spec.widths, spec.heads) == (((8, 12),) * 4, (96,) * 4, 3)
    assert describe("deit-s", image_size=32, patch=4).heads == 6


def test_initialised_as_deit():
    network = build("deit-ti", seed=3).network
    for name in ("cls_token", "dist_token", "pos_embed", "head.weight", "head_dist.weight", "blocks.5.mlp.fc1.weight"):
        values = network.get_parameter(name)
        assert 0.016 < values.std().item() < 0.024, name
        assert abs(values.mean().item()) < 0.005, name
    for name in ("head.bias", "head_dist.bias", "blocks.0.attn.qkv.bias", "norm.bias"):
        assert network.get_parameter(name).abs().max().item() == 0, name
    assert network.get_parameter("blocks.0.norm1.weight").unique().tolist() == [1.0]


def test_follows_torchs_seed():
    one, same, other = (build("deit-ti", seed=seed, **SMALL).network for seed in (0, 0, 1))
    assert torch.equal(one.cls_token, same.cls_token)
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.cls_token, other.cls_token)


def test_dropout_and_drop_path():
    network = build("deit-ti", **SMALL, drop_path=0.2, dropout=0.1).network
    assert isinstance(network.blocks[0].drop_path1, nn.Identity)
    assert network.blocks[1].drop_path1.drop_prob == pytest.approx(0.2)
    assert network.pos_drop.p == network.blocks[0].attn.proj_drop.p == network.blocks[1].mlp.drop2.p == 0.1
    assert network.blocks[0].attn.attn_drop.p == network.head_drop.p == 0
    quiet = build("deit-ti", **SMALL).network
    assert not any(module.p for module in quiet.modules() if isinstance(module, nn.Dropout))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"image_size": 30},
            "student.image_size = 30 is not divisible by student.patch = 16; 16 or 32 would be",
        ),
        (
            {"image_size": [32, 20], "patch": 8},
            "student.image_size = [32, 20] is not divisible by student.patch = 8; 16 or 24 would be",
        ),
        (
            {"image_size": 8},
            "student.image_size = 8 is not divisible by student.patch = 16; 16 would be",
        ),
        (
            {"width": 100},
            "student.width = 100 is not divisible by student.heads = 3; 99 or 102 would be",
        ),
        (
            {"heads": 5, "width": 3},
            "student.width = 3 is not divisible by student.heads = 5; 5 would be",
        ),
    ],
)
def test_geometry_that_is_not_divisible(options, sentence):
    assert refused(RecipeError, describe, "deit-ti", **options) == sentence


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("deit-ti", {"widht": 96}, "student 'deit-ti': unknown key 'widht'; did you mean 'width'?"),
        (
            "vit-s",
            {"image_size": [1, 2, 3]},
            (
                "student 'vit-s': 'image_size': [1, 2, 3] is not an image size; "
                "give a number of pixels, or [height, width]"
            ),
        ),
        (
            "timm:resnet18",
            {"image_size": 0},
            (
                "student 'timm:resnet18': 'image_size': 0 is not an image size; "
                "give a number of pixels, or [height, width]"
            ),
        ),
        (
            "small-cnn",
            {"image_size": "large"},
            (
                "student 'small-cnn': 'image_size': 'large' is not an image size; "
                "give a number of pixels, or [height, width]"
            ),
        ),
        (
            "small-cnn",
            {"image_size": True},
            (
                "student 'small-cnn': 'image_size': True is not an image size; "
                "give a number of pixels, or [height, width]"
            ),
        ),
    ],
)
def test_invalid_options(name, options, sentence):
    assert refused(RecipeError, request_of, name, **options).startswith(sentence)


def test_rates_are_shares():
    assert "drop_path" in refused(RecipeError, request_of, "deit-ti", drop_path=1.0)
    assert "dropout" in refused(RecipeError, request_of, "timm:resnet18", dropout=-0.1)


def test_any_classifier_of_timm():
    spec = describe("timm:resnet18.a1_in1k", image_size=64, drop_path=0.1, dropout=0.2)
    assert (spec.architecture, spec.classes, spec.image_size) == ("resnet18.a1_in1k", 10, (64, 64))
    network = build("timm:resnet10t", drop_path=0.1, dropout=0.2).network
    assert (network.drop_rate, network.num_classes) == (0.2, 10)
    vit = describe("timm:vit_tiny_patch16_224", image_size=[32, 64])
    assert (vit.image_size, vit.grid) == ((32, 64), (2, 4))


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("timm:resnet81", {}, f"timm {timm.__version__} has no model 'resnet81'; did you mean 'resnet18'?"),
        (
            "timm:mobilenetv5_300m_enc",
            {},
            "'timm:mobilenetv5_300m_enc' is not a classifier; choose a timm model with a class head",
        ),
        (
            "timm:vit_tiny_patch16_224",
            {"image_size": 30},
            (
                "'timm:vit_tiny_patch16_224' does not accept images of 30x30 pixels: the size is not a multiple of its "
                "16x16 patches; 16 or 32 would be"
            ),
        ),
        (
            "timm:vgg11",
            {"drop_path": 0.1},
            (
                "'timm:vgg11' cannot be built with drop_path_rate=0.1: "
                "VGG.__init__() got an unexpected keyword argument 'drop_path_rate'"
            ),
        ),
    ],
)
def test_models_that_timm_cannot_build(name, options, sentence):
    assert refused(RecipeError, describe, name, **options) == sentence


@pytest.fixture
def a_run(tmp_path):
    """A run directory with a plain ViT for 7 classes."""
    request = request_of("vit-ti", classes=7, **SMALL)
    model = PLUGINS.find("student", "vit-ti").call("build", request)
    save_student(tmp_path, model, request, Answer("class", "logits"))
    return tmp_path, model


@pytest.mark.parametrize("as_directory", [True, False])
def test_starts_from_a_run_or_its_file(a_run, as_directory):
    directory, source = a_run
    weights = str(directory if as_directory else directory / "student.safetensors")
    model = build("deit-ti", weights=weights, **{**SMALL, "image_size": 48})
    assert torch.equal(model.network.dist_token, source.network.cls_token)
    assert torch.equal(model.network.blocks[1].mlp.fc1.weight, source.network.blocks[1].mlp.fc1.weight)
    assert model.load_report.source == weights
    assert model.load_report.notes == (
        "the distillation token and its position start as copies of the class token's",
        "the position embedding was resized from 4x4 to 6x6 patches",
        (
            "the head for 7 classes was not loaded; "
            "the class head and the distillation head for 10 classes are randomly initialised"
        ),
    )


def test_starting_weights_do_not_change_the_random_head(a_run):
    directory, _ = a_run
    started, fresh = build("vit-ti", weights=str(directory), **SMALL), build("vit-ti", **SMALL)
    assert torch.equal(started.network.head.weight, fresh.network.head.weight)
    assert fresh.load_report is None
    assert build("vit-ti", weights="none", **SMALL).load_report is None


def test_starting_weights_that_do_not_fit(a_run):
    directory, _ = a_run
    sentence = refused(WeightsError, build, "vit-ti", weights=str(directory), **{**SMALL, "depth": 3})
    assert sentence == (
        f"{directory} does not fit 'vit-ti' (deit_tiny_patch16_224): 12 of 44 tensors are missing "
        "(blocks.2.norm1.weight, blocks.2.norm1.bias, blocks.2.attn.qkv.weight, ...); "
        "give weights of exactly this architecture"
    )


def test_missing_starting_weights(tmp_path):
    assert refused(WeightsError, build, "vit-ti", weights=str(tmp_path / "no.pth"), **SMALL) == (
        f"there is no weight file {tmp_path / 'no.pth'}; check the path"
    )
    assert refused(RunDirectoryError, build, "vit-ti", weights=str(tmp_path), **SMALL) == (
        f"{tmp_path} has no student.json; give the directory of a run that has reached its end"
    )


def test_published_weights_without_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://the-hub.invalid")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nowhere")
    assert refused(WeightsError, build, "deit-ti", weights="pretrained") == (
        "the published weights of 'deit_tiny_distilled_patch16_224' are not in the local cache and the-hub.invalid "
        "cannot be reached; give a file with --student-weights (finetune: --weights), or connect once so that they are "
        "cached"
    )


def test_licence_is_that_of_the_starting_weights():
    assert describe("deit-ti").licence is None
    assert describe("deit-ti", weights="pretrained").licence == "apache-2.0"
    assert describe("timm:resnet18", weights="pretrained").licence == "apache-2.0"


def test_small_cnn():
    spec = describe("small-cnn", image_size=9, width=8)
    assert (spec.kind, spec.layers, spec.widths) == ("cnn", 3, (8, 16, 32))
    assert (spec.grids, spec.flexible_size, spec.head_modules) == (((9, 9), (5, 5), (3, 3)), True, ("head",))
    model = build("small-cnn", image_size=9, width=8).eval()
    images = torch.randn(2, 3, 9, 9)
    layers = (0, 1, 2)
    outputs = model(images, {**LOGITS, Signal.EMBEDDING: layers, Signal.PATCH_TOKENS: layers})
    torch.testing.assert_close(outputs.logits, model.network(images))
    torch.testing.assert_close(outputs.embedding[2], outputs.patch_tokens[2].mean(dim=1))
    (maps, *_), _ = model.network.maps(images)
    torch.testing.assert_close(outputs.patch_tokens[0][:, 2 * 9 + 5], maps[:, :, 2, 5])
    assert model(images, {}).logits is None


def test_small_cnn_has_no_published_weights():
    assert refused(WeightsError, build, "small-cnn", weights="pretrained") == (
        "there are no published weights of 'small-cnn'; give --student-weights FILE, --student-weights RUN or none "
        "for random weights (finetune: --weights)"
    )


@pytest.mark.parametrize("name", ["small-cnn", "deit-ti"])
def test_on_the_meta_device(name):
    options = {} if name == "small-cnn" else SMALL
    with torch.device("meta"):
        model = build(name, **options)
        outputs = model(torch.empty(2, 3, 32, 32), LOGITS)
    assert outputs.logits.is_meta
    assert replace(model.spec, name=name) == describe(name, **options)


@pytest.mark.parametrize("name", ["small-cnn", "deit-ti"])
def test_outputs_are_float32_at_least(name):
    options = {} if name == "small-cnn" else SMALL
    model, images = build(name, **options).eval(), torch.randn(1, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(images, LOGITS).logits.dtype is torch.float32
    assert model.double()(images.double(), LOGITS).logits.dtype is torch.float64
