"""Options of the built-in students. Imports neither torch nor timm, so that a wrong option is reported at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, PositiveInt

from distillkit_plugins.image_size_option import ImageSizeOption

DEPTH = 12
Rate = Annotated[float, Field(ge=0, lt=1)]


class DeitOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Geometry of the network; the defaults are those of the named size."""

    image_size: ImageSizeOption = Field((224, 224), description="pixels: a number, or [height, width]")
    patch: PositiveInt = Field(16, description="pixels of a square patch; divides the image size")
    width: PositiveInt | None = Field(None, description="width of the tokens; 192, 384, 768 for ti, s, b")
    depth: Annotated[int, Field(gt=0, le=1_000)] = Field(DEPTH, description="transformer blocks")
    heads: PositiveInt | None = Field(None, description="attention heads; divides width; 3, 6, 12 for ti, s, b")
    position: Literal["learned", "sincos"] = Field(
        "learned",
        description="position embedding of the patches: `learned`, or `sincos`, fixed sines and cosines as in MAE",
    )
    drop_path: Rate = Field(0.0, description="stochastic depth of the last block; DeiT trains with 0.1")
    dropout: Rate = Field(0.0, description="dropout of tokens and projections, as DeiT's --drop; DeiT trains with 0")


class SmallCnnOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Geometry of the network."""

    width: PositiveInt = Field(32, description="channels of the first stage; the other two have 2 and 4 times as many")
    image_size: ImageSizeOption = Field((32, 32), description="pixels: a number, or [height, width]")


def _listed(value: Any) -> Any:
    """One name as a list of one."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class GivenModuleOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """The layers of a network given from Python, and the images that it expects."""

    features: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        (), description="names of the modules whose outputs are its layers, such as layer4; none: logits only"
    )
    image_size: ImageSizeOption = Field((224, 224), description="pixels: a number, or [height, width]")
    mean: Annotated[tuple[float, float, float], BeforeValidator(_listed)] = Field(
        (0.485, 0.456, 0.406), description="mean of the normalisation; default: ImageNet's"
    )
    std: Annotated[tuple[float, float, float], BeforeValidator(_listed)] = Field(
        (0.229, 0.224, 0.225), description="standard deviation of the normalisation; default: ImageNet's"
    )


class TorchvisionOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Options of the network; the defaults are torchvision's."""

    image_size: ImageSizeOption | None = Field(None, description="pixels: a number, or [height, width]")


class TimmStudentOptions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Options of the network; the defaults are timm's."""

    image_size: ImageSizeOption | None = Field(None, description="pixels: a number, or [height, width]")
    drop_path: Rate | None = Field(None, description="stochastic depth")
    dropout: Rate | None = Field(None, description="dropout before the classifier")
