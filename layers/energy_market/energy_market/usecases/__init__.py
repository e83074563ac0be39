"""What the market does, a verb a file."""
