"""Inference with a bundle: images in, class probabilities or embeddings out, without torch, timm and onnx."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillkit.contracts.decoding import Decoding
from distillkit.contracts.runtime import Runtime, Setting
from distillkit.data.given_image import GivenImage, as_pillow, as_several, is_path, read_image
from distillkit.errors import DataError, PluginError, UnavailableError
from distillkit_export.bundle.preprocess import prepare
from distillkit_export.bundle.reader import OpenBundle, open_bundle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distillkit.contracts.exporter import Precision
    from distillkit.plugin.registry import PluginRegistry
    from distillkit_export.bundle.manifest import ArtifactCard

BATCH = 16
DEFAULT_PRECISION: Precision = "fp32"
MAX_THREADS = 1_024
"""Limit on the number of threads in a tuned setting, which is untrusted."""


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image.

    Shapes: scores [K], probabilities that sum to 1; for a bundle without a class head, the embedding [D].
    `image` is the path of the file; for other inputs, the position of the image. `class_names` are the bundle's.
    """

    image: str
    scores: NDArray[np.float32]
    class_names: tuple[str, ...] | None

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The `count` likeliest classes with their probabilities, best first; a class without a name is "class 3"."""
        best = np.argsort(-self.scores, kind="stable")[:count]
        return [(self._name(int(index)), float(self.scores[index])) for index in best]

    def _name(self, index: int) -> str:
        return f"class {index}" if self.class_names is None else self.class_names[index]


class Predictor:
    """A bundle loaded in a runtime, ready for inference.

    `artifact` is the loaded file, `runtime` the name of the runtime that executes it.
    """

    def __init__(
        self, bundle: OpenBundle, artifact: ArtifactCard, runtime: str, opened: Runtime, setting: Setting | None = None
    ) -> None:
        self.bundle = bundle
        self.artifact = artifact
        self.runtime = runtime
        self._session = opened.open(bundle.servable(artifact), opened.settings()[0] if setting is None else setting)

    @property
    def embeds(self) -> bool:
        """Whether the output is an embedding, because the bundle has no class head."""
        return self.bundle.manifest.output.kind == "embedding"

    def __call__(self, images: Iterable[GivenImage] | GivenImage, batch: int = BATCH) -> list[Prediction]:
        """Predictions for all images, in batches of `batch`; a list of one for a single image.

        An image is a path, a Pillow image, or pixels [H, W, 3] or [H, W] of type uint8.
        Raises: DataError for the first image that cannot be read, and for an object that is not an image.
        """
        return list(self.stream(images, batch))

    def stream(
        self,
        images: Iterable[GivenImage] | GivenImage,
        batch: int = BATCH,
        on_bad: Callable[[DataError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Yield predictions batch by batch, so that memory does not grow with the number of images.

        The error of an unreadable image is passed to `on_bad` and the image is skipped; without `on_bad`, it is raised.
        """
        prepared = self._prepared(as_several(images), on_bad)
        while group := list(islice(prepared, batch)):
            scores = self._scores(np.stack([pixels for _, pixels in group]))  # [B, K], or [B, D] for embeddings
            for (name, _), row in zip(group, scores, strict=True):
                yield Prediction(name, row, self.bundle.manifest.class_names)

    def _prepared(
        self, images: Iterable[GivenImage], on_bad: Callable[[DataError], None] | None
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        card = self.bundle.manifest.input
        for number, image in enumerate(images):
            try:
                if is_path(image):
                    yield str(image), prepare(read_image(Path(image), card.color or "RGB", Decoding.of(card)), card)
                else:
                    yield str(number), prepare(as_pillow(image), card)
            except DataError as error:
                if on_bad is None:
                    raise
                on_bad(error)

    def _scores(self, images: NDArray[Any]) -> NDArray[np.float32]:
        output = self._session(images)
        return softmax(output) if self.bundle.manifest.output.kind == "logits" else output


def load(
    folder: str | Path,
    *,
    runtime: str | None = None,
    precision: Precision | None = None,
    plugins: PluginRegistry | None = None,
) -> Predictor:
    """Check a bundle and load one of its files for inference.

    `runtime` defaults to the one that `distillkit profile --tune` found fastest on this machine. Without a tuned
    setting it is ONNX Runtime on the CPU, else the first of `distillkit plugins` that executes the file. `precision`
    defaults to float32; for a `runtime` that loads exactly one file of the bundle, to the precision of that file.
    Raises: BundleError for an invalid bundle; UnknownPluginError for an unknown runtime; UnavailableError if no runtime
    on this machine executes the file; GateError if the file is broken.
    """
    from distillkit.plugin.registry import installed_plugins

    bundle = open_bundle(Path(folder), every_file=False)
    plugins = plugins or installed_plugins()
    if runtime is not None:
        chosen: Runtime = plugins.find("runtime", runtime).create()
        artifact = _artifact_for(bundle, runtime, chosen, precision or _only_precision(bundle, chosen))
        availability = chosen.availability()
        if not availability.works:
            remedy = f"; {availability.remedy}" if availability.remedy else ""
            raise UnavailableError(f"runtime '{runtime}' does not work here: {availability.detail}{remedy}")
        return Predictor(bundle, artifact, runtime, chosen)
    precision = precision or DEFAULT_PRECISION
    return _tuned(bundle, plugins, precision) or _first_that_works(bundle, plugins, precision)


def _tuned(bundle: OpenBundle, plugins: PluginRegistry, precision: Precision) -> Predictor | None:
    """The tuned runtime and setting of this bundle on this machine; None without one, or if it no longer works."""
    from distillkit_export.profiling.tuning import best_setting

    choice = best_setting(bundle.folder, BATCH)
    listed = [card for card in bundle.manifest.artifacts if choice is not None and card.file == choice.file]
    if choice is None or not listed or choice.precision != precision or listed[0].precision != precision:
        return None
    try:
        chosen: Runtime = plugins.find("runtime", choice.runtime).create()
        if not chosen.availability().works or not _is_offered(choice.setting, chosen):
            return None
        return Predictor(bundle, listed[0], choice.runtime, chosen, choice.setting)
    except (PluginError, UnavailableError):
        return None


def _is_offered(setting: Setting, runtime: Runtime) -> bool:
    """Whether the runtime offers a setting, ignoring its number of threads.

    profile/best.json is not covered by the digests of the bundle, so its settings are untrusted.
    """
    threads, rest = setting.get("threads", 1), {**setting, "threads": 0}
    return threads in range(1, MAX_THREADS) and any({**each, "threads": 0} == rest for each in runtime.settings())


PREFERRED = "onnxruntime-cpu"
"""The runtime that gated the ONNX file; it works on every machine."""


def _first_that_works(bundle: OpenBundle, plugins: PluginRegistry, precision: Precision) -> Predictor:
    names = [plugin.spec.name for plugin in plugins.listing("runtime")]
    formats = {card.format for card in bundle.manifest.artifacts if card.precision == precision}
    reasons = []
    # A stable sort: the others stay in the order of `distillkit plugins`.
    for name in sorted(names, key=lambda name: name != PREFERRED):
        try:
            chosen: Runtime = plugins.find("runtime", name).create()
        except PluginError as error:
            reasons.append(str(error))
            continue
        if not formats & set(chosen.formats):
            continue
        availability = chosen.availability()
        if not availability.works:
            remedy = f" ({availability.remedy})" if availability.remedy else ""
            reasons.append(f"{name}: {availability.detail}{remedy}")
            continue
        try:
            return Predictor(bundle, _artifact_for(bundle, name, chosen, precision), name, chosen)
        except UnavailableError as error:
            reasons.append(f"{name}: {error}")
    if not formats:
        bundle.artifact("onnx", precision)  # raises a BundleError that lists the files of the bundle
    why = "; ".join(reasons) or f"no runtime loads {', '.join(sorted(formats))}"
    raise UnavailableError(f"no runtime on this machine can execute bundle '{bundle.folder}' in {precision}: {why}")


def _only_precision(bundle: OpenBundle, runtime: Runtime) -> Precision:
    """Precision of the only file that the runtime loads; float32 if it loads several or none."""
    loaded = [card.precision for card in bundle.manifest.artifacts if card.format in runtime.formats]
    return loaded[0] if len(loaded) == 1 else DEFAULT_PRECISION


def _artifact_for(bundle: OpenBundle, name: str, runtime: Runtime, precision: Precision) -> ArtifactCard:
    """The file of this precision in a format that the runtime loads.

    Raises: UnavailableError if the bundle has no such file.
    """
    for card in bundle.manifest.artifacts:
        if card.precision == precision and card.format in runtime.formats:
            return card
    files = ", ".join(f"{card.format} {card.precision}" for card in bundle.manifest.artifacts)
    raise UnavailableError(
        f"runtime '{name}' loads {', '.join(runtime.formats)}, but bundle '{bundle.folder}' has no such file in "
        f"{precision}; it has {files or 'no exported files'}"
    )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities [B, K] of logits [B, K], computed in float64, because thousands of classes are summed."""
    # Minus the maximum: exp of large logits would overflow.
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities
