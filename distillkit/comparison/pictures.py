"""The images that one arm classifies correctly and another does not: counts, and the clearest examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from distillkit.comparison.arms import ComparedArm
from distillkit.comparison.spread import Spread, spread
from distillkit.messages.text import visible

if TYPE_CHECKING:
    from PIL.Image import Image

    from distillkit.comparison.answers import Answers

OUTCOMES = ("both right", "only {arm}", "only {baseline}", "both wrong")
SIDE = 128
"""Pixels of the longer side of a picture."""
LOSSLESS = 64
"""Up to this size a picture is stored without loss."""


@dataclass(frozen=True)
class Example:
    """An image, its class, and the most frequent answer of each arm in the `pairs` of runs with the same outcome."""

    key: str
    label: str
    baseline_answer: str
    arm_answer: str
    pairs: int
    picture: bytes


@dataclass(frozen=True)
class Disagreement:
    """An arm against the baseline over pairs of runs of the same seed.

    `counts` has the number of images by outcome, as mean and spread over the pairs, in the order of OUTCOMES.
    Source: ADViT, tables 2 and 3.
    """

    baseline: str
    arm: str
    pairs: int
    images: int
    counts: tuple[Spread, ...]
    only_arm: tuple[Example, ...]
    only_baseline: tuple[Example, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without the pictures."""
        keys = ("both_right", "only_arm_right", "only_baseline_right", "both_wrong")
        return {
            "baseline": self.baseline,
            "arm": self.arm,
            "pairs": self.pairs,
            "images": self.images,
            "counts": {key: each.as_dict() for key, each in zip(keys, self.counts, strict=True)},
            "examples": {
                "only_arm_right": [_plain(each) for each in self.only_arm],
                "only_baseline_right": [_plain(each) for each in self.only_baseline],
            },
        }


def disagreements(
    answers: Answers, arms: Sequence[ComparedArm], baseline: ComparedArm, most: int
) -> Iterator[Disagreement]:
    """Every other arm against the baseline, with at most `most` examples of each kind.

    Arms without a common seed are compared by their first runs.
    """
    for arm in arms:
        pairs = _pairs(answers, arm, baseline)
        if arm is not baseline and pairs:
            yield _disagreement(answers, arm, baseline, pairs, most)


def _pairs(answers: Answers, arm: ComparedArm, baseline: ComparedArm) -> list[tuple[str, str]]:
    """The runs of the arm and of the baseline that are compared: of each common seed, else the first ones."""
    ours, theirs = (
        {run.seed: run.name for run in each.runs if run.name in answers.predicted} for each in (arm, baseline)
    )
    common = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    return common or [*zip(list(ours.values())[:1], list(theirs.values())[:1], strict=False)]


def _disagreement(
    answers: Answers, arm: ComparedArm, baseline: ComparedArm, pairs: Sequence[tuple[str, str]], most: int
) -> Disagreement:
    by_pair = [_outcomes(answers, *pair) for pair in pairs]
    counts = [spread(float(sum(each == kind for each in outcomes)) for outcomes in by_pair) for kind in range(4)]
    only = []
    for kind in (1, 2):
        agreeing = [
            [pair for pair, outcomes in zip(pairs, by_pair, strict=True) if outcomes[place] == kind]
            for place in range(len(answers.labels))
        ]
        places = _clearest(answers, [len(each) for each in agreeing])[:most]
        only.append(tuple(_example(answers, place, agreeing[place]) for place in places))
    return Disagreement(
        baseline.name, arm.name, len(pairs), len(answers.labels), tuple(filter(None, counts)), only[0], only[1]
    )


def _outcomes(answers: Answers, arm: str, baseline: str) -> list[int]:
    """For each image: 0 both right, 1 only the arm, 2 only the baseline, 3 both wrong."""
    ours, theirs = answers.predicted[arm], answers.predicted[baseline]
    return [
        2 * (own != label) + (other != label) for label, own, other in zip(answers.labels, ours, theirs, strict=True)
    ]


def _clearest(answers: Answers, votes: Sequence[int]) -> list[int]:
    """Places of the images with votes: the most votes first, then alternating between the classes."""
    turns: Counter[tuple[int, int]] = Counter()
    ranked = []
    for place, vote in enumerate(votes):
        if vote:
            group = (vote, answers.labels[place])
            ranked.append((-vote, turns[group], answers.labels[place], place))
            turns[group] += 1
    return [place for *_, place in sorted(ranked)]


def _example(answers: Answers, place: int, pairs: Sequence[tuple[str, str]]) -> Example:
    """The image at a place; `pairs` are those in which the same arm is right, whose answers are shown."""
    index = answers.indices[place]
    arm, baseline = (
        Counter(answers.predicted[pair[side]][place] for pair in pairs).most_common(1)[0][0] for side in (0, 1)
    )
    return Example(
        key=visible(answers.source.key(index)),
        label=answers.class_name(answers.labels[place]),
        baseline_answer=answers.class_name(baseline),
        arm_answer=answers.class_name(arm),
        pairs=len(pairs),
        picture=_encoded(_load(answers, index)),
    )


def _load(answers: Answers, index: int) -> Image:
    from distillkit.data.sources import load_image

    return load_image(answers.source, index)


def _encoded(image: Image) -> bytes:
    """A small copy of an image as PNG, or as JPEG if it had to be reduced. No metadata is copied."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    content = BytesIO()
    if max(small.size) <= LOSSLESS:
        small.save(content, "PNG", optimize=True)
    else:
        small.save(content, "JPEG", quality=85)
    return content.getvalue()


def _plain(example: Example) -> dict[str, Any]:
    return {
        "image": example.key,
        "class": example.label,
        "arm_answer": example.arm_answer,
        "baseline_answer": example.baseline_answer,
        "pairs": example.pairs,
    }
