"""Clean, describe, check and save an ONNX file.

torch's exporter stores a stack trace per node, with absolute paths: most of the graph's bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distillkit.contracts.exporter import HEIGHT, INPUT, WIDTH
from distillkit.errors import UnavailableError
from distillkit.messages.text import one_line

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

PREFIX = "distillkit."


def strip_traces(model: ModelProto) -> None:
    """Remove the exporter's source metadata from the graph, its nodes, values and sub-graphs."""
    del model.metadata_props[:]
    model.doc_string = ""
    for graph in _graphs(model.graph):
        del graph.metadata_props[:]
        graph.doc_string = ""
        for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
            del part.metadata_props[:]
            part.doc_string = ""


def describe_in(model: ModelProto, card: Mapping[str, str]) -> None:
    """Write `card` into the model's metadata; ONNX Runtime reads it without the onnx package."""
    from onnx.helper import set_model_props

    set_model_props(model, {PREFIX + key: value for key, value in card.items()})


def save_checked(model: ModelProto, path: Path) -> None:
    """Check the graph, require a dynamic batch on its input and output, and write it as one file.

    Raises: UnavailableError if the graph is invalid ONNX or has a fixed batch.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = one_line(error)
        raise UnavailableError(f"the ONNX checker rejects the exported graph: {reason}") from error
    _require_dynamic_batch(model.graph)
    onnx.save_model(model, path)


def _require_dynamic_batch(graph: GraphProto) -> None:
    """Require the same symbolic name for the first dimension of input and output, and fixed other dimensions.

    Only an image's height and width may be dynamic too, named "height" and "width".
    """
    names = set()
    for value in (*graph.input, *graph.output):
        batch, *rest = value.type.tensor_type.shape.dim
        sides = (HEIGHT, WIDTH) if value.name == INPUT else ()
        if not batch.dim_param or not all(each.HasField("dim_value") or each.dim_param in sides for each in rest):
            shape = ", ".join(dimension.dim_param or str(dimension.dim_value) for dimension in (batch, *rest))
            raise UnavailableError(
                f"the exported graph's '{value.name}' has shape [{shape}]; the batch must be dynamic, and besides it "
                "only an image's height and width may be; the model's forward pass must not use the batch size as a "
                "Python number"
            )
        names.add(batch.dim_param)
    if len(names) > 1:
        raise UnavailableError(
            f"the exported graph has several batch dimensions ({', '.join(sorted(names))}), so input and output may "
            "differ in batch size; the model's forward pass must return one row per image"
        )


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """`graph` and every sub-graph in its nodes' attributes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)
