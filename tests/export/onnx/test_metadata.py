"""Cleaning, describing and checking ONNX graphs, on graphs made by hand."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from distillkit.errors import UnavailableError
from distillkit_export.onnx.metadata import describe_in, save_checked, strip_traces
from distillkit_export.onnx.session import OnnxSession


def relu(input_shape, output_shape, operator="Relu"):
    graph = helper.make_graph(
        [helper.make_node(operator, ["images"], ["logits"])],
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output_shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def refusal(model, path):
    with pytest.raises(UnavailableError) as error:
        save_checked(model, path)
    assert not path.exists()
    return str(error.value)


def test_traces_are_removed_everywhere_including_sub_graphs(tmp_path):
    model = relu(["batch", 2], ["batch", 2])
    branch = helper.make_graph(
        [helper.make_node("Relu", ["images"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    condition = helper.make_tensor("condition", TensorProto.BOOL, [], [True])
    model.graph.initializer.append(condition)
    model.graph.node.append(helper.make_node("If", ["condition"], ["unused"], then_branch=branch, else_branch=branch))
    inner = model.graph.node[1].attribute[0].g
    owners = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output]
    for owner in [*owners, *model.graph.initializer, inner, *inner.node, *inner.output]:
        owner.doc_string = "File secret/place.py"
        owner.metadata_props.add(key="stack_trace", value="File secret/place.py")
    strip_traces(model)
    assert b"secret" not in model.SerializeToString()
    save_checked(model, tmp_path / "model.onnx")


def test_card_is_read_by_a_session(tmp_path):
    model = relu(["batch", 2], ["batch", 2])
    describe_in(model, {"class_names": '["cat", "dog"]'})
    save_checked(model, tmp_path / "model.onnx")
    assert OnnxSession(tmp_path / "model.onnx").metadata == {"distillkit.class_names": '["cat", "dog"]'}


def test_fixed_batch_is_refused(tmp_path):
    assert refusal(relu(["batch", 2], [1, 2]), tmp_path / "model.onnx") == (
        "the exported graph's 'logits' has shape [1, 2]; the batch must be dynamic, and besides it only an image's "
        "height and width may be; the model's forward pass must not use the batch size as a Python number"
    )


def test_other_dynamic_dimension_is_refused(tmp_path):
    assert refusal(relu(["batch", "rows"], ["batch", "rows"]), tmp_path / "model.onnx") == (
        "the exported graph's 'images' has shape [batch, rows]; the batch must be dynamic, and besides it only an "
        "image's height and width may be; the model's forward pass must not use the batch size as a Python number"
    )


def test_only_the_inputs_height_and_width_may_be_dynamic(tmp_path):
    model = relu(["batch", 3, "height", "width"], ["batch", 3, "height", "width"])
    assert refusal(model, tmp_path / "model.onnx").startswith(
        "the exported graph's 'logits' has shape [batch, 3, height, width]; the batch must be dynamic, "
    )
    save_checked(relu(["batch", "height", "width"], ["batch", 2, 3]), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").is_file()


def test_two_names_for_the_batch_are_refused(tmp_path):
    model = relu(["batch", 2], ["rows", 2])
    assert refusal(model, tmp_path / "model.onnx") == (
        "the exported graph has several batch dimensions (batch, rows), so input and output may differ in batch size; "
        "the model's forward pass must return one row per image"
    )


def test_graph_that_is_not_onnx_is_refused(tmp_path):
    message = refusal(relu(["batch", 2], ["batch", 2], operator="Frobnicate"), tmp_path / "model.onnx")
    assert message.startswith("the ONNX checker rejects the exported graph: No Op registered for Frobnicate")
    assert "\n" not in message


def test_file_is_plain_onnx(tmp_path):
    save_checked(relu(["batch", 2], ["batch", 2]), tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx").graph.node[0].op_type == "Relu"
