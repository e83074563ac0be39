"""What the crash points of settlement pass through."""

from typing import Final

COVERS: Final[dict[str, set[str]]] = {
    "a sweep": {f"settling.{part}" for part in ("sweep", "settle", "confirm", "expire", "pay", "fees", "resend")},
    "the function": {
        "settlement.sweep",
        "settling.deliveries",
        "report_failures",
        "report_shortfalls",
    },
}
