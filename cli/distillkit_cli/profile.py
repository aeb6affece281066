"""`distillkit profile`: latency, throughput and memory of a student on this machine."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from rich.table import Table

from distillkit.errors import UserError
from distillkit.messages.text import visible
from distillkit_cli.default_target import DEFAULT, run_or_newest
from distillkit_cli.options import CHECKPOINT, JSON
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distillkit_export.profiling.charts import Charts
    from distillkit_export.profiling.profile import Profile
    from distillkit_export.profiling.schema import Mode, ProfileCard, RowCard

MEASURING = "Measuring"
CHOICES = (
    *("runtime", "precision", "batches", "mode", "seconds", "rounds", "threads", "device", "tune", "weights"),
    "checkpoint",
)
"""Options that have no effect if nothing is measured."""
TARGETS = typer.Argument(
    metavar="TARGET",
    help=f"Bundles, runs, models by name (timm:resnet18), or profile.json files of other machines. {DEFAULT}",
)
RUNTIME = typer.Option(
    metavar="NAME", help="Runtime from `distillkit plugins`; may be repeated. Default: all that work."
)
PRECISION = typer.Option(
    metavar="NAME", help="fp32, fp16, bf16, int8 or fp8; may be repeated. Default: those in the bundle."
)
BATCHES = typer.Option(
    metavar="N,N,...|auto",
    help="Batch sizes. auto doubles the batch while throughput grows.",
    rich_help_panel=MEASURING,
)
MODE = typer.Option(
    help="compute: on the device, without transfers. e2e: host to host. Default: e2e on a CPU, both on a GPU.",
    rich_help_panel=MEASURING,
)
SECONDS = typer.Option(metavar="S", help="Measuring time per row of the table.", rich_help_panel=MEASURING)
ROUNDS = typer.Option(
    metavar="N", help="Interleaved rounds that the seconds are split into.", rich_help_panel=MEASURING
)
THREADS = typer.Option(metavar="N", help="CPU threads. Default: the runtime's choice.", rich_help_panel=MEASURING)
DEVICE = typer.Option(metavar="NAME", help="Device of the torch runtimes: cpu or cuda.", rich_help_panel=MEASURING)
TUNE = typer.Option("--tune", help="First try every setting of every runtime, and report the best.")
BASELINE = typer.Option(
    metavar="NAME|FILE", help="Show ratios to this configuration or runtime, or regressions since this profile.json."
)
ALLOWED = typer.Option(
    metavar="PERCENT", help="With --baseline FILE: exit with 4 if anything is slower by more than this."
)
WEIGHTS = typer.Option(metavar="FILE|pretrained|none", help="Weights of a model by name.")
OUT = typer.Option(metavar="DIR", help="Output folder. Default: TARGET/profile, or profiles/ for several targets.")


def profile(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    *,
    targets: Annotated[list[str] | None, TARGETS] = None,
    runtime: Annotated[list[str] | None, RUNTIME] = None,
    precision: Annotated[list[str] | None, PRECISION] = None,
    batches: Annotated[str, BATCHES] = "1,8,32",
    mode: Annotated[Literal["compute", "e2e", "both"] | None, MODE] = None,
    seconds: Annotated[float, SECONDS] = 3.0,
    rounds: Annotated[int, ROUNDS] = 5,
    threads: Annotated[int | None, THREADS] = None,
    device: Annotated[str | None, DEVICE] = None,
    tune: Annotated[bool, TUNE] = False,
    baseline: Annotated[str | None, BASELINE] = None,
    allowed: Annotated[float, ALLOWED] = 10.0,
    checkpoint: Annotated[str | None, CHECKPOINT] = None,
    weights: Annotated[str | None, WEIGHTS] = None,
    out: Annotated[Path | None, OUT] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure latency, throughput and memory on this machine, in every runtime that works here.

    Every configuration runs in its own process. Rounds are interleaved, so that all configurations see the same load.

    Unreliable figures are marked, with the reason.

    For example:
      distillkit profile
      distillkit profile exports/student --tune --batches 1,32
      distillkit profile a/ b/ other-machine/profile.json --out compared/
    """
    from distillkit.plugin.registry import installed_plugins
    from distillkit_cli.progress import ProfileProgress
    from distillkit_export.profiling.configurations import ProfileSelection
    from distillkit_export.profiling.profile import profile as measure
    from distillkit_export.profiling.profile import require_measured
    from distillkit_export.profiling.rounds import MeasurementPlan
    from distillkit_export.profiling.subjects import precisions

    _require_numbers(seconds, rounds, threads, allowed)
    terminal: Terminal = context.obj
    targets = targets or [run_or_newest(None, terminal)]
    earlier = _earlier(baseline)
    if all(Path(target).is_file() for target in targets):
        _require_nothing_to_measure(context, baseline if earlier is None else None)
    chosen = precisions(precision or [])
    wanted = ProfileSelection(tuple(runtime or ()), chosen or (("fp32",) if tune else ()), threads, device)
    with closing(terminal.progress()) as display:
        result = measure(
            targets,
            installed_plugins(),
            wanted=wanted,
            plan=MeasurementPlan(_batches(batches), _modes(mode), seconds, rounds),
            baseline=None if earlier else baseline,
            earlier=earlier,
            checkpoint=checkpoint,
            weights=weights,
            tune=tune,
            out=out,
            observer=ProfileProgress(display),
        )
    _show(terminal, result, as_json=as_json)
    if result.measured is not None:
        require_measured(result.measured, wanted)
    if earlier is not None:
        _compare(terminal, result, earlier, allowed)


def _show(terminal: Terminal, result: Profile, *, as_json: bool) -> None:
    """Print results on stdout; caveats, configurations without a figure and the files written on stderr."""
    from distillkit.compute.machine import machine_line
    from distillkit_export.profiling.charts import draw
    from distillkit_export.profiling.markdown import best_lines

    drawn = draw(result.all, result.directory)
    if as_json:
        terminal.show_json({"profiles": [card.model_dump(mode="json") for card in result.all]})
    for card in () if as_json else result.all:
        terminal.show(visible(machine_line(card.machine)))
        terminal.show_table(_table(card))
        for line in best_lines(card):
            terminal.show(visible(f"best setting at {line}"))
    for line in _remarks(result, drawn):
        terminal.note(visible(line))  # a profile of another machine is text of its author


def _remarks(result: Profile, drawn: Charts) -> Iterator[str]:
    from distillkit.compute.busy_machine import CAVEAT_MARK
    from distillkit_export.profiling.markdown import caveat_lines

    for card in result.all:
        yield from (f"{CAVEAT_MARK} {line}" for line in caveat_lines(card))
        yield from (f"not measured: {line}" for line in card.skipped)
    yield from (f"note: {note}" for note in (*result.notes, *drawn.notes))
    own = [] if result.measured is None else ["profile.json", "profile.md"]
    if result.measured is not None and result.measured.best:
        own.append("best.json")
    files = [*own, *(path.name for path in drawn.files)]
    if files:
        yield f"written to {result.directory}: {', '.join(files)}"


def _table(card: ProfileCard) -> Table:
    from distillkit.compute.busy_machine import CAVEAT_MARK
    from distillkit_export.profiling.markdown import ratio_text, short

    table = Table(box=None, pad_edge=False)
    for heading in ("batch", "mode", "configuration"):
        table.add_column(heading, header_style="dim", no_wrap=heading != "configuration")
    for heading in ("p50 ms", "p90", "p99", "images/s", "ratio", "peak MiB"):
        table.add_column(heading, header_style="dim", justify="right")
    for row in sorted(card.rows, key=lambda row: (row.batch, row.mode)):
        name = short(card, row.configuration)
        if row.failed or row.p50_ms is None:
            table.add_row(str(row.batch), row.mode, name, "failed")
            continue
        ratio = "baseline" if row.configuration == card.baseline else ratio_text(row.ratio)
        figures = [f"{row.p50_ms:.2f}{CAVEAT_MARK if row.caveats else ''}", f"{row.p90_ms:.2f}", f"{row.p99_ms:.2f}"]
        rate = "" if row.images_per_s is None else f"{row.images_per_s:,.1f}"
        table.add_row(str(row.batch), row.mode, name, *figures, rate, ratio, _memory(row))
    return table


def _memory(row: RowCard) -> str:
    return "" if row.peak_rss_bytes is None else f"{row.peak_rss_bytes / 2**20:,.0f}"


def _compare(terminal: Terminal, result: Profile, earlier: ProfileCard, allowed: float) -> None:
    """Report changes since an earlier profile. Raises: GateError if something is slower than allowed."""
    from distillkit_export.profiling.regressions import changes, require_no_regression

    now: Any = result.measured or (result.others[0] if result.others else None)
    compared = changes(earlier, now)
    for change in compared:
        terminal.note(change.line())
    require_no_regression(compared, allowed)


def _earlier(baseline: str | None) -> ProfileCard | None:
    """The profile that --baseline names, read before anything is measured or written; None for a name."""
    from distillkit_export.profiling.schema import read_profile

    if baseline is None or not (Path(baseline).exists() or baseline.endswith(".json")):
        return None
    if not Path(baseline).is_file():
        raise UserError(f"--baseline {baseline}: no such file; give a profile.json, or the name of a configuration")
    return read_profile(Path(baseline))


def _require_numbers(seconds: float, rounds: int, threads: int | None, allowed: float) -> None:
    """Check the numbers here, because the limits of typer let NaN pass."""
    if not 0 < seconds < math.inf:
        raise UserError(f"--seconds is {seconds:g}; give a number above 0")
    if rounds < 1:
        raise UserError(f"--rounds is {rounds}; give 1 or more")
    if threads is not None and threads < 1:
        raise UserError(f"--threads is {threads}; give 1 or more, or leave it out for the runtime's own choice")
    if not 0 <= allowed < math.inf:
        raise UserError(f"--allowed is {allowed:g}; give a percentage from 0 up")


def _require_nothing_to_measure(context: typer.Context, baseline: str | None) -> None:
    """Reject options that choose what is measured if every target is an existing profile."""
    sources = {name: context.get_parameter_source(name) for name in CHOICES}
    given = [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
    given += ["baseline"] if baseline is not None else []
    if given:
        raise UserError(
            f"{', '.join(f'--{name}' for name in given)}: no effect, because every target is an existing profile; "
            "leave it out, or add a target to measure"
        )


def _batches(text: str) -> tuple[int, ...]:
    if text == "auto":
        return ()
    try:
        batches = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        batches = ()
    if not batches or batches[0] < 1:
        raise UserError(f"--batches is '{text}'; give auto, or sizes such as 1,8,32")
    return batches


def _modes(mode: str | None) -> tuple[Mode, ...]:
    from distillkit_export.profiling.schema import Mode

    every: tuple[Mode, ...] = get_args(Mode)
    return () if mode is None else tuple(each for each in every if mode in (each, "both"))
