"""Losses whose `prepare` breaks the contract, one per requirement, and the complete finding for each."""

import torch
from sound_loss import Sound

from distillkit.testing import PAIRS, check_loss


class Prepared(Sound):
    """A sound loss on logits minus the mean of the teacher's."""

    prepare_images = 20
    prepare_at_least = 3
    target_buffers = frozenset()

    def __init__(self, options, classes):
        super().__init__(options, classes)
        self.register_buffer("mean", torch.zeros(classes))

    def prepare(self, teacher):
        self.mean.copy_(torch.cat([outputs.logits for outputs in teacher]).double().mean(dim=0))

    def distance(self, student, target):
        return super().distance(student, {"logits": target["logits"] - self.mean.to(target["logits"].dtype)})


class MeanOfBatches(Prepared):
    def prepare(self, teacher):
        self.mean.copy_(torch.stack([outputs.logits.mean(dim=0) for outputs in teacher]).mean(dim=0))


class Random(Prepared):
    calls = 0

    def prepare(self, teacher):
        super().prepare(teacher)
        type(self).calls += 1
        self.mean.add_(type(self).calls)


class ChangesTheShape(Prepared):
    def prepare(self, teacher):
        self.mean = torch.cat([outputs.logits for outputs in teacher])


class NotFinite(Prepared):
    def prepare(self, teacher):
        super().prepare(teacher)
        self.mean[0] = torch.nan


class NoBuffers(Sound):
    prepare_images = 20

    def prepare(self, teacher):
        self.mean = 0


class NotPersistent(Prepared):
    def __init__(self, options, classes):
        super().__init__(options, classes)
        self.register_buffer("mean", torch.zeros(classes), persistent=False)


class ChangesTheOutputs(Prepared):
    def prepare(self, teacher):
        self.mean.copy_(torch.cat([outputs.logits.sub_(1) for outputs in teacher]).double().mean(dim=0))


class TargetOfABuffer(Prepared):
    def target(self, teacher):
        return {"logits": teacher.logits.detach().float() - self.mean.float()}


class NoNumberOfImages(Prepared):
    prepare_images = -1


class MoreThanItGets(Prepared):
    prepare_at_least = 30


class NotSmaller(Sound):
    smaller_targets = ({"power": 3.0}, {"power": 0.5})


class ReadsTheIndex(Sound):
    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target) * batch.index}


class SaysSo(ReadsTheIndex):
    needs_index = True


def test_sound_losses_pass():
    check_loss(Prepared, pairs=PAIRS[:1], backend=None)
    check_loss(SaysSo, pairs=PAIRS[:1], backend=None)


def test_preparation_is_deterministic(findings):
    assert "buffer 'mean' depends on how the images of prepare are split into batches" in findings(MeanOfBatches)
    assert findings(Random)[0] == "buffer 'mean' differs between two calls of prepare on the same outputs"


def test_buffers_keep_their_form(findings):
    assert "prepare changes the shape or dtype of buffer 'mean'; keep those of build" in findings(ChangesTheShape)
    assert "prepare fills buffer 'mean' with values that are not finite" in findings(NotFinite)
    assert (
        "has prepare and no buffers; register what it computes with register_buffer, so that checkpoints have it"
    ) in findings(NoBuffers)
    assert "buffer 'mean' is not persistent, so that a resumed run would not have it" in findings(NotPersistent)


def test_outputs_are_not_changed(findings):
    assert "prepare changes the teacher's logits in place" in findings(ChangesTheOutputs)


def test_a_target_names_the_buffers_that_it_depends_on(findings):
    assert "target 'logits' depends on a buffer that 'target_buffers' does not name" in findings(TargetOfABuffer)


def test_numbers_of_images_are_valid(findings):
    assert findings(NoNumberOfImages) == [
        "has prepare, and 'prepare_images' is -1; the contract requires a number of at least 0"
    ]
    assert findings(MoreThanItGets) == [
        "'prepare_at_least' is 30; the contract requires a number from 1 to 'prepare_images', 20"
    ]


def test_smaller_targets_are_smaller(findings):
    assert "'smaller_targets' has {'power': 3.0}, with which the targets are not smaller" in findings(NotSmaller)
    [invalid] = [finding for finding in findings(NotSmaller) if "0.5" in finding]
    assert invalid.startswith("'smaller_targets' has {'power': 0.5}, which are not valid options: ValidationError: ")


def test_a_loss_that_reads_the_index_says_so(findings):
    [finding] = findings(ReadsTheIndex)
    assert finding.startswith("with index = None raised TypeError: ")
    assert finding.endswith("; set needs_index = True if the loss reads it")
