"""A sweep whose arms train in one pass over the data: images and teachers are shared, in one process."""

from __future__ import annotations

from distillkit.errors import RunInterrupted
from distillkit.messages.progress import ProgressDisplay
from distillkit.messages.text import counted, one_line
from distillkit.plugin.registry import PluginRegistry
from distillkit.running.progress import RunProgress
from distillkit.sweeping.grid_sweep import GridSweep
from distillkit.sweeping.result import SweepResult


def check_one_pass_sweep(sweep: GridSweep) -> None:
    """Check that the arms that have not started can share a pass. Those that have are checked when they continue.

    Raises: RecipeError with the keys in which two arms differ.
    """
    from distillkit.planning.one_pass import check_one_pass

    if sweep.plans:
        check_one_pass({f"arm {name}": plan for name, plan in sweep.plans.items()}, alone="leave out --one-pass")


def run_one_pass(sweep: GridSweep, plugins: PluginRegistry, *, display: ProgressDisplay, again: str) -> SweepResult:
    """Train the arms that are not done together. `again` is the command that continues them.

    Raises: RunDirectoryError where another process sweeps there; RunInterrupted after a stop signal, once all arms are
    saved; RecipeError for arms that cannot share a pass.
    """
    from distillkit.running.together import Request, run_together

    with sweep.folder.locked():
        sweep.folder.write("grid", sweep.arms)
        requests = {
            sweep.folder.directory(arm.name): Request(
                sweep.recipes[arm.name], observers=[RunProgress(display, arm.name)]
            )
            for arm in sweep.arms
            if sweep.states[arm.name] != "done"
        }
        try:
            outcomes = run_together(requests, plugins, resume=True) if requests else {}
        except RunInterrupted as stopped:
            done = len(sweep.result().in_state("done"))
            raise RunInterrupted(
                f"stopped; {done} of {counted(len(sweep.arms), 'arm')} done; to continue: {again}",
                signal_number=stopped.exit_code - 128,
            ) from stopped
        return sweep.result(
            {path.name: one_line(outcome) for path, outcome in outcomes.items() if isinstance(outcome, Exception)}
        )
