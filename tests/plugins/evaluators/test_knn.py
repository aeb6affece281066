"""k-NN accuracy against scikit-learn's, on the pixels of digits; ties; tiny sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from distillkit.errors import DataError
from distillkit.evaluation import Features
from distillkit_plugins.evaluators import knn
from distillkit_plugins.evaluators.knn import chosen_k, knn_accuracy, nearest, rank, vote


@pytest.fixture(scope="module")
def digits() -> tuple[Features, Features]:
    """A bank and queries: pixels with noise, so that k-NN makes some errors."""
    pixels, labels = load_digits(return_X_y=True)
    noisy = pixels + np.random.default_rng(0).normal(0, 9, pixels.shape)
    values, classes = torch.tensor(noisy, dtype=torch.float32), torch.tensor(labels)
    return Features(values[:1200], classes[:1200]), Features(values[1200:], classes[1200:])


@pytest.mark.parametrize("k", [1, 10, 20, 100, 200])
def test_accuracy_is_that_of_scikit_learn(digits: tuple[Features, Features], k: int) -> None:
    bank, queries = digits
    (row,) = knn_accuracy(bank, queries, [k], 0.07, classes=10)
    other = KNeighborsClassifier(k, weights=lambda away: np.exp((1 - away) / 0.07), metric="cosine")
    other.fit(bank.values.double().numpy(), bank.labels.numpy())
    scores = other.predict_proba(queries.values.double().numpy())
    labels = queries.labels.numpy()
    # A class without votes is not in the top 5, even if fewer than five classes have votes.
    is_named = (np.argsort(-scores, axis=1)[:, :5] == labels[:, None]).any(axis=1) & (
        scores[np.arange(len(labels)), labels] > 0
    )
    expected = 100 * np.mean(scores.argmax(axis=1) == labels)
    assert 30 < expected < 95
    assert row["top1"] == pytest.approx(expected, abs=0.1)
    assert row["top5"] == pytest.approx(100 * np.mean(is_named), abs=0.1)


def test_several_k_in_one_pass_and_in_chunks(
    digits: tuple[Features, Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, queries = digits
    whole = knn_accuracy(bank, queries, [5, 50], 0.07, classes=10)
    assert whole == tuple(knn_accuracy(bank, queries, [k], 0.07, classes=10)[0] for k in (5, 50))
    monkeypatch.setattr(knn, "QUERIES", 7)
    monkeypatch.setattr(knn, "BANK", 31)
    assert knn_accuracy(bank, queries, [5, 50], 0.07, classes=10) == whole


@given(
    # Few different values, so that there are many ties, negative zero and both signs among them.
    st.lists(st.sampled_from([-2.0, -0.5, -0.0, 0.0, 0.25, 3.0]), min_size=1, max_size=30),
    st.integers(1, 30),
    st.integers(1, 9),
)
def test_equally_similar_images_come_in_the_order_of_the_bank(values: list[float], k: int, chunk: int) -> None:
    bank = torch.tensor(values).view(-1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "BANK", chunk)
        similarities, positions = nearest(bank, torch.ones(1, 1), k)
    expected = sorted(range(len(values)), key=lambda index: (-values[index], index))[:k]
    assert positions[0].tolist() == expected
    assert similarities[0].tolist() == [values[index] for index in expected]


def test_the_vote_by_hand() -> None:
    """Two neighbours of class 1 at 0.5 against one of class 0 at 1.0: e^(1/T) > 2 e^(0.5/T) where T < 0.5 / ln 2."""
    similarities, labels = torch.tensor([[1.0, 0.5, 0.5]]), torch.tensor([[0, 1, 1]])
    assert vote(similarities, labels, 0.07, 3).argmax() == 0
    assert vote(similarities, labels, 0.8, 3).argmax() == 1
    votes = vote(similarities, labels, 0.5, 3)
    torch.testing.assert_close(votes, torch.tensor([[1.0, 2 * np.exp(-1.0), 0.0]], dtype=torch.float64))


def test_ranks_of_equal_votes_and_without_votes() -> None:
    votes = torch.tensor([[2.0, 2.0, 5.0, 0.0]] * 4)
    assert rank(votes, torch.tensor([0, 1, 2, 3])).tolist() == [1, 2, 0, 4]


def test_one_training_image_and_one_measured() -> None:
    one = Features(torch.ones(1, 3), torch.tensor([1]))
    assert knn_accuracy(one, one, [1], 0.07, classes=2) == ({"k": 1, "top1": 100.0},)


def test_default_k_are_limited_by_the_bank() -> None:
    assert chosen_k(None, 1000, "pets") == ((10, 20, 100, 200), ())
    note = "skipped k = 100, 200: 'pets' has only 60 labelled images"
    assert chosen_k(None, 60, "pets") == ((10, 20), (note,))
    assert chosen_k(None, 7, "pets")[0] == (7,)
    assert chosen_k([50, 3, 50], 60, "pets") == ((3, 50), ())


def test_more_neighbours_than_images_are_refused() -> None:
    with pytest.raises(DataError) as error:
        chosen_k([20, 200], 60, "pets")
    assert str(error.value) == "k = 200 is larger than the 60 labelled images of 'pets'; lower --k"
