"""The model as an ONNX graph: torch's exporter around one answer of the student."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from distillkit.contracts import Model, Signal, Wanted
from distillkit.errors import UnavailableError
from distillkit.exporting import BATCH, INPUT, ExportRequest, Fusion, Head, Scorer, output_name
from distillkit.models.heads import fuse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

LARGEST_BATCH = 65_536
"""An upper bound that torch.export asks for; it is not written into the graph."""


class Scores(nn.Module):
    """A model reduced to the one answer that is exported.

    Shapes: images [B, C, H, W] to scores [B, K], or to the embedding [B, D] of a model without a class head; float32.
    """

    def __init__(self, model: Model, head: Head, fusion: Fusion) -> None:
        super().__init__()
        self.model = model
        heads = [signal for signal in (Signal.LOGITS, Signal.DISTILL_LOGITS) if signal in model.spec.signals]
        self.wanted: Wanted = dict.fromkeys(heads, ()) if heads else {Signal.EMBEDDING: (model.spec.layers - 1,)}
        self.head = head
        self.fusion = fusion

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.model(images, self.wanted)
        answer = outputs.embedding[0] if outputs.embedding else fuse(outputs, self.head, self.fusion)
        return answer.float()


def frozen_scores(model: Model, request: ExportRequest) -> Scores:
    """The answer of a copy of `model` in evaluation mode, on the CPU, in float32. `model` stays as it is."""
    return Scores(deepcopy(model), request.head, request.fusion).cpu().float().eval()


def torch_scorer(model: Model, request: ExportRequest) -> Scorer:
    """What torch itself answers, in eager mode: the reference of every gate."""
    scores = frozen_scores(model, request)

    def score(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            answer: Tensor = scores(torch.from_numpy(images))
        return answer.numpy()

    return score


def onnx_graph(model: Model, request: ExportRequest) -> ModelProto:
    """Write one answer of `model` as an ONNX graph whose batch is dynamic.

    Fused attention is switched off in the copy that is exported: with it, four of forty timm families cannot be
    written (a view of a strided tensor inside the decomposed attention). Modules that timm can re-parameterise are
    folded first, as inference wants them.
    Raises: UnavailableError where torch's exporter cannot write the model.
    """
    scores = frozen_scores(model, request)
    reparameterize_model(scores.model.network, inplace=True)
    for module in scores.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", False)  # noqa: B010 - not every module declares it
    spec = model.spec
    # A batch of two: exporters older than torch 2.15 take a batch of one for a constant.
    example = torch.zeros(2, len(spec.mean), *spec.image_size)
    try:
        with _silence():
            program = torch.onnx.export(
                scores,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim(BATCH, min=1, max=LARGEST_BATCH)},),
                input_names=[INPUT],
                output_names=[output_name(spec, request)],
                opset_version=request.opset,
                external_data=False,
                optimize=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UnavailableError(
            f"model '{spec.name}' ({spec.architecture}) cannot be written as ONNX with opset {request.opset}: "
            f"{_cause(error)}; its forward pass must be traceable by torch.export with a dynamic batch"
        ) from error
    if program is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    return program.model_proto


def _cause(error: BaseException) -> str:
    """The first line of the innermost cause: torch's own message is a page about its internals."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the exporter warns, logs and prints about its own internals from people who cannot act on it."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
