"""The runtime `torch`: the model in eager PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from distillkit.contracts.runtime import Availability, InferenceSession, Servable, Setting
from distillkit_export.runtimes import torch_presence


class TorchEager:
    """A run, a student or a model by name, in eager mode.

    Settings: `device`, "cpu" or "cuda"; `threads` within one operator on the CPU, chosen by torch by default.
    """

    formats: tuple[str, ...] = (torch_presence.FORMAT,)

    def availability(self) -> Availability:
        return torch_presence.availability()

    def settings(self) -> Sequence[Setting]:
        return torch_presence.settings()

    def open(self, servable: Servable, setting: Setting) -> InferenceSession:
        torch_presence.require_torch(servable, "torch", self.availability())
        from distillkit_export.runtimes.torch_session import TorchSession

        return TorchSession(servable, setting)
