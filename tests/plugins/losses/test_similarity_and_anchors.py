"""`similarity` and `anchors` against NumPy implementations: values and gradients."""

import numpy as np
import pytest
import torch

from distillkit import BatchInfo, Outputs, RecipeError
from distillkit.testing import vit
from distillkit_plugins.losses.anchors import Anchors
from distillkit_plugins.losses.similarity import Similarity

BATCH = BatchInfo(labels=None, label_mass=torch.zeros(3))
GENERATOR = np.random.default_rng(2)


def model(name, grid, width):
    return vit(name, layers=2, width=width, heads=1, grid=grid)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def log_softmax(scores):
    scores = scores - scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


def divergence(teacher, student):
    goal, own = log_softmax(teacher), log_softmax(student)
    return (np.exp(goal) * (goal - own)).sum(axis=-1)


def linear(loss, vectors):
    [layer] = loss.projector
    return vectors @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def check(loss, term, student, reference, read):
    """Compare the term and its gradient with a reference [B] of the student's values."""
    given = torch.tensor(student, requires_grad=True)
    [found] = loss(read(given), {"embedding": None} | TARGET[0], BATCH).values()
    np.testing.assert_allclose(found.detach().numpy(), reference(student), rtol=1e-6, atol=1e-7)
    found.sum().backward()
    for _ in range(6):
        place = tuple(GENERATOR.integers(size) for size in student.shape)
        step = np.zeros_like(student)
        step[place] = 1e-5
        slope = (reference(student + step).sum() - reference(student - step).sum()) / 2e-5
        assert given.grad[place].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert term in loss(read(given), TARGET[0], BATCH)


TARGET = [{}]


def test_similarity():
    torch.manual_seed(0)
    loss = Similarity.build(Similarity.Options(temperature=0.3), model("s", (2, 3), 5), model("t", (2, 3), 4)).double()
    teacher = GENERATOR.standard_normal((3, 6, 4)).astype(np.float32)
    TARGET[0] = {name: each.double() for name, each in loss.target(tokens(torch.from_numpy(teacher))).items()}

    def reference(student):
        t, s = unit(teacher.astype(float)), unit(linear(loss, student))
        return divergence(t @ t.transpose(0, 2, 1) / 0.3, s @ s.transpose(0, 2, 1) / 0.3).mean(axis=1)

    check(loss, "similarity", GENERATOR.standard_normal((3, 6, 5)), reference, tokens)


def test_anchors():
    torch.manual_seed(0)
    loss = Anchors.build(Anchors.Options(anchors=7, temperature=0.3), model("s", (2, 3), 5), model("t", (2, 3), 4))
    loss = loss.double()
    embeddings = GENERATOR.standard_normal((7, 4)).astype(np.float32)
    loss.prepare(vectors(torch.from_numpy(part)) for part in (embeddings[:3], embeddings[3:]))
    teacher = GENERATOR.standard_normal((3, 4)).astype(np.float32)
    TARGET[0] = {name: each.double() for name, each in loss.target(vectors(torch.from_numpy(teacher))).items()}
    anchors = loss.anchors.numpy()
    np.testing.assert_allclose(anchors, unit(embeddings.astype(float)), atol=1e-7)

    def reference(student):
        t, s = unit(teacher.astype(float)), unit(linear(loss, student))
        return divergence(t @ anchors.T / 0.3, s @ anchors.T / 0.3)

    check(loss, "anchors", GENERATOR.standard_normal((3, 5)), reference, vectors)


def tokens(values):
    return Outputs(patch_tokens=(values,))


def vectors(values):
    return Outputs(embedding=(values,))


def test_similarity_is_zero_for_the_teacher_itself_and_refuses_grids_that_differ():
    same = model("t", (2, 3), 4)
    loss = Similarity.build(Similarity.Options(), same, same).double()
    torch.nn.init.eye_(loss.projector[0].weight)
    teacher = torch.randn(3, 6, 4)
    found = loss(tokens(teacher.double()), loss.target(tokens(teacher)), BATCH)["similarity"]
    torch.testing.assert_close(found, torch.zeros(3).double(), atol=1e-12, rtol=0)
    with pytest.raises(RecipeError) as refusal:
        Similarity.build(Similarity.Options(resample="none"), model("s", (1, 3), 4), same)
    assert str(refusal.value).startswith("loss 'similarity': teacher 't' has 2 x 3 patches and student 's' 1 x 3, but ")
