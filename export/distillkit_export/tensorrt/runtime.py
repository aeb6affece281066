"""The runtime `tensorrt`: runs engines built on this machine, on its first GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distillkit.contracts.runtime import Availability, InferenceSession, Servable, Setting
from distillkit.errors import UnavailableError
from distillkit_export.tensorrt.engine_card import read_card
from distillkit_export.tensorrt.preflight import Missing, find_platform, require_platform


class TensorRt:
    """TensorRT engines, with or without CUDA graphs. Needs no torch."""

    formats: tuple[str, ...] = ("tensorrt",)

    def availability(self) -> Availability:
        found = find_platform()
        if isinstance(found, Missing):
            return Availability(works=False, detail=found.reason, remedy=found.remedy)
        return Availability(works=True, detail=str(found))

    def settings(self) -> Sequence[Setting]:
        return ({"cuda_graph": True}, {"cuda_graph": False})

    def open(self, servable: Servable, setting: Setting) -> InferenceSession:
        """Load an engine that was built on this machine, for this GPU and TensorRT."""
        if servable.format not in self.formats:
            raise UnavailableError(f"tensorrt loads {', '.join(self.formats)}, not {servable.format}")
        here = require_platform()
        engine = Path(servable.source)
        read_card(engine).require_match(here)
        from distillkit_export.tensorrt.running import TensorRtSession

        return TensorRtSession(engine, cuda_graph=bool(setting.get("cuda_graph", True)))
