"""The market's use cases, one verb per file."""
