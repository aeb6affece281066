"""`check_exporter` says whether an export format keeps the contract."""

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
    """An exporter, what it starts from, and an empty folder."""

    exporter: Exporter
    source: ExportSource
    folder: Path
    precision: Precision

    @cached_property
    def artifact(self) -> Artifact:
        """What it writes; written once."""
        return self.exporter.write(self.source, self.folder, self.precision)

    @cached_property
    def scorer(self) -> Scorer:
        return self.exporter.open(self.folder / self.artifact.file)

    @cached_property
    def images(self) -> NDArray[Any]:
        """Three pictures of noise, as the file takes them."""
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
    """Check an export format, registered or not, against everything that the contract promises.

    `options` are those of `--set`. `source` is what it starts from: by default a small ViT with random weights and
    nothing else; a format that is made from ONNX needs one with a file in `onnx` and with `images`.
    Raises: BrokenPluginError that lists every finding; what the exporter's own `check` raises on a machine that lacks
    what it needs; RecipeError for wrong `options`; UnknownPluginError.
    Warns: SlowListingWarning where the registering module imports torch or timm.
    """
    __tracebackhide__ = True
    subject = find_subject("exporter", exporter)
    warn_of_slow_listing(subject, stacklevel=2)
    findings = Findings(subject.title)
    findings.run((listing_is_clear, options_are_data), subject)
    findings.raise_any()
    chosen = subject.options(options)
    findings.run((options_survive_a_file,), chosen)
    made: Exporter = subject.factory(chosen)
    made.check()
    with tempfile.TemporaryDirectory() as folder:
        case = ExporterCase(made, source or small_student(), Path(folder), precision)
        findings.run((precisions, file), case)
        if not len(findings):
            findings.run(CHECKS, case)
    findings.raise_any()


def precisions(case: ExporterCase) -> Iterator[str]:
    """What it can write is said in the words of the command line."""
    given: Any = case.exporter.precisions  # a plugin may say anything
    if not isinstance(given, tuple) or not given or not set(given) <= set(PRECISIONS):
        yield f"precisions is {given!r}; it is a tuple of some of {', '.join(PRECISIONS)}"
    if not case.exporter.runtime.strip() or "\n" in case.exporter.runtime:
        yield f"runtime is {case.exporter.runtime!r}; one line with a name and a version is what reports show"


def file(case: ExporterCase) -> Iterator[str]:
    """One file inside the folder, called as the artefact says; nothing beside it, and the source as it was."""
    before = _digest(case.source)
    artifact = case.artifact
    path = case.folder / artifact.file
    if Path(artifact.file).is_absolute() or not path.resolve().is_relative_to(case.folder.resolve()):
        yield f"names {artifact.file!r}, which is not inside the folder; it is a path relative to it"
    elif not path.is_file():
        yield f"names {artifact.file!r} and writes no such file"
    if artifact.precision != case.precision:
        yield f"was asked for {case.precision} and says that it wrote {artifact.precision}"
    if _digest(case.source) != before:
        yield "changes the model that it writes"
    try:
        json.dumps(dict(artifact.made_with), allow_nan=False)
    except (TypeError, ValueError):
        yield f"made_with is {artifact.made_with!r}, which cannot be written as JSON"


def precision_is_read_back(case: ExporterCase) -> Iterator[str]:
    """The precision comes from the file, not from what was asked for."""
    found = case.exporter.precision_of(case.folder / case.artifact.file)
    if found != case.precision:
        yield f"wrote {case.precision} and reads {found} back from the file"


def answers(case: ExporterCase) -> Iterator[str]:
    """The file opens, and every batch of the same images has the same answers."""
    together = np.asarray(case.scorer(case.images.copy()))
    if together.dtype != np.float32:
        yield f"answers in {together.dtype}; scores are float32, whatever the file computes in"
    if together.ndim != 2 or len(together) != len(case.images):
        yield f"answers {list(together.shape)} for {len(case.images)} images; scores are [batch, classes]"
        return
    if not np.isfinite(together).all():
        yield "answers with numbers that are not finite"
    alone = np.concatenate([case.scorer(case.images[index : index + 1]) for index in range(len(case.images))])
    difference = float(np.abs(alone - together).max()) / max(float(np.abs(together).max()), 1e-12)
    if not difference <= TOLERANCE:
        yield f"batches of one differ from the same images in a batch of {len(case.images)} by {difference:.1g}"


CHECKS: tuple[ContractCheck[ExporterCase], ...] = (precision_is_read_back, answers)


def small_student() -> ExportSource:
    """A ViT of 16 x 24 pixels and seven classes with random weights, to be written."""
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
        for parameter in model.network.parameters():  # as initialised, its scores are almost zero
            torch.nn.init.trunc_normal_(parameter, std=0.2)
    return ExportSource(ExportRequest(), model)


def _digest(source: ExportSource) -> str:
    """The weights of the model, and of the files that are there already."""
    digest = hashlib.sha256()
    if source.model is not None:
        digest.update(str(source.model.network.training).encode())
        for name, tensor in source.model.network.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    for path in source.onnx.values():
        digest.update(path.read_bytes())
    return digest.hexdigest()
