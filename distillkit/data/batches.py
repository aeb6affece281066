"""Training batches: the images, labels and keys of every optimiser step, on the device."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distillkit.compute.cpus import loader_processes
from distillkit.contracts.incidents import BrokenImage
from distillkit.contracts.model import ModelSpec
from distillkit.data.collate import HostBatch, Preparation
from distillkit.data.mixing import Mixer
from distillkit.data.order import Order, steps_per_epoch
from distillkit.data.sources import is_stream
from distillkit.data.splits import DataSets
from distillkit.data.streaming import StreamedWindows
from distillkit.data.transforms import training_transform
from distillkit.data.worker_loader import IndexedWindows, Layout
from distillkit.errors import RecipeError
from distillkit.recipe.schema import Recipe


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch on the device: the samples of one forward pass.

    Shapes: images [b, C, H, W] float32, normalised for the student and mixed; labels [b, K], smoothed and mixed, zeros
    for an unlabelled sample, None if the run has no labels; label_mass [b], 1 for labelled and 0 for unlabelled.
    """

    images: Tensor
    labels: Tensor | None
    label_mass: Tensor
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Window:
    """The data of one optimiser step: this process's `micro_batches`; `samples` and `labelled` count all processes."""

    step: int
    epoch: int
    ends_epoch: bool
    micro_batches: tuple[MicroBatch, ...]
    samples: int
    labelled: int


class HostWindows(Protocol):
    """Windows on the host, from indexed images or from a stream."""

    def counts(self, step: int) -> tuple[int, int]: ...

    def windows(self, start: int, end: int) -> Generator[tuple[HostBatch, ...]]: ...


class TrainingData:
    """The training windows of one rank: a pure function of the recipe, `data.seed` and the step.

    They are bit-equal for any number of loader processes and any first step; for streams see `StreamedWindows`.
    An unreadable image is replaced, see `Replacements`, and appended to `broken` when its window is yielded. If
    `broken` is None, it is an error.
    Raises: RecipeError for settings that exclude each other; the message says what to change.
    """

    def __init__(  # noqa: PLR0913 - what is read, how it is prepared, by which process, and where broken images go
        self,
        datasets: DataSets,
        recipe: Recipe,
        *,
        spec: ModelSpec,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        broken: list[BrokenImage] | None = None,
    ) -> None:
        _check(datasets, recipe)
        _check_shards(datasets, world)
        self.steps_per_epoch = steps_per_epoch(datasets, recipe)
        self._device = device
        self._broken = broken
        preparation = Preparation(
            transform=training_transform(recipe.augment, spec),
            mixer=Mixer(recipe.mixing, recipe.data.seed),
            size=spec.image_size,
            classes=spec.classes if datasets.labelled.any() else None,
            smoothing=recipe.labels.smoothing,
            seed=recipe.data.seed,
        )
        workers = loader_processes(recipe.data.workers)
        layout = Layout(rank, world, recipe.training.micro_batch_size, workers, pin=device.type == "cuda")
        views = recipe.data.views
        self._host: HostWindows
        if is_stream(datasets.train):
            batch = recipe.training.batch_size
            self._host = StreamedWindows(datasets.train, batch, self.steps_per_epoch, preparation, layout, views)
        else:
            order, replaces = Order.from_recipe(datasets, recipe), broken is not None
            self._host = IndexedWindows(datasets.train, order, preparation, layout, views, replaces)

    def windows(self, start_step: int, end_step: int) -> Generator[Window]:
        """The windows of steps `start_step` to `end_step - 1`, counted from 0. Closing ends the loader processes."""
        with closing(self._host.windows(start_step, end_step)) as windows:
            for step, batches in enumerate(windows, start_step):
                epoch, place = divmod(step, self.steps_per_epoch)
                # Not in the loader, which reads ahead: an image of a window that no step uses must not be counted.
                if self._broken is not None:
                    self._broken += (image for batch in batches for image in batch.broken)
                yield Window(
                    step,
                    epoch,
                    place + 1 == self.steps_per_epoch,
                    tuple(map(self._on_device, batches)),
                    *self._host.counts(step),
                )

    def _on_device(self, batch: HostBatch) -> MicroBatch:
        images, labels, label_mass, keys, _ = batch
        return MicroBatch(
            images.to(self._device, non_blocking=True),
            labels if labels is None else labels.to(self._device, non_blocking=True),
            label_mass.to(self._device, non_blocking=True),
            tuple(keys),  # pinning turns it into a list in some versions of torch
        )


def _check(datasets: DataSets, recipe: Recipe) -> None:
    """Reject settings under which images cannot be repeated or mixed."""
    mixing, size = recipe.mixing, recipe.training.micro_batch_size
    if datasets.streaming and recipe.augment.repeats > 1:
        raise RecipeError(
            f"augment.repeats = {recipe.augment.repeats} does not work with a stream, and '{datasets.train.name}' is "
            "one; set it to 1"
        )
    if not Mixer(mixing, 0).is_on:
        return
    if size is not None and size % 2:
        raise RecipeError(
            f"training.micro_batch_size = {size} is odd and would split a pair of mixed images; make it even, or set "
            "mixing.mixup and mixing.cutmix to 0"
        )
    labelled = int(datasets.labelled.sum())
    if mixing.mode == "batch" and 0 < labelled < len(datasets.labelled):
        raise RecipeError(
            f"mixing.mode = 'batch' needs a label for every image, and only {labelled:,} of "
            f"{len(datasets.labelled):,} have one; set mixing.mode = 'pair', which mixes labelled and unlabelled "
            "images separately"
        )


def _check_shards(datasets: DataSets, world: int) -> None:
    """Reject a stream with fewer shards than processes."""
    if is_stream(datasets.train) and datasets.train.shards < world:
        raise RecipeError(
            f"'{datasets.train.name}' has {datasets.train.shards} shards, too few for {world} processes; start at most "
            f"{datasets.train.shards} processes, or write the stream in more shards"
        )
