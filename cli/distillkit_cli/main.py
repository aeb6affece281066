"""The command `distillkit`: its subcommands, and how errors become messages and exit codes."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated

import typer

from distillkit.compute.termination import raising_terminated
from distillkit.errors import DistillkitError, LostProcessError, UserError
from distillkit.messages.text import visible
from distillkit.plugin.disabled import switch_off
from distillkit.plugin.error_attribution import plugin_failure
from distillkit.storage.places import fault_of_place
from distillkit.version import __version__
from distillkit_cli.attention import attention
from distillkit_cli.bank import bank
from distillkit_cli.bench import bench
from distillkit_cli.compare import compare
from distillkit_cli.data import data
from distillkit_cli.doctor import doctor
from distillkit_cli.evaluate import evaluate
from distillkit_cli.export import export
from distillkit_cli.failure_report import FailureReport, report_of, reports_traceback
from distillkit_cli.finetune import finetune
from distillkit_cli.help import NAMES, Verb, Verbs
from distillkit_cli.launching import end_with_the_launcher, is_rank, rank
from distillkit_cli.plan import plan
from distillkit_cli.plugins import plugins
from distillkit_cli.predict import predict
from distillkit_cli.profile import profile
from distillkit_cli.recipes import recipes
from distillkit_cli.replay import replay
from distillkit_cli.run import run
from distillkit_cli.sweep import sweep
from distillkit_cli.terminal import Terminal, why_unwritable
from distillkit_cli.verify import verify

BUG, USAGE_ERROR, INTERRUPTED = 1, 2, 130

HINTS = {("distillkit export", "--precision"): "export has one flag per precision: --fp16, --bf16, --int8, --fp8"}
"""Messages for options that another command has, by command and option."""

NO_PLUGIN = typer.Option(
    "--no-plugin",
    metavar="NAME",
    help="Ignore a third-party plugin, by distribution or entry point, or all of them; may be repeated.",
)

app = typer.Typer(
    cls=Verbs,
    context_settings=NAMES,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
VERBS = (
    run,
    plan,
    finetune,
    sweep,
    evaluate,
    compare,
    attention,
    export,
    verify,
    profile,
    bench,
    predict,
    plugins,
    recipes,
    replay,
    doctor,
)
for verb in VERBS:
    app.command(cls=Verb)(verb)
app.add_typer(data, name="data")
app.add_typer(bank, name="bank")


@app.callback()
def distillkit(
    context: typer.Context,
    *,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print errors with tracebacks.")] = False,
    no_plugin: Annotated[list[str] | None, NO_PLUGIN] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Distil a large vision model into a small one and export it.

    Choose a teacher, a student and a loss. Get a checkpoint, a report and an ONNX file.

    Start here:
      distillkit run --teacher regnety16gf --loss hard
      distillkit export --trt
    """
    terminal: Terminal = context.obj
    terminal.quiet, terminal.verbose = quiet, verbose
    if no_plugin:
        context.call_on_close(switch_off(no_plugin))
    if version:
        terminal.show(f"distillkit {__version__}")
    elif context.invoked_subcommand is None:
        terminal.show(context.get_help(), styled=True)


def main() -> None:
    """Run the command line of this process and exit with its code."""
    terminal = Terminal(arguments=tuple(sys.argv[1:]), is_first=rank() == 0)
    codes: list[int] = []
    atexit.register(_leave, codes)  # the first one that is registered runs last
    code = command_line(sys.argv[1:], terminal)
    if terminal.only_plans:
        codes.append(code)
    sys.exit(code)


def _leave(codes: Sequence[int]) -> None:
    """End the process with the last of `codes`, if any, without taking apart its modules.

    Python would search them for garbage; with torch and timm this takes most of a second. A plan leaves nothing open.
    """
    if codes:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(codes[-1])


def command_line(arguments: Sequence[str], terminal: Terminal | None = None) -> int:
    """Run one command line; its output goes to `terminal`, by default a new one.

    A user error, or an exception raised by a plugin, becomes one line on stderr. Any other exception is a bug and is
    raised again.
    Returns: 0; the `exit_code` of a DistillkitError; 2 for an invalid command line; 130 when interrupted, 143 after
    SIGTERM, 129 after SIGHUP.
    """
    terminal = terminal or Terminal(arguments=tuple(arguments), is_first=rank() == 0)
    end_with_the_launcher()
    signals: list[int] = []
    try:
        _require_stdout()
        # A rank of several processes may wait for the others in native code, where no Python handler runs.
        with nullcontext(signals) if is_rank() else raising_terminated() as signals:
            # standalone_mode would make typer print errors and exit with its own codes.
            code = app(arguments, prog_name="distillkit", standalone_mode=False, obj=terminal)
    except DistillkitError as error:
        return _failed(terminal, error, FailureReport(str(error), error.exit_code))
    except typer.TyperException as error:
        return _failed(terminal, _usage(error), FailureReport(_usage(error), USAGE_ERROR))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BaseException as error:
        failure = plugin_failure(error) or _fault_of_place(error)
        if failure is None:
            if isinstance(error, Exception) and not reports_traceback():
                return BUG
            raise
        failure.__cause__ = error
        return _failed(terminal, failure, FailureReport(str(failure), failure.exit_code))
    if signals:  # typer turns the exception into an exit code
        return 128 + signals[0]
    return code if isinstance(code, int) else 0


def _require_stdout() -> None:
    """Refuse a stdout that cannot take the result, before the work for it. Raises: UserError."""
    why = why_unwritable(sys.stdout)
    if why is not None:
        raise UserError(f"stdout {why}, so the result would be lost; redirect it to a file, or to /dev/null")


def _fault_of_place(error: BaseException) -> UserError | None:
    """The error for a file or folder that cannot be read or written, wherever it was noticed."""
    sentence = fault_of_place(error)
    return None if sentence is None else UserError(sentence)


def _failed(terminal: Terminal, error: DistillkitError | str, own: FailureReport) -> int:
    """Report the error, unless another process does. Returns: the exit code."""
    report = report_of(own, is_consequence=isinstance(error, LostProcessError))
    if report.message:
        terminal.error(error if report == own else report.message)
    return report.code


def _usage(error: typer.TyperException) -> str:
    """A usage error as one sentence, with the nearest name and the command that lists the valid ones."""
    message = error.format_message().rstrip(".").replace("Value error, ", "")
    guesses: Sequence[str] | None = getattr(error, "possibilities", None)
    if guesses:
        # typer would list all guesses sorted by name; the nearest one comes first here.
        message = f"{error.message}. Did you mean '{guesses[0]}'?"
    context: typer.Context | None = getattr(error, "ctx", None)
    if context and (hint := HINTS.get((context.command_path, getattr(error, "option_name", "")))):
        message = hint
    where = f" (see {context.command_path} --help)" if context else ""
    return visible(f"{message[0].lower()}{message[1:]}{where}")


if __name__ == "__main__":
    main()
