"""A torch.nn.Module as the student of a run: train, resume, evaluate, export, and load without distillkit."""

import warnings
from collections import OrderedDict
from copy import deepcopy

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

import distillkit
from distillkit.errors import RecipeError, RunDirectoryError, SignalError
from distillkit.testing import check_student
from distillkit_export import ExportOptions, export
from distillkit_plugins.students.given_module import GivenModule

SIZE = {"student.image_size": 16}
SHORT = {"steps": 4, "batch_size": 8, "log_every": 1, "checkpoint_every": 2, "device": "cpu", "precision": "fp32"}
DATA = {"data.workers": 0, "evaluation.images": 20}


class Net(nn.Module):
    """A small classifier."""

    def __init__(self, classes=10):
        super().__init__()
        self.body = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 8, 3, 2, 1), layer4=nn.Conv2d(8, 12, 3, 2, 1)))
        self.fc = nn.Linear(12, classes)

    def forward(self, images):
        return self.fc(self.body(images).relu().mean(dim=(2, 3)))


class Backbone(nn.Module):
    """A detector's backbone: it returns a dictionary of maps."""

    def __init__(self):
        super().__init__()
        self.body = Net().body
        self.lateral = nn.Conv2d(12, 6, 1)

    def forward(self, images):
        return OrderedDict(p4=self.lateral(self.body(images)))


class StopAt:
    """A KeyboardInterrupt when a step is logged."""

    def distillkit_steps_logged(self, record):
        if record["step"] >= 3:
            raise KeyboardInterrupt


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Net()


def train(student, out, **more):
    options = {"loss": "ce", "features": "body.layer4", "training": SHORT, **SIZE, **DATA, **more}
    return distillkit.run("digits", out, student=student, **options)


def test_the_saved_state_dict_loads_into_the_class_and_the_given_network_is_not_changed(network, tmp_path):
    before = deepcopy(network.state_dict())
    directory = train(network, tmp_path / "run").directory
    saved = load_file(directory / "student.safetensors")
    Net().load_state_dict(saved)
    assert not torch.equal(saved["fc.weight"], before["fc.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert 'model = "module:Net"' in (directory / "recipe.toml").read_text()


def test_the_given_weights_are_the_initial_ones(network, tmp_path):
    still = {"training": {**SHORT, "steps": 1}, "optimizer.lr": 1e-20}  # the warm-up begins at 1e-6
    saved = load_file(train(network, tmp_path / "run", **still).directory / "student.safetensors")
    torch.testing.assert_close(saved, dict(network.state_dict()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("build", [Net, None])
def test_resuming_is_exact(network, tmp_path, build):
    student = build or network
    train(student, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(student, tmp_path / "stopped", observers=[StopAt()])
    with pytest.raises(RecipeError) as refusal:
        distillkit.resume(tmp_path / "stopped")
    assert str(refusal.value) == NOT_BY_NAME
    distillkit.resume(tmp_path / "stopped", student=student)
    whole, stopped = (load_file(tmp_path / name / "student.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in whole.items())


NOT_BY_NAME = (
    "student 'module:Net' was given from Python and cannot be built from its name; use Python: "
    "distillkit.resume(DIR, student=MODULE) continues its run, and load_student, evaluate and distillkit_export.export "
    "take plugins=distillkit.with_student(MODULE)"
)


def test_other_functions_take_the_network_again(network, tmp_path):
    directory = train(network, tmp_path / "run").directory
    plugins = distillkit.with_student(Net)
    images = torch.randn(2, 3, 16, 16)
    student = distillkit.load_student(directory, plugins=plugins)
    network.load_state_dict(load_file(directory / "student.safetensors"))
    torch.testing.assert_close(student(images), network.eval()(images))
    assert distillkit.load_student(directory, checkpoint=4, plugins=plugins).spec.widths == (12,)
    assert distillkit.evaluate(directory, plugins=plugins, device="cpu").measurement.figures
    export(directory, tmp_path / "bundle", ExportOptions(gate_images=8), plugins=plugins).require()
    for function in (distillkit.load_student, export):
        with pytest.raises(RecipeError) as refusal:
            function(directory)
        assert str(refusal.value) == NOT_BY_NAME


def plan(student, features, loss="ce", **more):
    return distillkit.plan("digits", student=student, features=features, loss=loss, **SIZE, **DATA, **more)


def test_conformance():
    check_student(GivenModule.of(Net), {"features": ["body.stem", "body.layer4"], "image_size": 16})


def test_layers_of_maps_and_tokens(network):
    spec = plan(network, ["body.stem", "body.layer4"]).student.spec
    assert (spec.layers, spec.widths, spec.grids) == (2, (8, 12), ((8, 8), (4, 4)))
    assert (spec.kind, spec.classes, spec.head_modules, spec.parameters) == ("cnn", 10, ("fc",), 1_230)
    vit = torchvision.models.VisionTransformer(16, 4, 1, 2, 8, 16, num_classes=10)
    spec = plan(vit, "encoder.ln").student.spec
    assert (spec.widths, spec.grids, spec.prefix_tokens, spec.kind) == ((8,), ((4, 4),), 1, "other")


def needs_logits(name, values):
    return (
        f"the label term reads the student's logits, which student 'module:{name}' does not reveal because its output "
        f"has {values}, and there are 10 classes; give it a head of 10 classes, or set labels.weight=0 with a loss "
        "that reads features"
    )


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (Backbone(), needs_logits("Backbone", "no vector of one value per class")),
        (Net(classes=7), needs_logits("Net", "7 values")),
    ],
)
def test_labels_need_logits_of_these_classes(student, message):
    with pytest.raises(SignalError) as refusal:
        plan(student, "body.layer4")
    assert str(refusal.value) == message


def test_the_backbone_of_a_detector_learns_from_a_teacher_without_labels(tmp_path):
    few = {**SHORT, "steps": 1}
    teacher = distillkit.run("digits", tmp_path / "teacher", student="small-cnn", loss="ce", training=few, **DATA)
    align = {"loss": "attndistill", "attention_weight": 0.0}
    directory = train(
        Backbone, tmp_path / "run", loss=align, teacher=f"run:{teacher.directory}", training={**SHORT, "steps": 2}
    ).directory
    Backbone().load_state_dict(load_file(directory / "student.safetensors"))
    student = distillkit.load_student(directory, plugins=distillkit.with_student(Backbone))
    assert student(torch.randn(2, 3, 16, 16)).shape == (2, 12)


class Twice(Net):
    def forward(self, images):
        return super().forward(images) + self.fc(self.body.layer4(self.body.stem(images[..., ::2])).mean(dim=(2, 3)))


class Odd(Net):
    def __init__(self):
        super().__init__()
        self.idle = nn.Conv2d(3, 3, 1)
        self.pair = Backbone()

    def forward(self, images):
        self.pair(images)
        return super().forward(images)


ANOTHER = "name another module in features"
NO_MAP = f"not a map [B, C, H, W] or tokens [B, N, D]; {ANOTHER}"
SHAPES = (
    "module 'body.layer4' of student 'module:Twice' returns outputs of several shapes, [2, 12, 4, 4] and "
    f"[2, 12, 4, 2]; {ANOTHER}"
)
NEGATIVE = (
    "student 'module:function' cannot be built: Trying to create tensor with negative dimension -1: [-1, 12]; give a "
    "network, or a function without arguments that builds one"
)


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.LazyConv2d(4, 3)

    def forward(self, images):
        return self.stem(images)


KEPT = Net()
SAME_WEIGHTS = (
    "student 'module:function' is a function that returns the same weights each time; build new modules in it, or give "
    "the network itself"
)
LAZY = (
    "student 'module:Lazy' has lazy modules, whose weights have no shapes yet; give it after one forward, or a "
    "function that builds it and runs one"
)
RETURNS_INT = "student 'module:function' is a function that returns int; it has to return a torch.nn.Module"


@pytest.mark.parametrize(
    ("student", "features", "message"),
    [
        (Net, "body.layr4", "student 'module:Net' has no module 'body.layr4'; did you mean 'body.layer4'?"),
        (Net, "fc", f"module 'fc' of student 'module:Net' returns a tensor of shape [2, 10], {NO_MAP}"),
        (Odd, "pair", f"module 'pair' of student 'module:Odd' returns a OrderedDict, {NO_MAP}"),
        (Odd, "idle", f"module 'idle' of student 'module:Odd' is not called in its forward; {ANOTHER}"),
        (Twice, "body.layer4", SHAPES),
        (Net, "", "student 'module:Net' has no module ''"),
        (lambda: 3, "x", RETURNS_INT),
        (lambda: Net(classes=-1), "x", NEGATIVE),
        (lambda: KEPT, "body.layer4", SAME_WEIGHTS),
        (lambda: nn.Sequential(KEPT), "0.body.layer4", SAME_WEIGHTS),
        (Lazy, "stem", LAZY),
        (7, "x", "student is int; give the name of a student, a torch.nn.Module, or a function that builds one"),
        ("vit-ti", "x", "features names layers of a student that is a torch.nn.Module; leave it out, or give one"),
    ],
)
def test_wrong_students_and_features(student, features, message):
    with pytest.raises(RecipeError) as refusal:
        plan(student, features)
    assert str(refusal.value) == message


def test_a_refused_function_leaves_the_weights_that_it_returns():
    assert {tensor.device.type for tensor in KEPT.state_dict().values()} == {"cpu"}


def test_torchscript_is_refused(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        traced = torch.jit.trace(network, torch.zeros(1, 3, 16, 16))
    with pytest.raises(RecipeError) as refusal:
        plan(traced, "body.layer4")
    assert str(refusal.value) == (
        "student 'module:TopLevelTracedModule' is a TorchScript module; give the torch.nn.Module it is from"
    )


def test_a_loss_on_features_needs_features(network):
    with pytest.raises(SignalError) as refusal:
        plan(network, [], loss="features", teacher="timm:test_vit", **{"teacher.weights": "none"})
    assert str(refusal.value) == (
        "loss 'features' reads the student's embedding; student 'module:Net' does not reveal it because features names "
        'none of its modules, as features="layer4" would; it reveals logits; choose another student'
    )


def test_resume_of_another_run(tmp_path, network):
    with pytest.raises(RunDirectoryError):
        distillkit.resume(tmp_path, student=network)
