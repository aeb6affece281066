"""Where numbers first go wrong, in networks small enough to say so by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillkit.training.find_nonfinite import BadOutput, NonFiniteFinder


class Root(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.sqrt()


class Chain(nn.Module):
    """A factor, the square root inside a block, and a factor again; `between` divides by 0 before the last."""

    def __init__(self, *, between: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.block = nn.Sequential(nn.Identity(), Root())
        self.last = nn.Linear(2, 1)
        self.between = between
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(2) * 2)

    def forward(self, values: Tensor) -> Tensor:
        rooted = self.block(self.first(values))
        return self.last(rooted / 0 if self.between else rooted)


def diagnosed(network: Chain, values: list[float]) -> NonFiniteFinder:
    diagnosis = NonFiniteFinder()
    with diagnosis.watching({"student": network}, dict(network.named_parameters())):
        network(torch.tensor([values])).sum().backward()
    return diagnosis


def test_the_inner_module_is_named_with_the_range_of_what_went_in() -> None:
    found = diagnosed(Chain(), [-1.5, 4.0])
    assert found.output == BadOutput("student.block.1", "Root", (-3.0, 8.0))
    assert sorted(found.parameters) == ["first.weight", "last.weight"]


def test_a_number_that_a_function_made_between_modules_is_told_apart() -> None:
    assert diagnosed(Chain(between=True), [1.0, 4.0]).output == BadOutput("student.last", "Linear", None)


def test_a_finite_output_may_have_a_gradient_that_is_not() -> None:
    """The square root of 0; what comes behind it in the forward has a gradient."""
    found = diagnosed(Chain(), [0.0, 4.0])
    assert found.output is None
    assert found.parameters == ["first.weight"]


def test_all_is_well() -> None:
    found = diagnosed(Chain(), [1.0, 4.0])
    assert (found.output, found.parameters) == (None, [])


def test_nothing_is_heard_afterwards() -> None:
    network = Chain()
    diagnosis = diagnosed(network, [1.0, 4.0])
    network(torch.tensor([[-1.0, 1.0]])).sum().backward()
    assert (diagnosis.output, diagnosis.parameters) == (None, [])
