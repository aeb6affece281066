"""Files in the layout of imagenette, made of small crops of two photographs: ten classes, `train/` and `val/`."""

from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.datasets import Imagenette

WNIDS = tuple(sorted(Imagenette._WNID_TO_CLASS))


def write_imagenette(root: Path, train: int = 4, test: int = 2) -> Path:
    """Write `imagenette2-160/` into `root`, with these numbers of images per class."""
    photographs = [Image.fromarray(image).resize((320, 214)) for image in load_sample_images().images]
    for split, count in (("train", train), ("val", test)):
        for number, name in enumerate(WNIDS):
            folder = root / "imagenette2-160" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                left = 10 * number + 3 * index
                crop = photographs[index % 2].crop((left, index, left + 60, index + 40))
                crop.save(folder / f"{name}_{index}.JPEG")
    return root / "imagenette2-160"
