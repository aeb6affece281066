"""The exporter `tensorrt`: an engine for this machine's GPU, from the ONNX file of the same precision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from distillkit.contracts.exporter import PRECISIONS, Artifact, ExportSource, Precision, Scorer
from distillkit.contracts.runtime import Servable
from distillkit.errors import GateError, UnavailableError
from distillkit.storage.atomic import sha256, write_text
from distillkit.storage.links import own_folder
from distillkit_export.tensorrt.build_engine import build_in_subprocess
from distillkit_export.tensorrt.engine_card import FOLDER, EngineCard, engine_name, read_card
from distillkit_export.tensorrt.layers import precision_of_layers
from distillkit_export.tensorrt.options import TensorRtOptions
from distillkit_export.tensorrt.preflight import Missing, find_platform, require_platform
from distillkit_export.tensorrt.runtime import TensorRt
from distillkit_export.tensorrt.timing_cache import timing_cache
from distillkit_export.tensorrt.trust import trust

FLAGS = {
    "batch": "--batch",
    "workspace": "--workspace",
    "hardware_compatible": "--hardware-compatible",
    "version_compatible": "--version-compatible",
    "layers": "--layers",
}
"""Options with their own flag; the others are set by `--set tensorrt.NAME=VALUE`."""

CACHE_NOT_IN_COMMAND = "--timing-cache is a path on this machine, so the command leaves it out; add it on the target"


class TensorRtExporter:
    """Build an engine in a subprocess, and record that this machine built it."""

    Options = TensorRtOptions
    precisions: tuple[Precision, ...] = PRECISIONS

    def __init__(self, options: TensorRtOptions) -> None:
        self.options = options

    @property
    def runtime(self) -> str:
        found = find_platform()
        return "tensorrt" if isinstance(found, Missing) else str(found)

    def flags(self) -> Sequence[str]:
        """The flags that build the same engine on another machine."""
        given = self.options.model_dump(mode="json", exclude_defaults=True)
        flags = ["--trt"]
        for option, value in given.items():
            if option in FLAGS:
                flags += [FLAGS[option]] if value is True else [FLAGS[option], str(value)]
            else:
                flags += ["--set", f"tensorrt.{option}={value}"]
        return flags

    def check(self) -> None:
        """Raise UnavailableError if TensorRT or a GPU is missing; the target machine may still have both."""
        try:
            require_platform()
        except UnavailableError as error:
            if self.options.timing_cache is None:
                raise
            raise UnavailableError(f"{error}; {CACHE_NOT_IN_COMMAND}") from error

    def write(self, source: ExportSource, directory: Path, precision: Precision) -> Artifact:
        """Write `trt/<machine>-<precision>-<batches>.plan`, its card and, with --layers, its layers."""
        here = require_platform()
        onnx = source.onnx.get(precision)
        if onnx is None:
            raise UnavailableError(
                f"there is no ONNX file in {precision} to build the engine from; "
                f"export the run again{'' if precision == 'fp32' else f' with --{precision}'}"
            )
        name = engine_name(here, precision, self.options.batch)
        plan = directory / FOLDER / name
        own_folder(plan.parent)
        cache = self.options.timing_cache or timing_cache(here)
        built = build_in_subprocess(onnx, plan, self.options, cache, source.progress)
        report = built.pop("report")
        plan.with_suffix(".layers.json").unlink(missing_ok=True)  # of an earlier build
        if self.options.layers:
            write_text(plan.with_suffix(".layers.json"), _indented(report))
        card = EngineCard(
            file=name,
            sha256=trust(plan.read_bytes(), name),
            bytes=plan.stat().st_size,
            onnx_file=onnx.name,
            onnx_sha256=sha256(onnx),
            precision=precision,
            gpu=here.gpu,
            compute_capability=here.compute_capability,
            tensorrt=here.tensorrt,
            cuda=here.cuda,
            batch=self.options.batch,
            workspace=self.options.workspace,
            hardware_compatible=self.options.hardware_compatible,
            version_compatible=self.options.version_compatible,
            optimization_level=self.options.optimization_level,
            tf32=self.options.tf32,
            **built,
        )
        card.save(plan)
        made_with = card.model_dump(mode="json", exclude={"schema_version", "file", "sha256", "bytes", "precision"})
        companions = [file for file in plan.parent.glob(f"{plan.stem}.*") if file != plan]
        return Artifact(
            "tensorrt",
            f"{FOLDER}/{name}",
            precision,
            made_with,
            tuple(sorted(file.relative_to(directory).as_posix() for file in companions)),
        )

    def precision_of(self, file: Path) -> Precision:
        """The narrowest output type of the engine's layers, from its inspector.

        If the inspector reports none, the narrowest type of the network: it is strongly typed, so TensorRT must keep
        its types. INT8 counts only if the network has it, because some versions report the INT64 of shapes as INT8.
        Raises: GateError if neither has a type.
        """
        card = read_card(file)
        layers = {kind: count for kind, count in card.layers.items() if kind != "int8" or "int8" in card.network}
        found = precision_of_layers(layers) or precision_of_layers(card.network)
        if found is None:
            raise GateError(f"engine {file.name} does not report the precision of its layers")
        return found

    def open(self, file: Path) -> Scorer:
        return TensorRt().open(Servable("tensorrt", str(file)), {"cuda_graph": False})


def _indented(report: str) -> str:
    """The inspector's report indented; unchanged if it is not JSON."""
    try:
        return json.dumps(json.loads(report), indent=1) + "\n"
    except json.JSONDecodeError:
        return report
