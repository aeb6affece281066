"""Bad outputs of a model, one per promise, and the whole sentence that each earns."""

from dataclasses import replace

import torch
from sound_model import SoundModel
from torch import nn

from distillkit import Signal
from distillkit.testing import check_teacher


class SaysTooMuch(SoundModel):
    def forward(self, images, wanted):
        outputs = super().forward(images, wanted)
        return replace(outputs, logits=self.say(images, wanted)[Signal.LOGITS])


class OneHeadInEvaluation(SoundModel):
    def forward(self, images, wanted):
        outputs = super().forward(images, wanted)
        return outputs if self.training else replace(outputs, distill_logits=None)


class FeatureMaps(SoundModel):
    def say(self, images, wanted):
        said = super().say(images, wanted)
        tokens = tuple(each.transpose(1, 2) for each in said[Signal.PATCH_TOKENS])
        return {**said, Signal.PATCH_TOKENS: tokens}


class NotFinite(SoundModel):
    def say(self, images, wanted):
        said = super().say(images, wanted)
        return {**said, Signal.LOGITS: said[Signal.LOGITS] + torch.inf}


class SwitchesMode(SoundModel):
    def say(self, images, wanted):
        self.network.eval()
        return super().say(images, wanted)


class Scores(SoundModel):
    def say(self, images, wanted):
        said = super().say(images, wanted)
        rows = said[Signal.CLS_ATTENTION]
        return {**said, Signal.CLS_ATTENTION: None if rows is None else 2 * rows}


class NormalisesTheBatch(SoundModel):
    def say(self, images, wanted):
        said = super().say(images, wanted)
        return {**said, Signal.LOGITS: said[Signal.LOGITS] - said[Signal.LOGITS].mean(dim=0)}


class NoisyInEvaluation(SoundModel):
    def say(self, images, wanted):
        said = super().say(images, wanted)
        return {**said, Signal.LOGITS: nn.functional.dropout(said[Signal.LOGITS], 0.5, training=True)}


class ChangesThePixels(SoundModel):
    def say(self, images, wanted):
        return super().say(images.mul_(0.5), wanted)


class NoGradient(SoundModel):
    def say(self, images, wanted):
        said = super().say(images, wanted)
        return {
            **said,
            Signal.LOGITS: said[Signal.LOGITS].detach(),
            Signal.DISTILL_LOGITS: 0 * said[Signal.DISTILL_LOGITS],
        }


class SteepGradient(SoundModel):
    def say(self, images, wanted):
        said = super().say(images, wanted)
        logits = said[Signal.LOGITS]
        return {**said, Signal.LOGITS: logits + (logits - logits.detach()).abs().sqrt()}


class FollowsAutocast(SoundModel):
    def say(self, images, wanted):
        said = super().say(images, wanted)
        logits = self.network.head(self.network.layers(images)[-1].mean(dim=1))
        return {**said, Signal.LOGITS: logits if logits.dtype == torch.bfloat16 else logits.float()}


class ReturnsATensor(SoundModel):
    def forward(self, images, wanted):
        return self.say(images, wanted)[Signal.LOGITS]


class OtherwiseCompiled(SoundModel):
    def say(self, images, wanted):
        return super().say(images * (2 if torch.compiler.is_compiling() else 1), wanted)


def test_exactly_what_is_wanted_is_revealed(student_findings):
    assert student_findings(SaysTooMuch) == [
        "reveals logits although nobody wants it; this costs time",
        "reveals logits in training although nobody wants it; this costs time",
    ]
    assert student_findings(OneHeadInEvaluation)[0] == "does not reveal distill_logits although it is wanted"
    assert student_findings(FeatureMaps)[:2] == [
        "says something of another shape on the meta device than its spec describes",
        "patch_tokens[0] has shape [3, 9, 6]; its spec says [3, 6, 9]",
    ]


def test_outputs_are_finite(student_findings):
    assert student_findings(NotFinite)[:2] == ["logits is not finite", "logits is not finite in training"]


def test_the_core_alone_switches_between_training_and_evaluation(student_findings):
    assert student_findings(SwitchesMode) == ["forward switches between training and evaluation; the core does that"]


def test_attention_is_a_distribution(student_findings):
    assert student_findings(Scores) == [
        "a row of cls_attention is no distribution: each must sum to one after keys of other tokens are removed"
    ]


def test_images_do_not_look_at_each_other(student_findings):
    assert student_findings(NormalisesTheBatch) == [
        "logits of an image alone differs from that of the same image in a batch"
    ]


def test_evaluation_is_determined(student_findings):
    assert "logits differs from call to call in evaluation" in student_findings(NoisyInEvaluation)
    assert "forward changes the images in place; the teachers see them too" in student_findings(ChangesThePixels)


def test_every_signal_carries_a_gradient(student_findings):
    assert student_findings(NoGradient) == [
        "no gradient reaches the parameters from logits",
        "no gradient reaches the parameters from distill_logits",
    ]
    assert student_findings(SteepGradient) == ["the gradient from logits is not finite"]


def test_precision_is_kept(student_findings):
    assert student_findings(FollowsAutocast) == [
        "logits is bfloat16 under autocast; the contract requires at least float32",
        "logits is float32 where images and parameters are float64",
    ]


def test_outputs_have_the_type_of_the_contract(student_findings):
    assert student_findings(ReturnsATensor) == [
        (
            "does not run on torch's meta device, on which `distillkit plan` counts: TypeError: forward returns "
            "Tensor; the contract requires Outputs; build under torch's default device, and let no shape "
            "and no branch depend on the values of a tensor"
        ),
        (
            "raised TypeError: forward returns Tensor; the contract requires Outputs; this stopped: signals, "
            "attention is a distribution, batch of one, determined, gradients, precision, sizes, state"
        ),
    ]


def test_compilation_changes_nothing(student_findings):
    names = ["logits", "distill_logits", "embedding[0]", "embedding[1]", "cls_attention"]
    names += ["patch_tokens[0]", "patch_tokens[1]"]
    sentences = [f"{name} differs under torch.compile" for name in names]
    assert student_findings(OtherwiseCompiled, backend="eager") == sentences


def test_flexible_size_is_tried(student_findings):
    class OneSize(SoundModel):
        def say(self, images, wanted):
            said = super().say(images, wanted)
            return said if images.shape[-1] == 12 else {**said, Signal.LOGITS: said[Signal.LOGITS][:1]}

    assert student_findings(OneSize) == ["says flexible_size, and reveals no logits [3, 10] at 4x6 pixels"]


def test_a_teacher_is_not_trained(student_findings):
    class Frozen(SoundModel):
        @torch.no_grad()
        def forward(self, images, wanted):
            return super().forward(images, wanted)

    check_teacher(Frozen, backend=None)
    assert len(student_findings(Frozen)) == len(Signal)
