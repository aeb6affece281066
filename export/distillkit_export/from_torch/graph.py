"""Trace a student to an ONNX graph with torch.onnx.export, one output per file."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from timm.layers import pos_embed_sincos
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from distillkit.contracts.exporter import (
    BATCH,
    HEIGHT,
    INPUT,
    WIDTH,
    ExportRequest,
    Precision,
    Scorer,
    output_name,
    side_multiples,
)
from distillkit.contracts.model import Model, ModelSpec, Signal, Wanted
from distillkit.errors import UnavailableError, UserError
from distillkit.models.heads import fuse
from distillkit_export.from_torch.image_size import LARGEST_SIDE, at_any_size, at_image_size
from distillkit_export.images.gate_images import normalised

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
LARGEST_BATCH = 65_536
"""An upper bound that torch.export requires; it is not written into the graph."""


class Scores(nn.Module):
    """A student reduced to its one exported output: preprocessing, network, head fusion.

    Shapes: images [B, C, H, W] normalised, or [B, H, W, C] uint8; returns scores [B, K], or the embedding [B, D] of a
    model without a class head; float32.
    Raises: UserError for probabilities of a model without a class head.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: Model, request: ExportRequest) -> None:
        super().__init__()
        spec = model.spec
        heads = [signal for signal in (Signal.LOGITS, Signal.DISTILL_LOGITS) if signal in spec.signals]
        if request.softmax and not heads:
            raise UserError(f"model '{spec.name}' has no class head, so it has no probabilities; leave out --softmax")
        self.model = model
        self.wanted: Wanted = dict.fromkeys(heads, ()) if heads else {Signal.EMBEDDING: (spec.layers - 1,)}
        self.request = request
        self.dtype = torch.float32
        # Times 255, since uint8 images are not divided by 255 first.
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, 1, 1) * 255, persistent=False)  # [C, 1, 1]
        self.register_buffer("deviation", torch.tensor(spec.std).view(-1, 1, 1) * 255, persistent=False)  # [C, 1, 1]

    def compute_in(self, dtype: torch.dtype) -> None:
        """Run the network in half precision; normalisation and outputs stay float32."""
        cast("nn.Module", self.model).to(dtype)
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        if self.request.uint8:
            images = (images.permute(0, 3, 1, 2).to(self.mean) - self.mean) / self.deviation  # [B, C, H, W]
        if self.dtype != torch.float32:
            images = images.to(self.dtype)
        outputs = self.model(images, self.wanted)
        if outputs.embedding:
            return outputs.embedding[0].float()
        scores = fuse(outputs, self.request.head, self.request.fusion).float()  # [B, K]
        # Correct for every fusion: `fuse` returns logits or, for "softmax", log-probabilities.
        return scores.softmax(dim=-1) if self.request.softmax else scores


def frozen_scores(model: Model, request: ExportRequest) -> Scores:
    """The exported output of a copy of `model`: evaluation mode, on the CPU, float32. `model` is not changed.

    Raises: UserError for an unsupported image size, or for probabilities of a model without a class head.
    """
    sized = at_image_size(model, request.image_size)
    copy = at_any_size(sized) if request.dynamic_size else deepcopy(sized)
    return Scores(copy, request).cpu().float().eval()


def torch_scorer(model: Model, request: ExportRequest) -> Scorer:
    """Reference scores of every gate: the model in eager PyTorch.

    uint8 images are normalised by NumPy here, so the gate also checks the normalisation inside the file.
    """
    scores = frozen_scores(model, replace(request, uint8=False))

    def score(images: NDArray[Any]) -> NDArray[np.float32]:
        pixels = normalised(images, model.spec) if request.uint8 else images
        with torch.inference_mode():
            computed: Tensor = scores(torch.from_numpy(pixels))
        return computed.numpy()

    return score


def folded_scores(model: Model, request: ExportRequest) -> Scores:
    """`frozen_scores` prepared for export: re-parameterised where timm can, without fused attention.

    With fused attention four of forty timm families fail to export (a view of a strided tensor inside the decomposed
    attention).
    Raises: as `frozen_scores`.
    """
    scores = frozen_scores(model, request)
    scores.double()  # in float32, folding alone can lose more precision than the rest of the export
    reparameterize_model(scores.model.network, inplace=True)
    scores.float()
    for module in scores.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", False)  # noqa: B010 - not every module declares it
    return scores


def onnx_graph(model: Model, request: ExportRequest, precision: Precision = "fp32") -> ModelProto:
    """Export `model` as an ONNX graph with a dynamic batch, and dynamic height and width if requested.

    Exports a copy, made by `folded_scores`. In `precision` "fp16" or "bf16" weights and activations have that type;
    input and output stay float32.
    Raises: UnavailableError if torch's exporter fails; UserError as `frozen_scores`.
    """
    scores = folded_scores(model, request)
    spec = scores.model.spec
    if precision != "fp32":
        scores.compute_in(HALVES[precision])
    try:
        with _silence(), _symbolic_floats():
            program = torch.onnx.export(
                scores,
                (_example(spec, request),),
                dynamo=True,
                dynamic_shapes=(_dynamic(spec, request),),
                input_names=[INPUT],
                output_names=[output_name(spec, request)],
                opset_version=request.opset,
                external_data=False,
                optimize=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UnavailableError(_export_error(spec, request, error)) from error
    if program is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    graph: ModelProto = program.model_proto  # a property that serialises the graph again on every access
    if request.dynamic_size:
        _name_sides(graph, request)
    return graph


def _example(spec: ModelSpec, request: ExportRequest) -> Tensor:
    """Example input for tracing. A batch of two, since exporters before torch 2.15 specialise a batch of one.

    For the same reason, dynamic height and width differ from the model's image size and from each other.
    """
    sides = spec.image_size
    if request.dynamic_size:
        multiples = side_multiples(spec)
        sides = (sides[0] + 2 * max(multiples[0], 16), sides[1] + 4 * max(multiples[1], 16))
    if request.uint8:
        return torch.zeros(2, *sides, len(spec.mean), dtype=torch.uint8)
    return torch.zeros(2, len(spec.mean), *sides)


def _dynamic(spec: ModelSpec, request: ExportRequest) -> dict[int, Any]:
    """The dynamic dimensions of the input, for torch.export."""
    dimensions: dict[int, Any] = {0: torch.export.Dim(BATCH, min=1, max=LARGEST_BATCH)}
    if request.dynamic_size:
        first = 1 if request.uint8 else 2
        for place, (side, multiple) in enumerate(zip((HEIGHT, WIDTH), side_multiples(spec), strict=True), first):
            cells = torch.export.Dim(side, min=1, max=LARGEST_SIDE // multiple)
            dimensions[place] = cells if multiple == 1 else multiple * cells
    return dimensions


def _name_sides(graph: ModelProto, request: ExportRequest) -> None:
    """Rename the input's dynamic dimensions to "height" and "width", where torch writes "16*height"."""
    dimensions = graph.graph.input[0].type.tensor_type.shape.dim
    first = 1 if request.uint8 else 2
    for place, side in enumerate((HEIGHT, WIDTH), first):
        if not dimensions[place].dim_param:
            raise UnavailableError(f"the exported graph has a fixed {side}; leave out --dynamic-size")
        dimensions[place].dim_param = side


def _export_error(spec: ModelSpec, request: ExportRequest, error: torch.onnx.OnnxExporterError) -> str:
    """The message for a failure of torch's exporter."""
    sides = ", height and width" if request.dynamic_size else ""
    remedy = "; leave out --dynamic-size to export a single size" if request.dynamic_size else ""
    return (
        f"model '{spec.name}' ({spec.architecture}) cannot be exported to ONNX with opset {request.opset}: "
        f"{_cause(error)}; its forward pass must be traceable by torch.export with a dynamic batch{sides}{remedy}"
    )


def _cause(error: BaseException) -> str:
    """The first line of the innermost cause; torch's own message is a page about its internals."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


@contextmanager
def _symbolic_floats() -> Iterator[None]:
    """Keep `float(side)` symbolic where timm builds rotary positions; torch.export silently makes it a constant.

    Patches the module because timm offers no other way. For plain numbers `torch.sym_float` equals `float`.
    """
    setattr(pos_embed_sincos, "float", torch.sym_float)  # noqa: B010 - the module does not define this name
    try:
        yield
    finally:
        delattr(pos_embed_sincos, "float")


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress the exporter's warnings, logs and prints about its internals; users cannot act on them."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
