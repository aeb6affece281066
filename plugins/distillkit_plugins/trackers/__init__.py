"""Built-in trackers: metrics.jsonl and report.md."""
