"""`predict.py`: a script in the bundle for inference with numpy, Pillow and ONNX Runtime, without distillkit."""

from __future__ import annotations

from pathlib import Path

from distillkit.contracts.decoding import NO_BACKGROUND
from distillkit.storage.atomic import write_text
from distillkit.version import __version__
from distillkit_export.bundle.manifest import MANIFEST, InputCard, ModelFacts, OutputCard

PREDICT = "predict.py"

SCRIPT = '''\
"""Run the exported model on images:  python predict.py cat.jpg dog.jpg

Needs numpy, pillow and onnxruntime, and the files next to it. Written by distillkit {version}; edit it as you like.
"""

{imports}import json
import math
import signal
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import EpsImagePlugin, Image

EpsImagePlugin.gs_binary = False  # an EPS image must not start Ghostscript
HERE = Path(__file__).resolve().parent
HEIGHT, WIDTH, CROP = {height}, {width}, {crop}
{statistics}{turns}

def pixels(file):
    """Resize and centre-crop an image for {model}: {shape}."""
    if Path(file).exists() and not (Path(file).is_file() or Path(file).is_dir()):
        raise ValueError("it is a pipe or a device, not a file")
    image = Image.open(file)
{deep}    if image.mode[0] in "IF":
        raise ValueError(f"pixels of mode '{{image.mode}}' would be clipped to 8 bits; convert it first")
{background}    image = image.convert({color!r})
{upright}{resize}
    image = image.resize(size, Image.Resampling[{interpolation!r}])
    top, left = round((image.height - HEIGHT) / 2), round((image.width - WIDTH) / 2)
    pixels = np.asarray(image.crop((left, top, left + WIDTH, top + HEIGHT))).reshape(HEIGHT, WIDTH, {channels})
{normalise}


if not sys.argv[1:]:
    print("usage: python predict.py IMAGE...", file=sys.stderr)
    sys.exit(2)
if hasattr(signal, "SIGPIPE"):
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # exit quietly when piped into head

session = onnxruntime.InferenceSession(HERE / {model!r}, providers=["CPUExecutionProvider"])
{names}code = 0
for file in sys.argv[1:]:
    try:
        image = pixels(file)
    except Exception as error:  # image decoders raise many types of errors
        print(f"error: image {{file!r}} cannot be read: {{getattr(error, 'strerror', None) or error}}", file=sys.stderr)
        code = 2
        continue
    {answer} = session.run(None, {{{input!r}: image[None]}})[0][0]
{show}
sys.exit(code)
'''

SQUARE = """\
    side, (short, long) = math.floor(HEIGHT / CROP), sorted(image.size)
    size = (side, int(side * long / short)) if image.width <= image.height else (int(side * long / short), side)"""

NOT_SQUARE = """\
    ratio = min(image.height / math.floor(HEIGHT / CROP), image.width / math.floor(WIDTH / CROP))
    size = (round(image.width / ratio), round(image.height / ratio))"""

STATISTICS = """\
MEAN = np.array({mean}, np.float32)
STD = np.array({std}, np.float32)
"""

TURNS = "TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # from EXIF orientation to PIL.Image.Transpose\n"

DEEP = """\
    if image.mode[0] == "I":  # 16-bit grey
        deep, metadata = np.asarray(image).astype(np.int64), dict(image.info)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError(f"pixels of mode '{image.mode}' are not 16-bit grey")
        image = Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
        image.info = {key: value for key, value in metadata.items() if key != "transparency"}
"""

BACKGROUND = """\
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image.paste(Image.alpha_composite(Image.new("RGBA", image.size, {background!r}), image))
"""

UPRIGHT = """\
    with contextlib.suppress(Exception):  # no orientation, or damaged EXIF data
        image = image.transpose(TURNS[image.getexif()[274]])
"""

NORMALISED = """\
    return ((pixels.astype(np.float32) / np.float32(255) - MEAN) / STD).transpose(2, 0, 1)"""

NAMES = f'NAMES = json.loads((HERE / "{MANIFEST}").read_text(encoding="utf-8"))["class_names"]\n'

SHARES = """\
    exponents = np.exp(scores.astype(np.float64) - scores.max())
    shares = exponents / exponents.sum()
"""

TOP = """\
    top = np.argsort(-shares, kind="stable")[:5]
    for line in (file, *(f"  {shares[index]:6.1%}  {NAMES[index] if NAMES else f'class {index}'}" for index in top)):
        print("".join(each if each.isprintable() else "?" for each in line))  # names may control the terminal"""

EMBEDDING = """\
    print(json.dumps({"image": file, "embedding": embedding.tolist()}))"""


def predict_script(facts: ModelFacts, model: str = "model.onnx") -> str | None:
    """The text of the script for this model; None for a model whose channels no image file has.

    Preprocessing and output are those of `distillkit predict`. As there, an unreadable image is reported, the others
    are predicted, and the exit code is 2.
    """
    entry, output = facts.input, facts.output
    if entry.color is None:
        return None
    is_turned = entry.orientation == "exif"
    return SCRIPT.format(
        version=__version__,
        height=entry.image_size[0],
        width=entry.image_size[1],
        crop=entry.crop,
        statistics="" if entry.dtype == "uint8" else STATISTICS.format(mean=list(entry.mean), std=list(entry.std)),
        model=model,
        shape=_shape(entry),
        color=entry.color,
        imports="import contextlib\n" if is_turned else "",
        turns=TURNS if is_turned else "",
        deep=DEEP if entry.grey16 == "scale" else "",
        background="" if entry.background == NO_BACKGROUND else BACKGROUND.format(background=entry.background),
        upright=UPRIGHT if is_turned else "",
        resize=SQUARE if _is_square(entry) else NOT_SQUARE,
        interpolation=entry.interpolation.upper(),
        channels=len(entry.mean),
        normalise="    return pixels" if entry.dtype == "uint8" else NORMALISED,
        names="" if output.kind == "embedding" else NAMES,
        answer={"logits": "scores", "probabilities": "shares", "embedding": "embedding"}[output.kind],
        input=entry.name,
        show=_shown(output),
    )


def write_predict_script(folder: Path, facts: ModelFacts, model: str = "model.onnx") -> Path | None:
    """Write `predict.py` next to `model`; return None for a model that has no script."""
    script = predict_script(facts, model)
    if script is None:
        return None
    write_text(folder / PREDICT, script)
    return folder / PREDICT


def _is_square(entry: InputCard) -> bool:
    """Whether the size before the crop is square, the condition of `preprocess`."""
    height, width = entry.image_size
    return int(height / entry.crop) == int(width / entry.crop)


def _shape(entry: InputCard) -> str:
    height, width = entry.image_size
    if entry.dtype == "uint8":
        return f"uint8 [{height}, {width}, {len(entry.mean)}]"
    return f"float32 [{len(entry.mean)}, {height}, {width}], normalised"


def _shown(output: OutputCard) -> str:
    if output.kind == "embedding":
        return EMBEDDING
    return (SHARES if output.kind == "logits" else "") + TOP
