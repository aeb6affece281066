"""Copy batches to a GPU while it computes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


class BackgroundCopies:
    """A stream of a GPU on which batches arrive next to the steps that are queued there already.

    A training step on a GPU is only queued by Python, which then asks for the next batch. Copied in the order of the
    steps, this batch would wait until the GPU is done. On another device all work is done at once, in order.
    What was queued before this object was made, such as the tensors that a batch is computed with, is there first.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch does not type it
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def background(self) -> AbstractContextManager[object]:
        """A block whose copies and computations run next to the steps."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def hand_over(self, tensors: Iterable[Tensor | None]) -> None:
        """Let later steps wait for the blocks so far, and keep the memory of `tensors` until those steps are done.

        Shapes: [...] each.
        """
        if self._stream is None:
            return
        steps = torch.cuda.current_stream(self._stream.device)
        steps.wait_stream(self._stream)
        for tensor in tensors:
            if tensor is not None:
                tensor.record_stream(steps)
