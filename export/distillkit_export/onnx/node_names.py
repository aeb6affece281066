"""Name a graph's nodes after the modules of the network, so that messages can name the layer."""

from __future__ import annotations

import ast
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

SCOPES = "pkg.torch.onnx.name_scopes"
NETWORK = "network."


def name_nodes(model: ModelProto) -> None:
    """Give every node a unique name such as "blocks.0.attn.qkv/MatMul". Needs the metadata of torch's exporter."""
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        name = f"{_module(node)}/{node.op_type}".lstrip("/")
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _module(node: NodeProto) -> str:
    """The innermost module of the student's network that the node belongs to, or ""."""
    text = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    inner = [scope.partition(NETWORK)[2] for scope in ast.literal_eval(text)]
    return next((scope for scope in reversed(inner) if scope), "")


def values_of(model: ModelProto, *kinds: int) -> set[str]:
    """Names of the node outputs whose element type is one of `kinds` (`TensorProto.FLOAT`, ...)."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    written = {name for node in model.graph.node for name in node.output}
    return {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.name in written and value.type.tensor_type.elem_type in kinds
    }
