"""`check_exporter`: check an export format against its contract."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distillkit.contracts.exporter import (
    PRECISIONS,
    Artifact,
    Exporter,
    ExporterFactory,
    ExportRequest,
    ExportSource,
    Scorer,
)
from distillkit.models.timm_model import TimmModel
from distillkit.testing.findings import ContractCheck, Findings
from distillkit.testing.registration import (
    listing_is_clear,
    options_are_data,
    options_survive_a_file,
    warn_of_slow_listing,
)
from distillkit.testing.runtime import TOLERANCE
from distillkit.testing.subject import find_subject

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit.contracts.exporter import Precision

IMAGES = 3


@dataclass(frozen=True)
class ExporterCase:
    """An exporter under test, its source model, and an empty folder to write to."""

    exporter: Exporter
    source: ExportSource
    folder: Path
    precision: Precision

    @cached_property
    def artifact(self) -> Artifact:
        """The written artifact; written once."""
        return self.exporter.write(self.source, self.folder, self.precision)

    @cached_property
    def scorer(self) -> Scorer:
        return self.exporter.open(self.folder / self.artifact.file)

    @cached_property
    def images(self) -> NDArray[Any]:
        """Three images of noise [3, C, H, W], or the first three of the source's own."""
        model, generator = self.source.model, np.random.default_rng(0)
        if self.source.images is not None:
            return self.source.images[:IMAGES]
        if model is None:
            raise ValueError("a source without a model needs images for this check")
        size = self.source.request.image_size or model.spec.image_size
        return generator.normal(size=(IMAGES, len(model.spec.mean), *size)).astype(np.float32)


def check_exporter(
    exporter: str | type[ExporterFactory],
    options: Mapping[str, Any] | None = None,
    *,
    source: ExportSource | None = None,
    precision: Precision = "fp32",
) -> None:
    """Check an export format, registered or not, against the complete contract.

    `options` are those of `--set`. `source` is the model to export, by default a small ViT with random weights. A
    format that is made from ONNX needs a source with a file in `onnx` and with `images`.
    Raises: BrokenPluginError that lists every finding; the errors of the exporter's own `check` if the machine lacks
    something it needs; RecipeError for invalid `options`; UnknownPluginError.
    Warns: SlowListingWarning if the registering module imports torch or timm.
    """
    __tracebackhide__ = True
    subject = find_subject("exporter", exporter)
    warn_of_slow_listing(subject, stacklevel=2)
    findings = Findings(subject.title)
    findings.run((listing_is_clear, options_are_data), subject)
    findings.raise_any()
    chosen = subject.options(options)
    findings.run((options_survive_a_file,), chosen)
    built: Exporter = subject.factory(chosen)
    built.check()
    with tempfile.TemporaryDirectory() as folder:
        case = ExporterCase(built, source or small_student(), Path(folder), precision)
        findings.run((precisions, file), case)
        if not len(findings):
            findings.run(CHECKS, case)
    findings.raise_any()


def precisions(case: ExporterCase) -> Iterator[str]:
    """`precisions` are names of the command line; `runtime` is one line."""
    given: Any = case.exporter.precisions  # a plugin may say anything
    if not isinstance(given, tuple) or not given or not set(given) <= set(PRECISIONS):
        yield f"precisions is {given!r}; it must be a tuple of some of {', '.join(PRECISIONS)}"
    if not case.exporter.runtime.strip() or "\n" in case.exporter.runtime:
        yield f"runtime is {case.exporter.runtime!r}; it must be one line with a name and a version"


def file(case: ExporterCase) -> Iterator[str]:
    """The file of the Artifact exists inside the folder, and the source model is unchanged."""
    before = _digest(case.source)
    artifact = case.artifact
    path = case.folder / artifact.file
    if Path(artifact.file).is_absolute() or not path.resolve().is_relative_to(case.folder.resolve()):
        yield f"file is {artifact.file!r}; it must be a relative path inside the folder"
    elif not path.is_file():
        yield f"file is {artifact.file!r}, but no such file was written"
    if artifact.precision != case.precision:
        yield f"returns an Artifact of precision {artifact.precision} when asked for {case.precision}"
    if _digest(case.source) != before:
        yield "changes the model that it exports"
    try:
        json.dumps(dict(artifact.made_with), allow_nan=False)
    except (TypeError, ValueError):
        yield f"made_with is {artifact.made_with!r}, which cannot be written as JSON"


def precision_is_read_back(case: ExporterCase) -> Iterator[str]:
    """`precision_of` reads the precision from the file, not from the request."""
    found = case.exporter.precision_of(case.folder / case.artifact.file)
    if found != case.precision:
        yield f"wrote {case.precision}, but precision_of reads {found} from the file"


def scores(case: ExporterCase) -> Iterator[str]:
    """The file opens and gives finite float32 scores [B, K] that do not depend on the batch."""
    together = np.asarray(case.scorer(case.images.copy()))
    if together.dtype != np.float32:
        yield f"scores have dtype {together.dtype}; they must be float32, whatever precision the file computes in"
    if together.ndim != 2 or len(together) != len(case.images):
        yield f"scores of {len(case.images)} images have shape {list(together.shape)}; they must be [batch, classes]"
        return
    if not np.isfinite(together).all():
        yield "scores are not finite"
    alone = np.concatenate([case.scorer(case.images[index : index + 1]) for index in range(len(case.images))])  # [B, K]
    difference = float(np.abs(alone - together).max()) / max(float(np.abs(together).max()), 1e-12)
    if not difference <= TOLERANCE:
        yield f"scores of single images differ by {difference:.1g} from those in a batch of {len(case.images)}"


CHECKS: tuple[ContractCheck[ExporterCase], ...] = (precision_is_read_back, scores)


def small_student() -> ExportSource:
    """Source model for checks: a ViT of 16 x 24 pixels and seven classes with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TimmModel.create(
            "vit_tiny_patch16_224",
            name="student",
            classes=7,
            image_size=(16, 24),
            patch_size=8,
            depth=1,
            embed_dim=24,
            num_heads=2,
        )
        for parameter in model.network.parameters():  # with timm's initialisation its scores are almost zero
            torch.nn.init.trunc_normal_(parameter, std=0.2)
    return ExportSource(ExportRequest(), model)


def _digest(source: ExportSource) -> str:
    """Digest of the model's weights and mode, and of the ONNX files."""
    digest = hashlib.sha256()
    if source.model is not None:
        digest.update(str(source.model.network.training).encode())
        for name, tensor in source.model.network.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    for path in source.onnx.values():
        digest.update(path.read_bytes())
    return digest.hexdigest()
