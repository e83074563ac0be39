"""Where the checkout is, and what the tests' database template is called."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
TEMPLATE = "energy_market_template"
