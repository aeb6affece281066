"""Linear heads against the same SGD steps in NumPy and against scikit-learn's optimum, on the pixels of digits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from distillkit.contracts.model import ModelSpec
from distillkit.data.splits import open_datasets
from distillkit.evaluation import Features, Subject, View
from distillkit.evaluation.evaluate import evaluate
from distillkit.evaluation.open_model import open_model
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.schema import Recipe
from distillkit.running.start import run
from distillkit_plugins.evaluators.augmented_probe import train_on_augmented
from distillkit_plugins.evaluators.linear import probe_view
from distillkit_plugins.evaluators.linear_heads import LinearHeads, head_accuracy, train_on_cached

CPU = torch.device("cpu")
PLUGINS = installed_plugins()


@pytest.fixture(scope="module")
def digits() -> tuple[Features, Features]:
    """Standardised pixels with noise, to train on and to measure."""
    pixels, labels = load_digits(return_X_y=True)
    noisy = (pixels - 5) / 6 + np.random.default_rng(0).normal(0, 1.5, pixels.shape)
    values, classes = torch.tensor(noisy, dtype=torch.float32), torch.tensor(labels)
    return Features(values[:1300], classes[:1300]), Features(values[1300:], classes[1300:])


def sgd(
    train: Features, rate: float, epochs: int, batch_size: int, seed: int, *, until: int | None = None
) -> tuple[NDArray, NDArray]:
    """SGD in NumPy: v = 0.9 v + g, w = w - lr v, with lr along a cosine from rate * batch / 256 to 0."""
    x, labels = train.values.double().numpy(), train.labels.numpy()
    weight = 0.01 * torch.randn(10, x.shape[1], generator=torch.Generator().manual_seed(seed)).double().numpy()
    bias, speed, bias_speed = np.zeros(10), np.zeros_like(weight), np.zeros(10)
    draw = torch.Generator().manual_seed(seed)
    steps, step = epochs * math.ceil(len(x) / batch_size), 0
    for _ in range(until or epochs):
        order = torch.randperm(len(x), generator=draw).numpy()
        for start in range(0, len(x), batch_size):
            chosen = order[start : start + batch_size]
            scores = x[chosen] @ weight.T + bias
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            error = odds / odds.sum(axis=1, keepdims=True) - np.eye(10)[labels[chosen]]
            speed = 0.9 * speed + error.T @ x[chosen] / len(chosen)
            bias_speed = 0.9 * bias_speed + error.mean(axis=0)
            lr = rate * batch_size / 256 * (1 + math.cos(math.pi * step / steps)) / 2
            weight, bias, step = weight - lr * speed, bias - lr * bias_speed, step + 1
    return weight, bias


def test_every_head_takes_the_steps_of_an_independent_implementation(digits: tuple[Features, Features]) -> None:
    train, test = digits
    rates = (0.003, 0.03, 0.3)
    heads = train_on_cached(train, 10, rates, epochs=6, batch_size=128, seed=3, device=CPU)
    found = head_accuracy(heads, test, CPU)
    for number, rate in enumerate(rates):
        weight, bias = sgd(train, rate, epochs=6, batch_size=128, seed=3)
        np.testing.assert_allclose(heads.weights[number].detach().numpy(), weight, atol=1e-4)
        scores = test.values.double().numpy() @ weight.T + bias
        labels = test.labels.numpy()
        top5 = (np.argsort(-scores, axis=1)[:, :5] == labels[:, None]).any(axis=1)
        assert found[number]["top1"] == pytest.approx(100 * np.mean(scores.argmax(axis=1) == labels), abs=0.1)
        assert found[number]["top5"] == pytest.approx(100 * np.mean(top5), abs=0.1)


def test_long_training_reaches_the_optimum_of_scikit_learn() -> None:
    """Few vectors of few dimensions with overlapping classes have a single optimum, and both find it."""
    draw = np.random.default_rng(1)
    labels = np.arange(300) % 3
    values = draw.normal(size=(300, 4)) + 1.2 * np.eye(3, 4)[labels]
    train = Features(torch.tensor(values, dtype=torch.float32), torch.tensor(labels))
    other = LogisticRegression(C=np.inf, max_iter=1000).fit(values, labels)
    heads = train_on_cached(train, 3, (0.3,), epochs=150, batch_size=300, seed=0, device=CPU)
    (found,) = head_accuracy(heads, train, CPU)
    assert found["top1"] == pytest.approx(100 * other.score(values, labels), abs=0.1)


def test_a_head_that_diverges_does_not_change_the_others(digits: tuple[Features, Features]) -> None:
    train, test = digits
    alone = train_on_cached(train, 10, (0.03,), epochs=3, batch_size=128, seed=0, device=CPU)
    together = train_on_cached(train, 10, (1e38, 0.03), epochs=3, batch_size=128, seed=0, device=CPU)
    torch.testing.assert_close(together.weights[1], alone.weights[0])
    assert not together.weights[0].isfinite().all()
    assert head_accuracy(together, test, CPU)[1] == head_accuracy(alone, test, CPU)[0]


def test_the_accuracy_after_every_epoch_is_that_of_an_independent_implementation(
    digits: tuple[Features, Features],
) -> None:
    train, test = digits
    seen: list[float] = []

    def after_epoch(heads: LinearHeads) -> None:
        seen.append(head_accuracy(heads, test, CPU)[0]["top1"])

    train_on_cached(train, 10, (0.3,), epochs=4, batch_size=128, seed=0, device=CPU, after_epoch=after_epoch)
    x, labels = test.values.double().numpy(), test.labels.numpy()
    for number, found in enumerate(seen, 1):
        weight, bias = sgd(train, 0.3, epochs=4, batch_size=128, seed=0, until=number)
        assert found == pytest.approx(100 * np.mean((x @ weight.T + bias).argmax(axis=1) == labels), abs=0.3)
    assert len(seen) == 4


def test_two_classes_have_no_top5() -> None:
    heads = LinearHeads(2, 2, (0.1,), seed=0)
    one = Features(torch.ones(1, 2), torch.tensor([0]))
    assert head_accuracy(heads, one, CPU)[0].keys() == {"top1"}


@pytest.mark.parametrize(
    ("kind", "width", "layers", "view"),
    [
        ("vit", 384, 12, View(4)),
        ("vit", 768, 12, View(1, patch_mean=True)),
        ("vit", 192, 2, View(2)),
        ("cnn", 2048, 4, View(1)),
    ],
)
def test_features_of_the_probe_by_model(kind: str, width: int, layers: int, view: View) -> None:
    spec = ModelSpec("m", "m", kind, 10, frozenset(), (8, 8), layers=layers, widths=(width,) * layers)
    assert probe_view(spec) == view
    assert probe_view(spec, 1, patch_mean=True) == View(1, patch_mean=True)
    assert view.width(spec) == width * (view.blocks + view.patch_mean)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of one step on digits."""
    out = tmp_path_factory.mktemp("linear") / "run"
    tables = {
        "data": {"train": "digits", "workers": 0},
        "augment": {"crop": "none", "eval_crop": 1.0},
        "student": {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 2, "heads": 2},
        "training": {"steps": 1, "device": "cpu", "precision": "fp32"},
        "trackers": [],
    }
    run(Recipe.model_validate(tables), out, PLUGINS)
    return str(out)


def test_the_fast_probe_selects_a_rate_on_other_images_than_it_measures(folder: str, tmp_path: Path) -> None:
    found = evaluate(folder, PLUGINS, protocol="linear", options={"epochs": 3, "lr": [0.001, 0.03]}).measurement
    assert found.title == "linear probe on cached features (fast: no augmentation, 3 epochs)"
    chosen = found.settings["chosen_lr"]
    best, number = found.figures["best_epoch_top1"], found.settings["best_epoch"]
    (row,) = (row for row in found.rows if row["lr"] == chosen)
    choice, epochs = found.notes
    assert choice == f"lr {chosen:g} of 2 was chosen on 130 validation images"
    assert epochs == (
        f"last epoch, 3: {row['top1']:.2f} %; best epoch, {number}: {best:.2f} %, "
        "chosen on the evaluated images as in DINO's code"
    )
    assert found.figures == {
        "top1": row["top1"],
        "top5": row["top5"],
        "best_epoch_top1": best,
        "images": 500.0,
    }
    assert found.settings["read"] == "the embedding of the last 2 layers"
    on_them = evaluate(folder, PLUGINS, protocol="linear", split="validation", options={"epochs": 1, "lr": [0.01, 0.1]})
    assert on_them.measurement.notes[0].endswith(" of 2 was chosen on the evaluated images themselves")


def test_dinos_probe_takes_the_steps_of_an_independent_implementation(folder: str) -> None:
    """The learning rate decays once per epoch; 1,167 images in batches of 300 are 3 steps per epoch."""
    judged = open_model(folder, PLUGINS, None)
    datasets = open_datasets(judged.recipe.data, PLUGINS)
    subject = Subject(
        folder, judged.model.eval(), judged.spec, judged.answer, judged.recipe, datasets, "test", datasets.test, CPU
    )
    view, rates = View(2), (0.02, 0.5)
    heads = train_on_augmented(subject, view, rates, epochs=3, batch_size=300, seed=5)
    start = 0.01 * torch.randn(10, 32, generator=torch.Generator().manual_seed(5)).double().numpy()
    for number, rate in enumerate(rates):
        weight, bias, speed, bias_speed = start, np.zeros(10), np.zeros((10, 32)), np.zeros(10)
        steps = 0
        for window in subject.augmented(epochs=3, batch_size=300, seed=5):
            with torch.no_grad():
                outputs = [subject.model(batch.images, view.wanted(subject.spec)) for batch in window.micro_batches]
            x = torch.cat([torch.cat(each.embedding, dim=1) for each in outputs]).double().numpy()
            truth = torch.cat([batch.labels for batch in window.micro_batches]).double().numpy()
            odds = np.exp(x @ weight.T + bias)
            error = odds / odds.sum(axis=1, keepdims=True) - truth
            speed = 0.9 * speed + error.T @ x / 300
            bias_speed = 0.9 * bias_speed + error.mean(axis=0)
            lr = rate * 300 / 256 * (1 + math.cos(math.pi * window.epoch / 3)) / 2
            weight, bias, steps = weight - lr * speed, bias - lr * bias_speed, steps + 1
        assert steps == 9
        np.testing.assert_allclose(heads.weights[number].detach().numpy(), weight, atol=1e-4)
        np.testing.assert_allclose(heads.biases[number].detach().numpy(), bias, atol=1e-4)


def test_dinos_probe_is_reproducible_and_depends_on_its_seed(folder: str) -> None:
    options = {"method": "dino", "epochs": 2, "batch_size": 256, "lr": [0.1]}
    found = evaluate(folder, PLUGINS, protocol="linear", options=options).measurement
    assert found.title == "linear probe on augmented images (dino: DINO's protocol, 2 epochs)"
    assert [row["lr"] for row in found.rows] == [0.1]
    assert found.figures["best_epoch_top1"] >= found.figures["top1"]
    assert found.settings["training_images"] == 1167
    assert found.figures["top1"] > 15
    assert evaluate(folder, PLUGINS, protocol="linear", options=options).measurement == found
    other = evaluate(folder, PLUGINS, protocol="linear", options={**options, "seed": 1}).measurement
    assert other.figures != found.figures
