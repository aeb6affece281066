"""Images per second and core of the loader, against timm's `create_loader` with the same augmentation.

DeiT's augmentation: random resized crop to 224 pixels (bicubic), flip, RandAugment (rand-m9-mstd0.5-inc1), random
erasing 0.25; generated JPEG images of 500 x 375 pixels in memory, with and without repeated augmentation. timm decodes
every repeat again, so one arm of timm, with and without its prefetcher, is compared with both; the faster one counts.
Then a set of CIFAR's size: PNG files of 32 x 32 pixels, read again for every image, or decoded once into memory.

Everything runs in this process and one thread: CPU time per image, in interleaved rounds, compared round by round.

    python benchmarks/loader.py [--rounds 15] [--json docs/benchmarks/loader.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from PIL import Image
from timm.data import create_loader
from torch.utils.data import Dataset

from distillkit.benchmark.generated_images import GeneratedImages, generated_data
from distillkit.compute.freed_memory import keep_freed_memory, return_freed_memory
from distillkit.compute.paired_ratio import compare
from distillkit.contracts.model import ModelSpec
from distillkit.data.batches import TrainingData
from distillkit.data.splits import DataSets, open_datasets
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe

IMAGES, BATCH, BATCHES, CLASSES = 9_600, 96, 2, 1000
SMALL_IMAGES, SMALL_BATCH, SMALL_BATCHES = 2_560, 256, 4
STEPS = 1_000_000
AUTO, ERASING = "rand-m9-mstd0.5-inc1", 0.25

Arms = Mapping[str, Iterator[Any]]


class TimmImages(Dataset[Any]):
    """The generated images as timm's loader reads them; it sets `transform`."""

    transform: Callable[[Image.Image], Any]

    def __init__(self) -> None:
        self._images = GeneratedImages(IMAGES, CLASSES)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self._images.image(index)), self._images.label(index)


def timm_batches(spec: ModelSpec, *, prefetcher: bool) -> Iterator[Any]:
    """The batches of timm's loader, epoch after epoch."""
    loader = create_loader(
        TimmImages(),
        input_size=(3, *spec.image_size),
        batch_size=BATCH,
        is_training=True,
        use_prefetcher=prefetcher,
        re_prob=ERASING,
        re_mode="pixel",
        color_jitter=None,
        auto_augment=AUTO,
        interpolation="bicubic",
        mean=spec.mean,
        std=spec.std,
        num_workers=0,
        pin_memory=False,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    return chain.from_iterable(repeat(loader))


def own_batches(datasets: DataSets, spec: ModelSpec, tables: Mapping[str, Any]) -> Iterator[Any]:
    """The windows of distillkit, as a run reads them."""
    recipe = Recipe.model_validate(tables)
    return TrainingData(datasets, recipe, spec=spec, device=torch.device("cpu")).windows(0, STEPS)


def deit_arms() -> Arms:
    """Timm and distillkit on JPEG files, with 1 and 3 repeats, exact and fast."""
    spec = ModelSpec("student", "student", "vit", CLASSES, frozenset(), (224, 224))
    datasets = generated_data(IMAGES, CLASSES)
    arms = {f"timm{', no prefetcher' * (not used)}": timm_batches(spec, prefetcher=used) for used in (True, False)}
    for decode in ("exact", "fast"):
        for repeats in (1, 3):
            tables = {
                "augment": {"auto": AUTO, "erasing": ERASING, "repeats": repeats},
                "data": {"workers": 0, "decode": decode},
                "training": {"batch_size": BATCH},
            }
            arms[f"{decode}, repeats {repeats}"] = own_batches(datasets, spec, tables)
    return arms


def small_arms(folder: Path) -> Arms:
    """A set of small PNG files, read for every image, or kept in memory."""
    draw = np.random.default_rng(0)
    for number in range(SMALL_IMAGES):
        coarse = Image.fromarray(draw.integers(0, 256, (6, 6, 3), np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse, np.float32) + draw.normal(0, 10, (32, 32, 1))
        place = folder / str(number % 10)
        place.mkdir(exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / f"{number:05}.png")
    spec = ModelSpec("student", "student", "vit", 10, frozenset(), (32, 32))
    arms = {}
    for name, cache_mb in (("PNG files", 0), ("in memory", 1000)):
        tables = {
            "augment": {"crop": "padded"},
            "data": {"train": str(folder), "validation": 0, "workers": 0, "cache_mb": cache_mb},
            "training": {"batch_size": SMALL_BATCH},
        }
        datasets = open_datasets(Recipe.model_validate(tables).data, installed_plugins())
        arms[name] = own_batches(datasets, spec, tables)
    return arms


def measure(arms: Arms, *, rounds: int, batches: int, images: int) -> dict[str, list[float]]:
    """CPU milliseconds per image of every arm, round by round; the first round warms up.

    As in processes of their own, only the arms of distillkit keep freed memory, as its runs on a CPU do. Before an arm
    is measured it makes a batch that does not count, so that it finds the memory as its own batches leave it.
    """
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-1, rounds):
        for name in arms if number % 2 else reversed(list(arms)):
            if name.startswith("timm"):
                return_freed_memory()
            else:
                keep_freed_memory()
            next(arms[name])
            start = time.process_time()
            for _ in range(batches):
                next(arms[name])
            if number >= 0:
                times[name].append(1000 * (time.process_time() - start) / (batches * images))
    return times


def results(times: Mapping[str, list[float]], baseline: str) -> dict[str, dict[str, float]]:
    """Medians per arm, and ratios to the baseline."""
    found = {}
    for name, rounds_ms in times.items():
        ratio = compare(rounds_ms, times[baseline])
        median = statistics.median(rounds_ms)
        found[name] = {
            "ms_per_image": median,
            "images_per_s_and_core": 1000 / median,
            "ratio": ratio.median,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
        }
    return found


def main() -> None:
    """Measure both sets and print the medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    jpeg = measure(deit_arms(), rounds=arguments.rounds, batches=BATCHES, images=BATCH)
    fastest = min((name for name in jpeg if name.startswith("timm")), key=lambda name: statistics.median(jpeg[name]))
    with tempfile.TemporaryDirectory() as folder:
        arms = small_arms(Path(folder))
        small = measure(arms, rounds=arguments.rounds, batches=SMALL_BATCHES, images=SMALL_BATCH)
    sets = {
        "jpeg": {"baseline": fastest, "arms": results(jpeg, fastest)},
        "small": {"baseline": "PNG files", "arms": results(small, "PNG files")},
    }
    for found in sets.values():
        for name, arm in found["arms"].items():
            interval = f"{arm['ratio']:.2f} ({arm['ratio_low']:.2f} to {arm['ratio_high']:.2f})"
            print(f"{name:24} {arm['images_per_s_and_core']:8.0f} images/s and core {interval}", flush=True)
    if arguments.json:
        facts = {"machine": machine(), "threads": 1, "rounds": arguments.rounds, **sets}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
