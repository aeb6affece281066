"""The parser of ONNX files finds what the onnx package finds, and rejects invalid files."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, defs, helper, numpy_helper

from distillkit.contracts.exporter import OPSETS
from distillkit_export.onnx_scan import precision, structure
from distillkit_export.onnx_scan.allowed_operators import ONNX
from distillkit_export.onnx_scan.structure import (
    MESSAGES,
    OnnxStructureError,
    read_structure,
    structure_of,
)

WALKED = ("GraphProto", "NodeProto", "AttributeProto", "TensorProto", "SparseTensorProto", "TypeProto")


def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])


def branch(name):
    """A graph inside a node, with a constant inside an attribute."""
    constant = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.ones(3, np.float32)))
    return helper.make_graph([constant], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])])


def model(nodes=(), tensors=(), **parts):
    choose = helper.make_node("If", ["yes"], ["three"], then_branch=branch("then"), else_branch=branch("other"))
    add = helper.make_node("Add", ["images", "three"], ["scores"])
    yes = numpy_helper.from_array(np.array(True), "yes")
    graph = helper.make_graph([choose, add, *nodes], "g", [value("images")], [value("scores")], [yes, *tensors])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], **parts)


def found(proto):
    return structure_of(memoryview(proto.SerializeToString()))


def test_nodes_and_tensors_of_every_graph_are_counted():
    structure = found(model())
    assert structure.operators == {("", "If"): 1, ("", "Add"): 1, ("", "Constant"): 2}
    assert (structure.graphs, structure.tensors, structure.functions, structure.external) == (3, 3, 0, [])


@pytest.mark.parametrize("kind", ["plain", "fused", "convolutional"])
def test_a_real_file_has_the_operators_that_onnx_reads_from_it(exported, kind):
    file = exported[kind].directory / "model.onnx"
    nodes = onnx.load(file).graph.node
    assert read_structure(file).operators == {
        (node.domain, node.op_type): sum(other.op_type == node.op_type for other in nodes) for node in nodes
    }


def test_followed_messages_match_onnx():
    """Every field that can hold a node, graph, tensor or function is in the table."""
    protos = [getattr(onnx, name) for name in ("ModelProto", *WALKED, "FunctionProto", "ValueInfoProto")]
    descriptors = {proto.DESCRIPTOR.name: proto.DESCRIPTOR for proto in protos}
    descriptors |= {inner.name: inner for inner in onnx.TypeProto.DESCRIPTOR.nested_types}
    for name, followed in MESSAGES.items():
        if name in descriptors:
            real = {field.number: field.message_type.name for field in descriptors[name].fields if field.message_type}
            assert followed.items() <= real.items()
            assert not {real[number] for number in real.keys() - followed.keys()} & {
                "GraphProto",
                "NodeProto",
                "AttributeProto",
                "TensorProto",
                "SparseTensorProto",
                "FunctionProto",
            }


def test_every_operator_of_onnx_is_known():
    of_onnx = {schema.name for schema in defs.get_all_schemas_with_history() if schema.domain == ""}
    newest = {s.name for s in defs.get_all_schemas_with_history() if s.domain == "" and s.since_version > 28}
    assert of_onnx - newest <= ONNX
    assert {schema.name for schema in defs.get_all_schemas() if schema.since_version in OPSETS} & ONNX
    assert ONNX - of_onnx == set()


def test_external_data_is_found_in_attributes_and_initializers():
    tensors = []
    for location in ("a.bin", "../b.bin"):
        tensor = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="length", value="8")
        tensors.append(tensor)
    node = helper.make_node("Constant", [], ["c"], value=tensors[1])
    # GraphProto's nodes come before its initializers.
    assert found(model([node], [tensors[0]])).external == [
        {"location": "../b.bin", "length": "8"},
        {"location": "a.bin", "length": "8"},
    ]


def test_types_of_tensors_and_of_quantisers_are_found():
    tensors = [
        numpy_helper.from_array(np.zeros((2, 5), np.float16), "weight"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
    ]
    node = helper.make_node("QuantizeLinear", ["scores", "scale", "zero"], ["q"])
    structure = found(model([node], tensors))
    assert structure.zero_points == {"zero"}
    assert {name: structure.types[name] for name in ("weight", "zero", "yes")} == {
        "weight": TensorProto.FLOAT16,
        "zero": TensorProto.INT8,
        "yes": TensorProto.BOOL,
    }
    assert structure.numbers == {
        TensorProto.FLOAT16: 10,
        TensorProto.INT8: 1,
        TensorProto.BOOL: 1,
        TensorProto.FLOAT: 6,
    }


def test_element_types_of_precisions_match_onnx():
    known = {**precision.FLOATS, **precision.QUANTIZED}
    assert {precision: TensorProto.DataType.Name(kind) for kind, precision in known.items()} == {
        "fp32": "FLOAT",
        "fp16": "FLOAT16",
        "bf16": "BFLOAT16",
        "int8": "INT8",
        "fp8": "FLOAT8E4M3FN",
    }


def test_functions_are_found():
    opsets = [helper.make_opsetid("", 20)]
    function = helper.make_function("own", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opsets)
    structure = found(model([helper.make_node("F", ["scores"], ["z"], domain="own")], functions=[function]))
    assert structure.functions == 1
    assert ("own", "F") in structure.operators


def nested(depth):
    inner = branch("deep")
    for level in range(depth):
        node = helper.make_node("If", ["yes"], [f"l{level}"], then_branch=inner)
        inner = helper.make_graph([node], f"l{level}", [], [])
    return helper.make_model(inner)


def claimed(*dims):
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 8)


def shaped(*dims):
    graph = helper.make_graph([], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)], [])
    return helper.make_model(graph)


@pytest.mark.parametrize(
    ("proto", "sentence"),
    [
        (helper.make_model(onnx.GraphProto()), None),
        (onnx.ModelProto(ir_version=9), "contains no graph, so it is not an ONNX model"),
        (nested(30), "nests protobuf messages more than 64 deep"),
        (model(tensors=[claimed(1000, 1000)]), "has a tensor that claims 1,000,000 numbers in 21 bytes"),
        (model(tensors=[claimed(2**20, 2**20)]), "has a tensor of 1048576 x 1048576 numbers"),
        (model(tensors=[claimed(-1)]), "has a tensor of 18446744073709551615 numbers"),
        (model(tensors=[claimed(*[1] * 17)]), "has a tensor of more than 16 dimensions"),
        (shaped(1, 2**40), "has a tensor of 1099511627776 numbers"),
    ],
)
def test_absurd_models_are_refused(proto, sentence):
    if sentence is None:
        assert found(proto).graphs == 1
        return
    with pytest.raises(OnnxStructureError) as refused:
        found(proto)
    assert str(refused.value) == sentence


def test_packed_dimensions_count_as_well():
    dims = bytes([0x0A, 0x04, 0x80, 0x80, 0x80, 0x10])  # field 1, four bytes: 2**25
    tensor = dims + bytes([0x10, 0x01])
    graph = bytes([0x2A, len(tensor)]) + tensor
    with pytest.raises(OnnxStructureError, match=r"^has a tensor that claims 33,554,432 numbers in 8 bytes$"):
        structure_of(memoryview(bytes([0x3A, len(graph)]) + graph))


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ("LARGEST_NODES", "has more than 3 nodes"),
        ("LARGEST_TENSORS", "has more than 3 tensors"),
        ("LARGEST_FIELDS", "has more than 3 protobuf fields"),
    ],
)
def test_counts_are_bounded(monkeypatch, limit, sentence):
    nodes = [helper.make_node("Relu", ["scores"], [f"r{number}"]) for number in range(4)]
    monkeypatch.setattr(structure, limit, 3)
    with pytest.raises(OnnxStructureError) as refused:
        found(model(nodes, [numpy_helper.from_array(np.ones(1), f"t{number}") for number in range(4)]))
    assert str(refused.value) == sentence


def test_empty_and_truncated_files_are_refused(tmp_path, exported):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    with pytest.raises(OnnxStructureError, match=r"^is empty$"):
        read_structure(file)
    whole = (exported["plain"].directory / "model.onnx").read_bytes()
    for share in (0.3, 0.7, 0.999):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(
            OnnxStructureError, match=r"^ends in the middle of a field, so it is truncated or not an ONNX model$"
        ):
            read_structure(file)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    with suppress(OnnxStructureError):
        structure_of(memoryview(data))


WHOLE = model(tensors=[numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")]).SerializeToString()


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255), st.integers(0, 20))
def test_any_corruption_is_read_or_refused(place, byte, cut):
    data = bytearray(WHOLE)
    data[place] = byte
    with suppress(OnnxStructureError):
        structure_of(memoryview(bytes(data[: len(data) - cut])))
