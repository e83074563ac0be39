"""Runs the bench, prints its tables and writes build/bench.json.

    python -m bench [--quick] [SECTION ...]

Exits with 0 when everything was measured, whether or not all was reached: a slow day is no error.
"""

import argparse
import contextlib
import importlib
import json
import os
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from bench.measure import Row, Table
from local_market.parts.processes import stop_orphans, stop_what_is_ours

SECTIONS = ("matching", "tick", "requests", "zones", "cold_start", "stack")
"""Modules of this package, in the order in which they run: each one's `measure(quick=...)` yields rows and tables."""

CHECKOUT = Path(__file__).resolve().parents[1]
RESULTS = CHECKOUT / "build" / "bench.json"


def main() -> None:
    """Run the sections that the command line names; without any, all."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under two minutes in all")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default: all)")
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"there is no section {', '.join(sorted(unknown))}, only {', '.join(SECTIONS)}")
    written: dict[str, object] = {}
    rows: list[Row] = []
    with ending_in_order():
        for section in arguments.sections or SECTIONS:
            print(f"\n== {section}", flush=True)
            began = time.monotonic()
            results: list[Row | Table] = []
            for result in importlib.import_module(f"bench.{section}").measure(quick=arguments.quick):
                results.append(result)
                print(f"\n{sentence(result) if isinstance(result, Row) else drawn(result)}", flush=True)
            found = [result for result in results if isinstance(result, Row)]
            rows += found
            written[section] = {
                "seconds": round(time.monotonic() - began, 1),
                "rows": [{**asdict(row), "reach": row.reach, "reached": row.reached} for row in found],
                "tables": [asdict(result) for result in results if isinstance(result, Table)],
            }
    print(f"\n== what was promised\n\n{drawn(promises(rows))}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**conditions(), "quick": arguments.quick, "sections": written}, indent=2) + "\n")
    print(f"\nWritten to {RESULTS.relative_to(CHECKOUT)}.")


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Whatever signal ends the bench within the block, it ends as by Ctrl-C: what was started is stopped."""

    def break_off(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    stop_orphans()
    before = {number: signal.signal(number, break_off) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        stop_what_is_ours()
        for number, handler in before.items():
            signal.signal(number, handler)


def sentence(row: Row) -> str:
    """A row as it comes: what was measured, what it was to be, what stands behind it."""
    told = {True: "reached", False: "MISSED", None: "shown"}[row.reached]
    measured = "not measured" if row.measured is None else f"{number(row.measured)} {row.unit}"
    return f"{row.name}: {measured}{f' ({row.reach})' if row.reach else ''}: {told}\n  {row.shown}".rstrip()


def promises(rows: Sequence[Row]) -> Table:
    """All rows that have something to reach, as the last thing on the screen."""
    return Table(
        title="",
        columns=["what", "measured", "reach", "reached"],
        lines=[
            [row.name, "-" if row.measured is None else number(row.measured), row.reach, "yes" if row.reached else "NO"]
            for row in rows
            if row.reached is not None
        ],
    )


def drawn(table: Table) -> str:
    """A table in plain text: words to the left, numbers to the right."""
    cells = [[cell(value) for value in line] for line in table.lines]
    numeric = [all(not isinstance(line[place], str) for line in table.lines) for place in range(len(table.columns))]
    widths = [max(map(len, column)) for column in zip(table.columns, *cells, strict=True)]
    text = [
        "  ".join(
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in [table.columns, *cells]
    ]
    return "\n".join([*([table.title] if table.title else []), text[0], "-" * max(map(len, text)), *text[1:]])


def cell(value: str | float | None) -> str:
    """One value of a table."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else number(value)


def number(value: float) -> str:
    """A number with three digits, thousands apart."""
    if isinstance(value, int) or abs(value) >= 100:  # noqa: PLR2004 - three digits
        return f"{value:,.0f}"
    return f"{value:.3g}"


def conditions() -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
    }


if __name__ == "__main__":
    main()
