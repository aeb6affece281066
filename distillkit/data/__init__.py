"""Images: sources, splits, order, augmentation, batches, unreadable images.

These are the names that a plugin with images may import. None of them needs torch.
"""

from distillkit.contracts.decoding import AS_STORED, Decoding
from distillkit.data.evaluation_root import has_no_training_split
from distillkit.data.image_faults import ImageFault, as_rgb, open_rgb
from distillkit.data.image_folders import (
    IMAGE_EXTENSIONS,
    NO_EXTENSION,
    SPLIT_NAMES,
    is_ignored,
    list_images,
    no_images,
    split_folder,
    split_of,
    subfolders,
    wrong_root,
)
from distillkit.storage.user_dirs import expanded, user_data

__all__ = [
    "AS_STORED",
    "IMAGE_EXTENSIONS",
    "NO_EXTENSION",
    "SPLIT_NAMES",
    "Decoding",
    "ImageFault",
    "as_rgb",
    "expanded",
    "has_no_training_split",
    "is_ignored",
    "list_images",
    "no_images",
    "open_rgb",
    "split_folder",
    "split_of",
    "subfolders",
    "user_data",
    "wrong_root",
]
