"""Images: sources, splits, order, augmentation, batches, unreadable images.

These are the names that a plugin with images may import. None of them needs torch.
"""

from distillkit.data.image_faults import ImageFault, as_rgb, open_rgb
from distillkit.data.image_folders import (
    IMAGE_EXTENSIONS,
    SPLIT_NAMES,
    list_images,
    no_images,
    split_folder,
    split_of,
    subfolders,
    wrong_root,
)

__all__ = [
    "IMAGE_EXTENSIONS",
    "SPLIT_NAMES",
    "ImageFault",
    "as_rgb",
    "list_images",
    "no_images",
    "open_rgb",
    "split_folder",
    "split_of",
    "subfolders",
    "wrong_root",
]
