"""A client of the market's REST API and of its contracts, as a stranger would write it from their descriptions."""
