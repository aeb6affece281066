import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillkit.contracts.model import Outputs, Signal
from distillkit.errors import BrokenPluginError
from distillkit.models.heads import OneAnswer, fuse

BOTH = {Signal.LOGITS: (), Signal.DISTILL_LOGITS: ()}


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def outputs_of(class_logits, distill_logits):
    return Outputs(logits=torch.tensor(class_logits), distill_logits=torch.tensor(distill_logits))


def test_each_head_by_itself():
    outputs = outputs_of([[1.0, 3.0]], [[5.0, 2.0]])
    assert fuse(outputs, "class").tolist() == [[1.0, 3.0]]
    assert fuse(outputs, "distill").tolist() == [[5.0, 2.0]]


def test_mean_of_logits_is_the_default():
    assert fuse(outputs_of([[1.0, 3.0]], [[5.0, 2.0]])).tolist() == [[3.0, 2.5]]


@pytest.mark.parametrize("head", ["fused", "class", "distill"])
@pytest.mark.parametrize("fusion", ["logits", "softmax"])
def test_a_model_with_one_head_returns_its_logits_for_any_head(head, fusion):
    assert fuse(Outputs(logits=torch.tensor([[1.0, 2.0]])), head, fusion).tolist() == [[1.0, 2.0]]


numbers = st.floats(-30, 30, allow_nan=False, width=32)
rows = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8)


@given(rows)
def test_softmax_fusion_is_the_mean_of_the_softmaxes(pairs):
    one, other = (np.array([column]) for column in zip(*pairs, strict=True))
    fused = fuse(outputs_of(one, other), fusion="softmax").numpy()
    expected = (softmax(one) + softmax(other)) / 2
    np.testing.assert_allclose(np.exp(fused), expected, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(softmax(fused), expected, rtol=1e-6, atol=1e-30)


def test_the_two_fusions_can_disagree():
    # Means: -2, 1.5, 0. Sums of softmaxes, (.876, .119, .006) and (.000, .500, .500): .876, .619, .506.
    outputs = outputs_of([[5.0, 3.0, 0.0]], [[-9.0, 0.0, 0.0]])
    assert fuse(outputs).argmax().item() == 1
    assert fuse(outputs, fusion="softmax").argmax().item() == 0


def test_fused_output_is_timms_own(distilled, images):
    distilled.network.eval()
    with torch.no_grad():
        assert torch.equal(fuse(distilled(images, BOTH)), distilled.network(images))


def test_a_model_without_logits_breaks_its_plugins_contract():
    with pytest.raises(BrokenPluginError) as error:
        fuse(Outputs())
    assert str(error.value) == "a model was asked for its logits and returned none; its plugin breaks the contract"
    with pytest.raises(BrokenPluginError) as named:
        fuse(Outputs(), model="model 'deit-ti'")
    assert str(named.value) == (
        "model 'deit-ti' was asked for its logits and returned none; its plugin breaks the contract"
    )


def test_one_answer_fuses_both_heads(distilled, images):
    distilled.network.eval()
    teacher = OneAnswer(distilled, fusion="softmax")
    with torch.no_grad():
        both, one = distilled(images, BOTH), teacher(images, {Signal.LOGITS: (), Signal.EMBEDDING: (1,)})
    assert teacher.spec.signals == distilled.spec.signals - {Signal.DISTILL_LOGITS}
    assert teacher.network is distilled.network
    assert torch.equal(one.logits, fuse(both, fusion="softmax"))
    assert one.distill_logits is None
    assert [tuple(each.shape) for each in one.embedding] == [(3, 48)]


def test_one_answer_computes_no_logits_unless_wanted(distilled, images):
    outputs = OneAnswer(distilled)(images, {Signal.EMBEDDING: (0,)})
    assert outputs.logits is None
    assert outputs.distill_logits is None


def test_one_answer_returns_the_logits_of_a_single_head(plain, images):
    plain.network.eval()
    with torch.no_grad():
        assert torch.equal(OneAnswer(plain)(images, {Signal.LOGITS: ()}).logits, plain.network(images))
