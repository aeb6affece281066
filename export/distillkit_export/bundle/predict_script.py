"""`predict.py`: a script in the bundle that runs it with numpy, Pillow and ONNX Runtime, and without distillkit."""

from __future__ import annotations

from pathlib import Path

from distillkit.storage.atomic import write_text
from distillkit.version import __version__
from distillkit_export.bundle.manifest import MANIFEST, InputCard, ModelFacts, OutputCard

PREDICT = "predict.py"

SCRIPT = '''\
"""What is on these images?  python predict.py cat.jpg dog.jpg

Needs numpy, pillow and onnxruntime, and the files beside it. Written by distillkit {version}; change it as you like.
"""

import json
import math
import signal
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import EpsImagePlugin, Image

EpsImagePlugin.gs_binary = False  # no picture starts a program
HERE = Path(__file__).resolve().parent
HEIGHT, WIDTH, CROP = {height}, {width}, {crop}
{statistics}

def pixels(file):
    """The centre of an image as {model} takes it: {shape}."""
    image = Image.open(file)
    if image.mode[0] in "IF":
        raise ValueError(f"pixels of mode '{{image.mode}}' would be clipped to 8 bits")
    image = image.convert({color!r})
{resize}
    image = image.resize(size, Image.Resampling.{interpolation})
    top, left = round((image.height - HEIGHT) / 2), round((image.width - WIDTH) / 2)
    pixels = np.asarray(image.crop((left, top, left + WIDTH, top + HEIGHT))).reshape(HEIGHT, WIDTH, {channels})
{normalise}


if not sys.argv[1:]:
    print("usage: python predict.py IMAGE...", file=sys.stderr)
    sys.exit(2)
if hasattr(signal, "SIGPIPE"):
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly where the output is piped into head

session = onnxruntime.InferenceSession(HERE / {model!r}, providers=["CPUExecutionProvider"])
{names}code = 0
for file in sys.argv[1:]:
    try:
        image = pixels(file)
    except Exception as error:  # decoders raise whatever they like
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

NORMALISED = """\
    return ((pixels.astype(np.float32) / np.float32(255) - MEAN) / STD).transpose(2, 0, 1)"""

NAMES = f'NAMES = json.loads((HERE / "{MANIFEST}").read_text(encoding="utf-8"))["class_names"]\n'

SHARES = """\
    exponents = np.exp(scores.astype(np.float64) - scores.max())
    shares = exponents / exponents.sum()
"""

TOP = """\
    print(file)
    for index in np.argsort(-shares, kind="stable")[:5]:
        print(f"  {shares[index]:6.1%}  {NAMES[index] if NAMES else f'class {index}'}")"""

EMBEDDING = """\
    print(json.dumps({"image": file, "embedding": embedding.tolist()}))"""


def predict_script(facts: ModelFacts, model: str = "model.onnx") -> str | None:
    """The text of a script for this model; None for one whose channels no image file has.

    It answers as `distillkit predict` does, for it prepares images in the same steps. As there, an image that cannot be
    read is named, the others are answered, and the exit code is 2.
    """
    taken, given = facts.input, facts.output
    if taken.color is None:
        return None
    return SCRIPT.format(
        version=__version__,
        height=taken.image_size[0],
        width=taken.image_size[1],
        crop=taken.crop,
        statistics="" if taken.dtype == "uint8" else STATISTICS.format(mean=list(taken.mean), std=list(taken.std)),
        model=model,
        shape=_shape(taken),
        color=taken.color,
        resize=SQUARE if _is_square(taken) else NOT_SQUARE,
        interpolation=taken.interpolation.upper(),
        channels=len(taken.mean),
        normalise="    return pixels" if taken.dtype == "uint8" else NORMALISED,
        names="" if given.kind == "embedding" else NAMES,
        answer={"logits": "scores", "probabilities": "shares", "embedding": "embedding"}[given.kind],
        input=taken.name,
        show=_shown(given),
    )


def write_predict_script(folder: Path, facts: ModelFacts, model: str = "model.onnx") -> Path | None:
    """Write `predict.py` beside `model`, where there is one to write."""
    script = predict_script(facts, model)
    if script is None:
        return None
    write_text(folder / PREDICT, script)
    return folder / PREDICT


def _is_square(taken: InputCard) -> bool:
    """As `preprocess` decides: by the size before the crop."""
    height, width = taken.image_size
    return int(height / taken.crop) == int(width / taken.crop)


def _shape(taken: InputCard) -> str:
    height, width = taken.image_size
    if taken.dtype == "uint8":
        return f"uint8 [{height}, {width}, {len(taken.mean)}]"
    return f"float32 [{len(taken.mean)}, {height}, {width}], normalised"


def _shown(given: OutputCard) -> str:
    if given.kind == "embedding":
        return EMBEDDING
    return (SHARES if given.kind == "logits" else "") + TOP
