"""`distillkit.compare`: a comparison from a script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike

from distillkit.comparison.compare import check_images, compare_runs, with_answers
from distillkit.comparison.comparison import Comparison
from distillkit.plugin.registry import PluginRegistry, installed_plugins


def compare(  # noqa: PLR0913 - one parameter per option of the verb
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    baseline: str | PathLike[str] | None = None,
    images: int | None = None,
    left_out: Mapping[str, str] | None = None,
    device: str = "auto",
    plugins: PluginRegistry | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Compare finished runs. Runs whose recipes differ only by seed are repetitions of one arm.

    `paths` are run directories, or folders that hold some, at most 3 levels deep. `baseline` is the arm that
    differences are taken from, by name or by one of its runs; the default is the arm of the first run. `images` is the
    number of pictures to show of each kind: images that one arm classifies correctly and the baseline does not. It
    measures every student again on the images of its own recipe, on `device`, with progress in `report`, which is
    called with a text, the number of images so far, and in total. `left_out` are names of further runs that are not
    compared, with the reasons; unfinished and failed runs among `paths` are added to them.

    The result has `arms`, each with the mean, sample standard deviation and number of every figure, `difference(arm,
    figure)` from the baseline, paired by seed, `lines()` as text, `as_dict()`, `markdown()` and `html()`.
    `write(folder)` writes comparison.json, comparison.md and comparison.html. Without `images` no torch is imported.

    Raises: RunDirectoryError if no run is finished, a path holds no run, or a run is given twice; DataError if the runs
    have different classes or were measured on different images; UserError for an unknown baseline.

    For example:
        >>> comparison = distillkit.compare("runs/first")
        >>> [(arm.name, len(arm.runs)) for arm in comparison.arms], comparison.main_figure
        ([('all runs', 1)], 'test/top1')
    """
    if images is not None:
        check_images(images)
    comparison = compare_runs(paths, baseline=baseline, left_out=left_out)
    if images is None:
        return comparison
    registry = plugins or installed_plugins()
    return with_answers(comparison, images, registry, device=device, report=report)
