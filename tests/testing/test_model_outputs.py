"""Bad outputs of a model, one per requirement, and the complete finding for each."""

from dataclasses import replace

import torch
from sound_model import SoundModel
from torch import nn

from distillkit import Signal
from distillkit.testing import check_teacher


class RevealsTooMuch(SoundModel):
    def forward(self, images, wanted):
        outputs = super().forward(images, wanted)
        return replace(outputs, logits=self.signals(images, wanted)[Signal.LOGITS])


class OneHeadInEvaluation(SoundModel):
    def forward(self, images, wanted):
        outputs = super().forward(images, wanted)
        return outputs if self.training else replace(outputs, distill_logits=None)


class FeatureMaps(SoundModel):
    def signals(self, images, wanted):
        values = super().signals(images, wanted)
        tokens = tuple(each.transpose(1, 2) for each in values[Signal.PATCH_TOKENS])
        return {**values, Signal.PATCH_TOKENS: tokens}


class NotFinite(SoundModel):
    def signals(self, images, wanted):
        values = super().signals(images, wanted)
        return {**values, Signal.LOGITS: values[Signal.LOGITS] + torch.inf}


class SwitchesMode(SoundModel):
    def signals(self, images, wanted):
        self.network.eval()
        return super().signals(images, wanted)


class Scores(SoundModel):
    def signals(self, images, wanted):
        values = super().signals(images, wanted)
        rows = values[Signal.CLS_ATTENTION]
        return {**values, Signal.CLS_ATTENTION: None if rows is None else 2 * rows}


class NormalisesTheBatch(SoundModel):
    def signals(self, images, wanted):
        values = super().signals(images, wanted)
        return {**values, Signal.LOGITS: values[Signal.LOGITS] - values[Signal.LOGITS].mean(dim=0)}


class NoisyInEvaluation(SoundModel):
    def signals(self, images, wanted):
        values = super().signals(images, wanted)
        return {**values, Signal.LOGITS: nn.functional.dropout(values[Signal.LOGITS], 0.5, training=True)}


class ChangesThePixels(SoundModel):
    def signals(self, images, wanted):
        return super().signals(images.mul_(0.5), wanted)


class NoGradient(SoundModel):
    def signals(self, images, wanted):
        values = super().signals(images, wanted)
        return {
            **values,
            Signal.LOGITS: values[Signal.LOGITS].detach(),
            Signal.DISTILL_LOGITS: 0 * values[Signal.DISTILL_LOGITS],
        }


class SteepGradient(SoundModel):
    def signals(self, images, wanted):
        values = super().signals(images, wanted)
        logits = values[Signal.LOGITS]
        return {**values, Signal.LOGITS: logits + (logits - logits.detach()).abs().sqrt()}


class FollowsAutocast(SoundModel):
    def signals(self, images, wanted):
        values = super().signals(images, wanted)
        logits = self.network.head(self.network.layers(images)[-1].mean(dim=1))
        return {**values, Signal.LOGITS: logits if logits.dtype == torch.bfloat16 else logits.float()}


class ReturnsATensor(SoundModel):
    def forward(self, images, wanted):
        return self.signals(images, wanted)[Signal.LOGITS]


class OtherwiseCompiled(SoundModel):
    def signals(self, images, wanted):
        return super().signals(images * (2 if torch.compiler.is_compiling() else 1), wanted)


def test_exactly_the_requested_signals_are_revealed(student_findings):
    assert student_findings(RevealsTooMuch) == [
        "reveals logits although it is not requested; this costs time",
        "reveals logits in training although it is not requested; this costs time",
    ]
    assert student_findings(OneHeadInEvaluation)[0] == "does not reveal distill_logits although it is requested"
    assert student_findings(FeatureMaps)[:2] == [
        "outputs on the meta device do not have the shapes that its spec describes",
        "patch_tokens[0] has shape [3, 9, 6]; its spec says [3, 6, 9]",
    ]


def test_outputs_are_finite(student_findings):
    assert student_findings(NotFinite)[:2] == ["logits is not finite", "logits is not finite in training"]


def test_forward_does_not_switch_the_mode(student_findings):
    assert student_findings(SwitchesMode) == [
        "forward switches between training and evaluation mode; it must leave the mode unchanged"
    ]


def test_attention_is_a_distribution(student_findings):
    assert student_findings(Scores) == [
        "a row of cls_attention is not a distribution; it must sum to 1 after keys of other tokens are removed"
    ]


def test_outputs_do_not_depend_on_other_images(student_findings):
    assert student_findings(NormalisesTheBatch) == [
        "logits of an image alone differs from that of the same image in a batch"
    ]


def test_evaluation_is_deterministic(student_findings):
    assert "logits differs between calls in evaluation mode" in student_findings(NoisyInEvaluation)
    assert "forward changes the images in place; the teachers read them too" in student_findings(ChangesThePixels)


def test_every_signal_has_a_gradient(student_findings):
    assert student_findings(NoGradient) == [
        "no gradient reaches the parameters from logits",
        "no gradient reaches the parameters from distill_logits",
    ]
    assert student_findings(SteepGradient) == ["the gradient from logits is not finite"]


def test_precision_is_kept(student_findings):
    assert student_findings(FollowsAutocast) == [
        "logits has dtype bfloat16 under autocast; it must be float32 at least",
        "logits has dtype float32 for float64 images and parameters",
    ]


def test_outputs_have_the_type_of_the_contract(student_findings):
    assert student_findings(ReturnsATensor) == [
        (
            "does not run on torch's meta device, which `distillkit plan` uses: TypeError: forward returns "
            "Tensor; it must return Outputs; build on torch's default device, and let neither shapes nor branches "
            "depend on tensor values"
        ),
        (
            "raised TypeError: forward returns Tensor; it must return Outputs; in these checks: signals, "
            "attention is a distribution, batch of one, deterministic, gradients, precision, flexible size, state"
        ),
    ]


def test_compilation_changes_nothing(student_findings):
    names = ["logits", "distill_logits", "embedding[0]", "embedding[1]", "cls_attention"]
    names += ["patch_tokens[0]", "patch_tokens[1]", "raw_tokens[0]", "raw_tokens[1]"]
    sentences = [f"{name} differs under torch.compile" for name in names]
    assert student_findings(OtherwiseCompiled, backend="eager") == sentences


def test_flexible_size_is_checked(student_findings):
    class OneSize(SoundModel):
        def signals(self, images, wanted):
            values = super().signals(images, wanted)
            return values if images.shape[-1] == 12 else {**values, Signal.LOGITS: values[Signal.LOGITS][:1]}

    assert student_findings(OneSize) == ["declares flexible_size, but has no logits [3, 10] at 4x6 pixels"]


def test_a_teacher_is_not_trained(student_findings):
    class Frozen(SoundModel):
        @torch.no_grad()
        def forward(self, images, wanted):
            return super().forward(images, wanted)

    check_teacher(Frozen, backend=None)
    assert len(student_findings(Frozen)) == len(Signal)
