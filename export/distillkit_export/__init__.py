"""From a trained student to files that run elsewhere, each gated against the model it was made from.

Only `torch_graph`, `targets` and `run_images`, which handle the model itself and its images, import torch; everything
else imports without torch and timm, so that the half that runs on the target machine needs neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillkit_export.predictor import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import `load` when it is first asked for, so that a listing of plugins stays quick."""
    if name != "load":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from distillkit_export.predictor import load

    return load
