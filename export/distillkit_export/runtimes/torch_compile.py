"""The runtime `torch-compile`: the model under torch.compile, with CUDA graphs on a GPU."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from distillkit.compute.compiler_cache import use_private_cache
from distillkit.contracts.runtime import Availability, InferenceSession, Servable, Setting
from distillkit_export.runtimes import torch_presence

if TYPE_CHECKING:
    import torch

GPU_MODE, CPU_MODE = "reduce-overhead", "default"
"""torch.compile's modes; the first captures CUDA graphs."""


class TorchCompile:
    """As `torch`, compiled for each new batch size; the first call takes seconds to minutes.

    Settings: as for `torch`.
    """

    formats: tuple[str, ...] = (torch_presence.FORMAT,)

    def availability(self) -> Availability:
        found = torch_presence.availability()
        if not found.works:
            return found
        if torch_presence.has_cuda():
            if find_spec("triton") is None:
                return Availability(works=False, detail="triton is not installed", remedy="pip install triton")
        # On the CPU torch.compile generates C++.
        elif not any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name):
            detail = "torch.compile found no C++ compiler"
            return Availability(works=False, detail=detail, remedy="install g++, for example with apt install g++")
        return found

    def settings(self) -> Sequence[Setting]:
        return torch_presence.settings()

    def open(self, servable: Servable, setting: Setting) -> InferenceSession:
        torch_presence.require_torch(servable, "torch-compile", self.availability())
        from distillkit_export.runtimes.torch_session import TorchSession

        return TorchSession(servable, setting, _compiled, _read_back)


def _read_back() -> Mapping[str, Any]:
    """The compile mode, and whether CUDA graphs were captured; the compiler skips them if a model prevents them."""
    import torch
    from torch._dynamo.utils import counters

    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    skipped = bool(counters["inductor"]["cudagraph_skips"])
    return {"compile_mode": GPU_MODE if on_gpu else CPU_MODE, "cuda_graph": on_gpu and not skipped}


def _compiled(module: torch.nn.Module, device: torch.device) -> Any:
    import torch

    use_private_cache()
    torch._dynamo.config.recompile_limit = 64  # noqa: SLF001 - one graph per batch size, and sweeps exceed the default of 8
    return torch.compile(module, mode=GPU_MODE if device.type == "cuda" else CPU_MODE, dynamic=False)
