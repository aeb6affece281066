"""`distillkit evaluate`: accuracy of a student or a teacher, by one of several protocols."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from distillkit.errors import DistillkitError, UserError
from distillkit.messages.progress import show_images_measured
from distillkit_cli.default_target import DEFAULT, run_or_newest
from distillkit_cli.options import CHECKPOINT, JSON, share_or_name
from distillkit_cli.terminal import Terminal

if TYPE_CHECKING:
    from distillkit.evaluation.measurement import EvaluationResult, Row
    from distillkit.plugin.plugin import Plugin
    from distillkit.plugin.registry import PluginRegistry

PROTOCOLS = "Protocol options"
"""The panel of options that only some protocols have."""

TARGET = typer.Argument(
    metavar="TARGET", help=f"A run directory, a folder in it such as RUN/best, or a teacher's name. {DEFAULT}"
)
PROTOCOL = typer.Option(metavar="NAME", help="top1, knn, linear, few-label, or an evaluator of `distillkit plugins`.")
DATA = typer.Option(metavar="DIR|NAME", help="Images to evaluate on. Default: the data of the run.")
SPLIT = typer.Option(help="Split of the data. Default: test, or validation where there is no test split.")
VALIDATION = typer.Option(
    metavar="DIR|NAME|SHARE", help="Validation images, or the share of the training images to hold out; 0: none."
)
STRICT = typer.Option("--strict-data", help="Fail at the first unreadable image. Default: skip it.")
WEIGHTS = typer.Option(metavar="FILE", help="Weights of a teacher given by name. Default: the published ones.")
DEVICE = typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.")
CROP = typer.Option(
    metavar="SHARE",
    help="Share of the resized image that the centre crop keeps: 0.875 is resize 256, crop 224. "
    "Default: the run's; of a teacher's name DINO's 0.875 for knn and linear at 224 pixels, else the weights' own.",
)
HEAD = typer.Option(help="top1: head used for predictions. Default: as in the run.", rich_help_panel=PROTOCOLS)
FUSION = typer.Option(help="top1: how to fuse two heads. Default: as in the run.", rich_help_panel=PROTOCOLS)
PER_CLASS = typer.Option("--per-class", help="top1: accuracy of each class.", rich_help_panel=PROTOCOLS)
RESTRICT = typer.Option(
    "--restrict",
    help="top1: only answer with classes that the data has. Default: all classes of the model.",
    rich_help_panel=PROTOCOLS,
)
REAL = typer.Option(
    metavar="FILE", help="top1: also score against the ReaL labels in this real.json.", rich_help_panel=PROTOCOLS
)
K = typer.Option(
    min=1,
    metavar="N",
    help="knn: number of neighbours; may be repeated. Default: 10, 20, 100 and 200.",
    rich_help_panel=PROTOCOLS,
)
METHOD = typer.Option(
    metavar="NAME",
    help="linear: fast (default) or dino. few-label: logistic (default) or finetune.",
    rich_help_panel=PROTOCOLS,
)
EPOCHS = typer.Option(
    min=1,
    metavar="N",
    help="linear, few-label finetune: passes over the training images.",
    rich_help_panel=PROTOCOLS,
)
NPROC = typer.Option("--nproc", metavar="N", min=1, help="Evaluate with N processes on this machine, one per GPU.")
SET = typer.Option(
    "--set", metavar="KEY=VALUE", help="Any option of the protocol; may be repeated.", rich_help_panel=PROTOCOLS
)


def evaluate(  # noqa: PLR0913 - one parameter per option
    context: typer.Context,
    *,
    target: Annotated[str | None, TARGET] = None,
    protocol: Annotated[str, PROTOCOL] = "top1",
    data: Annotated[str | None, DATA] = None,
    split: Annotated[Literal["train", "validation", "test"] | None, SPLIT] = None,
    validation: Annotated[str | None, VALIDATION] = None,
    strict_data: Annotated[bool, STRICT] = False,
    checkpoint: Annotated[str | None, CHECKPOINT] = None,
    weights: Annotated[str | None, WEIGHTS] = None,
    device: Annotated[str, DEVICE] = "auto",
    crop: Annotated[float | None, CROP] = None,
    head: Annotated[Literal["fused", "class", "distill"] | None, HEAD] = None,
    fusion: Annotated[Literal["logits", "softmax"] | None, FUSION] = None,
    per_class: Annotated[bool, PER_CLASS] = False,
    restrict: Annotated[bool, RESTRICT] = False,
    real: Annotated[Path | None, REAL] = None,
    k: Annotated[list[int] | None, K] = None,
    method: Annotated[str | None, METHOD] = None,
    epochs: Annotated[int | None, EPOCHS] = None,
    settings: Annotated[list[str] | None, SET] = None,
    nproc: Annotated[int, NPROC] = 1,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Evaluate a student or a teacher: top-1, k-NN, linear probe or few labels.

    Without --data, a run is evaluated on its own data, and a teacher given by name on the data that a run with it uses.

    Results for a run are also appended to RUN/evaluations.jsonl.

    For example:
      distillkit evaluate --per-class
      distillkit evaluate runs/soft --protocol knn --k 20
      distillkit evaluate timm:resnet50 --data imagenet/ --json
    """
    from distillkit.plugin.extras import require
    from distillkit.plugin.registry import installed_plugins
    from distillkit.recipe.overrides import as_tables, parse_assignment
    from distillkit.running.target import check_evaluation

    by_option = {
        "head": head,
        "fusion": fusion,
        "per_class": per_class or None,
        "restrict": restrict or None,
        "real": None if real is None else str(real),
        "k": k or None,
        "method": method,
        "epochs": epochs,
    }
    given = {name: value for name, value in by_option.items() if value is not None}
    plugins = installed_plugins()
    _require_options(protocol, given, plugins)
    options = as_tables(parse_assignment(text) for text in settings or ()) | given
    terminal: Terminal = context.obj
    is_default = target is None
    target = run_or_newest(target, terminal)
    check_evaluation(
        target, plugins, protocol=protocol, options=options, data=data, checkpoint=checkpoint, weights=weights
    )
    require("torch", "timm", what="distillkit evaluate")
    if nproc > 1:
        from distillkit_cli.launching import launch, without_option

        arguments = [*without_option(terminal.arguments, "--nproc"), *([target] if is_default else [])]
        raise typer.Exit(launch(arguments, nproc, restart_arguments=arguments, note=terminal.note))
    from distillkit.evaluation.evaluate import evaluate as run_evaluation

    with closing(terminal.progress()) as display:
        evaluation = run_evaluation(
            target,
            plugins,
            protocol=protocol,
            options=options,
            data=data,
            split=split,
            validation=share_or_name(validation),
            strict=strict_data,
            checkpoint=checkpoint,
            weights=weights,
            device=device,
            crop=crop,
            report=partial(show_images_measured, display),
        )
    if as_json:
        terminal.show_json(evaluation.as_dict())
    else:
        _show(terminal, evaluation)


def _require_options(protocol: str, given: Iterable[str], plugins: PluginRegistry) -> None:
    """Refuse options that only other protocols have.

    Raises: UserError; as `PluginRegistry.find` and `Plugin.load`.
    """
    own = _option_names(plugins.find("evaluator", protocol))
    for name in given:
        if name in own:
            continue
        others = [each for each in plugins.listing("evaluator") if name in _option_names_if_loadable(each)]
        if others:
            protocols = " and ".join(each.name for each in others)
            raise UserError(
                f"--{name.replace('_', '-')} is an option of --protocol {protocols}; the protocol is {protocol}"
            )


def _option_names(evaluator: Plugin) -> Collection[str]:
    options = evaluator.option_model()
    return () if options is None else options.model_fields


def _option_names_if_loadable(evaluator: Plugin) -> Collection[str]:
    try:
        return _option_names(evaluator)
    except DistillkitError:
        return ()  # an evaluator that was not chosen must not stop the command


def _show(terminal: Terminal, evaluation: EvaluationResult) -> None:
    from distillkit_cli.figures import figure_rows

    measurement = evaluation.measurement
    rows = figure_rows({f"{evaluation.split}/{name}": value for name, value in measurement.figures.items()})
    if not rows and "images" in measurement.figures:
        rows = [(evaluation.split, f"{measurement.figures['images']:,.0f} images")]
    if not rows:
        rows = [(name, f"{value:,g}") for name, value in measurement.figures.items()]
    terminal.show_rows([("protocol", measurement.title), ("data", evaluation.data), *_crop(evaluation), *rows])
    if measurement.rows:
        terminal.show("")
        terminal.show_table(_table(measurement.rows))
    for note in measurement.notes:
        terminal.note(note)


def _crop(evaluation: EvaluationResult) -> Iterator[tuple[str, str]]:
    """How images are cropped, unless it is as in the run."""
    used = evaluation.preprocessing
    if used["source"] != "run":
        sides = ("x".join(map(str, dict.fromkeys(used[name]))) for name in ("resize", "crop"))
        yield "images", f"resize {next(sides)}, crop {next(sides)}"


def _table(rows: tuple[Row, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column, value in rows[0].items():
        heading = {"top1": "top 1 %", "top5": "top 5 %"}.get(column, column)
        table.add_column(heading, header_style="dim", justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(_cell(column, value) for column, value in row.items()))
    return table


def _cell(column: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.2f}" if column in {"top1", "top5"} else f"{value:,g}" if value < 1 else f"{value:,}"
