"""Notes where a plan may surprise: images left out of each epoch, enlarged images, a teacher of little weight."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import median

from distillkit.contracts.model import ModelSpec
from distillkit.data.sources import Source, Stream, is_stream, load_image
from distillkit.errors import DataError
from distillkit.messages.text import counted
from distillkit.planning.plan import LossPlan
from distillkit.recipe.schema import Recipe

LEFT_OUT = 0.1
"""Share of the training images that a note mentions if every epoch leaves them out."""
ENLARGED = 3.0
"""Factor of enlargement that a note mentions."""
SMALL_SHARE = 0.1
"""Largest share of the loss that is little for a teacher: that of DeiT's soft distillation."""
SAMPLED = 5
"""Number of training images whose size is looked at."""
SMALL_IMAGES = "--recipe cifar10-few-labels --set data.labels="
"""Options for images of up to LARGEST_SMALL pixels: the recipe is for 32, with patches of 4, and keeps all labels."""
LARGEST_SMALL = 64


def left_out_of_each_epoch(images: int, *, samples: int, steps: int, recipe: Recipe) -> Iterator[str]:
    """A note on images that do not fill a step, with the batch size that sees more of them."""
    if recipe.augment.repeats > 1 or recipe.data.labeled_fraction is not None:
        return  # an epoch is then not a pass over all images
    left = images - steps * samples
    if left < LEFT_OUT * images or left <= 0:
        return
    note = (
        f"each epoch leaves out {left:,} of {images:,} images, others each time, because it has "
        f"{counted(steps, 'step')} of {samples:,}"
    )
    better = next((size for size in range(samples - 1, 1, -1) if images % size < LEFT_OUT * images), None)
    if better is None:
        yield note
    else:
        yield f"{note}; --set training.batch_size={better} leaves out {images % better or 'none'}"


def enlarged_images(train: Source | Stream, student: ModelSpec, recipe: Recipe, *, has_labels: bool) -> Iterator[str]:
    """A note on small images that a student with random weights sees much enlarged, with the settings that fit.

    Trained weights expect the size at which they were trained. Without labels the recipe for small images does not fit.
    """
    size = student.image_size
    if is_stream(train) or recipe.student.weights not in (None, "none"):
        return
    sides = list(_short_sides(train))
    if not sides or median(sides) * ENLARGED > min(size):
        return
    own = int(median(sides))
    patch = 4 if own <= LARGEST_SMALL else 16
    own_size = math.ceil(own / patch) * patch
    resized = "" if patch == 4 and own_size == 32 else f"--set student.image_size={own_size}"
    if has_labels:
        fits = " ".join(filter(None, (SMALL_IMAGES if patch == 4 else "", resized)))
    else:
        fits = f"--set student.image_size={own_size}" if student.kind == "cnn" else ""
    yield (
        f"the images have about {own} px and are enlarged to {min(size)}, with {(min(size) / own) ** 2:,.0f} times as "
        f"many pixels to compute{'; for their own size: ' * bool(fits)}{fits}"
    )


def _short_sides(train: Source) -> Iterator[int]:
    """The shorter sides of a few training images, in pixels, without the unreadable ones."""
    count = min(SAMPLED, len(train))
    for number in range(count):
        try:
            yield min(load_image(train, number * len(train) // count).size)
        except DataError:  # the run counts it
            continue


def small_share_of_teacher(losses: Mapping[str, LossPlan], label_weight: float, recipe: Recipe) -> Iterator[str]:
    """A note on losses that read a teacher and have at most a tenth of all weights."""
    weight = sum(loss.weight for loss in losses.values() if loss.teacher is not None)
    total = label_weight + sum(loss.weight for loss in losses.values())
    if not weight or weight > SMALL_SHARE * total + 1e-9:
        return
    name = next(name for name, loss in losses.items() if loss.teacher is not None)
    key = "loss.weight" if len(recipe.losses) == 1 else f"losses.{name}.weight"
    yield (
        f"the teacher has {weight / total:.2g} of the loss and the labels {label_weight / total:.2g}; to give it more: "
        f"--set {key}=0.9 --set labels.weight=0.1"
    )
