"""Watching a running market: figures, the display, the comparison of all books, dead letters."""
