"""Gradient norms in the report: which steps and norms the plot and the table show."""

import math

from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from distillkit_plugins.trackers.gradient_norms_section import (
    draw_gradient_norms,
    gradient_norms_table,
    measured_steps,
)


def entry(step: float, **norms: float) -> dict[str, float]:
    return {"step": step, "loss": 1.0, **{f"grad_norm/{name}": norm for name, norm in norms.items()}}


def test_steps_with_one_term_or_an_infinite_norm_are_left_out() -> None:
    both = entry(1, labels=1.0, hard=0.0)
    infinite, undefined = entry(2, labels=math.inf, hard=1.0), entry(3, labels=1.0, hard=math.nan)
    assert measured_steps([both, infinite, undefined, entry(4, labels=1.0), entry(5)]) == [both]


def test_plot_leaves_out_norms_of_0_and_starts_with_colour_1() -> None:
    axes = Figure().add_subplot()
    draw_gradient_norms(axes, [entry(1, b=2.0, a=0.0), entry(2, b=4.0, a=0.5)])
    lines = axes.get_lines()
    assert [(line.get_label(), line.get_xydata().tolist()) for line in lines] == [
        ("a", [[2.0, 0.5]]),
        ("b", [[1.0, 2.0], [2.0, 4.0]]),
    ]
    assert [line.get_color() for line in lines] == [to_rgba("C1"), to_rgba("C2")]
    assert axes.get_yscale() == "log"


def test_table_of_a_single_step_without_a_gradient_has_no_shares() -> None:
    table = gradient_norms_table([entry(1200, labels=0.0, hard=0.0)])
    assert (table.headings, [row.cells for row in table.rows]) == (
        ("term", "step 1,200"),
        [("labels", "0"), ("hard", "0")],
    )
