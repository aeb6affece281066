"""What a teacher's weight file sets (classes, image size, patch) holds in a plan and in a run alike."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from distillkit.contracts.model import ModelRequest, Signal
from distillkit.errors import WeightsError
from distillkit.models.weight_loading import load_notes
from distillkit.plugin.registry import installed_plugins, split_name
from distillkit.running.session import build_session
from distillkit.running.start import plan, run
from distillkit_plugins.teachers.cifar_resnet import CifarResNet

LOGITS = {Signal.LOGITS: ()}
PLUGINS = installed_plugins()
VIT = "vit_tiny_patch16_224"
SMALL_PATCHES = {"patch_size": 8, "img_size": 64}


def request_of(name, weights, **options):
    options = PLUGINS.find("teacher", name).options(options)
    return ModelRequest(name, split_name(name)[1], options, weights=str(weights))


def saved(path, architecture, **arguments):
    torch.manual_seed(0)
    network = timm.create_model(architecture, **arguments).eval()
    save_file(network.state_dict(), path)
    return network


def teacher_of(name, file, **entry):
    return {"teachers": [{"model": name, "weights": str(file), **entry}], "losses": [{"loss": "hard"}]}


@pytest.mark.parametrize(
    ("name", "arguments", "class_map"),
    [
        ("timm:regnety_002", {}, "auto"),
        ("timm:regnety_002", {}, "index"),
        ("timm:deit_tiny_distilled_patch16_224", {}, "auto"),
        (f"timm:{VIT}", SMALL_PATCHES, "index"),
    ],
)
def test_plan_and_session_take_the_classes_and_sizes_of_a_file(recipe_of, tmp_path, name, arguments, class_map):
    file = tmp_path / "w.safetensors"
    saved(file, name.partition(":")[2], num_classes=10, **arguments)
    made = plan(recipe_of(teacher_of(name, file, class_map=class_map)), PLUGINS)
    (planned,) = made.teachers.values()
    (built,) = build_session(made).stepper.teacher_targets.teachers.values()
    size = (64, 64) if arguments else planned.native.image_size
    assert (planned.native.classes, planned.native.image_size) == (10, size)
    assert built.model.model.spec == planned.native
    assert made.cost.teacher_flops > 0
    outputs = built.model(torch.zeros(2, 3, 8, 8), LOGITS)
    assert outputs.logits.shape == (2, 10)


def test_regnety16gf_with_its_own_classes_is_planned(recipe_of, tmp_path):
    with torch.device("meta"):
        shapes = timm.create_model("regnety_160", num_classes=10).state_dict()
    # Expanded zeros replace the 334 MB of weights.
    torch.save({name: torch.zeros(()).expand(each.shape) for name, each in shapes.items()}, tmp_path / "w.pth")
    made = plan(recipe_of(teacher_of("regnety16gf", tmp_path / "w.pth")), PLUGINS)
    assert made.teachers["regnety16gf"].native.classes == 10
    assert made.cost.teacher_flops / 1e9 == pytest.approx(31.9, abs=0.2)  # at 224 px; 15.96 G multiply-adds


def test_a_run_with_a_teacher_of_other_patches_and_classes(recipe_of, tmp_path):
    saved(tmp_path / "w.safetensors", VIT, num_classes=10, **SMALL_PATCHES)
    recipe = recipe_of(
        teacher_of(f"timm:{VIT}", tmp_path / "w.safetensors"), {"training": {"steps": 1, "batch_size": 2}}
    )
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"validation": 0.0})})
    session = build_session(plan(recipe, PLUGINS))
    (slot,) = session.stepper.teacher_targets.teachers.values()
    note = "built for images of 64x64 pixels and patches of 8x8 pixels, as its weights are"
    assert load_notes(slot.model.model) == (note,)
    assert f"teacher 'timm:{VIT}': {note}" in session.notes


@pytest.mark.parametrize(
    ("arguments", "options", "size", "grid"),
    [
        ({"img_size": 64}, {}, (64, 64), (4, 4)),
        (SMALL_PATCHES, {}, (64, 64), (8, 8)),
        ({"patch_size": 32}, {}, (224, 224), (7, 7)),
        # A requested size resizes the positions, as before.
        (SMALL_PATCHES, {"image_size": 96}, (96, 96), (12, 12)),
        ({}, {}, (224, 224), (14, 14)),
    ],
)
def test_a_vit_has_the_logits_of_the_network_in_the_file(tmp_path, arguments, options, size, grid):
    network = saved(tmp_path / "w.safetensors", VIT, num_classes=5, **arguments)
    plugin, request = (
        PLUGINS.find("teacher", f"timm:{VIT}"),
        request_of(f"timm:{VIT}", tmp_path / "w.safetensors", **options),
    )
    spec, teacher = plugin.call("describe", request), plugin.call("build", request).eval()
    assert (spec.image_size, spec.grid, spec.classes) == (size, grid, 5)
    assert teacher.spec == spec
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        logits = teacher(images, LOGITS).logits
        if not options:
            assert torch.equal(logits, network(images))


def test_weights_of_a_distilled_network_are_refused_by_their_token(tmp_path):
    """A DeiT with its distillation token has one position too many for a square grid of a ViT without it."""
    saved(tmp_path / "w.safetensors", "deit_tiny_distilled_patch16_224", num_classes=5)
    with pytest.raises(WeightsError) as caught:
        PLUGINS.find("teacher", f"timm:{VIT}").call("describe", request_of(f"timm:{VIT}", tmp_path / "w.safetensors"))
    assert str(caught.value) == (
        f"{tmp_path / 'w.safetensors'} has a distillation token (dist_token) and 'timm:{VIT}' has none; use the "
        "distilled architecture"
    )


def test_a_cifar_resnet_has_the_classes_of_its_file(recipe_of, tmp_path):
    torch.manual_seed(0)
    network = CifarResNet(3, 100).eval()
    torch.save(
        {"state_dict": {f"module.{name}": each for name, each in network.state_dict().items()}}, tmp_path / "w.th"
    )
    plugin, request = PLUGINS.find("teacher", "cifar-resnet20"), request_of("cifar-resnet20", tmp_path / "w.th")
    spec, teacher = plugin.call("describe", request), plugin.call("build", request).eval()
    assert (spec.classes, spec.class_names, teacher.spec) == (100, None, spec)
    assert teacher(torch.zeros(1, 3, 32, 32), LOGITS).logits.shape == (1, 100)


def test_plan_refuses_a_cifar_resnet_of_another_depth_as_a_run_does(recipe_of, tmp_path):
    torch.save(CifarResNet(1, 10).state_dict(), tmp_path / "w.th")
    sentences = []
    for start in (lambda recipe: plan(recipe, PLUGINS), lambda recipe: run(recipe, tmp_path / "run", PLUGINS)):
        with pytest.raises(WeightsError) as caught:
            start(recipe_of(teacher_of("cifar-resnet20", tmp_path / "w.th", class_map="index")))
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]
    assert sentences[0] == (
        f"{tmp_path / 'w.th'} does not fit 'cifar-resnet20' (cifar-resnet20): 60 of 116 tensors are missing "
        "(layer1.1.conv1.weight, layer1.1.bn1.weight, layer1.1.bn1.bias, ...); give weights of exactly this "
        "architecture"
    )


def test_planning_reads_no_values_of_a_weight_file(recipe_of, tmp_path):
    saved(tmp_path / "w.safetensors", "regnety_002", num_classes=10)
    content = (tmp_path / "w.safetensors").read_bytes()
    # NaN everywhere behind the header: a plan does not notice, a run refuses it.
    header = 8 + int.from_bytes(content[:8], "little")
    (tmp_path / "w.safetensors").write_bytes(content[:header] + b"\xff" * (len(content) - header))
    recipe = recipe_of(teacher_of("timm:regnety_002", tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError, match="NaN or infinity"):
        build_session(plan(recipe, PLUGINS))
