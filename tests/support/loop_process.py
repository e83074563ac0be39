"""A loop in a process of its own: ticks as fast as it can until its input ends, and prints what it says to devices.

DATABASE_URL=... python -m tests.support.loop_process
"""

import json
import sys
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from energy_market.domain.commands import Command
from tests.support.api import load_function


def say(commands: Iterable[Command]) -> list[tuple[Command, Exception]]:
    for command in commands:
        line = {"said": command.kind, "trade": str(command.transaction_id), "at": time.time()}
        sys.stdout.write(json.dumps(line) + "\n")
    return []


def main() -> None:
    matching = load_function("matching")
    vars(matching)["_publish"] = lambda: say
    told_to_end = threading.Thread(target=sys.stdin.read, daemon=True)
    told_to_end.start()
    while told_to_end.is_alive():
        mark = datetime.now(UTC).isoformat()
        matching.tick({"mark": mark, "zone": "default"}, None)
        matching.commands({"mark": mark, "missed": False}, None)
    matching._database().close()  # noqa: SLF001 -- a sandbox that ends takes its connection with it


if __name__ == "__main__":
    main()
