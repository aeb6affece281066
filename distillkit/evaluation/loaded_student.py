"""The student of a run as a module from images to logits: what `distillkit.load_student` returns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from distillkit.contracts.decoding import Decoding
from distillkit.contracts.model import Model, Signal, Wanted
from distillkit.data.given_image import GivenImage, as_pillow, is_path, read_image, require_resizable, to_color
from distillkit.data.transforms import evaluation_transform
from distillkit.evaluation.open_model import EvaluatedModel
from distillkit.models.heads import fuse


class LoadedStudent(nn.Module):
    """A student that maps images to logits; see `distillkit.load_student`.

    Shapes: images [B, C, H, W], normalised with `spec.mean` and `spec.std`, to logits [B, K], or to the embedding
    [B, D] if the student has no classes; at least float32.
    """

    def __init__(self, opened: EvaluatedModel) -> None:
        super().__init__()
        augment = opened.recipe.augment
        self.model = opened.model
        self.answer = opened.answer
        # The run's preprocessing, not the one that timm has for the published weights.
        self.spec = replace(
            opened.spec,
            crop=augment.eval_crop,
            interpolation=augment.interpolation,
            orientation=augment.orientation,
            background=opened.recipe.data.background,
            grey16=opened.recipe.data.grey16,
        )
        self._transform = evaluation_transform(augment, opened.spec)
        heads = [signal for signal in (Signal.LOGITS, Signal.DISTILL_LOGITS) if signal in self.spec.signals]
        self._wanted: Wanted = dict.fromkeys(heads, ()) if heads else {Signal.EMBEDDING: (self.spec.layers - 1,)}

    @property
    def network(self) -> nn.Module:
        """The network that is saved and exported."""
        return cast("Model", self.model).network

    def preprocess(self, image: GivenImage) -> Tensor:
        """Convert an image to the student's input, [C, H, W].

        `image` is a path, a PIL image, or pixels [H, W, 3] or [H, W] of type uint8.
        Raises: DataError if it cannot be read, the conversion to RGB would lose information, or its aspect ratio is too
        extreme to resize.
        """
        decoding = Decoding.of(self.spec)
        if is_path(image):
            pillow = read_image(Path(image), "RGB", decoding)
        else:
            pillow = to_color(as_pillow(image), "RGB", decoding)
        return self._transform(require_resizable(pillow))

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.model(images, self._wanted)
        if outputs.embedding:
            return cast("Tensor", outputs.embedding[0])
        return fuse(outputs, self.answer.head, self.answer.fusion)
