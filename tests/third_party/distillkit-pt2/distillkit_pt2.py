"""torch.export archives: an export format and its runtime, a complete distillkit plugin in one file.

A .pt2 file contains the graph and the weights, and runs wherever torch runs, without the code of the student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from distillkit import PluginSpec
from distillkit.contracts.exporter import Artifact, ExportSource, Precision, Scorer
from distillkit.contracts.runtime import Availability, Servable, Setting
from distillkit.errors import GateError, MissingExtraError, UnavailableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT, FILE = "pt2", "model.pt2"
REMEDY = 'pip install "distillkit[train]"'


class Pt2Exporter:
    """Write `model.pt2`, with a dynamic batch size."""

    class Options(BaseModel, frozen=True, extra="forbid"):
        """The options, as in `--set pt2.largest_batch=64`."""

        largest_batch: int = Field(1024, gt=1, description="the largest batch that the file accepts")

    precisions: tuple[Precision, ...] = ("fp32",)

    def __init__(self, options: Options) -> None:
        self.options = options

    @property
    def runtime(self) -> str:
        return f"torch {version('torch')}, CPU"

    def check(self) -> None:
        if find_spec("torch") is None:
            raise MissingExtraError(f"exporter 'pt2' needs torch, which is not installed; {REMEDY}")

    def write(self, source: ExportSource, directory: Path, precision: Precision) -> Artifact:
        import torch

        from distillkit_export import frozen_scores

        if source.model is None:
            raise UnavailableError("pt2 cannot be written from a bundle; export the run again")
        spec, request = source.model.spec, source.request
        if request.uint8 or request.dynamic_size:
            raise UnavailableError("pt2 supports normalised images of one size; leave out --uint8 and --dynamic-size")
        # A batch of 2: torch.export specialises the graph to a batch of 1.
        example = torch.zeros(2, len(spec.mean), *(request.image_size or spec.image_size))
        batch = torch.export.Dim("batch", min=1, max=self.options.largest_batch)
        program = torch.export.export(
            frozen_scores(source.model, request), (example,), dynamic_shapes={"images": {0: batch}}
        )
        torch.export.save(program, directory / FILE)
        return Artifact(FORMAT, FILE, precision, {"tool": f"torch.export {version('torch')}"})

    def precision_of(self, file: Path) -> Precision:
        import torch

        kinds = {tensor.dtype for tensor in torch.export.load(file).state_dict.values() if tensor.is_floating_point()}
        return "fp32" if kinds == {torch.float32} else "fp16" if torch.float16 in kinds else "bf16"

    def open(self, file: Path) -> Scorer:
        return Pt2Runtime().open(Servable(FORMAT, str(file)), {})


class Pt2Runtime:
    """Execute .pt2 files with torch on the CPU. Settings: `threads`."""

    formats: tuple[str, ...] = (FORMAT,)

    def availability(self) -> Availability:
        if find_spec("torch") is None:
            return Availability(works=False, detail="torch is not installed", remedy=REMEDY)
        return Availability(works=True, detail=f"torch {version('torch')}, CPU")

    def settings(self) -> Sequence[Setting]:
        return ({}, {"threads": 1})

    def open(self, servable: Servable, setting: Setting) -> Pt2Session:
        if servable.format not in self.formats:
            raise UnavailableError(f"pt2 loads {FORMAT} files, not {servable.format}")
        import torch

        try:
            program = torch.export.load(servable.source)
        # For a file that is not an archive, zipfile, torch and the graph loader raise errors of many types.
        except Exception as error:
            raise GateError(f"torch cannot load {Path(servable.source).name}: {type(error).__name__}") from error
        return Pt2Session(program.module(), setting.get("threads"))


class Pt2Session:
    """A loaded archive."""

    def __init__(self, module: Any, threads: int | None) -> None:
        self._module, self._threads = module, threads

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"device": "cpu", "clock": "host", "precision": "fp32", "threads": self._threads}

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._threads or before)
        try:
            with torch.inference_mode():
                scores: NDArray[np.float32] = self._module(torch.from_numpy(images)).numpy()
        finally:
            torch.set_num_threads(before)
        return scores

    def bind(self, images: NDArray[Any]) -> Pt2Batch:
        return Pt2Batch(self, images)


class Pt2Batch:
    """A batch in host memory, where the CPU reads it."""

    def __init__(self, session: Pt2Session, images: NDArray[Any]) -> None:
        self._session, self._images = session, images

    def time(self, queries: int) -> list[float]:
        elapsed = []
        for _ in range(queries):
            start = perf_counter()
            self._session(self._images)
            elapsed.append((perf_counter() - start) * 1e3)
        return elapsed


def distillkit_exporters() -> list[PluginSpec]:
    """Register the format for `distillkit export --format pt2`."""
    return [PluginSpec(FORMAT, "a torch.export archive", "distillkit_pt2:Pt2Exporter")]


def distillkit_runtimes() -> list[PluginSpec]:
    """Register the runtime."""
    return [PluginSpec(FORMAT, "torch.export archives on the CPU", "distillkit_pt2:Pt2Runtime")]
