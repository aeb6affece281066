"""Names of the built-in data sets. Imports neither torch nor timm, so that listing them stays fast."""

from __future__ import annotations

from distillkit import PluginSpec

_HERE = "distillkit_plugins.datasets"


def distillkit_datasets() -> tuple[PluginSpec, ...]:
    """Bundled digits, image folders, and everything that timm reads."""
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
            name="timm",
            summary="data sets of timm: torch/<name>, hfds/<name>, a .tar file; streamed: wds/, tfds/, hfids/<name>",
            factory=f"{_HERE}.timm_data:TimmData",
            argument="data set",
        ),
    )
