"""A model in torch, ready to be asked and timed: on the CPU, or on a GPU with its own clock."""

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
    """One answer of a model in evaluation mode, as `torch_graph.Scores` reduces it, without autograd.

    `compiled` makes another callable of it; `read_back` says more facts, asked anew each time.
    Raises: UnavailableError for a precision that torch does not compute in and a GPU that torch does not see.
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
            raise UnavailableError("torch sees no CUDA device here; choose the CPU")
        if "threads" in setting:
            torch.set_num_threads(int(setting["threads"]))
        self._compute: Any = _answer(servable, dtype).to(self._device)
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
        """The most memory that torch has held on the GPU so far."""
        return torch.cuda.max_memory_reserved(self._device) if self._device.type == "cuda" else None

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            try:
                if self._device.type == "cpu":
                    scores: NDArray[np.float32] = self._compute(torch.from_numpy(images)).float().numpy()
                    return scores.copy()
                return self._through_pinned(torch.from_numpy(images)).numpy().copy()
            except (RuntimeError, AssertionError) as error:
                raise _refusal(error, len(images)) from error

    def _through_pinned(self, images: Tensor) -> Tensor:
        """Host to device, compute, device to host; both copies by way of page-locked memory that is kept."""
        shape = tuple(images.shape)
        if shape not in self._pinned:
            scores = self._compute(images.to(self._device)).float()
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
            raise _refusal(error, len(images)) from error
        return HostTimed(compute) if self._device.type == "cpu" else CudaTimed(compute)


class CudaTimed:
    """A bound batch on a GPU, timed by CUDA events round each launch; one query waits while another is computed."""

    def __init__(self, compute: Callable[[], object]) -> None:
        self._compute = compute
        torch.cuda.synchronize()

    def time(self, queries: int) -> Sequence[float]:
        """Milliseconds of each query."""
        events = []
        for number in range(queries):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            self._compute()
            end.record()
            events.append((start, end))
            if number:
                events[number - 1][1].synchronize()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in events]


def _answer(servable: Servable, dtype: torch.dtype) -> nn.Module:
    """The model of a servable as one module from images to float32 scores, computed in `dtype`."""
    found = load_target(servable.source, installed_plugins(), ExportOptions(weights=servable.weights))
    scores = frozen_scores(found.model, servable.request or found.request)
    if dtype is torch.float32:
        return scores
    return _In(scores.to(dtype), dtype)


class _In(nn.Module):
    """Scores in another dtype than that of the images, which are converted where they are floating point."""

    def __init__(self, scores: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.scores, self.dtype = scores, dtype

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.scores(images.to(self.dtype) if images.is_floating_point() else images)
        return answer


def _refusal(error: Exception, batch: int) -> UnavailableError | GateError:
    if isinstance(error, torch.OutOfMemoryError):
        return UnavailableError(f"the GPU has not enough memory for a batch of {batch}")
    return GateError(f"torch cannot run the model on a batch of {batch}: {one_line(error)}")
