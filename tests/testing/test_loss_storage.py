"""Losses whose targets cannot be stored, one per requirement, and the complete finding for each."""

from pydantic import Field
from sound_loss import Sound

from distillkit import TargetSpec
from distillkit.testing import PAIRS, check_loss


class ProjectsTheTeacher(Sound):
    def target(self, teacher):
        return {"logits": self.mix(teacher.logits.detach().float()).detach()}


class NamesAnUnknownOption(Sound):
    target_options = frozenset({"power", "tau"})


class NamesOptionsInAList(Sound):
    target_options = ("power",)


class NamesAnUnknownFact(Sound):
    target_geometry = frozenset({"grid"})


class NeedsEveryBit(Sound):
    """The distance to a target a million times as large as what the student has to learn of it."""

    def __init__(self, options, classes):
        super().__init__(options, classes)
        self.targets = {"logits": TargetSpec((classes,), "float32", exact=False)}

    def target(self, teacher):
        return {"logits": 10_000 + teacher.logits.detach().float()}

    def forward(self, student, target, batch):
        return {"distance": self.distance(student, {"logits": target["logits"] - 10_000})}


class NeedsOneOption(Sound):
    class Options(Sound.Options):
        scale: float = Field(1.0, gt=0)

    target_options = frozenset({"scale"})


def test_a_target_does_not_depend_on_what_is_trained(findings):
    assert (
        "target 'logits' depends on a parameter of the loss that training changes; compute it in forward, or freeze "
        "the parameter"
    ) in findings(ProjectsTheTeacher)


def test_target_options_are_names_of_options(findings):
    assert findings(NamesAnUnknownOption) == ["'target_options' names 'tau', which is no option"]
    assert findings(NamesOptionsInAList) == [
        "'target_options' is ('power',); the contract requires a frozenset of names of Options"
    ]
    check_loss(NeedsOneOption, pairs=PAIRS[:1], backend=None)


def test_target_geometry_has_names_of_facts(findings):
    assert findings(NamesAnUnknownFact) == [
        (
            "'target_geometry' is frozenset({'grid'}); the contract requires a frozenset of 'grids', 'heads', 'kind', "
            "'layers', 'prefix_tokens'"
        )
    ]


def test_a_target_that_float16_changes_too_much_is_exact(findings):
    [finding] = findings(NeedsEveryBit)
    assert finding.startswith("term 'distance' changes by ")
    assert finding.endswith(
        " % when its target is stored as float16 and read again; set exact = True in its TargetSpec"
    )


def test_a_loss_with_a_stored_target_passes():
    check_loss("soft", {"top_k": 3}, pairs=PAIRS[:1], backend=None)
