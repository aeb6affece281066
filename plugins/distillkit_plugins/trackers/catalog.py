"""Names of the built-in trackers."""

from __future__ import annotations

from collections.abc import Sequence

from distillkit import PluginSpec, hookimpl


@hookimpl
def distillkit_trackers() -> Sequence[PluginSpec]:
    """The metrics file, and the report made from it."""
    return (
        PluginSpec(
            name="metrics",
            summary="metrics.jsonl: one JSON line per log interval and per epoch",
            factory="distillkit_plugins.trackers.metrics_file:MetricsFile",
        ),
        PluginSpec(
            name="report",
            summary="report.md and report.html, tables and curves at the end of the run; needs `metrics`",
            factory="distillkit_plugins.trackers.report:Report",
        ),
    )
