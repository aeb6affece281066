"""Images that one arm classifies correctly and the other does not."""

import io

import pytest
from PIL import Image

import distillkit
from distillkit.comparison.answers import Answers
from distillkit.comparison.arms import ComparedArm
from distillkit.comparison.pictures import disagreements
from distillkit.data.selection import SelectedPart, Selection
from distillkit.errors import UserError

NAMES = ("cat", "dog")
LABELS = (0, 0, 0, 1, 1, 1)


class Pictures:
    """Six pictures of one colour each, the last one large."""

    name = "pictures"
    class_names = NAMES

    def __len__(self):
        return len(LABELS)

    def key(self, index):
        return f"{index}.png"

    def label(self, index):
        return LABELS[index]

    def image(self, index):
        return Image.new("RGB", (400, 200) if index == 5 else (8, 4), (40 * index, 0, 0))


class Run:
    """A run by its name and seed, which is all that a disagreement reads of it."""

    def __init__(self, name, seed):
        self.name, self.seed = name, (seed, 0)


def answers_of(**predicted):
    source = Selection("pictures", NAMES, [SelectedPart.whole(Pictures())])
    return Answers("test", source, tuple(range(6)), LABELS, NAMES, predicted, ())


@pytest.fixture
def found():
    arms = [ComparedArm(name, {}, (Run(f"{name}0", 0), Run(f"{name}1", 1))) for name in ("a", "b")]
    answers = answers_of(
        # labels   0 0 0 1 1 1
        a0=(0, 0, 1, 1, 0, 0),
        b0=(0, 1, 1, 0, 1, 1),
        a1=(0, 0, 0, 1, 1, 0),
        b1=(0, 1, 0, 1, 1, 1),
    )
    return list(disagreements(answers, arms, arms[0], 2))


def test_counts_by_hand(found):
    # Seed 0: both right 1; only b right 2 (4 and 5); only a right 2 (1 and 3); both wrong 1. Seed 1: 4, 1, 1, 0.
    (one,) = found
    assert (one.baseline, one.arm, one.pairs, one.images) == ("a", "b", 2, 6)
    assert [each.mean for each in one.counts] == [2.5, 1.5, 1.5, 0.5]
    assert one.counts[0].deviation == pytest.approx(4.5**0.5)
    assert sum(each.mean for each in one.counts) == one.images


def test_the_clearest_examples_come_first(found):
    (one,) = found
    shown = [(each.key, each.label, each.baseline_answer, each.arm_answer, each.pairs) for each in one.only_arm]
    assert shown == [("5.png", "dog", "cat", "dog", 2), ("4.png", "dog", "cat", "dog", 1)]
    # Seed 0 has both; in seed 1 image 3 is right with both arms, so only the answers of seed 0 count for it.
    shown = [(each.key, each.baseline_answer, each.arm_answer, each.pairs) for each in one.only_baseline]
    assert shown == [("1.png", "cat", "dog", 2), ("3.png", "dog", "cat", 1)]


def test_pictures_are_small_copies(found):
    large, small = (Image.open(io.BytesIO(each.picture)) for each in found[0].only_arm)
    assert (small.format, small.size, small.getpixel((0, 0))) == ("PNG", (8, 4), (160, 0, 0))
    assert (large.format, large.size) == ("JPEG", (128, 64))


def test_arms_without_a_common_seed_are_compared_by_their_first_runs():
    arms = [ComparedArm("a", {}, (Run("a0", 0),)), ComparedArm("b", {}, (Run("b7", 7), Run("b8", 8)))]
    answers = answers_of(a0=LABELS, b7=(1, 1, 1, 1, 1, 1), b8=LABELS)
    (one,) = disagreements(answers, arms, arms[0], 9)
    assert (one.pairs, [each.mean for each in one.counts]) == (1, [3, 0, 3, 0])


def test_predictions_of_real_students(copy_run, real_run):
    """Two students of one recipe: the second copy has the weights of the first and so agrees with it everywhere."""
    reported = []
    runs = [real_run, copy_run("same", {"seed": 1, "optimizer.lr": 0.5})]
    found = distillkit.compare(runs, images=3, device="cpu", report=lambda *progress: reported.append(progress))
    (one,) = found.disagreements
    right = round(5 * found.runs[0].figures["test/top1"])
    assert [each.mean for each in one.counts] == [right, 0, 0, 500 - right]
    assert one.only_arm == one.only_baseline == ()
    assert not [note for note in found.notes if note.startswith("images:")]
    top1 = [by_arm["lr=0.001"].mean for by_arm in found.per_class.accuracy.values()]
    assert sum(top1) / 10 == pytest.approx(found.runs[0].figures["test/top1"])  # 50 test images of each digit
    assert reported[-1] == ("student 2 of 2, test", 500, 500)


def test_a_student_that_cannot_be_opened_is_left_out(copy_run, real_run):
    broken = copy_run("broken", {"seed": 1})
    (broken / "student.safetensors").unlink()
    other = copy_run("changed", {"seed": 2}, {"test/top1": 99.0})
    found = distillkit.compare([real_run, broken, other], images=1, device="cpu")
    notes = [note for note in found.notes if note.startswith("images:")]
    assert notes[0].startswith(f"images: '{broken}' is left out: ")
    assert notes[1].startswith(f"images: test top-1 of '{other}' is ")
    assert notes[1].endswith(" % here and 99.00 % in its result.json")


def test_runs_without_labelled_images_have_no_answers(copy_run):
    run = copy_run("a")
    (run / "result.json").write_text('{"steps": 6, "figures": {}}')
    with pytest.raises(UserError) as caught:
        distillkit.compare(run, images=1)
    assert str(caught.value) == (
        "no run was measured on labelled images, so there are no answers to show; leave out --images"
    )
