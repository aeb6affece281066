"""A PyTorch session: run and time a model on the CPU or on a GPU, the GPU by its own clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distillkit.contracts.runtime import Bound, Servable, Setting
from distillkit.errors import GateError, UnavailableError
from distillkit.messages.text import one_line
from distillkit.plugin.registry import installed_plugins
from distillkit_export.export_options import ExportOptions
from distillkit_export.from_torch.graph import frozen_scores
from distillkit_export.pipeline.target import load_target
from distillkit_export.runtimes.host_clock import HostTimed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Compile = Callable[[nn.Module, torch.device], Any]


class TorchSession:
    """The exported output of a model (`graph.Scores`) in evaluation mode, without autograd.

    `compiled` wraps the module, for torch.compile; `read_back` adds facts, read again on each access.
    Shapes: images [B, C, H, W], or [B, H, W, C] uint8; returns scores [B, K].
    Raises: UnavailableError for a precision that torch does not support, or if torch finds no GPU.
    """

    def __init__(
        self,
        servable: Servable,
        setting: Setting,
        compiled: Compile | None = None,
        read_back: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        if servable.precision not in PRECISIONS:
            raise UnavailableError(f"torch computes in {', '.join(PRECISIONS)}, not in {servable.precision}")
        dtype = PRECISIONS[servable.precision]
        self._device = torch.device(setting.get("device", "cuda" if torch.cuda.is_available() else "cpu"))
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise UnavailableError("torch finds no CUDA device; use --device cpu")
        if "threads" in setting:
            torch.set_num_threads(int(setting["threads"]))
        self._compute: Any = _scores_module(servable, dtype).to(self._device)
        if compiled is not None:
            self._compute = compiled(self._compute, self._device)
        self._read_back = read_back
        self._pinned: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        is_cuda = self._device.type == "cuda"
        self._facts: dict[str, Any] = {
            "device": str(torch.device("cuda", torch.cuda.current_device())) if is_cuda else "cpu",
            "clock": "device" if is_cuda else "host",
            "provider": f"torch {torch.__version__}",
            "precision": servable.precision,
            "parameters_in": str(next(self._compute.parameters()).dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "tf32": is_cuda and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32),
            "cuda_graph": False,
        }

    @property
    def facts(self) -> Mapping[str, Any]:
        return {**self._facts, **self._read_back()}

    def device_bytes(self) -> int | None:
        """Peak memory that torch has reserved on the GPU, in bytes."""
        return torch.cuda.max_memory_reserved(self._device) if self._device.type == "cuda" else None

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            try:
                if self._device.type == "cpu":
                    scores: NDArray[np.float32] = self._compute(torch.from_numpy(images)).float().numpy()
                    return scores.copy()
                return self._through_pinned(torch.from_numpy(images)).numpy().copy()
            except (RuntimeError, AssertionError) as error:
                raise _run_error(error, len(images)) from error

    def _through_pinned(self, images: Tensor) -> Tensor:
        """Copy to the device, compute, copy back; both copies use page-locked buffers, one pair per shape."""
        shape = tuple(images.shape)
        if shape not in self._pinned:
            scores = self._compute(images.to(self._device)).float()
            # Asynchronous copies need page-locked memory, which is too slow to allocate per call.
            self._pinned[shape] = (
                torch.empty_like(images).pin_memory(),
                torch.empty_like(scores, device="cpu").pin_memory(),
            )
        into, out = self._pinned[shape]
        into.copy_(images)
        out.copy_(self._compute(into.to(self._device, non_blocking=True)).float(), non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        return out

    def bind(self, images: NDArray[Any]) -> Bound:
        batch = torch.from_numpy(images).to(self._device)

        def compute() -> Any:
            with torch.inference_mode():
                return self._compute(batch)

        try:
            compute()
        except (RuntimeError, AssertionError) as error:
            raise _run_error(error, len(images)) from error
        return HostTimed(compute) if self._device.type == "cpu" else CudaTimed(compute)


class CudaTimed:
    """A bound batch on a GPU, timed by CUDA events around each launch; one query is queued while another computes."""

    def __init__(self, compute: Callable[[], object]) -> None:
        self._compute = compute
        torch.cuda.synchronize()

    def time(self, queries: int) -> Sequence[float]:
        """Latency of each query in milliseconds."""
        events = []
        for number in range(queries):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            self._compute()
            end.record()
            events.append((start, end))
            if number:  # wait for the previous query, so that at most one is queued
                events[number - 1][1].synchronize()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in events]


def _scores_module(servable: Servable, dtype: torch.dtype) -> nn.Module:
    """The model of a servable as one module from images to float32 scores [B, K], computed in `dtype`."""
    found = load_target(servable.source, installed_plugins(), ExportOptions(weights=servable.weights))
    scores = frozen_scores(found.model, servable.request or found.request)
    if dtype is torch.float32:
        return scores
    return _CastInput(scores.to(dtype), dtype)


class _CastInput(nn.Module):
    """Scores [B, K] in half precision: floating-point images are cast to `dtype`, uint8 images are not."""

    def __init__(self, scores: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.scores, self.dtype = scores, dtype

    def forward(self, images: Tensor) -> Tensor:
        computed: Tensor = self.scores(images.to(self.dtype) if images.is_floating_point() else images)
        return computed


def _run_error(error: Exception, batch: int) -> UnavailableError | GateError:
    if isinstance(error, torch.OutOfMemoryError):
        return UnavailableError(f"the GPU has too little memory for a batch of {batch}")
    return GateError(f"torch cannot run the model on a batch of {batch}: {one_line(error)}")
