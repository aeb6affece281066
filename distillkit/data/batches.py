"""Training batches: the images, labels and keys of every optimiser step, on the device."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from distillkit.compute.background_copies import BackgroundCopies
from distillkit.contracts.decoding import Decoding
from distillkit.contracts.incidents import BrokenImage
from distillkit.contracts.model import ModelSpec
from distillkit.data.collate import HostBatch, Preparation
from distillkit.data.fast_decoding import FastImages
from distillkit.data.loader_speed import LoaderSpeed
from distillkit.data.micro_batches import check_no_single_samples
from distillkit.data.mixing import Mixer
from distillkit.data.order import Order, samples_per_step, steps_per_epoch
from distillkit.data.pixels import PixelNormalisation, finished
from distillkit.data.sources import Source, is_stream
from distillkit.data.splits import DataSets
from distillkit.data.streaming import StreamedWindows
from distillkit.data.training_images import TrainingImages
from distillkit.data.transforms import training_transform
from distillkit.data.worker_loader import IndexedWindows, Layout
from distillkit.errors import RecipeError
from distillkit.recipe.schema import Recipe

Item = TypeVar("Item")


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch on the device: the samples of one forward pass.

    Shapes: images [b, C, H, W] float32, normalised for the student and mixed; labels [b, K], smoothed and mixed, zeros
    for an unlabelled sample, None if the run has no labels; label_mass [b], 1 for labelled and 0 for unlabelled.
    `addresses` [b, 4], on the CPU, is where a target bank has the targets, see `HostBatch`; `index` [b] int64 are the
    numbers of the images in the training set. Both are None in a stream.
    """

    images: Tensor
    labels: Tensor | None
    label_mass: Tensor
    keys: tuple[str, ...]
    addresses: Tensor | None = None
    index: Tensor | None = None


@dataclass(frozen=True)
class Window:
    """The data of one optimiser step: this process's `micro_batches`; `samples` and `labelled` count all processes.

    `broken` are the images of this process that could not be read and were replaced. `waited_s` is how many seconds the
    process waited for the data; windows that differ in it alone are equal.
    """

    step: int
    epoch: int
    ends_epoch: bool
    micro_batches: tuple[MicroBatch, ...]
    samples: int
    labelled: int
    broken: tuple[BrokenImage, ...] = ()
    waited_s: float = field(default=0.0, compare=False)


class HostWindows(Protocol):
    """Windows on the host, from indexed images or from a stream."""

    @property
    def facts(self) -> dict[str, float]: ...

    def counts(self, step: int) -> tuple[int, int]: ...

    def windows(self, start: int, end: int) -> Generator[tuple[HostBatch, ...]]: ...


class TrainingData:
    """The training windows of one rank: a pure function of the recipe, `data.seed` and the step.

    They are bit-equal for any number of loader processes and any first step; for streams see `StreamedWindows`.
    With `replace_broken` an unreadable image is replaced, see `Replacements`, and listed in its window; else it is an
    error. Without `allow_single` no micro-batch has a single image.
    Raises: RecipeError for settings that exclude each other; the message says what to change.
    """

    def __init__(  # noqa: PLR0913 - what is read, how it is prepared, and by which process
        self,
        datasets: DataSets,
        recipe: Recipe,
        *,
        spec: ModelSpec,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        replace_broken: bool = False,
        allow_single: bool = True,
    ) -> None:
        _check(datasets, recipe)
        size = recipe.training.micro_batch_size
        if not allow_single:
            check_no_single_samples(samples_per_step(datasets, recipe), size, world)
        _check_shards(datasets, world)
        self.steps_per_epoch = steps_per_epoch(datasets, recipe)
        self._device = device
        self._streaming = is_stream(datasets.train)
        preparation = Preparation(
            transform=training_transform(recipe.augment, spec, recipe.data.decode),
            mixer=Mixer(recipe.mixing, recipe.data.seed),
            size=spec.image_size,
            classes=spec.classes if datasets.labelled.any() else None,
            smoothing=recipe.labels.smoothing,
            seed=recipe.data.seed,
            finishes=recipe.data.finish == "loader",
        )
        self._normalise = PixelNormalisation(spec, device)
        self._copies = BackgroundCopies(device)
        workers, pin = recipe.data.workers, device.type == "cuda"
        layout = Layout(rank, world, size, workers, pin=pin, allow_single=allow_single)
        views = recipe.data.views
        self._host: HostWindows
        if is_stream(datasets.train):
            batch = recipe.training.batch_size
            self._host = StreamedWindows(datasets.train, batch, self.steps_per_epoch, preparation, layout, views)
        else:
            order = Order.from_recipe(datasets, recipe)
            images, speed = _training_images(datasets.train, recipe, preparation), LoaderSpeed(workers)
            self._host = IndexedWindows(images, order, preparation, layout, views, speed, replace_broken)

    def windows(self, start_step: int, end_step: int) -> Generator[Window]:
        """The windows of steps `start_step` to `end_step - 1`, counted from 0. Closing ends the loader processes."""
        with closing(self._host.windows(start_step, end_step)) as windows:
            for step, (batches, waited_s) in enumerate(_timed(windows), start_step):
                epoch, place = divmod(step, self.steps_per_epoch)
                with self._copies.background():
                    micro_batches = tuple(map(self._on_device, batches))
                self._copies.hand_over(chain.from_iterable(map(_tensors, micro_batches)))
                yield Window(
                    step,
                    epoch,
                    place + 1 == self.steps_per_epoch,
                    micro_batches,
                    *self._host.counts(step),
                    tuple(chain.from_iterable(batch.broken for batch in batches)),
                    waited_s,
                )

    @property
    def facts(self) -> dict[str, float]:
        """Loader processes with their measured times, and bytes of images in memory; empty for a stream."""
        return self._host.facts

    def _on_device(self, batch: HostBatch) -> MicroBatch:
        images, labels, label_mass, keys, addresses, *_ = batch
        images = self._moved(images)
        if images.dtype == torch.uint8:
            images = finished(images, self._normalise, batch.erased, batch.mixed)
        return MicroBatch(
            images,
            labels if labels is None else self._moved(labels),
            self._moved(label_mass),
            tuple(keys),  # pinning turns it into a list in some versions of torch
            None if self._streaming else addresses,
            None if self._streaming else self._moved(addresses[:, 0]),
        )

    def _moved(self, tensor: Tensor) -> Tensor:
        """A tensor [...] on the device.

        Without waiting only on CUDA, from pinned memory: other memory is used again once nothing refers to it.
        """
        return tensor.to(self._device, non_blocking=self._device.type == "cuda")


def _tensors(batch: MicroBatch) -> tuple[Tensor | None, ...]:
    """What of a micro-batch is on the device."""
    return batch.images, batch.labels, batch.label_mass, batch.index


def _timed(items: Iterable[Item]) -> Iterator[tuple[Item, float]]:
    """Each item, and the seconds that it was waited for."""
    iterator = iter(items)
    while True:
        start = time.perf_counter()
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield item, time.perf_counter() - start


def _training_images(source: Source, recipe: Recipe, preparation: Preparation) -> TrainingImages:
    """The images of a source, decoded and kept in memory as the recipe says."""
    crop, augment, data = preparation.transform.fast_crop, recipe.augment, recipe.data
    is_turned, fast = augment.orientation == "exif", None
    if crop is not None:
        fast = FastImages(source, Decoding.of(data), crop, is_turned, data.seed, augment.repeats)
    return TrainingImages(source, fast, limit_mb=data.cache_mb, is_turned=is_turned)


def _check(datasets: DataSets, recipe: Recipe) -> None:
    """Reject settings under which images cannot be repeated or mixed."""
    mixing, size = recipe.mixing, recipe.training.micro_batch_size
    if datasets.streaming and recipe.augment.repeats > 1:
        raise RecipeError(
            f"augment.repeats = {recipe.augment.repeats} does not work with a stream, and '{datasets.train.name}' is "
            "one; set it to 1"
        )
    if not mixing.is_on:
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
