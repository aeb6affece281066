"""Options of the built-in evaluators. Imports neither torch nor timm, so that a wrong option is reported at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, PositiveFloat

Count = Annotated[int, Field(gt=0)]


class NearestNeighboursOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Number of neighbours, and their weighting."""

    k: tuple[Annotated[int, Field(gt=0)], ...] | None = Field(
        None,
        strict=False,
        description="numbers of neighbours; default 10, 20, 100 and 200, up to the number of training images",
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        0.07, description="temperature of the votes; the lower, the more the nearest neighbours count"
    )


class LinearProbeOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Method and training settings of the probe."""

    method: Literal["fast", "dino"] = Field("fast", description="`fast`: cached features; `dino`: augmented images")
    epochs: Count = Field(100, description="epochs on the training images")
    batch_size: Count | None = Field(None, description="images per step; `dino`: 1024, `fast`: 256")
    lr: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None,
        strict=False,
        min_length=1,
        description="learning rates at batch 256, one head each; `dino`: 0.001, `fast`: seven from 0.001 to 1",
    )
    blocks: Count | None = Field(
        None, description="number of last layers whose embeddings are read; default 4 or 1, see docs/evaluation.md"
    )
    patch_mean: bool | None = Field(
        None, description="also read the mean of the last patch tokens; default: see docs/evaluation.md"
    )
    seed: int = Field(0, description="seed of the initial weights, the order and the augmentation")


class FewLabelOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Labelled images, and the method that learns from them."""

    method: Literal["logistic", "finetune"] = Field(
        "logistic", description="`logistic`: regression on frozen features; `finetune`: train the complete model"
    )
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.01, 0.1),
        strict=False,
        min_length=1,
        description="shares of the labelled training images, one result each",
    )
    list: str | None = Field(
        None, description="text file with one image name per line, instead of shares; for `logistic`"
    )
    seed: int = Field(0, description="seed of the selection of images")
    penalties: tuple[PositiveFloat, ...] = Field(
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        strict=False,
        min_length=1,
        description="`logistic`: penalties p to try; p / 2 times the squared weights is added to the sum of losses",
    )
    epochs: Annotated[int, Field(gt=0)] = Field(1000, description="`finetune`: epochs on the labelled images")
    lr: PositiveFloat = Field(5e-6, description="`finetune`: learning rate of AdamW, decays to 0 along a cosine")
    batch_size: Annotated[int, Field(gt=0)] = Field(512, description="`finetune`: images per step")


class Top1Options(BaseModel, frozen=True, extra="forbid", strict=True):
    """Head to evaluate, and additional results."""

    head: Literal["fused", "class", "distill"] | None = Field(
        None, description="head whose prediction is evaluated; default: the run's"
    )
    fusion: Literal["logits", "softmax"] | None = Field(
        None, description="fusion of two heads: mean of logits or sum of softmaxes; default: the run's"
    )
    per_class: bool = Field(False, description="add a row per class")
    restrict: bool = Field(False, description="count only the outputs for the classes of the data")
    real: str | None = Field(
        None, description="ReaL label file: JSON, the acceptable classes of each image, in the order of file names"
    )
