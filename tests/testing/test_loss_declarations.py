"""Bad options, attributes and builds of a loss, one per requirement, and the complete finding for each."""

import contextlib
import socket

import numpy as np
import torch
from pydantic import BaseModel, Field
from sound_loss import Sound

from distillkit import Read, Signal, TargetSpec, UserError
from distillkit.testing import PAIRS

FIRST_PAIR = PAIRS[:1]


# Options


class WithoutOptions(Sound):
    Options = None


class ChangeableOptions(Sound):
    class Options(BaseModel):
        power: float = 2.0


class OptionsThatDoNotRead(Sound):
    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        power: float = 2.0
        layers: tuple[int, ...] = (1, 2)


class OptionsThatForget(Sound):
    class Options(BaseModel, frozen=True, extra="forbid", strict=True):
        power: float = Field(2.0, exclude=True)


def test_options_must_exist(findings):
    assert findings(WithoutOptions) == [
        "has no 'Options'; add a nested frozen pydantic model, without fields if the plugin has no options"
    ]


def test_options_must_be_frozen_and_refuse_unknown_keys(findings):
    assert findings(ChangeableOptions) == [
        "Options are mutable after validation; set frozen=True in the model",
        "Options accept unknown keys, so a typo goes unnoticed; set extra='forbid' in the model",
    ]


def test_options_must_survive_a_recipe_file(findings):
    (sentence,) = findings(OptionsThatDoNotRead)
    assert sentence.startswith(
        "Options written to a recipe as {'power': 2.0, 'layers': [1, 2]} cannot be read back: 1 validation error for "
        "Options layers Input should be a valid tuple"
    )
    assert findings(OptionsThatForget, {"power": 3.0}) == [
        "Options written to a recipe as {} read back as different options"
    ]


# Attributes


class NoModule:
    Options = Sound.Options

    @classmethod
    def build(cls, options, student, teacher):
        return cls()


class WrongAttributes(Sound):
    weight = -1
    label_weight = "half"
    reads_teacher = (Read(Signal.LOGITS),)
    couples_batch = "no"

    def __init__(self, options, classes):
        super().__init__(options, classes)
        self.targets = {"logits": TargetSpec((0,), "float")}
        self.targets["class"] = TargetSpec((), "int46")


class MissingAttributes(Sound):
    def __init__(self, options, classes):
        super().__init__(options, classes)
        del self.targets


class ShapesForTargets(Sound):
    def __init__(self, options, classes):
        super().__init__(options, classes)
        self.targets = {"logits": (7,)}


class BuildCrashes(Sound):
    @classmethod
    def build(cls, options, student, teacher):
        raise KeyError(student.name)


class Refuses(Sound):
    @classmethod
    def build(cls, options, student, teacher):
        raise UserError(f"loss 'refuses' does not support '{teacher.name}'")


class ReadsWhatIsNot(Sound):
    reads_teacher = frozenset({Read(Signal.DISTILL_LOGITS)})


class ReadsTwice(Sound):
    reads_student = frozenset({Read(Signal.LOGITS), Read(Signal.EMBEDDING, (3, 3))})

    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target) + sum(each.mean(dim=1) for each in student.embedding)}


def test_a_loss_is_a_module(findings):
    assert findings(NoModule) == ["build returns NoModule; the contract requires a torch.nn.Module"]


def test_attributes_have_the_types_of_the_contract(findings):
    assert findings(WrongAttributes) == [
        "'weight' is -1; the contract requires a finite number of at least 0",
        "'label_weight' is 'half'; the contract requires a finite number of at least 0",
        f"'reads_teacher' is {WrongAttributes.reads_teacher!r}; the contract requires a frozenset of Read",
        "'couples_batch' is 'no'; the contract requires True or False",
        "target 'logits' is described with shape (0,); sizes must be at least 1, without the batch dimension",
        "target 'class' is described with dtype 'int46'; torch has no such dtype",
    ]
    assert findings(MissingAttributes) == ["has no 'targets'"]
    assert findings(ShapesForTargets) == [
        "'targets' is {'logits': (7,)}; the contract requires a mapping from names to TargetSpec"
    ]


def test_build_may_raise_only_user_errors(findings):
    assert findings(BuildCrashes) == ["build raised KeyError: 'paper-distilled-vit'"]
    assert findings(Refuses) == [
        (
            "does not support any of the pairs of models tried: ViT from a ViT of the same size: loss 'refuses' does "
            "not support 'paper-vit'"
        )
    ]


def test_signals_that_are_read_must_be_revealed(findings):
    assert findings(ReadsWhatIsNot) == [
        (
            "does not support any of the pairs of models tried: ViT from a ViT of the same size: loss "
            "'ReadsWhatIsNot' reads the teacher's distillation logits; teacher 'paper-vit' is a ViT and reveals "
            "logits, embedding, CLS attention, patch tokens, raw tokens; choose another teacher"
        )
    ]


def test_a_layer_is_read_once(findings):
    assert findings(ReadsTwice) == [
        "reads embedding of the student's layers (3, 3); name at least one layer, and each only once"
    ]


# Building


class AsksTheNetwork(Sound):
    @classmethod
    def build(cls, options, student, teacher):
        with contextlib.suppress(OSError):
            socket.create_connection(("weights.example", 443))
        return cls(options, teacher.classes)


class OwnRandomness(Sound):
    def __init__(self, options, classes):
        super().__init__(options, classes)
        self.mix.weight.data = torch.from_numpy(np.random.default_rng().normal(size=(classes, classes))).float()


class LooksAtValues(Sound):
    def forward(self, student, target, batch):
        strength = 1.0 if float(target["logits"].sum()) > -1e9 else 0.0
        return {"distance": strength * self.distance(student, target)}


def test_a_loss_works_without_a_network(findings):
    assert findings(AsksTheNetwork) == [
        "opens a network connection to weights.example; a loss must not use the network"
    ]


def test_initialisation_depends_on_torchs_seed_only(findings):
    assert (
        "two builds with the same torch seed have different parameters; draw them from torch's global generator"
        in findings(OwnRandomness)
    )


def test_the_loss_runs_on_the_meta_device(findings):
    (sentence,) = findings(LooksAtValues)
    assert sentence.startswith("does not run on torch's meta device, which `distillkit plan` uses: RuntimeError: ")
    assert sentence.endswith(
        "; use operations that work there, and let neither shapes nor branches depend on tensor values"
    )
