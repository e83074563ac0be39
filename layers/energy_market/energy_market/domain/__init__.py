"""The market's rules, free of I/O and of third-party code."""
