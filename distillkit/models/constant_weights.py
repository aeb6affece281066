"""Compile a frozen network with its weights as constants."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

import torch
from torch import nn


def compile_with_constants(network: nn.Module) -> Callable[..., Any]:
    """A function that runs the network, compiled for fixed shapes at its first call; without gradients only.

    The weights of that moment are constants: BatchNorm is folded, matrices and kernels are packed, and what follows a
    convolution is computed in it. The result does not see later changes of the weights; compile again then.
    Raises: at the first call, what torch's compiler raises.
    """

    def run(*arguments: object) -> Any:
        return network(*arguments)

    # torch keeps what it compiled with the code of a function, and uses it again without comparing the constants.
    # A copy of the code begins with nothing, so that no network gets its earlier weights, or those of another.
    own = FunctionType(run.__code__.replace(), run.__globals__, run.__name__, None, run.__closure__)
    compiled = torch.compile(own, dynamic=False)

    def frozen(*arguments: object) -> Any:
        from torch._inductor import config

        # Not `options` of torch.compile: they hold while code is generated, and not while the network is traced.
        with cast("Any", config).patch(freezing=True):
            return compiled(*arguments)

    return frozen
