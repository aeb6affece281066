"""Names of the built-in data sets. Imports neither torch nor timm, so that listing them stays fast."""

from __future__ import annotations

from distillkit import PluginSpec

_HERE = "distillkit_plugins.datasets"


def distillkit_datasets() -> tuple[PluginSpec, ...]:
    """Bundled digits, imagenette, image folders, and everything that timm reads."""
    return (
        PluginSpec(
            name="digits",
            summary="1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships: 1,297 to train, 500 to test",
            factory=f"{_HERE}.digits:Digits",
        ),
        PluginSpec(
            name="folder",
            summary="one folder per class, or a folder of unlabelled images; the prefix 'folder:' is optional",
            factory=f"{_HERE}.folder:Folder",
            argument="path",
        ),
        PluginSpec(
            name="imagenette",
            summary="ten of ImageNet's classes, 160 px: 9,469 images to train, 3,925 to test; downloads 99 MB once",
            factory=f"{_HERE}.imagenette:Imagenette",
            missing_file=f"{_HERE}.imagenette_files:missing_archive",
        ),
        PluginSpec(
            name="timm",
            summary="data sets of timm: torch/<name>, hfds/<name>, a .tar file; streamed: wds/, tfds/, hfids/<name>",
            factory=f"{_HERE}.timm_data:TimmData",
            argument="data set",
        ),
    )
