"""Bad descriptions and builds of a model, one per requirement, and the complete finding for each."""

import contextlib
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
from sound_model import Network, SoundModel, describing
from torch import nn

from distillkit import RecipeError, Signal, UnknownPluginError
from distillkit.testing import check_student, check_teacher


def test_a_sound_model_passes_as_student_and_as_teacher():
    check_student(SoundModel)
    check_teacher(SoundModel)
    check_student(SoundModel, classes=3, backend=None)


def test_unknown_names_and_options_are_raised_as_they_are():
    with pytest.raises(UnknownPluginError, match=r"^unknown student 'no-such-student'"):
        check_student("no-such-student")
    with pytest.raises(RecipeError) as refusal:
        check_teacher(SoundModel, {"width": 3})
    assert str(refusal.value) == f"teacher {SoundModel.__module__}.SoundModel: unknown key 'width'; known: none"


def test_a_refusal_of_describe_is_raised_as_it_is():
    class Refuses(SoundModel):
        @classmethod
        def describe(cls, request):
            raise RecipeError("'sound' cannot see images of 8x12 pixels")

    with pytest.raises(RecipeError) as refusal:
        check_student(Refuses)
    assert str(refusal.value) == "'sound' cannot see images of 8x12 pixels"


# The description


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({"classes": 9}, ["describes 9 classes, but the request is for 10"]),
        ({"signals": frozenset({Signal.EMBEDDING})}, ["reveals no logits; a student needs them"]),
        ({"class_names": ("cat", "dog")}, ["describes 10 classes, but 2 class names"]),
        (
            {"grids": ((2, 3),)},
            ["reveals cls_attention of 2 layers, but describes 2 widths and 1 grids; each layer needs one of each"],
        ),
        (
            {"silent": {Signal.LOGITS: "it is shy"}},
            ["reveals logits, but `silent` gives a reason why it does not"],
        ),
        ({"heads": None}, ["reveals cls_attention, but its spec has no number of heads"]),
        (
            {"std": (0.2, 0.0, 0.2)},
            ["mean (0.485, 0.456, 0.406) and std (0.2, 0.0, 0.2) must have one number per channel, std above 0"],
        ),
        ({"image_size": (0, 12)}, ["image_size (0, 12) is not (height, width) in pixels"]),
        (
            {"head_modules": ("head", "classifier")},
            ["head_modules names 'classifier', which is not a submodule of its network"],
        ),
        ({"parameters": 5}, ["describes 5 parameters, but its network has 821"]),
        (
            {"flexible_size": True, "image_size": (4, 4), "grids": ((1, 1), (1, 1))},
            [
                "no gradient reaches the parameters from cls_attention",
                (
                    "raised RuntimeError: Calculated padded input size per channel: (2 x 2). Kernel size: (4 x 4). "
                    "Kernel size can't be greater than actual input size; in these checks: flexible size"
                ),
            ],
        ),
    ],
)
def test_a_description_is_consistent_and_fits_the_built_model(student_findings, changes, sentences):
    assert student_findings(describing(**changes)) == sentences


class ChangingDescription(SoundModel):
    count = 0

    @classmethod
    def describe(cls, request):
        ChangingDescription.count += 1
        return replace(super().describe(request), parameters=ChangingDescription.count)


class NoSpec(SoundModel):
    @classmethod
    def describe(cls, request):
        return {"classes": request.classes}


class BuildsOther(SoundModel):
    @classmethod
    def build(cls, request):
        return cls(Network(request.classes), replace(cls.describe(request), name="other", crop=1.0))


class BareNetwork(SoundModel):
    @classmethod
    def build(cls, request):
        return Network(request.classes)


class WithoutSpec(SoundModel):
    @classmethod
    def build(cls, request):
        return cls(Network(request.classes), None)


class Elsewhere(SoundModel):
    @classmethod
    def build(cls, request):
        return super().build(request).to("meta")


def test_describe_depends_on_the_request_only(student_findings):
    sentences = student_findings(ChangingDescription)
    assert sentences[0] == "describe returns another spec for the same request; it must depend on the request only"
    assert student_findings(NoSpec)[0] == "describe returns dict; it must return a ModelSpec"


def test_the_built_model_matches_its_description(student_findings):
    assert student_findings(BuildsOther) == [
        "describes name 'BuildsOther', but the built model has 'other'",
        "describes crop 0.875, but the built model has 1.0",
    ]
    assert student_findings(BareNetwork) == [
        "build returns Network; it must return a torch.nn.Module with a submodule `network`"
    ]
    assert student_findings(WithoutSpec) == ["the built model has no ModelSpec in 'spec'"]
    assert student_findings(Elsewhere) == ["build puts parameters on meta; it must leave them on the CPU"]


# Building


class AsksTheNetwork(SoundModel):
    @classmethod
    def describe(cls, request):
        with contextlib.suppress(OSError):
            socket.getaddrinfo("hub.example", 443)
        return super().describe(request)


class OwnRandomness(SoundModel):
    @classmethod
    def build(cls, request):
        model = super().build(request)
        model.network.head.bias.data = torch.from_numpy(np.random.default_rng().normal(size=request.classes)).float()
        return model


class LooksAtValues(SoundModel):
    def signals(self, images, wanted):
        return super().signals(images * (1.0 if float(images.sum()) > -1e9 else 0.0), wanted)


class KeepsStateOutside(SoundModel):
    def __init__(self, network, spec):
        super().__init__(network, spec)
        self.bias = nn.Parameter(torch.randn(spec.classes))

    def signals(self, images, wanted):
        values = super().signals(images, wanted)
        return {**values, Signal.LOGITS: values[Signal.LOGITS] + self.bias.to(values[Signal.LOGITS])}


class ExtraState(SoundModel):
    @classmethod
    def build(cls, request):
        network = NetworkWithExtraState(request.classes)
        return cls(network, cls.describe(request))


class NetworkWithExtraState(Network):
    def get_extra_state(self):
        return {"epoch": 3}


def test_nothing_is_downloaded(student_findings):
    assert student_findings(AsksTheNetwork) == [
        'opens a network connection to hub.example; with `weights` a file or "none" it must not download'
    ]


def test_initialisation_depends_on_torchs_seed_only(student_findings):
    assert (
        "two builds with the same torch seed have different parameters; draw them from torch's global generator"
    ) in student_findings(OwnRandomness)


def test_the_model_runs_on_the_meta_device(student_findings):
    (sentence,) = student_findings(LooksAtValues)
    assert sentence.startswith("does not run on torch's meta device, which `distillkit plan` uses: RuntimeError: ")
    assert sentence.endswith(
        "; build on torch's default device, and let neither shapes nor branches depend on tensor values"
    )


def test_the_networks_state_is_enough_to_restore_the_model(student_findings):
    assert student_findings(KeepsStateOutside) == [
        "outputs differ after its network's state_dict is loaded into a new build"
    ]
    assert student_findings(ExtraState) == [
        "its network's state_dict holds '_extra_state' of type dict; only tensors can be saved"
    ]
