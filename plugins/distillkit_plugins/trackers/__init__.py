"""Built-in trackers: metrics.jsonl, report.md and report.html."""
