"""What a person can start, each with a `main`: `python -m local_market COMMAND`."""
