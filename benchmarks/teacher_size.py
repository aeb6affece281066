"""Accuracy of real teachers on the student's images: seen at the student's size, or resized to the teacher's own.

    python benchmarks/teacher_size.py --cifar DIR --resnet20 FILE --resnet56 FILE [--run RUN] [--out docs/benchmarks]

DIR is an ImageFolder of CIFAR-10 images, RUN a student trained on CIFAR-10 with random resized crops. The teachers of
digits are trained here, and so are students on 100 labelled digits at 16 pixels, with both sizes of the CNN teacher.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from arms import distillkit, result
from machine import machine
from torch import nn

from distillkit.contracts.model import Model, ModelRequest
from distillkit.data.evaluation import EvaluationData
from distillkit.data.sources import Source
from distillkit.data.splits import open_datasets
from distillkit.models.build import build_model
from distillkit.models.class_matching import ClassMap, match_classes
from distillkit.models.frozen_teacher import FrozenTeacher
from distillkit.models.heads import Answer
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.image_tables import Augment, Data
from distillkit.training.accuracy import top1
from distillkit_export.from_torch.image_size import at_image_size

CIFAR_SIZES, DIGITS_SIZES = (16, 24, 28, 32, 36, 48, 64), (4, 6, 8, 10, 12, 16, 32)
SMALL_CNN = ("student.image_size=8",)
SMALL_VIT = (
    *("student.image_size=8", "student.patch=2", "student.width=48", "student.depth=4", "student.heads=3"),
    "optimizer.lr=3e-3",
)
ON_DIGITS = ("data.workers=0", "training.threads=1")


def accuracy(model: Model, source: Source, size: int, *, seen: str) -> float:
    """Top-1 in percent for a student of `size` pixels; `seen` is "student" or "native"."""
    student = replace(model.spec, image_size=(size, size))
    if seen == "student" and not model.spec.flexible_size:
        model = at_image_size(model, (size, size))
    teacher = FrozenTeacher(model, student=student, size=cast("Any", seen), class_map=_class_map(model, source))
    augment = Augment(eval_crop=1.0)
    data = EvaluationData(source, student, augment, batch_size=250, workers=0, device=torch.device("cpu"))
    return top1(cast("nn.Module", teacher), teacher.spec, data, Answer())["top1"]


def _class_map(model: Model, source: Source) -> ClassMap:
    names = source.class_names
    return match_classes(model.spec, names, len(names or ()), mode="auto", data=source.name)


def measured(name: str, weights: Path | None, source: Source, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """One row per size of the student."""
    plugin = installed_plugins().find("teacher", name)
    request = ModelRequest(plugin.name, plugin.argument, plugin.options({}), weights=weights and str(weights))
    model = build_model(plugin, request)
    rows = []
    for size in sizes:
        row = {seen: accuracy(model, source, size, seen=seen) for seen in ("student", "native")}
        rows.append({"native_size": model.spec.image_size[0], "student_size": size} | row)
        print(name, rows[-1], flush=True)
    return rows


def digits_students(folder: Path, teacher: Path) -> dict[str, float]:
    """Test top-1 of a student at 16 pixels, by `teacher.size`."""
    found = {}
    for size in ("student", "native"):
        out = folder / f"student-{size}"
        typed = ["run", "--teacher", f"run:{teacher}", "--loss", "soft:tau=2,lambda=0.9", "--labels", "100"]
        settings = ["training.steps=180", "student.image_size=16", "student.patch=4", f"teacher.size={size}"]
        distillkit(*typed, "--out", str(out), settings=(*settings, *ON_DIGITS))
        found[size] = result(out)["test/top1"]
    return found


def main() -> None:
    """Measure every teacher and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--resnet20", type=Path, required=True)
    parser.add_argument("--resnet56", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="a run with random resized crops, at 32 pixels")
    parser.add_argument("--out", type=Path, help="folder for the JSON figures")
    arguments = parser.parse_args()
    plugins = installed_plugins()
    cifar = cast("Source", open_datasets(Data(train=str(arguments.cifar), validation=0.0), plugins).train)
    digits = cast("Source", open_datasets(Data(train="digits"), plugins).test)
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for student, settings, epochs in (("small-cnn", SMALL_CNN, 10), ("vit-ti", SMALL_VIT, 60)):
            typed = ["run", "--loss", "ce", "--student", student, "--epochs", str(epochs)]
            distillkit(*typed, "--out", str(folder / student), settings=(*settings, *ON_DIGITS))
        results["small CNN, digits"] = measured(f"run:{folder / 'small-cnn'}", None, digits, DIGITS_SIZES)
        results["small ViT, digits"] = measured(f"run:{folder / 'vit-ti'}", None, digits, tuple(DIGITS_SIZES[::2]))
        for depth in (20, 56):
            weights = getattr(arguments, f"resnet{depth}")
            results[f"ResNet-{depth}, CIFAR-10"] = measured(f"cifar-resnet{depth}", weights, cifar, CIFAR_SIZES)
        if arguments.run:
            results["small CNN, CIFAR-10, resized crops"] = measured(f"run:{arguments.run}", None, cifar, CIFAR_SIZES)
        students = digits_students(folder, folder / "small-cnn")
    print(table(results))
    print(students)
    if arguments.out:
        facts = {"images": {"CIFAR-10": len(cifar), "digits": len(digits)}, "machine": machine()}
        content = json.dumps(facts | {"teachers": results, "digits_students": students}, indent=2)
        (arguments.out / "teacher-size.json").write_text(content + "\n", encoding="utf-8")


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """One row per teacher and size of the student."""
    lines = ["| teacher | its size | student's size | at the student's size | at its own size |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for name, rows in results.items():
        lines += [
            f"| {name} | {row['native_size']} | {row['student_size']} | {row['student']:.1f} | {row['native']:.1f} |"
            for row in rows
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
