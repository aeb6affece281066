"""Images: sources, splits, order, augmentation, batches, unreadable images.

These are the names that a plugin with images may import. None of them needs torch.
"""

from distillkit.data.image_faults import ImageFault, as_rgb, open_rgb

__all__ = ["ImageFault", "as_rgb", "open_rgb"]
