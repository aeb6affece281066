"""Bad descriptions and builds of a model, one per promise, and the whole sentence that each earns."""

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


def test_wrong_names_and_options_are_the_authors():
    with pytest.raises(UnknownPluginError):
        check_student("no-such-student")
    with pytest.raises(RecipeError) as refusal:
        check_teacher(SoundModel, {"width": 3})
    assert str(refusal.value) == f"teacher {SoundModel.__module__}.SoundModel: unknown key 'width'; known: none"


def test_what_describe_refuses_is_the_authors():
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
        ({"classes": 9}, ["describes 9 classes where 10 were asked for"]),
        ({"signals": frozenset({Signal.EMBEDDING})}, ["reveals no logits; a student needs them"]),
        ({"class_names": ("cat", "dog")}, ["describes 10 classes and names 2"]),
        (
            {"grids": ((2, 3),)},
            ["reveals cls_attention of 2 layers, and describes 2 widths and 1 grids; one each per layer is needed"],
        ),
        (
            {"silent": {Signal.LOGITS: "it is shy"}},
            ["reveals logits, and says in `silent` why it does not"],
        ),
        ({"heads": None}, ["reveals cls_attention, and does not say how many heads a layer has"]),
        (
            {"std": (0.2, 0.0, 0.2)},
            ["mean (0.485, 0.456, 0.406) and std (0.2, 0.0, 0.2) are not one number per channel, std above 0"],
        ),
        ({"image_size": (0, 12)}, ["image_size (0, 12) is not (height, width) in pixels"]),
        (
            {"head_modules": ("head", "classifier")},
            ["head_modules names 'classifier', which is no sub-module of its network"],
        ),
        ({"parameters": 5}, ["describes 5 parameters, and its network has 821"]),
        (
            {"flexible_size": True, "image_size": (4, 4), "grids": ((1, 1), (1, 1))},
            [
                "no gradient reaches the parameters from cls_attention",
                (
                    "raised RuntimeError: Calculated padded input size per channel: (2 x 2). Kernel size: (4 x 4). "
                    "Kernel size can't be greater than actual input size; this stopped: sizes"
                ),
            ],
        ),
    ],
)
def test_a_description_fits_together_and_to_what_is_built(student_findings, changes, sentences):
    assert student_findings(describing(**changes)) == sentences


class ChangesItsMind(SoundModel):
    count = 0

    @classmethod
    def describe(cls, request):
        ChangesItsMind.count += 1
        return replace(super().describe(request), parameters=ChangesItsMind.count)


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


def test_describe_answers_the_request_alone(student_findings):
    sentences = student_findings(ChangesItsMind)
    assert sentences[0] == "describe says something else every time; it must depend on the request alone"
    assert student_findings(NoSpec)[0] == "describe returns dict; the contract requires a ModelSpec"


def test_what_is_built_is_what_was_described(student_findings):
    assert student_findings(BuildsOther) == [
        "describes name 'BuildsOther', and what is built has 'other'",
        "describes crop 0.875, and what is built has 1.0",
    ]
    assert student_findings(BareNetwork) == [
        "build returns Network; the contract asks for a torch.nn.Module with a module `network`"
    ]
    assert student_findings(WithoutSpec) == ["what build returns has no 'spec'"]
    assert student_findings(Elsewhere) == ["build puts parameters on meta; the core moves them from the CPU"]


# Building


class AsksTheNetwork(SoundModel):
    @classmethod
    def describe(cls, request):
        with contextlib.suppress(OSError):
            socket.getaddrinfo("hub.example", 443)
        return super().describe(request)


class OwnChance(SoundModel):
    @classmethod
    def build(cls, request):
        model = super().build(request)
        model.network.head.bias.data = torch.from_numpy(np.random.default_rng().normal(size=request.classes)).float()
        return model


class LooksAtValues(SoundModel):
    def say(self, images, wanted):
        return super().say(images * (1.0 if float(images.sum()) > -1e9 else 0.0), wanted)


class KeepsStateOutside(SoundModel):
    def __init__(self, network, spec):
        super().__init__(network, spec)
        self.bias = nn.Parameter(torch.randn(spec.classes))

    def say(self, images, wanted):
        said = super().say(images, wanted)
        return {**said, Signal.LOGITS: said[Signal.LOGITS] + self.bias.to(said[Signal.LOGITS])}


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
        'asks the network for hub.example; with `weights` a file or "none" nothing may be downloaded'
    ]


def test_a_student_starts_from_torchs_seed(student_findings):
    assert (
        "two builds under one seed of torch start from different parameters; draw them with torch's own generator"
    ) in student_findings(OwnChance)


def test_a_plan_can_count_the_model(student_findings):
    (sentence,) = student_findings(LooksAtValues)
    assert sentence.startswith("does not run on torch's meta device, on which `distillkit plan` counts: RuntimeError: ")
    assert sentence.endswith(
        "; build under torch's default device, and let no shape and no branch depend on the values of a tensor"
    )


def test_the_networks_state_is_all_that_is_saved(student_findings):
    assert student_findings(KeepsStateOutside) == [
        "says something else after its network's state_dict was loaded into a new build"
    ]
    assert student_findings(ExtraState) == [
        "its network's state_dict holds '_extra_state' of type dict; only tensors can be saved"
    ]
