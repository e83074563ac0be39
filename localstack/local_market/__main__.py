"""Start what the first argument names: `python -m local_market COMMAND [argument ...]`."""

import importlib
import sys
from typing import Final

from local_market.parts.processes import ServiceError

COMMANDS: Final = ("run", "chaos", "up", "down", "hand", "reconcile", "replay", "compose", "conformance")


def main() -> int | str | None:
    """Call the command's `main`; its exit status, or the sentence to end with."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        return f"python -m local_market COMMAND, where COMMAND is {', '.join(COMMANDS)}."
    sys.argv[:2] = [f"{sys.argv[0]} {name}"]
    try:
        status: int | str | None = importlib.import_module(f"local_market.commands.{name}").main()
    except ServiceError as error:
        return str(error)
    return status


if __name__ == "__main__":
    sys.exit(main())
