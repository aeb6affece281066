import re
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from distillkit.contracts.model import ModelRequest, Signal
from distillkit.errors import RecipeError, RunDirectoryError, WeightsError
from distillkit.models import fuse, imagenet_class_names, save_student
from distillkit.models.build import check_model
from distillkit.models.heads import Answer
from distillkit.plugin.registry import installed_plugins, split_name

BOTH = {Signal.LOGITS: (), Signal.DISTILL_LOGITS: ()}
LOGITS = {Signal.LOGITS: ()}
REVEALED = frozenset({Signal.LOGITS, Signal.EMBEDDING, Signal.PATCH_TOKENS, Signal.RAW_TOKENS})
OF_A_VIT = REVEALED | {Signal.CLS_ATTENTION}
PLUGINS = installed_plugins()
VIT = "vit_tiny_patch16_224"


def request_of(name, weights=None, classes=None, **options):
    return ModelRequest(
        name,
        split_name(name)[1],
        PLUGINS.find("teacher", name).options(options),
        weights=weights and str(weights),
        classes=classes,
    )


def describe(name, **arguments):
    return PLUGINS.find("teacher", name).call("describe", request_of(name, **arguments))


def build(name, **arguments):
    return PLUGINS.find("teacher", name).call("build", request_of(name, **arguments))


def refused(error, function, *arguments, **options):
    with pytest.raises(error) as caught:
        function(*arguments, **options)
    return str(caught.value)


def network_of(architecture, **arguments):
    torch.manual_seed(0)
    network = timm.create_model(architecture, **arguments).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "head" in name or "fc" in name:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return network


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://the-hub.invalid")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("name", "architecture", "kind", "parameters", "mean"),
    [
        ("regnety16gf", "regnety_160.deit_in1k", "cnn", 83_590_140, (0.485, 0.456, 0.406)),
        ("vit-b", "vit_base_patch16_224.augreg2_in21k_ft_in1k", "vit", 86_567_656, (0.5, 0.5, 0.5)),
        ("timm:resnet18", "resnet18", "cnn", 11_689_512, (0.485, 0.456, 0.406)),
    ],
)
def test_description(name, architecture, kind, parameters, mean):
    spec = describe(name)
    assert (spec.name, spec.architecture, spec.kind, spec.parameters) == (name, architecture, kind, parameters)
    assert (spec.classes, spec.class_names) == (1000, imagenet_class_names())
    assert spec.signals == (OF_A_VIT if kind == "vit" else REVEALED)
    assert (spec.mean, spec.licence, spec.image_size) == (mean, "apache-2.0", (224, 224))
    assert spec.flexible_size == (kind == "cnn")


@pytest.mark.parametrize("name", ["regnety16gf", "vit-b", "timm:resnet18"])
def test_describing_computes_next_to_nothing_and_loads_nothing(name, offline, computed):
    state = torch.get_rng_state()
    with computed() as values:
        describe(name)
    assert values.count < 10_000
    assert torch.equal(torch.get_rng_state(), state)


def test_only_imagenets_thousand_classes_have_its_names():
    assert describe("timm:vit_tiny_patch16_224.augreg_in21k").class_names is None
    assert describe("timm:resnet18.tv_in1k").class_names == imagenet_class_names()
    assert describe("timm:vit_small_patch16_224.dino").classes == 0


def test_published_weights_without_network(offline):
    sentence = (
        "the published weights of 'regnety_160.deit_in1k' are not in the local cache "
        "and the-hub.invalid cannot be reached"
    )
    assert PLUGINS.find("teacher", "regnety16gf").load().why_unavailable(request_of("regnety16gf")) == sentence
    assert refused(WeightsError, build, "regnety16gf") == (
        f"{sentence}; give a file with --teacher-weights, or connect once so that they are cached"
    )


def test_local_weights_are_available(offline, tmp_path):
    factory = PLUGINS.find("teacher", "timm:resnet18").load()
    assert factory.why_unavailable(request_of("timm:resnet18", weights=tmp_path / "w.pth")) is None
    assert factory.why_unavailable(request_of("timm:resnet18", weights="none")) is None


def test_random_weights_for_a_plan():
    with torch.device("meta"):
        teacher = build("regnety16gf", weights="none")
        outputs = teacher(torch.empty(1, 3, 224, 224), LOGITS)
    assert tuple(outputs.logits.shape) == (1, 1000)


def test_regnety16gf_from_the_published_layout(tmp_path):
    """The file of DeiT's authors: timm's names under "model". Expanded zeros replace the 334 MB of weights."""
    with torch.device("meta"):
        shapes = timm.create_model("regnety_160").state_dict()
    weights = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in shapes.items()}
    weights["head.fc.bias"] = torch.arange(1000.0)
    torch.save({"model": weights}, tmp_path / "regnety_160-a5fe301d.pth")
    # The licence of a user's file is unknown.
    expected = replace(describe("regnety16gf"), licence=None)
    assert describe("regnety16gf", weights=tmp_path / "regnety_160-a5fe301d.pth") == expected
    teacher = build("regnety16gf", weights=tmp_path / "regnety_160-a5fe301d.pth")
    assert check_model(teacher, "regnety16gf") is teacher
    with torch.no_grad():
        outputs = teacher.eval()(torch.randn(1, 3, 64, 64), LOGITS)
    assert torch.equal(outputs.logits[0], torch.arange(1000.0))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_teacher_from_a_file_has_the_logits_of_timms_network(tmp_path, suffix, prefix):
    network = network_of("regnety_002", num_classes=7)
    weights = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"state_dict": weights}, path)
    spec = describe("timm:regnety_002", weights=path)
    assert (spec.classes, spec.class_names, spec.head_modules) == (7, None, ("head.fc",))
    teacher = build("timm:regnety_002", weights=path).eval()
    assert teacher.spec == spec
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(teacher(images, LOGITS).logits, network(images))


def test_file_for_imagenets_classes_has_their_names(tmp_path):
    save_file(network_of("regnety_002").state_dict(), tmp_path / "weights.safetensors")
    assert describe("timm:regnety_002", weights=tmp_path / "weights.safetensors").class_names == imagenet_class_names()


def test_two_heads_return_their_mean(tmp_path):
    network = network_of("deit_tiny_distilled_patch16_224", num_classes=7)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    teacher = build("timm:deit_tiny_distilled_patch16_224", weights=tmp_path / "weights.safetensors").eval()
    images = torch.randn(1, 3, 224, 224)
    assert teacher.spec.signals == OF_A_VIT
    with torch.no_grad():
        outputs = teacher(images, LOGITS)
        assert torch.equal(outputs.logits, network(images))
    assert outputs.distill_logits is None


def test_file_with_another_number_of_classes_than_asked_for(tmp_path):
    save_file(network_of("regnety_002").state_dict(), tmp_path / "weights.safetensors")
    sentence = refused(WeightsError, describe, "timm:regnety_002", weights=tmp_path / "weights.safetensors", classes=10)
    assert sentence == (
        f"{tmp_path / 'weights.safetensors'} has a head for 1,000 classes and 'timm:regnety_002' needs one for 10; a "
        "teacher never gets a random head: fine-tune it with `distillkit finetune`, then use --teacher run:DIR"
    )


@pytest.mark.parametrize("function", [describe, build])
def test_file_of_another_network_is_refused_before_it_is_loaded(tmp_path, function):
    save_file(network_of("resnet10t").state_dict(), tmp_path / "weights.safetensors")
    sentence = refused(WeightsError, function, "timm:regnety_002", weights=tmp_path / "weights.safetensors")
    assert re.fullmatch(
        re.escape(f"{tmp_path / 'weights.safetensors'} does not fit 'timm:regnety_002' (regnety_002): ")
        + r"\d+ of \d+ tensors are missing \(stem\.conv\.weight, stem\.bn\.weight, stem\.bn\.bias, \.\.\.\); "
        r"\d+ of \d+ tensors are unexpected \(.+, \.\.\.\); give weights of exactly this architecture",
        sentence,
    )


@pytest.mark.parametrize("function", [describe, build])
def test_files_that_cannot_be_used(tmp_path, function):
    missing, truncated = tmp_path / "no.pth", tmp_path / "truncated.pth"
    truncated.write_bytes(b"hello")
    assert refused(WeightsError, function, "regnety16gf", weights=missing) == (
        f"there is no weight file {missing}; check the path"
    )
    assert refused(WeightsError, function, "regnety16gf", weights=tmp_path) == (
        f"{tmp_path} is a directory; give the weight file in it, or, if it is a run directory, --teacher run:{tmp_path}"
    )
    assert refused(WeightsError, function, "regnety16gf", weights=truncated) == (
        f"{truncated} is not a valid weight file; give a .safetensors file or one written by torch.save"
    )


def test_unknown_network():
    assert refused(RecipeError, describe, "timm:resnet81") == (
        f"timm {timm.__version__} has no model 'resnet81'; did you mean 'resnet18'?"
    )


def test_unknown_options():
    with pytest.raises(RecipeError) as error:
        PLUGINS.find("teacher", "regnety16gf").options({"drop_path": 0.1})
    assert str(error.value).startswith("teacher 'regnety16gf': unknown key 'drop_path'")


@pytest.fixture
def a_run(tmp_path):
    """A run directory with a student of two heads and three classes, evaluated with the sum of softmaxes."""
    options = PLUGINS.find("student", "deit-ti").options({"image_size": 32, "patch": 8, "width": 48, "depth": 2})
    request = ModelRequest("deit-ti", None, options, classes=3)
    torch.manual_seed(0)
    model = PLUGINS.find("student", "deit-ti").call("build", request)
    with torch.no_grad():
        model.network.head.weight.mul_(50)
        model.network.head_dist.weight.mul_(50)
    save_student(tmp_path, model, request, Answer("fused", "softmax"), class_names=("ant", "bee", "cat"))
    return tmp_path, model.eval()


def test_run_predicts_as_its_student_was_evaluated(a_run):
    directory, student = a_run
    name = f"run:{directory}"
    teacher = build(name).eval()
    assert teacher.spec == describe(name)
    assert (teacher.spec.name, teacher.spec.class_names) == (name, ("ant", "bee", "cat"))
    assert teacher.spec.signals == OF_A_VIT
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = fuse(student(images, BOTH), "fused", "softmax")
        assert torch.equal(teacher(images, LOGITS).logits, expected)
    assert not torch.equal(expected, fuse(student(images, BOTH), "fused", "logits"))


@pytest.mark.parametrize(("head", "expected"), [("class", "logits"), ("distill", "distill_logits")])
def test_run_predicts_with_its_head(a_run, head, expected):
    directory, student = a_run
    request = ModelRequest("deit-ti", None, PLUGINS.find("student", "deit-ti").options({
        "image_size": 32, "patch": 8, "width": 48, "depth": 2,
    }))  # fmt: skip
    save_student(directory, student, request, Answer(head, "logits"))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        answer = build(f"run:{directory}").eval()(images, LOGITS).logits
        assert torch.equal(answer, getattr(student(images, BOTH), expected))


def test_describing_a_run_loads_no_weight(a_run):
    directory, _ = a_run
    (directory / "student.safetensors").write_bytes(b"truncated")
    assert describe(f"run:{directory}").classes == 3
    assert build(f"run:{directory}", weights="none").spec.classes == 3
    assert refused(WeightsError, build, f"run:{directory}").startswith(
        f"{directory / 'student.safetensors'} is not a valid .safetensors file ("
    )


@pytest.mark.parametrize("function", [describe, build])
def test_run_refuses_other_weights(a_run, function):
    directory, _ = a_run
    assert refused(WeightsError, function, f"run:{directory}", weights="w.pth") == (
        f"teacher 'run:{directory}' has its own weights, and --teacher-weights w.pth was given as well; "
        "remove --teacher-weights"
    )


@pytest.mark.parametrize("function", [describe, build])
def test_missing_run(tmp_path, function):
    missing = tmp_path / "no"
    assert refused(RunDirectoryError, function, f"run:{missing}") == (
        f"teacher 'run:{missing}': there is no run directory '{missing}'; check the path, or train the "
        f"teacher first, for example with distillkit finetune MODEL --out {missing}"
    )
    assert refused(RunDirectoryError, function, f"run:{tmp_path}") == (
        f"{tmp_path} has no student.json; give the directory of a run that has reached its end"
    )


def test_a_vit_of_another_image_size_has_its_positions_resized(tmp_path):
    native = network_of(VIT)
    save_file(native.state_dict(), tmp_path / "w.safetensors")
    asked = {"weights": tmp_path / "w.safetensors", "image_size": [96, 224]}
    spec, teacher = describe(f"timm:{VIT}", **asked), build(f"timm:{VIT}", **asked)
    assert (spec.image_size, spec.grid, spec.flexible_size) == ((96, 224), (6, 14), False)

    resized = network_of(VIT, img_size=(96, 224))
    weights = native.state_dict()
    patches = weights["pos_embed"][:, 1:].reshape(1, 14, 14, -1).permute(0, 3, 1, 2)  # [1, D, 14, 14]
    patches = torch.nn.functional.interpolate(patches, size=(6, 14), mode="bicubic", align_corners=False)
    positions = torch.cat([weights["pos_embed"][:, :1], patches.flatten(2).transpose(1, 2)], dim=1)  # [1, 1 + 84, D]
    resized.load_state_dict({**weights, "pos_embed": positions})
    images = torch.randn(2, 3, 96, 224)
    with torch.no_grad():
        assert torch.allclose(teacher(images, LOGITS).logits, resized(images), atol=1e-6)


def test_an_image_size_that_is_no_multiple_of_the_patch_is_refused(tmp_path):
    save_file(network_of(VIT).state_dict(), tmp_path / "w.safetensors")
    sentence = refused(RecipeError, describe, f"timm:{VIT}", weights=tmp_path / "w.safetensors", image_size=[100, 100])
    assert (
        sentence
        == f"'timm:{VIT}' does not accept images of 100x100 pixels: the size is not a multiple of its 16x16 patches; "
        "96 or 112 would be"
    )
