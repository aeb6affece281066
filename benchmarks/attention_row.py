"""Cost of reading the class token's attention row, compared with reading it from full maps and with not reading it.

Three variants of one training step of the same ViT, with the same weights and images:

    none   no attention is read
    row    the row of every block, as distillkit reads it; attention stays fused
    map    the row of the full softmax map of every block, as the authors of AttnDistill compute it; nothing is fused

`row` and `map` enter the loss as the squared difference from the same target. The benchmark measures the bytes that
autograd keeps for the backward (each storage once, without parameters), the peak memory of a separate process, and the
time of a step: rounds are interleaved, and the ratio to `none` is computed round by round.

    python benchmarks/attention_row.py [--device cuda] [--rounds 20] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from machine import machine
from torch import Tensor, nn

from distillkit.compute.paired_ratio import compare
from distillkit.contracts.model import Signal
from distillkit.models import TimmModel

WAYS = ("none", "row", "map")
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Geometry:
    """A ViT-S at 224 pixels, and the `layers` whose attention is read."""

    name: str
    patch: int
    layers: tuple[int, ...]


ALL, LAST = tuple(range(12)), (11,)
GEOMETRIES = (
    Geometry("S/16, all layers", 16, ALL),
    Geometry("S/16, last layer", 16, LAST),
    Geometry("S/8, all layers", 8, ALL),
    Geometry("S/8, last layer", 8, LAST),
)


class MapReader(nn.Module):
    """Reads the class token's row from the full attention map of every block, for which fused attention is off."""

    def __init__(self, model: TimmModel) -> None:
        super().__init__()
        self.model = model
        self.maps: list[Tensor] = []
        for block in cast("Any", model.network).blocks:
            block.attn.fused_attn = False
            block.attn.attn_drop.register_forward_hook(lambda _module, _inputs, found: self.maps.append(found))

    def forward(self, images: Tensor, layers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Logits [B, K] and rows [B, L, A, 1 + N] of images [B, C, H, W]."""
        self.maps.clear()
        logits = self.model.network(images)
        rows = torch.stack([self.maps[layer][:, :, 0] for layer in layers], dim=1)  # [B, L, A, 1 + N]
        self.maps.clear()
        return logits, rows


class Step:
    """One variant of the training step, with its own model."""

    def __init__(self, way: str, geometry: Geometry, batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        arguments = {} if geometry.patch == 16 else {"patch_size": geometry.patch}
        self.model = TimmModel.create("deit_small_patch16_224", name=way, classes=1000, **arguments)
        self.model = self.model.to(device).train()
        self.reader = MapReader(self.model) if way == "map" else None
        self.way, self.layers, self.device = way, geometry.layers, device
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.images = torch.randn(batch, 3, 224, 224, device=device)
        rows, columns = self.model.spec.grid
        self.target = torch.full((1, 1, 1, 1 + rows * columns), 1 / (1 + rows * columns), device=device)

    def loss(self) -> Tensor:
        """Forward pass and loss, shape []; bfloat16 autocast on a GPU."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            if self.reader is not None:
                logits, rows = self.reader(self.images, self.layers)
                return logits.float().square().mean() + self.distance(rows.float())
            wanted = {Signal.LOGITS: (), **({Signal.CLS_ATTENTION: self.layers} if self.way == "row" else {})}
            outputs = self.model(self.images, wanted)
        loss = cast("Tensor", outputs.logits).square().mean()
        return loss if outputs.cls_attention is None else loss + self.distance(outputs.cls_attention)

    def distance(self, rows: Tensor) -> Tensor:
        """The mean squared difference of rows [B, L, A, 1 + N] from the target, summed over keys. Shape []."""
        return (rows - self.target).square().sum(dim=-1).mean()

    def __call__(self) -> None:
        self.loss().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def kept_bytes(self) -> int:
        """Bytes that one forward keeps for its backward: every storage once, without parameters."""
        parameters = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}
        kept: dict[int, Tensor] = {}  # keeps the tensors alive, so that no address is reused

        def keep(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in parameters:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self.loss()
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def peak_bytes(way: str, geometry: Geometry, batch: int, device: torch.device) -> int:
    """Peak memory of a process that makes two steps: resident (Linux), or allocated on a GPU."""
    command = [sys.executable, __file__, "--device", str(device), "--batch", str(batch)]
    child = [*command, "--child", way, "--geometry", geometry.name]
    return int(subprocess.run(child, check=True, capture_output=True, text=True).stdout)


def child_peak_bytes(way: str, geometry: Geometry, batch: int, device: torch.device) -> int:
    """Peak memory of this process, which the child process prints."""
    step = Step(way, geometry, batch, device)
    step()
    step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage: on Linux a process inherits the peak of its parent.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def timed(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Milliseconds per step; processor time on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (clock() - start) / steps


def step_times(geometry: Geometry, arguments: argparse.Namespace, batch: int) -> dict[str, Any]:
    """Time per step of every variant, and the ratio to `none` with its 95 % interval."""
    ways = {way: Step(way, geometry, batch, arguments.device) for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds + 1):
        shift = number % len(WAYS)
        for way in WAYS[shift:] + WAYS[:shift]:
            milliseconds = timed(ways[way], arguments.steps, arguments.device)
            if number:  # the first round warms up
                times[way].append(milliseconds)
    found: dict[str, Any] = {}
    for way in WAYS:
        ratio = compare(times["none"], times[way])
        found[way] = {
            "ms": statistics.median(times[way]), "ratio": ratio.median, "low": ratio.low, "high": ratio.high
        }  # fmt: skip
    return found


def measure(geometry: Geometry, arguments: argparse.Namespace) -> dict[str, Any]:
    """All measurements of one geometry."""
    batch = arguments.batch or {16: 4, 8: 1}[geometry.patch] * (32 if arguments.device.type == "cuda" else 1)
    kept = {way: Step(way, geometry, batch, arguments.device).kept_bytes() for way in WAYS}
    return {
        "geometry": geometry.name,
        "batch": batch,
        "kept_bytes": kept,
        "kept_ratio": (kept["map"] - kept["none"]) / (kept["row"] - kept["none"]),
        "peak_bytes": {way: peak_bytes(way, geometry, batch, arguments.device) for way in WAYS},
        "step": step_times(geometry, arguments, batch),
        "rounds": arguments.rounds,
        "steps": arguments.steps,
    }


def line(result: dict[str, Any]) -> str:
    """One row of the table."""
    kept, peak, step = result["kept_bytes"], result["peak_bytes"], result["step"]
    beyond = {way: (kept[way] - kept["none"]) / MEBIBYTE / result["batch"] for way in ("row", "map")}
    peaks = " / ".join(f"{peak[way] / MEBIBYTE:.0f}" for way in WAYS)
    times = [f"{step[way]['ratio']:.3f} ({step[way]['low']:.3f} to {step[way]['high']:.3f})" for way in ("row", "map")]
    return (
        f"| {result['geometry']} | {result['batch']} | {beyond['row']:.3f} | {beyond['map']:.2f} "
        f"| {result['kept_ratio']:.0f} | {peaks} | {step['none']['ms']:.0f} | {times[0]} | {times[1]} |"
    )


def main() -> None:
    """Measure the chosen geometries and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--geometry", action="append", choices=[geometry.name for geometry in GEOMETRIES])
    parser.add_argument(
        "--batch", type=int, help="images per step; default: 4 for S/16, 1 for S/8, 32 times that on a GPU"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1, help="steps per round")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [each for each in GEOMETRIES if arguments.geometry is None or each.name in arguments.geometry]
    if arguments.child:
        print(child_peak_bytes(arguments.child, chosen[0], arguments.batch, arguments.device))
        return
    is_cuda = arguments.device.type == "cuda"
    where = f"{torch.cuda.get_device_name(arguments.device)}, bfloat16" if is_cuda else "one thread, CPU time, float32"
    print(f"torch {torch.__version__}, {where}\n")
    print(
        "| ViT, 224 pixels | batch | row keeps, MiB per image | map keeps, MiB per image | map / row "
        "| peak MiB none / row / map | step of none, ms | row / none (95 %) | map / none (95 %) |\n"
        "| --- | ---: | ---: | ---: | ---: | --- | ---: | --- | --- |"
    )
    results = []
    for geometry in chosen:
        gc.collect()
        results.append(measure(geometry, arguments))
        print(line(results[-1]), flush=True)
    if arguments.json:
        facts = {"machine": machine(), "device": where, "threads": torch.get_num_threads(), "results": results}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
