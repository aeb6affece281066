"""Checks of `evaluate` and `attention` before torch is imported, which takes seconds: target, options, data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillkit.contracts.student_directory import holds_student, is_run, student_directory, student_names
from distillkit.data.resolve_source import OPTIONS, find_data_set
from distillkit.errors import DataError, RunDirectoryError, WeightsError
from distillkit.messages.nearest_name import listed
from distillkit.messages.text import command, shortened
from distillkit.plugin.registry import PluginRegistry, split_name


def check_evaluation(  # noqa: PLR0913 - one parameter per option of the command
    target: str,
    plugins: PluginRegistry,
    *,
    protocol: str,
    options: Mapping[str, Any],
    data: str | None,
    checkpoint: str | None = None,
    weights: str | None = None,
) -> None:
    """Check the protocol and its options, the target and the name of the data.

    Raises: as `PluginRegistry.find`, `Plugin.options` and `student_folder`; DataError.
    """
    plugin = plugins.find("evaluator", protocol)
    if plugin.spec.options is not None:
        plugin.options(options)
    student_folder(target, plugins, checkpoint, weights)
    if data is not None:
        try:
            find_data_set(data, plugins)
        except DataError as error:
            raise DataError(f"{OPTIONS['train']}: {error}") from None


def student_folder(
    target: str, plugins: PluginRegistry, checkpoint: str | None = None, weights: str | None = None
) -> Path | None:
    """The folder of the student that a target names; None for a teacher by name.

    `run:DIR`, the name of a run as a teacher, names that run. `checkpoint` chooses the student of a run.
    Raises: RunDirectoryError for a target that is neither, or a run without that student; WeightsError if `weights`
        are given for a run.
    """
    name, argument = split_name(target)
    path = student_directory(Path(argument if name == "run" and argument else target), checkpoint)
    if holds_student(path):
        if weights is not None:
            raise WeightsError(f"'{target}' is a run with its own weights; leave out --weights {weights}")
        return path
    if is_run(path):
        names = student_names(path)
        choice = f"choose another with --checkpoint ({', '.join(names)}), or " if names else ""
        raise RunDirectoryError(
            f"run '{path}' is not finished, so it has no last student; {choice}continue it with "
            f"{command('--resume', path)}"
        )
    known = {plugin.spec.name: plugin.spec.shown_name for plugin in plugins.listing("teacher")}
    if name not in known and (path / "bundle.json").is_file():
        raise RunDirectoryError(
            f"'{target}' is a bundle; give the run that it was exported from, or use distillkit predict"
        )
    if name not in known:
        raise RunDirectoryError(
            f"'{target}' is neither a run directory (with student.json) nor a teacher; "
            f"teachers: {listed(shortened(target), known.values())}"
        )
    return None
