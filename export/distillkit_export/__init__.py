"""Export of a trained student to files for other machines, each gated against the PyTorch model.

Only the modules that handle the model itself and its images import torch. Everything else imports without torch and
timm, so the code that runs on the target machine needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillkit_export.export_options import ExportOptions as ExportOptions
    from distillkit_export.from_torch.graph import frozen_scores as frozen_scores
    from distillkit_export.pipeline.export import export as export
    from distillkit_export.pipeline.result import ExportResult as ExportResult
    from distillkit_export.predictor import load as load

__all__ = ["ExportOptions", "ExportResult", "export", "frozen_scores", "load"]

_MODULES = {
    "ExportOptions": "distillkit_export.export_options",
    "ExportResult": "distillkit_export.pipeline.result",
    "export": "distillkit_export.pipeline.export",
    "frozen_scores": "distillkit_export.from_torch.graph",
    "load": "distillkit_export.predictor",
}


def __getattr__(name: str) -> Any:
    """Import a name on first use: listings stay fast, and serving a bundle never imports torch."""
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)
