"""The model as an ONNX graph: torch's exporter around one answer of the student."""

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
"""An upper bound that torch.export asks for; it is not written into the graph."""


class Scores(nn.Module):
    """A model reduced to the one answer that is exported, from images as the file takes them.

    Shapes: images [B, C, H, W] normalised, or [B, H, W, C] uint8, to scores [B, K], or to the embedding [B, D] of a
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
            raise UserError(
                f"model '{spec.name}' has no class head: it answers with its embedding, which has no probabilities; "
                "leave out --softmax"
            )
        self.model = model
        self.wanted: Wanted = dict.fromkeys(heads, ()) if heads else {Signal.EMBEDDING: (spec.layers - 1,)}
        self.request = request
        self.dtype = torch.float32
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, 1, 1) * 255, persistent=False)
        self.register_buffer("deviation", torch.tensor(spec.std).view(-1, 1, 1) * 255, persistent=False)

    def compute_in(self, dtype: torch.dtype) -> None:
        """Compute the model in half precision from now on; pixels are normalised and answers given in float32."""
        cast("nn.Module", self.model).to(dtype)
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        if self.request.uint8:
            images = (images.permute(0, 3, 1, 2).to(self.mean) - self.mean) / self.deviation
        if self.dtype != torch.float32:
            images = images.to(self.dtype)
        outputs = self.model(images, self.wanted)
        if outputs.embedding:
            return outputs.embedding[0].float()
        answer = fuse(outputs, self.request.head, self.request.fusion).float()
        # Right for every fusion: what `fuse` returns is logits or, for "softmax", the logarithm of probabilities.
        return answer.softmax(dim=-1) if self.request.softmax else answer


def frozen_scores(model: Model, request: ExportRequest) -> Scores:
    """The answer of a copy of `model` in evaluation mode, on the CPU, in float32. `model` stays as it is.

    Raises: UserError for an image size that it cannot see, or for probabilities of a model without a class head.
    """
    sized = at_image_size(model, request.image_size)
    copy = at_any_size(sized) if request.dynamic_size else deepcopy(sized)
    return Scores(copy, request).cpu().float().eval()


def torch_scorer(model: Model, request: ExportRequest) -> Scorer:
    """What torch itself answers, in eager mode: the reference of every gate.

    Pixels that the file normalises itself are normalised here by NumPy, apart from the model.
    """
    scores = frozen_scores(model, replace(request, uint8=False))

    def score(images: NDArray[Any]) -> NDArray[np.float32]:
        pixels = normalised(images, model.spec) if request.uint8 else images
        with torch.inference_mode():
            answer: Tensor = scores(torch.from_numpy(pixels))
        return answer.numpy()

    return score


def folded_scores(model: Model, request: ExportRequest) -> Scores:
    """`frozen_scores` as it is exported: folded where timm can re-parameterise, without fused attention.

    Modules that timm can re-parameterise are folded as inference wants them. With fused attention four of forty timm
    families cannot be written (a view of a strided tensor inside the decomposed attention).
    Raises: as `frozen_scores`.
    """
    scores = frozen_scores(model, request)
    scores.double()  # in float32 the folding alone can cost more than everything that is computed afterwards
    reparameterize_model(scores.model.network, inplace=True)
    scores.float()
    for module in scores.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", False)  # noqa: B010 - not every module declares it
    return scores


def onnx_graph(model: Model, request: ExportRequest, precision: Precision = "fp32") -> ModelProto:
    """Write one answer of `model` as an ONNX graph whose batch is dynamic, and height and width where asked for.

    What is written is a copy, that of `folded_scores`. In `precision` "fp16" or "bf16" weights and activations are of
    that type, input and output stay float32.
    Raises: UnavailableError where torch's exporter cannot write the model; UserError as `frozen_scores`.
    """
    scores = folded_scores(model, request)
    spec = scores.model.spec
    if precision != "fp32":
        scores.compute_in(HALVES[precision])
    try:
        with _silence(), _sides_as_floats():
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
        raise UnavailableError(_refusal(spec, request, error)) from error
    if program is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    graph: ModelProto = program.model_proto  # made anew by every look
    if request.dynamic_size:
        _name_sides(graph, request)
    return graph


def _example(spec: ModelSpec, request: ExportRequest) -> Tensor:
    """A batch of two, since exporters older than torch 2.15 take a batch of one for a constant.

    Of dynamic sides none is the model's own and none is like the other, for the same reason.
    """
    sides = spec.image_size
    if request.dynamic_size:
        multiples = side_multiples(spec)
        sides = (sides[0] + 2 * max(multiples[0], 16), sides[1] + 4 * max(multiples[1], 16))
    if request.uint8:
        return torch.zeros(2, *sides, len(spec.mean), dtype=torch.uint8)
    return torch.zeros(2, len(spec.mean), *sides)


def _dynamic(spec: ModelSpec, request: ExportRequest) -> dict[int, Any]:
    """The dynamic dimensions of the input, as torch.export names them."""
    dimensions: dict[int, Any] = {0: torch.export.Dim(BATCH, min=1, max=LARGEST_BATCH)}
    if request.dynamic_size:
        first = 1 if request.uint8 else 2
        for place, (side, multiple) in enumerate(zip((HEIGHT, WIDTH), side_multiples(spec), strict=True), first):
            cells = torch.export.Dim(side, min=1, max=LARGEST_SIDE // multiple)
            dimensions[place] = cells if multiple == 1 else multiple * cells
    return dimensions


def _name_sides(graph: ModelProto, request: ExportRequest) -> None:
    """Call the input's dynamic sides by their names, where torch writes "16*height"."""
    dimensions = graph.graph.input[0].type.tensor_type.shape.dim
    first = 1 if request.uint8 else 2
    for place, side in enumerate((HEIGHT, WIDTH), first):
        if not dimensions[place].dim_param:
            raise UnavailableError(f"the exported graph takes images of one {side} only; leave out --dynamic-size")
        dimensions[place].dim_param = side


def _refusal(spec: ModelSpec, request: ExportRequest, error: torch.onnx.OnnxExporterError) -> str:
    """A sentence for what torch's exporter refuses."""
    sides = ", height and width" if request.dynamic_size else ""
    remedy = "; leave out --dynamic-size to write one size" if request.dynamic_size else ""
    return (
        f"model '{spec.name}' ({spec.architecture}) cannot be written as ONNX with opset {request.opset}: "
        f"{_cause(error)}; its forward pass must be traceable by torch.export with a dynamic batch{sides}{remedy}"
    )


def _cause(error: BaseException) -> str:
    """The first line of the innermost cause: torch's own message is a page about its internals."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


@contextmanager
def _sides_as_floats() -> Iterator[None]:
    """Let `float(side)` stay dynamic where timm builds rotary positions: torch.export makes a constant of it, silently.

    timm has no other way in. `torch.sym_float` of a number that is not dynamic is `float` of it.
    """
    setattr(pos_embed_sincos, "float", torch.sym_float)  # noqa: B010 - the module has no such name of its own
    try:
        yield
    finally:
        delattr(pos_embed_sincos, "float")


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
