"""`make down`: stop what `make up` started, and what a killed `make run` or `make test` left. State is kept.

With --remove, for `make clean`, it is not.
"""

import sys

from processes import LOCAL, locked, recorded, stop, stop_orphans
from services import remove_state


def main() -> None:
    """Stop them, those that use others first."""
    stopped = stop_orphans()
    with locked(LOCAL / "up.lock"):
        order = ["ministack", "anvil", "postgres"]
        lasting = [process for process in recorded() if process.outlives_its_starter]
        for process in sorted(lasting, key=lambda process: order.index(process.name)):
            stopped.append(process.name)
            stop(process)
        if sys.argv[1:] == ["--remove"]:
            for folder in (LOCAL / "up", LOCAL / "run"):
                remove_state(folder)
    print(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing of this checkout runs.")


if __name__ == "__main__":
    main()
