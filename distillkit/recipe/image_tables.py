"""Tables of a recipe that decide the images: `data`, `augment` and `mixing`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator
from pydantic_core import PydanticCustomError

from distillkit.contracts.decoding import Background, Grey16
from distillkit.recipe.table import FloatPair, Share, Table

MOST_WORKERS = 1024
"""More loader processes than any machine needs; a typing error must not fill it with processes."""
Interpolation = Literal["bicubic", "bilinear", "nearest"]
Orientation = Literal["exif", "stored"]


class Data(Table):
    """Training, validation and test images, and which labels are used."""

    train: str | None = Field(
        None,
        description="a folder, `digits`, `imagenette`, or `timm:<data set>`; a folder with train/ provides its other "
        "splits too: val/ and test/, or similar names; "
        "default: that of the teacher, else digits, unless unlabeled is set",
    )
    validation: str | Share = Field(
        0.1, description="a folder or name, or the share of train to hold out; used to choose the best checkpoint"
    )
    test: str | None = Field(
        None, description="a folder or name, evaluated once at the end; default: test/ in train's folder, if it exists"
    )
    unlabeled: str | None = Field(None, description="a folder of unlabelled images; the teacher provides their targets")
    root: str | None = Field(None, description="the folder of `timm:` data sets and of `imagenette`")
    download: bool = Field(False, description="allow `timm:` data sets to download")
    labels: PositiveInt | None = Field(
        None, description="number of labels to keep, balanced over the classes; the other images become unlabelled"
    )
    labeled_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="labelled share of every batch; default: the labelled share of the data"
    )
    seed: int = Field(0, description="seed of order, augmentation, mixing, held-out images and kept labels")
    views: PositiveInt | None = Field(
        None, description="repeat the augmentations after this many epochs; default: never"
    )
    background: Background = Field(
        "white",
        description="colour behind transparent pixels, such as white or #ff8800, in training, evaluation and bundles; "
        "none drops the alpha channel, as do runs that were started before this key existed",
    )
    grey16: Grey16 = Field(
        "refuse",
        description="16-bit grey images: refuse counts them as unreadable, scale maps 0..65535 to 0..255",
    )
    decode: Literal["exact", "fast"] = Field(
        "exact",
        description="of training images: exact decodes every image in full; fast decodes JPEG at a reduced scale where "
        "the resized crop allows it, and resizes and turns with faster interpolations, so that the pixels differ",
    )
    finish: Literal["loader", "device"] = Field(
        "loader",
        description="where training images are normalised, erased and mixed: loader in the loader processes; device on "
        "the device of the run, which gets 8-bit pixels, a quarter of the bytes; it never changes a batch on a CPU",
    )
    broken: Share = Field(
        0.1,
        description="limit on the share of unreadable images of a split; they are replaced in training, left out in "
        "evaluation, and counted; above it the run fails; 0: the first one is an error",
    )
    workers: Annotated[int, Field(ge=0, le=MOST_WORKERS)] | None = Field(
        None,
        description="number of loader processes; default: one per core, at most 8, for the first steps, then as many "
        "as their measured speed asks for, at most one per core and 16; it never changes a batch",
    )
    cache_mb: Annotated[int, Field(ge=0)] = Field(
        1000,
        description="a training set of image files that takes at most so many MB decoded is decoded once and kept in "
        "memory, if that is free and the run shows every image at least twice; 0: never; it never changes a batch",
    )

    @field_validator("validation", mode="before")
    @classmethod
    def _share_or_name(cls, value: Any) -> Any:
        """One message instead of pydantic's two, one for the string and one for the number."""
        is_number = isinstance(value, float | int) and not isinstance(value, bool)
        if isinstance(value, str) or (is_number and 0 <= value <= 1):
            return value
        raise PydanticCustomError("share_or_name", "a share from 0 to 1, a folder, or the name of a data set")


class Augment(Table):
    """Augmentation of training images: a pure function of `data.seed`, view, sample and repeat."""

    crop: Literal["resized", "padded", "none"] = Field(
        "resized", description="random resized crop; padded random crop (small images); or resize and centre crop"
    )
    scale: FloatPair = Field((0.08, 1.0), description="range of the area of the resized crop")
    ratio: FloatPair = Field((3 / 4, 4 / 3), description="range of the aspect ratio of the resized crop")
    padding: PositiveInt = Field(4, description="pixels added on each side with crop = padded")
    flip: Share = Field(0.5, description="probability of a horizontal flip")
    auto: str = Field("", description="timm's auto-augment string, such as rand-m9-mstd0.5-inc1")
    color_jitter: Annotated[float, Field(ge=0)] = Field(
        0.0, description="strength of colour jitter; timm ignores it if `auto` is set"
    )
    erasing: Share = Field(0.0, description="probability of random erasing with per-pixel noise")
    interpolation: Interpolation = Field("bicubic", description="for training and evaluation")
    orientation: Orientation = Field(
        "exif",
        description="exif turns images as their EXIF orientation says, in training, evaluation and bundles; stored "
        "leaves the pixels as they are in the file, as do runs that were started before this key existed",
    )
    repeats: PositiveInt = Field(
        1, description="repeated augmentation: augmented versions of each image in the same epoch"
    )
    eval_crop: Annotated[float, Field(gt=0, le=1)] = Field(
        0.875, description="share of the resized image that the centre crop keeps"
    )


class Mixing(Table):
    """Mixup and cutmix."""

    mixup: Annotated[float, Field(ge=0)] = Field(0.0, description="alpha of the beta distribution; 0 is off")
    cutmix: Annotated[float, Field(ge=0)] = Field(0.0, description="alpha of the beta distribution; 0 is off")
    probability: Share = Field(1.0, description="probability that a pair is mixed")
    switch: Share = Field(0.5, description="probability of cutmix instead of mixup if both are on")
    mode: Literal["pair", "batch"] = Field(
        "pair", description="one draw per pair of neighbours, or one draw per batch as in DeiT's code"
    )

    @property
    def is_on(self) -> bool:
        """Whether any images are mixed."""
        return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0
