"""Finding the first output and the gradients that are not finite, in networks small enough to check by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillkit.training.find_nonfinite import BadOutput, NonFiniteFinder


class Root(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.sqrt()


class Chain(nn.Module):
    """Linear, square root inside a block, linear; with `between`, a division by 0 before the last layer."""

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


def watched(network: Chain, values: list[float]) -> NonFiniteFinder:
    finder = NonFiniteFinder()
    with finder.watching({"student": network}, dict(network.named_parameters())):
        network(torch.tensor([values])).sum().backward()
    return finder


def test_the_innermost_module_is_named_with_the_range_of_its_input() -> None:
    finder = watched(Chain(), [-1.5, 4.0])
    assert finder.output == BadOutput("student.block.1", "Root", (-3.0, 8.0))
    assert sorted(finder.parameters) == ["first.weight", "last.weight"]


def test_a_value_from_a_function_between_modules_has_no_input_range() -> None:
    assert watched(Chain(between=True), [1.0, 4.0]).output == BadOutput("student.last", "Linear", None)


def test_a_finite_output_may_have_a_gradient_that_is_not() -> None:
    """The square root of 0; later layers have a finite gradient."""
    finder = watched(Chain(), [0.0, 4.0])
    assert finder.output is None
    assert finder.parameters == ["first.weight"]


def test_finite_outputs_and_gradients_are_not_reported() -> None:
    finder = watched(Chain(), [1.0, 4.0])
    assert (finder.output, finder.parameters) == (None, [])


def test_hooks_are_removed_afterwards() -> None:
    network = Chain()
    finder = watched(network, [1.0, 4.0])
    network(torch.tensor([[-1.0, 1.0]])).sum().backward()
    assert (finder.output, finder.parameters) == (None, [])
