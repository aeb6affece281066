"""ONNX Runtime on graphs made by hand."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distillkit.errors import GateError, UnavailableError
from distillkit_export.onnx import session
from distillkit_export.onnx.session import OnnxSession, _kernel, loadable


@pytest.fixture
def file_for_three(tmp_path):
    """A graph that declares a dynamic batch but works only for one or three images."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["images", "rows"], ["logits"])],
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "rows")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_unsupported_operator_type_is_reported_in_one_clause(tmp_path):
    message = (
        "[ONNXRuntimeError] : 10 : INVALID_GRAPH : This is an invalid model. Type Error: Type 'tensor(float8e4m3fn)' "
        "of input parameter (norm_QuantizeLinear_Output) of operator (QLinearMatMul) in node (qkv/MatMul) is invalid."
    )
    assert _kernel(RuntimeError(message)) == "operator QLinearMatMul does not accept tensor(float8e4m3fn)"


def test_scores_of_a_batch(file_for_three):
    scores = OnnxSession(file_for_three)(np.arange(6, dtype=np.float32).reshape(3, 2))
    assert scores.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_batch_that_does_not_run_is_a_failed_gate_and_nothing_is_logged(file_for_three, capfd):
    session = OnnxSession(file_for_three)
    with pytest.raises(GateError) as error:
        session(np.zeros((2, 2), np.float32))
    assert str(error.value).startswith("ONNX Runtime cannot run model.onnx on a batch of 2: ")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_file_that_does_not_load_is_a_failed_gate(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(GateError) as error:
        OnnxSession(tmp_path / "model.onnx")
    assert str(error.value).startswith("ONNX Runtime cannot load model.onnx: ")


def test_a_path_that_is_no_text_is_loaded_by_its_content(tmp_path):
    """In an ASCII locale Python reads "über" as surrogates, which ONNX Runtime refuses."""
    plain, foreign = tmp_path / "model.onnx", tmp_path / os.fsdecode(b"\xff.onnx")
    for file in (plain, foreign):
        file.write_bytes(b"content")
    assert loadable(str(plain)) == str(plain)
    assert loadable(str(foreign)) == b"content"


def test_a_file_whose_path_is_no_text_is_tried_without_optimiser_by_its_content(tmp_path, monkeypatch):
    """A file that loads without the optimiser is valid, and only the kernel is missing."""
    file, tried = tmp_path / os.fsdecode(b"\xff.onnx"), []
    file.write_bytes(b"content")
    monkeypatch.setattr(session, "_unoptimised_session", tried.append)
    with pytest.raises(UnavailableError):
        OnnxSession(file)
    assert tried == [b"content"]
