"""Options of the built-in losses. Imports neither torch nor timm, so that a wrong option is reported at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field, PositiveInt, model_validator

HeadAggregation: TypeAlias = Literal["mean", "group", "logsum"]
RowInterpolation: TypeAlias = Literal["bicubic", "area", "none"]
Norms: TypeAlias = Literal["both", "input", "output", "none"]
Normalisation: TypeAlias = Literal["layernorm", "standardise", "phi-s", "l2", "none"]
Distance: TypeAlias = Literal["smooth-l1", "cosine", "mse"]
Projector: TypeAlias = Literal["linear", "ln-linear", "mlp2"]
Resample: TypeAlias = Literal["student", "teacher", "none"]
Weight = Annotated[float, Field(ge=0)]


class CeOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """`ce` has no options. Label smoothing is `labels.smoothing`, which applies to every loss."""


class HardOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """`hard` has no options; the paper calls it parameter-free."""


class SoftOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Options of a `soft` entry."""

    tau: Annotated[float, Field(gt=0)] = Field(3.0, description="temperature that softens both distributions")
    balance: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, alias="lambda", description="weight of this term; the labels get 1 - lambda"
    )
    reduction: Literal["batchmean", "numel"] = Field(
        "batchmean",
        description="sum over the classes, or the mean over them, as in the authors' code: K times smaller",
    )
    top_k: PositiveInt | None = Field(
        None, description="keep only this many of the teacher's largest logits, for a small target bank"
    )


class AttentionOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Which attention rows are compared."""

    heads: HeadAggregation = Field(
        "mean",
        description="aggregation over heads: their mean; the mean of each group of teacher heads, one group per "
        "student head; or their normalised geometric mean",
    )
    interpolation: RowInterpolation = Field(
        "bicubic",
        description="resampling of the teacher's patches to the student's grid; `area` needs a teacher grid that "
        "is a multiple of the student's, `none` needs equal grids",
    )


class AttentionKlOptions(AttentionOptions):
    """Which attention rows are compared, and by which divergence."""

    form: Literal["resoftmax", "direct"] = Field(
        "resoftmax",
        description="apply a second softmax to the attention, as the paper writes it, or compare it directly",
    )
    tau: Annotated[float, Field(gt=0)] = Field(1.0, description="temperature that softens both distributions")


class AttnDistillOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Options of an `attndistill` entry."""

    align_weight: Weight = Field(1.0, description="weight of the projector alignment; 0 turns it off")
    attention_weight: Weight = Field(0.1, description="weight of the attention guidance; 0 turns it off")
    distance: Literal["mse", "cosine"] = Field(
        "mse", description="distance between embeddings: mean squared error over the width, or 1 - cosine"
    )
    temperature: Annotated[float, Field(gt=0)] | Literal["heads"] = Field(
        10.0,
        description="temperature of the log-sum over heads, used if the models' numbers of heads differ; "
        '"heads" is the number of heads of each model, which gives the geometric mean',
    )
    interpolation: RowInterpolation = Field(
        "bicubic",
        description="resampling of the teacher's patches to the student's grid; `area` needs a teacher grid that "
        "is a multiple of the student's, `none` needs equal grids",
    )
    projector_depth: Annotated[int, Field(gt=0)] = Field(
        4, description="number of linear layers, with GELU between them"
    )
    projector_ratio: Annotated[int, Field(gt=0)] = Field(
        2,
        description="width of every second hidden layer, as a multiple of the student's; the others have its width",
    )
    projector_norms: Norms = Field("both", description="which layer norms to use: before and after the linear layers")

    @model_validator(mode="after")
    def _has_a_term(self) -> AttnDistillOptions:
        if not self.align_weight and not self.attention_weight:
            raise ValueError("align_weight and attention_weight are both 0; set at least one above 0")
        return self


def _projector() -> Any:
    return Field(
        "linear",
        description="from the student's width to the teacher's: a linear layer; a layer norm and a linear layer; or a "
        "layer norm and two linear layers with GELU between them",
    )


def _projector_ratio() -> Any:
    return Field(2, description="hidden width of `mlp2`, as a multiple of the student's width")


def _resample() -> Any:
    return Field(
        "student",
        description="whose patches are resampled if the grids differ: the student's to the teacher's grid, the "
        "teacher's to the student's, which makes a target bank smaller, or `none`, which needs equal grids",
    )


def _student_layer() -> Any:
    return Field(-1, description="the student's layer whose patch tokens are compared; -1 is the last")


class FeaturesOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Options of a `features` entry."""

    embedding_weight: Weight = Field(1.0, description="weight of the embedding's term; 0 turns it off")
    patch_weight: Weight = Field(1.0, description="weight of the patch tokens' term; 0 turns it off")
    layers: Annotated[tuple[int, ...], Field(min_length=1, strict=False)] = Field(
        (-1,),
        description="the teacher's layers, counted from 0 or, with a minus, from the end; several are normalised one "
        "by one and joined",
    )
    student_layer: int = _student_layer()
    distance: Distance = Field("smooth-l1", description="distance of a projected vector of the student to the target")
    beta: Annotated[float, Field(gt=0)] = Field(
        2.0, description="difference from which smooth-l1 is linear; the other distances have none"
    )
    normalise: Normalisation = Field(
        "layernorm",
        description="normalisation of the target: over the width of each vector, by the mean and deviation of each "
        "channel, by PHI-S, to length 1 (the student's vectors too), or not at all",
    )
    statistics_images: PositiveInt = Field(
        2048, description="training images for the statistics of `standardise` and `phi-s`"
    )
    projector: Projector = _projector()
    projector_ratio: PositiveInt = _projector_ratio()
    resample: Resample = _resample()

    @model_validator(mode="after")
    def _has_a_term(self) -> FeaturesOptions:
        if not self.embedding_weight and not self.patch_weight:
            raise ValueError("embedding_weight and patch_weight are both 0; set at least one above 0")
        return self


class SimilarityOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Options of a `similarity` entry."""

    temperature: Annotated[float, Field(gt=0)] = Field(0.07, description="temperature of the softmax over the patches")
    layer: int = Field(-1, description="the teacher's layer, counted from 0 or, with a minus, from the end")
    student_layer: int = _student_layer()
    projector: Projector = _projector()
    projector_ratio: PositiveInt = _projector_ratio()
    resample: Resample = _resample()


class AnchorsOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Options of an `anchors` entry."""

    anchors: Annotated[int, Field(ge=2)] = Field(
        2048, description="number of training images whose embeddings are the anchors"
    )
    temperature: Annotated[float, Field(gt=0)] = Field(0.07, description="temperature of the softmax over the anchors")
    projector: Projector = _projector()
    projector_ratio: PositiveInt = _projector_ratio()
