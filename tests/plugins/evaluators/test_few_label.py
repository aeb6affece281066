"""Logistic regression on few labels against its objective in NumPy and SciPy; shares; lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from distillkit.data.selection import Selection
from distillkit.data.splits import open_datasets
from distillkit.errors import DataError, RecipeError, UserError
from distillkit.evaluation import Features, balanced_subset, listed_subset
from distillkit.evaluation.evaluate import evaluate
from distillkit.plugin.registry import installed_plugins
from distillkit.recipe.image_tables import Data
from distillkit.recipe.schema import Recipe
from distillkit.running.start import run
from distillkit_plugins.evaluators.few_label import fit, regressions

PLUGINS = installed_plugins()


def features(classes: int, start: int, count: int) -> Features:
    """The pixels of some digits, with noise."""
    pixels, labels = load_digits(n_class=classes, return_X_y=True)
    noisy = pixels + np.random.default_rng(0).normal(0, 6, pixels.shape)
    part = slice(start, start + count)
    return Features(torch.tensor(noisy[part], dtype=torch.float32), torch.tensor(labels[part]))


def optimum(few: Features, penalty: float, classes: int) -> np.ndarray:
    """Weights [K, D] that minimise the sum of cross-entropies plus penalty / 2 times their squares."""
    x = few.values.double().numpy()
    x, labels = x / np.linalg.norm(x, axis=1, keepdims=True), few.labels.numpy()

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = flat.reshape(classes, -1)
        scores = x @ weight.T
        highest = scores.max(axis=1, keepdims=True)
        odds = np.exp(scores - highest)
        total = odds.sum(axis=1, keepdims=True)
        losses = np.log(total[:, 0]) + highest[:, 0] - scores[np.arange(len(x)), labels]
        gradient = (odds / total - np.eye(classes)[labels]).T @ x + penalty * weight
        return losses.sum() + penalty / 2 * (flat**2).sum(), gradient.ravel()

    return minimize(objective, np.zeros(classes * x.shape[1]), jac=True, tol=1e-10).x.reshape(classes, -1)


@pytest.mark.parametrize(("classes", "penalty"), [(10, 0.03), (10, 1.0), (2, 0.3)])
def test_the_optimum_and_its_accuracy_are_those_of_an_independent_solver(classes: int, penalty: float) -> None:
    few, test = features(classes, 0, 60), features(classes, 60, 300)
    weight = optimum(few, penalty, classes)
    unit = test.values.double().numpy() / np.linalg.norm(test.values.double().numpy(), axis=1, keepdims=True)
    expected = 100 * np.mean((unit @ weight.T).argmax(axis=1) == test.labels.numpy())
    ((_, found, on_few),) = regressions(few, [penalty], test, few)
    assert 45 < expected < 99.9
    assert found == pytest.approx(expected, abs=0.1)
    assert on_few >= found
    difference = weight[1] - weight[0] if classes == 2 else weight
    np.testing.assert_allclose(np.squeeze(fit(few, penalty).coef_), difference, atol=0.02)


def test_a_single_class() -> None:
    with pytest.raises(DataError) as error:
        fit(Features(torch.ones(3, 2), torch.zeros(3).long()), 1.0)
    assert str(error.value) == "the labelled images are all of one class; use more labels, from at least two classes"


# --- Selection of images


@pytest.fixture(scope="module")
def training() -> Selection:
    """1,297 digits."""
    return open_datasets(Data(train="digits", validation=0.0), PLUGINS).train


def test_a_share_is_balanced_and_part_of_a_larger_one(training: Selection) -> None:
    small, large = (balanced_subset(training, share, seed=4) for share in (0.02, 0.1))
    assert len(small) == 26
    assert sorted(np.bincount(small.labels)) == [2, 2, 2, 2, 3, 3, 3, 3, 3, 3]
    assert set(small.all_keys()) < set(large.all_keys())
    again, other = balanced_subset(training, 0.02, seed=4), balanced_subset(training, 0.02, seed=5)
    assert list(again.all_keys()) == list(small.all_keys())
    assert set(other.all_keys()) != set(small.all_keys())


def test_a_tiny_share_still_has_every_class(training: Selection) -> None:
    assert np.bincount(balanced_subset(training, 0.0001, seed=0).labels).tolist() == [1] * 10


def test_a_list_of_names(training: Selection, tmp_path: Path) -> None:
    keys = [training.key(index) for index in (700, 3, 40)]
    path = tmp_path / "few.txt"
    path.write_text("\n".join(keys) + "\n\n", encoding="utf-8")
    subset = listed_subset(training, path)
    assert list(subset.all_keys()) == [training.key(index) for index in (3, 40, 700)]
    assert subset.labels.tolist() == [training.label(index) for index in (3, 40, 700)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "there is no image list '{path}'; check the path"),
        ("\n", "'{path}' lists no images; write one name per line"),
        (
            "a.png\nb.png\n",
            (
                "2 of the images listed in '{path}' are not among the 1,297 labelled training images of 'digits', "
                "such as 'a.png'; give a list for this data"
            ),
        ),
    ],
)
def test_a_list_that_does_not_fit(training: Selection, tmp_path: Path, text: str | None, sentence: str) -> None:
    path = tmp_path / "few.txt"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        listed_subset(training, path)
    assert str(error.value) == sentence.format(path=path)


class Pictures:
    """Four images in two folders, two of the same name."""

    name, class_names = "pets", ("cat", "dog")
    keys = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/3.png")

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> str:
        return self.keys[index]

    def label(self, index: int) -> int:
        return index // 2


def test_a_name_needs_no_folder_if_it_is_unique(tmp_path: Path) -> None:
    from distillkit.data.selection import SelectedPart

    pets = Selection("pets", ("cat", "dog"), [SelectedPart.whole(Pictures())])
    path = tmp_path / "few.txt"
    path.write_text("3.png\ncat/1.png\n", encoding="utf-8")
    assert list(listed_subset(pets, path).all_keys()) == ["cat/1.png", "dog/3.png"]
    path.write_text("1.png\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        listed_subset(pets, path)
    assert str(error.value) == (f"'1.png' in '{path}' matches several images; add the folder, such as 'cat/1.png'")


def test_a_stream_is_refused() -> None:
    class Stream:
        name = "wds"

    with pytest.raises(DataError) as error:
        balanced_subset(Stream(), 0.1, 0)
    assert str(error.value) == (
        "few-label subsets need images with an index, and 'wds' is a stream; name a folder or a data set with an index"
    )


def test_the_result_names_seed_and_penalty() -> None:
    options = {"shares": [0.02], "seed": 7, "penalties": [0.01, 1.0]}
    found = evaluate(
        "timm:test_vit", PLUGINS, protocol="few-label", weights="none", data="digits", options=options
    ).measurement
    assert found.title == (
        "logistic regression on few labels, chosen by seed 7; penalty chosen on 130 validation images"
    )
    assert [(row["labels"], row["images"], row["penalty"]) for row in found.rows] == [("2%", 23, 0.01), ("2%", 23, 1.0)]
    chosen = found.figures["2%_top1"]
    (penalty,) = {
        row["penalty"] for row in found.rows if row["top1"] == chosen and f" {row['penalty']:g} was" in found.notes[0]
    }
    assert found.notes == (f"2%: 23 labels, 2 to 3 per class; penalty {penalty:g} was chosen",)


# --- Fine-tuning


@pytest.fixture(scope="module")
def tables() -> dict[str, object]:
    return {
        "data": {"train": "digits", "workers": 0},
        "augment": {"crop": "none", "eval_crop": 1.0},
        "student": {"model": "deit-ti", "image_size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2},
        "training": {"steps": 1, "device": "cpu", "precision": "fp32"},
        "trackers": [],
    }


def test_fine_tuning_is_a_run_on_the_few_labels_that_starts_from_the_model(
    tables: dict[str, Any], tmp_path: Path
) -> None:
    run(Recipe.model_validate(tables), tmp_path / "start", installed_plugins())
    before = (tmp_path / "start" / "student.safetensors").read_bytes()
    options = {"method": "finetune", "shares": [0.05], "seed": 3, "epochs": 4, "lr": 0.01, "batch_size": 16}
    found = evaluate(str(tmp_path / "start"), PLUGINS, protocol="few-label", device="cpu", options=options).measurement
    by_hand = tables | {
        "seed": 3,
        "data": {**tables["data"], "labels": 58, "seed": 3},
        "student": {**tables["student"], "weights": str(tmp_path / "start")},
        "training": {**tables["training"], "steps": None, "epochs": 4, "batch_size": 16},
        "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.05},
        "schedule": {"min_lr": 0.0},
    }
    expected = run(Recipe.model_validate(by_hand), tmp_path / "by-hand", installed_plugins()).figures["test/top1"]
    assert found.title == "fine-tuning on few labels, chosen by seed 3 (4 epochs)"
    assert found.rows == ({"labels": "5%", "images": 58, "top1": expected},)
    assert found.figures == {"5%_top1": expected, "images": 500.0}
    assert (tmp_path / "start" / "student.safetensors").read_bytes() == before


def test_a_model_that_cannot_be_fine_tuned() -> None:
    with pytest.raises(UserError) as error:
        evaluate(
            "cifar-resnet20",
            PLUGINS,
            protocol="few-label",
            weights="none",
            data="digits",
            options={"method": "finetune"},
        )
    assert str(error.value) == (
        "'cifar-resnet20' cannot be fine-tuned by that name; give a run directory or timm:<any>"
    )


def test_fine_tuning_does_not_support_a_list() -> None:
    with pytest.raises(RecipeError) as error:
        evaluate("timm:test_vit", PLUGINS, protocol="few-label", options={"method": "finetune", "list": "few.txt"})
    assert str(error.value) == "method=finetune does not support list; use shares, or method=logistic"
