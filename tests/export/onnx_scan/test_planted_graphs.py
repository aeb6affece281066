"""ONNX files of third parties: what a graph may not hold, at whatever depth it is planted."""

from __future__ import annotations

import time

import pytest
from onnx import AttributeProto, SparseTensorProto, TensorProto, helper

from distillkit.errors import BundleError
from distillkit_export.onnx_scan.safety import require_safe

FLOAT = TensorProto.FLOAT


def graph(nodes=(), initializer=(), sparse=()):
    entry, out = (helper.make_tensor_value_info(name, FLOAT, ["b", 2]) for name in ("images", "scores"))
    made = helper.make_graph(list(nodes), "g", [entry], [out], initializer=list(initializer))
    made.sparse_initializer.extend(sparse)
    return made


def external(location="../../etc/passwd"):
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def own():
    return helper.make_node("Own", ["images"], ["x"], domain="com.example")


def large():
    return TensorProto(name="w", data_type=FLOAT, dims=[2**20, 2**10], raw_data=bytes(8))


def in_if(inner):
    return helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=graph())


def in_loop(inner):
    return helper.make_node("Loop", ["n", "c"], ["y"], body=inner)


def in_scan(inner):
    return helper.make_node("Scan", ["n"], ["y"], body=inner, num_scan_inputs=1)


def in_several(inner):
    """Graphs in a list of attributes, which no operator of ONNX has."""
    node = helper.make_node("Relu", ["images"], ["y"])
    node.attribute.append(AttributeProto(name="g", type=AttributeProto.GRAPHS, graphs=[graph(), inner]))
    return node


def constant(tensor):
    return helper.make_node("Constant", [], ["w"], value=tensor)


def sparse(values):
    indices = TensorProto(name="i", data_type=TensorProto.INT64, dims=[1], raw_data=bytes(8))
    return SparseTensorProto(values=values, indices=indices, dims=[9])


def field(number, content):
    """A field of a protobuf message, as the library limits the depth of what it writes."""
    length, size = b"", len(content)
    while size >= 128:
        length, size = length + bytes([size % 128 + 128]), size // 128
    return bytes([number * 8 + 2]) + length + bytes([size]) + content


def refusal(tmp_path, made):
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])
    return refused(tmp_path, model.SerializeToString())


def refused(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(BundleError) as error:
        require_safe(tmp_path / "m.onnx", "m.onnx")
    assert time.perf_counter() - start < 20
    return str(error.value)


OUTSIDE = (
    "m.onnx stores weights in another file, '../../etc/passwd', which distillkit never does; export the student again"
)
DOMAIN = "m.onnx uses operator 'Own' of domain 'com.example', which is not part of ONNX; export the student again"
CLAIM = "m.onnx has a tensor that claims 1,073,741,824 numbers in "
WHERE = {"if": in_if, "loop": in_loop, "scan": in_scan, "a list of graphs": in_several}


@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
@pytest.mark.parametrize("twice", [False, True])
def test_external_data_is_refused_in_every_graph(tmp_path, where, twice):
    """Promise: No file outside a bundle is read through its ONNX files.

    Attempt: External data in the body of a Loop, an If or a Scan, as initializer, constant or sparse tensor.
    """
    for inner in (graph(initializer=[external()]), graph([constant(external())]), graph(sparse=[sparse(external())])):
        node = where(inner)
        assert refusal(tmp_path, graph([where(graph([node])) if twice else node])) == OUTSIDE


@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
def test_custom_domains_are_refused_in_every_graph(tmp_path, where):
    """Promise: Only operators of ONNX are run.

    Attempt: An operator of a custom domain in the body of a Loop, an If or a Scan.
    """
    assert refusal(tmp_path, graph([where(graph([own()]))])) == DOMAIN


@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
def test_constants_that_claim_more_than_the_file_holds_are_refused(tmp_path, where):
    """Promise: Memory is bounded by the size of an ONNX file while it is checked.

    Attempt: A constant of a few bytes that claims 4 GiB, at the top or in the body of a Loop, an If or a Scan.
    """
    for made in (graph(initializer=[large()]), graph([constant(large())])):
        assert refusal(tmp_path, made).startswith(CLAIM)
        assert refusal(tmp_path, graph([where(made)])).startswith(CLAIM)


def test_graphs_nested_without_end_are_a_sentence(tmp_path):
    """Promise: Time is bounded by the size of an ONNX file while it is checked.

    Attempt: An If in an If in an If, ten thousand times.
    """
    made = graph().SerializeToString()
    for _ in range(10_000):
        made = field(1, field(5, field(6, made)))  # a node with an attribute with a graph, in a graph
    assert refused(tmp_path, field(7, made)) == (
        "m.onnx nests protobuf messages more than 64 deep; export the student again"
    )
