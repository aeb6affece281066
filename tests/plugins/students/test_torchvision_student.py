"""torchvision's classifiers as students."""

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from distillkit import ModelRequest, Signal
from distillkit.errors import RecipeError
from distillkit.models import save_student
from distillkit.models.heads import Answer
from distillkit.plugin.registry import installed_plugins

PLUGINS = installed_plugins()
STAGES = {
    # name: image size, widths, grids (square), class head
    "resnet18": (224, (64, 64, 128, 256, 512), (112, 56, 28, 14, 7), "fc"),
    "mobilenet_v3_small": (224, (16, 16, 24, 48, 576), (112, 56, 28, 14, 7), "classifier.3"),
    "inception_v3": (299, (32, 64, 80, 192, 288, 768, 2048), (149, 147, 73, 71, 35, 17, 8), "fc"),
    "regnet_y_400mf": (224, (32, 48, 104, 208, 440), (112, 56, 28, 14, 7), "fc"),
    "squeezenet1_1": (224, (64, 128, 256, 512), (111, 55, 27, 13), "classifier.1"),
    "convnext_tiny": (224, (96, 192, 384, 768), (56, 28, 14, 7), "classifier.2"),
    "swin_t": (224, (96, 192, 384, 768), (56, 28, 14, 7), "head"),
    "vit_b_16": (224, (768,), (14,), "heads.head"),
}
# The smallest of every family, by each kind of block; larger ones repeat the same blocks.
FAMILIES = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vit_b_32",
    "wide_resnet50_2",
]


def request_of(name, classes=7, **options):
    plugin = PLUGINS.find("student", f"torchvision:{name}")
    return plugin, ModelRequest(plugin.name, plugin.argument, plugin.options(options), classes=classes)


def describe(name, **arguments):
    plugin, request = request_of(name, **arguments)
    return plugin.call("describe", request)


def build(name, **arguments):
    plugin, request = request_of(name, **arguments)
    return plugin.call("build", request)


@pytest.mark.parametrize("name", STAGES)
def test_description(name):
    size, widths, grids, head = STAGES[name]
    spec = describe(name)
    assert (spec.name, spec.architecture) == (f"torchvision:{name}", f"torchvision/{name}")
    assert (spec.image_size, spec.widths, spec.grids) == ((size, size), widths, tuple((side, side) for side in grids))
    assert (spec.head_modules, spec.classes, spec.layers) == ((head,), 7, len(widths))


def test_every_family_is_among_those_tried():
    tried = {torchvision.models.get_model_builder(name).__module__ for name in FAMILIES}
    every = torchvision.models.list_models(module=torchvision.models)
    assert tried == {torchvision.models.get_model_builder(name).__module__ for name in every}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_classifier_has_the_layers_of_its_description(name):
    plugin, request = request_of(name)
    spec = plugin.call("describe", request)
    with torch.device("meta"):
        model = plugin.call("build", request)
        images = torch.empty(2, 3, *spec.image_size)
    layers = tuple(range(spec.layers))
    outputs = model.eval()(images, {Signal.LOGITS: (), Signal.EMBEDDING: layers, Signal.PATCH_TOKENS: layers})
    assert outputs.logits.shape == (2, 7)
    assert [each.shape[1] for each in outputs.embedding] == list(spec.widths)
    expected = [(rows * columns, width) for (rows, columns), width in zip(spec.grids, spec.widths, strict=True)]
    assert [tuple(each.shape[1:]) for each in outputs.patch_tokens] == expected


def test_outputs_are_those_of_torchvision():
    model = build("resnet18", image_size=64).eval()
    network, images = model.network, torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        outputs = model(images, {Signal.LOGITS: (), Signal.EMBEDDING: (4,), Signal.PATCH_TOKENS: (3, 4)})
        stem = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        third = network.layer3(network.layer2(network.layer1(stem)))
        last = network.layer4(third)
    torch.testing.assert_close(outputs.logits, network(images))
    torch.testing.assert_close(outputs.patch_tokens[0], third.flatten(2).transpose(1, 2))
    torch.testing.assert_close(outputs.patch_tokens[1], last.flatten(2).transpose(1, 2))
    torch.testing.assert_close(outputs.embedding[0], last.mean(dim=(2, 3)))


def test_saved_weights_load_without_distillkit(tmp_path):
    plugin, request = request_of("shufflenet_v2_x0_5", image_size=32)
    model = plugin.call("build", request)
    save_student(tmp_path, model, request, Answer())
    network = torchvision.models.get_model("shufflenet_v2_x0_5", num_classes=7)
    network.load_state_dict(load_file(tmp_path / "student.safetensors"))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_without_classes_the_forward_returns_the_embedding(name):
    model, images = build(name, classes=0, image_size=64).eval(), torch.randn(2, 3, 64, 64)
    assert (model.spec.head_modules, model.spec.signals) == ((), {Signal.EMBEDDING, Signal.PATCH_TOKENS})
    assert model.spec.parameters == sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(
            model.network(images), model(images, {Signal.EMBEDDING: (model.spec.layers - 1,)}).embedding[0]
        )


INSTALLED = f"torchvision {torchvision.__version__}"
LISTED = "`torchvision.models.list_models(torchvision.models)` lists them"
SQUARE = "student 'torchvision:vit_b_16' needs square images"
PATCHES = "student.image_size = 100 is not divisible by the patches of 'torchvision:vit_b_16', 16; 96 or 112 would be"
SMALL = "student 'torchvision:alexnet' fails on images of 16x16 pixels, on the meta device as a plan runs it: "


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet81", {}, f"{INSTALLED} has no classifier 'resnet81'; did you mean 'resnet18'?"),
        ("fasterrcnn_resnet50_fpn", {}, f"{INSTALLED} has no classifier 'fasterrcnn_resnet50_fpn'; {LISTED}"),
        ("vit_b_16", {"image_size": [32, 64]}, f"{SQUARE}; student.image_size is [32, 64]"),
        ("vit_b_16", {"image_size": 100}, PATCHES),
        ("alexnet", {"image_size": 16}, SMALL),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(RecipeError) as refusal:
        describe(name, **options)
    assert str(refusal.value).startswith(message)  # then torch's own words
