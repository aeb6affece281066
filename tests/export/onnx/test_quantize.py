"""Which nodes are quantised, on hand-made graphs, and the calibration batches."""

import numpy as np
import onnx
import pytest

from distillkit.contracts.exporter import INPUT
from distillkit_export.onnx.quantize import BATCH, _Reader, chosen_nodes


def graph(convolution, product):
    """A convolution and a matrix product with these numbers of weights, a product of two activations, and a head."""
    nodes = [
        onnx.helper.make_node("Conv", ["images", "kernel"], ["map"], name="conv"),
        onnx.helper.make_node("MatMul", ["map", "weight"], ["hidden"], name="product"),
        onnx.helper.make_node("MatMul", ["hidden", "map"], ["mixed"], name="attention"),
        onnx.helper.make_node("MatMul", ["mixed", "head_weight"], ["logits"], name="head"),
    ]
    sizes = {"kernel": (convolution, 1), "weight": (product, 1), "head_weight": (1, 1)}
    weights = [onnx.numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in sizes.items()]
    output = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [output], weights))


@pytest.mark.parametrize(
    ("convolution", "product", "expected"),
    [(6, 4, ["product", "conv"]), (5, 4, ["product"]), (3, 4, ["product"])],
)
def test_convolutions_are_quantised_only_where_they_have_most_weights(convolution, product, expected):
    """Products of activations and the head stay in float; the head's one weight counts as that of a product."""
    assert chosen_nodes(graph(convolution, product)) == expected


@pytest.mark.parametrize("count", [1, BATCH, 2 * BATCH + 1])
def test_calibration_batches_are_equal_and_contain_every_image(count):
    """The last batch wraps around to the first images."""
    reader, batches = _Reader(np.arange(count)), []
    while (batch := reader.get_next()) is not None:
        batches.append(batch[INPUT].tolist())
    size = min(BATCH, count)
    assert [len(batch) for batch in batches] == [size] * -(-count // size)
    images = [image for batch in batches for image in batch]
    assert images == [index % count for index in range(len(images))]
