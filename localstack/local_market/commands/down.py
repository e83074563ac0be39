"""`make down`: stop what `make up` started, and what a killed `make run` or `make test` left. State is kept.

With --remove, for `make clean`, it is not.
"""

import sys

from local_market.parts.places import LOCAL
from local_market.parts.processes import locked, recorded, stop, stop_orphans
from local_market.stack.stack import remove_state


def main() -> None:
    """Stop them, the last started first."""
    stopped = stop_orphans()
    with locked(LOCAL / "up.lock"):
        lasting = [process for process in recorded() if process.outlives_its_starter]
        # Whatever was started later may use what was started before.
        for process in sorted(lasting, key=lambda process: process.record.stat().st_mtime_ns, reverse=True):
            stopped.append(process.name)
            stop(process)
        if sys.argv[1:] == ["--remove"]:
            for folder in (LOCAL / "up", LOCAL / "run"):
                remove_state(folder)
    print(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing of this checkout runs.")
