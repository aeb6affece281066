"""Parity of the exported ONNX file with torch, for every student that distillkit can make.

Every case is a student plugin with options (or a run, trained for a few steps on digits), exported by the stage of
`distillkit export` with a dynamic batch and compared with eager torch at every batch size of its gate. Weights are
random, since parity depends on the graph: each tensor as timm initialises it, except that none stays (almost) zero
(heads, layer scales, last norms of a block), norm weights and biases vary, and batch statistics are those of
photographs, so that every part of the graph has an effect. `spread` tells how much the scores depend on the image:
their standard deviation over images, as a share of the largest score.

The images are crops of the two photographs that scikit-learn ships, one for each position in a batch.

Each case runs in its own process; cases that are already in the JSON file are skipped.

    python benchmarks/export_parity.py --json docs/benchmarks/export-parity.json [--only NAME ...] [--table]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import zip_longest
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import torch
from machine import machine
from parity_cases import DIGITS, Case, cases
from torch import Tensor, nn

from distillkit.contracts.exporter import ExportRequest
from distillkit.contracts.model import Model, ModelRequest
from distillkit.errors import DistillkitError
from distillkit.models import sincos_position_embedding
from distillkit.plugin.registry import PluginRegistry, installed_plugins, split_name
from distillkit.recipe.schema import Recipe
from distillkit.running.start import run
from distillkit_export.from_torch.graph import torch_scorer
from distillkit_export.gate.limits import TOLERANCES
from distillkit_export.images.gate_images import BATCHES, photographs
from distillkit_export.pipeline.export import export_onnx
from distillkit_export.pipeline.target import load_target

SEED = 0
CLASSES = 100
SMALLEST_SPREAD = 1e-3
FIGURES = ("batch", "max_absolute", "max_relative", "min_cosine", "top1_agreement")
FUSED = ("LayerNormalization", "Gelu", "Softmax", "Conv", "MatMul", "Gemm")
ALMOST_ZERO = 0.1
"""A tensor is redrawn below this share of the usual standard deviation (one over the square root of the inputs)."""
NEGLIGIBLE = 1e-3
MIN_VARIANCE = 0.01
"""Lower limit for a channel's variance, as a share of the mean variance of its norm."""
TIMEOUT = 1500


@torch.no_grad()
def stir(model: Model) -> None:
    """Give every tensor an effect: no tensor almost zero, norms that scale and shift, statistics of photographs.

    Fixed position embeddings are kept.
    """
    generator = torch.Generator().manual_seed(SEED)
    for parameter in model.network.parameters():
        if not parameter.is_floating_point() or _is_sincos(model, parameter):
            continue
        if parameter.dim() < 2 or parameter.numel() == max(parameter.shape):
            _stir_vector(parameter, generator)
            continue
        usual = 1 / math.sqrt(parameter[0].numel())
        if parameter.std() < ALMOST_ZERO * usual:
            parameter.normal_(0, usual, generator=generator)
    _adopt_statistics(model)


def _stir_vector(parameter: Tensor, generator: torch.Generator) -> None:
    """Draw scales from 0.5 to 1.5 if they were one or a small constant, and small shifts if they were zero."""
    values = torch.rand(parameter.shape, generator=generator)
    first = parameter.flatten()[0]
    if (parameter != first).any():
        if parameter.abs().max() < NEGLIGIBLE:  # timm's class tokens
            parameter.copy_(0.1 * (values - 0.5))
    elif parameter.numel() > 1:
        parameter.copy_(0.1 * (values - 0.5) if first == 0 else 0.5 + values)


def _is_sincos(model: Model, parameter: Tensor) -> bool:
    spec = model.spec
    if parameter.requires_grad or not spec.grids or parameter.dim() != 3:
        return False
    fixed = sincos_position_embedding(parameter.shape[-1], spec.grid, prefix_tokens=spec.prefix_tokens)
    return fixed.shape == parameter.shape and torch.equal(fixed, parameter)


def _adopt_statistics(model: Model) -> None:
    """Set the statistics of batch norms to those of eight photographs, with a lower limit on a channel's variance.

    A channel of almost no variance would amplify the rounding errors before it, which a trained network does not do.
    """
    norms = [module for module in model.network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    if not norms:
        return
    model.network.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    images = torch.from_numpy(photographs(model.spec, "weights are random").pixels[::7])
    model.network(images)
    model.network.eval()
    for norm in norms:
        variance = cast("Tensor", norm.running_var)
        variance.clamp_(min=float(MIN_VARIANCE * variance.mean()))


def student(case: Case, plugins: PluginRegistry, folder: Path) -> Model:
    """The student of a case, with weights that give every part of the graph an effect."""
    if case.trained_by is not None:
        return load_target(str(trained(case, plugins, folder)), plugins).model
    torch.manual_seed(SEED)
    options = plugins.find("student", case.model).options(case.options)
    request = ModelRequest(case.model, split_name(case.model)[1], options, classes=CLASSES)
    model: Model = plugins.find("student", case.model).call("build", request)
    stir(model)
    return model


def trained(case: Case, plugins: PluginRegistry, folder: Path) -> Path:
    """A run of a few steps on digits, distilled from a teacher trained in the same way."""
    shared = {
        "data": {"train": "digits", "validation": 0.1, "workers": 0},
        "augment": {"crop": "none", "flip": 0.0, "eval_crop": 1.0},
        "training": {"steps": 20, "batch_size": 64, "device": "cpu", "precision": "fp32"},
        "trackers": [],
    }
    run(Recipe.model_validate(shared | {"student": {"model": "vit-ti", **DIGITS}}), folder / "teacher", plugins)
    taught = {
        "student": {"model": case.model, **case.options},
        "teachers": [{"model": f"run:{folder / 'teacher'}"}],
        "losses": [{"loss": case.trained_by}],
    }
    run(Recipe.model_validate(shared | taught), folder / "student", plugins)
    return folder / "student"


def measure(case: Case) -> dict[str, Any]:
    """Export one case and compare; a refused export is a result too."""
    import onnx

    plugins = installed_plugins()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        model = student(case, plugins, folder)
        request = ExportRequest(**case.graph)
        found: dict[str, Any] = {
            "case": case.name,
            "kind": case.kind,
            "image_size": list(request.image_size or model.spec.image_size),
            "parameters": model.spec.parameters,
            "spread": spread(model),
        }
        spec = replace(model.spec, image_size=request.image_size or model.spec.image_size)
        images = [photographs(spec, "weights are random").pixels[: sum(BATCHES)]]
        try:
            result = export_onnx(model, folder / "export", request, images)
        except DistillkitError as error:
            message = str(error).partition("; what was built")[0]
            return found | failed(case, f"{type(error).__name__}: {message}")
        file = result.directory / result.artifact.file
        operators = Counter(node.op_type for node in onnx.load(file).graph.node)
        return found | {
            "passed": True,
            "bytes": file.stat().st_size,
            "nodes": sum(operators.values()),
            "operators": {name: operators[name] for name in FUSED if operators[name]},
            "input": list(result.bundle.input.shape),
            "batches": [{figure: batch[figure] for figure in FIGURES} for batch in result.parity.as_dict()["batches"]],
        }


def spread(model: Model) -> float:
    """How much scores differ between images: their standard deviation over images, divided by the largest score."""
    pixels = photographs(model.spec, "weights are random").pixels[::7]
    scores = torch_scorer(model, ExportRequest())(pixels)
    return float(scores.std(axis=0).mean() / abs(scores).max())


def measure_in_process(case: Case) -> dict[str, Any]:
    """Measure one case in a process; the result, or why it failed."""
    context = multiprocessing.get_context("fork")  # everything is imported already
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_result, args=(case, sender))
    process.start()
    sender.close()
    try:
        result = receiver.recv() if receiver.poll(TIMEOUT) else failed(case, f"not finished after {TIMEOUT} s")
    except EOFError:
        process.join()
        result = failed(case, f"its process ended with status {process.exitcode}")
    process.kill()
    process.join()
    return cast("dict[str, Any]", result)


def send_result(case: Case, sender: Connection) -> None:
    """The process of one case: measure it and send the result."""
    try:
        result = measure(case)
    except Exception as error:  # noqa: BLE001 - any error is the reason why this case has no figures
        result = failed(case, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    sender.send(result)


def failed(case: Case, reason: str) -> dict[str, Any]:
    """A case without figures."""
    return {"case": case.name, "kind": case.kind, "passed": False, "reason": reason}


HEADER = (
    "| student | pixels | parameters, M | file, MB | nodes | LayerNorm | Gelu | max rel, batch "
    + " / ".join(map(str, BATCHES))
    + " | top-1 |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |"
)


def line(result: dict[str, Any]) -> str:
    """One row of the table."""
    if not result["passed"]:
        return f"| {result['case']} | {result['reason']} |"
    pixels = "x".join(map(str, result["image_size"]))
    batches, operators = result["batches"], result["operators"]
    figures = " / ".join(f"{batch['max_relative']:.1e}" for batch in batches)
    agreed = [batch["top1_agreement"] for batch in batches if batch["top1_agreement"] is not None]
    degenerate = "" if result["spread"] >= SMALLEST_SPREAD else " (scores hardly depend on the image)"
    return (
        f"| {result['case']}{degenerate} | {pixels} | {result['parameters'] / 1e6:.2f} | {result['bytes'] / 1e6:.2f} "
        f"| {result['nodes']} | {operators.get('LayerNormalization', 0)} | {operators.get('Gelu', 0)} | {figures} "
        f"| {f'{min(agreed):.0%}' if agreed else ''} |"
    )


def tables(results: list[dict[str, Any]]) -> str:
    """One table per kind, and the failed cases at the end."""
    parts = []
    for kind in dict.fromkeys(result["kind"] for result in results):
        rows = [line(result) for result in results if result["kind"] == kind and result["passed"]]
        parts.append("\n".join([f"{kind.capitalize()}:\n", HEADER, *rows]))
    without = [line(result) for result in results if not result["passed"]]
    if without:
        parts.append("\n".join(["Failed:\n", "| student | reason |\n| --- | --- |", *without]))
    return "\n\n".join(parts)


def main() -> None:
    """Measure the missing cases, write the file after every case, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", action="append", help="only cases whose name contains this; may be repeated")
    parser.add_argument("--again", action="store_true", help="also measure cases that are already in the file")
    parser.add_argument("--table", action="store_true", help="print the tables without measuring")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    by_name = {case.name: case for case in cases()}
    kept = arguments.json is not None and arguments.json.is_file()
    found = {each["case"]: each for each in json.loads(arguments.json.read_text())["results"]} if kept else {}
    chosen = [case for case in by_name.values() if not arguments.only or any(o in case.name for o in arguments.only)]
    for case in [] if arguments.table else interleaved(chosen):
        if case.name in found and not arguments.again:
            continue
        found[case.name] = measure_in_process(case)
        print(line(found[case.name]), file=sys.stderr, flush=True)
        if arguments.json is not None:
            write(arguments.json, [found[name] for name in by_name if name in found])
    print(tables([found[name] for name in by_name if name in found]))


def interleaved(chosen: list[Case]) -> list[Case]:
    """One case of every kind, then the next of every kind, so that an interrupted run has some of each."""
    kinds = [[case for case in chosen if case.kind == kind] for kind in dict.fromkeys(case.kind for case in chosen)]
    return [case for turn in zip_longest(*kinds) for case in turn if case is not None]


def write(file: Path, results: list[dict[str, Any]]) -> None:
    """Write the machine, the limits of the gate, and every result."""
    packages = {package: version(package) for package in ("onnx", "onnxscript", "onnxruntime")}
    facts = {
        "machine": machine() | packages,
        "limits": asdict(TOLERANCES["default"]["fp32"]),
        "batches": list(BATCHES),
        "seed": SEED,
        "results": results,
    }
    file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
