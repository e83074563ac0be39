"""The steps of a settlement sweep: follow batches that were sent, expire trades, pay locked trades."""
