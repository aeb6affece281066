"""Bad terms of a loss, one per requirement, and the complete finding for each."""

import torch
from sound_loss import Sound
from torch import nn

from distillkit import Read, Signal
from distillkit.testing import PAIRS, check_loss

FIRST_PAIR = PAIRS[:1]


class Average(Sound):
    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target).mean()}


class DeclaredAverage(Average):
    couples_batch = True


class ExtraAxis(DeclaredAverage):
    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target)[:, None]}


class Nothing(Sound):
    def forward(self, student, target, batch):
        return {}


class NotFinite(Sound):
    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target) / batch.progress}


class AlwaysHalf(Sound):
    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target).half()}


class AlwaysSingle(Sound):
    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target).float()}


class ChangesTheLabels(Sound):
    def forward(self, student, target, batch):
        if batch.labels is not None:
            batch.labels.mul_(2)
        target["logits"].add_(0.5).sub_(0.25)
        return {"distance": self.distance(student, target)}


class Detached(Sound):
    def forward(self, student, target, batch):
        with torch.no_grad():
            return {"distance": self.distance(student, target)}


class HalfRead(Sound):
    reads_student = frozenset({Read(Signal.LOGITS), Read(Signal.EMBEDDING)})

    def __init__(self, options, classes):
        super().__init__(options, classes)
        self.spare = nn.Linear(1, 1)


class InfiniteGradient(Sound):
    def forward(self, student, target, batch):
        return {"distance": (student.logits - student.logits.detach()).abs().sum(dim=1).sqrt() + student.logits.sum(1)}


class Remembers(Sound):
    kept = 0.0

    def target(self, teacher):
        self.kept = teacher.logits.detach().float().mean(dim=1)
        return super().target(teacher)

    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target) + self.kept}


class NeedsTwoImages(DeclaredAverage):
    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target).sum() / (len(student.logits) - 1)}


class CentresTheTerms(Sound):
    def forward(self, student, target, batch):
        distance = self.distance(student, target)
        return {"distance": distance - 0.5 * distance.mean()}


class WrongGradient(Sound):
    def forward(self, student, target, batch):
        logits = student.logits
        return {"distance": self.distance(student, target) + (logits * logits.detach()).sum(dim=1)}


class Overflows(Sound):
    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target) + (student.logits * 60000 / 60000).sum(dim=1)}


class OtherwiseCompiled(Sound):
    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target) * (2 if torch.compiler.is_compiling() else 1)}


class CountsCalls(Sound):
    calls = 0.0

    def forward(self, student, target, batch):
        self.calls += 1.0
        return {"distance": self.distance(student, target) + self.calls}


class NeedsLabels(Sound):
    def forward(self, student, target, batch):
        surprise = -(batch.labels.sum(dim=1)).log()
        return {"distance": self.distance(student, target) + surprise}


class HiddenState(Sound):
    def __init__(self, options, classes):
        super().__init__(options, classes)
        self.direction = torch.randn(classes)

    def forward(self, student, target, batch):
        return {"distance": self.distance(student, target) + student.logits @ self.direction.to(student.logits)}


class ExtraState(Sound):
    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        pass


class Unpicklable(Sound):
    def __init__(self, options, classes):
        super().__init__(options, classes)
        self.scale = lambda distance: distance

    def forward(self, student, target, batch):
        return {"distance": self.scale(self.distance(student, target))}


def test_terms_have_one_value_per_sample_unless_the_batch_is_coupled(findings):
    assert findings(Average)[:2] == [
        "term 'distance' of a batch of 6 has shape []; it must be [6], one value per sample",
        "term 'distance' of a batch of 1 has shape []; it must be [1], one value per sample",
    ]
    check_loss(DeclaredAverage, pairs=FIRST_PAIR, backend=None)
    assert findings(ExtraAxis) == [
        f"term 'distance' of a batch of {size} has shape [{size}, 1]; it must be [] or [{size}], one value per sample"
        for size in (6, 1)
    ]


def test_a_loss_with_a_weight_has_terms(findings):
    assert findings(Nothing) == ["returns no terms, but its weight is 1"]


def test_terms_are_finite_from_the_first_step(findings):
    assert findings(NotFinite) == ["term 'distance' is not finite at progress 0"]


def test_terms_keep_the_students_precision(findings):
    assert findings(AlwaysHalf)[:2] == [
        "term 'distance' has dtype float16; the student's outputs are float32",
        "term 'distance' has dtype float16; the student's outputs are float64",
    ]
    assert findings(AlwaysSingle)[0] == "term 'distance' has dtype float32; the student's outputs are float64"


def test_forward_does_not_change_its_inputs(findings):
    assert findings(ChangesTheLabels)[:2] == [
        "forward changes target 'logits' in place; other losses read it too",
        "forward changes the labels in place; other losses read it too",
    ]


def test_a_gradient_reaches_outputs_that_are_read_and_own_parameters(findings):
    assert findings(Detached) == ["no gradient reaches the student: the terms are detached from its outputs"]
    assert findings(HalfRead) == [
        "no gradient reaches the student's embedding[0], which the loss reads",
        "no gradient reaches the loss's parameter 'spare.weight'; use it or remove it",
        "no gradient reaches the loss's parameter 'spare.bias'; use it or remove it",
    ]
    assert "the gradient of the student's logits is not finite" in findings(InfiniteGradient)


def test_the_target_is_all_that_forward_knows_of_the_teacher(findings):
    assert (
        "term 'distance' needs more than the target: a new loss object gives another value for the same target; keep "
        "no state between target and forward"
    ) in findings(Remembers)


def test_a_single_image_is_a_batch(findings):
    assert findings(NeedsTwoImages) == ["term 'distance' of a single image is not finite"]


def test_splitting_a_batch_does_not_change_the_terms(findings):
    (sentence,) = findings(CentresTheTerms)
    assert sentence.startswith("term 'distance' of an image differs by ")
    assert sentence.endswith(
        " when the batch is split in two; compute it from that image only, or set couples_batch = True"
    )


def test_the_gradient_agrees_with_finite_differences(findings):
    (sentence,) = findings(WrongGradient)
    assert sentence.startswith("the gradient differs from finite differences in float64: GradcheckError: ")


def test_half_precision_stays_finite(findings):
    assert findings(Overflows) == [
        "term 'distance' is not finite under float16 autocast with float16 outputs",
    ]


def test_compilation_changes_nothing(findings):
    sentences = findings(OtherwiseCompiled, backend="eager")
    assert sentences[0].startswith("term 'distance' differs by ")
    assert sentences[0].endswith(" under torch.compile")
    assert sentences[1:] == ["the gradient of the student's logits differs under torch.compile"]


def test_terms_are_the_same_every_time(findings):
    assert "term 'distance' differs between calls with the same inputs and seed" in findings(CountsCalls)


def test_images_without_labels_work_or_are_refused(findings):
    assert findings(NeedsLabels) == [
        (
            "with labels = None raised AttributeError: 'NoneType' object has no attribute 'sum'; support this, "
            "or raise a UserError that explains why not"
        ),
        "term 'distance' is not finite with rows of zeros in labels",
    ]


def test_state_survives_a_checkpoint_and_another_process(findings):
    assert findings(HiddenState) == [
        "gives different terms when restored from a checkpoint: some state is in neither the options nor state_dict"
    ]
    assert findings(ExtraState) == ["state_dict holds '_extra_state' of type dict; a checkpoint can hold only tensors"]
    (sentence,) = findings(Unpicklable)
    assert sentence.startswith("cannot be restored from pickle: ")
