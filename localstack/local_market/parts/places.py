"""Where this checkout lies, and where it keeps what it makes."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
LOCAL = CHECKOUT / ".local"
PACKAGES = (
    CHECKOUT / "layers" / "energy_market",
    CHECKOUT / "clients" / "python",
    CHECKOUT / "devices",
    CHECKOUT / "localstack",
)
"""What a Python that we start must have on its path to import our packages."""
