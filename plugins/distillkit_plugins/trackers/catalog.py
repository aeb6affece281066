"""The trackers that come with distillkit."""

from __future__ import annotations

from collections.abc import Sequence

from distillkit import PluginSpec, hookimpl


@hookimpl
def distillkit_trackers() -> Sequence[PluginSpec]:
    """The record of the run and the report made from it."""
    return (
        PluginSpec(
            name="metrics",
            summary="one JSON line per log interval and epoch, in metrics.jsonl",
            factory="distillkit_plugins.trackers.metrics_file:MetricsFile",
        ),
        PluginSpec(
            name="report",
            summary="report.md with tables and curves, when the run ends; reads metrics.jsonl",
            factory="distillkit_plugins.trackers.report:Report",
        ),
    )
