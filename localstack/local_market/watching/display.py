"""What `make run` shows while it runs: a live picture in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from local_market.watching.figures import STAGES, BookRow, Figures, percentile

PLAIN_PERIOD_S: Final = 5.0
SHOWN_ERRORS: Final = 3
TICKS_SHOWN: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """All that is shown at one moment."""

    phase: str
    elapsed_s: float
    duration_s: float | None
    street_time: str
    figures: Figures
    tick_ms: list[float]
    ticks_missed: int
    api_url: str
    example: str
    errors: int
    recent_errors: list[str]


class Display:
    """Shows moments; a context manager, which gives the terminal back at its end."""

    def __init__(self, console: Console | None = None) -> None:
        """Everything goes to standard error: the last line of standard output is the result."""
        self._console = console if console is not None else Console(stderr=True)
        self._live: Live | None = None
        self._said_at = float("-inf")
        self._said_phase = ""

    def __enter__(self) -> Self:
        """Take the terminal, if there is one."""
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last picture standing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, moment: Moment) -> None:
        """Show this moment; without a terminal one line every few seconds."""
        if self._live is not None:
            self._live.update(picture(moment))
            return
        now = time.monotonic()
        if now - self._said_at >= PLAIN_PERIOD_S or moment.phase != self._said_phase:
            self._said_at, self._said_phase = now, moment.phase
            print(line(moment), file=sys.stderr, flush=True)


def say(sentence: str) -> None:
    """Tell of a step, outside of the live picture."""
    print(sentence, file=sys.stderr, flush=True)


def line(moment: Moment) -> str:
    """One line on the state of things."""
    figures = moment.figures
    stages = " ".join(f"{stage.lower()}={figures.trades.get(stage, 0)}" for stage in STAGES)
    tick = percentile(moment.tick_ms, 50)
    return (
        f"[{moment.elapsed_s:5.0f} s, {moment.street_time} on the street] {moment.phase}: orders={figures.orders}"
        f" open={figures.open_orders} {stages} kwh={figures.traded_wh / 1000:.2f}"
        f" tokens={figures.settled_nano / 1e9:.3f} ticks={len(moment.tick_ms)}"
        f" tick_ms={'-' if tick is None else tick} devices={figures.devices_online}/{figures.devices}"
        f" errors={moment.errors}"
    )


def picture(moment: Moment) -> Group:
    """The whole screen; a terminal of 80 columns and 24 lines holds it."""
    figures = moment.figures
    rest = "until Ctrl-C" if moment.duration_s is None else f"of {moment.duration_s:.0f} s"
    command, _, address = moment.example.rpartition(" ")
    # No frame around the head, and its long line broken as a shell wants it: its lines are there to be copied.
    head = Text.assemble(
        "\n",
        (f"The street at {moment.street_time}  ", "bold"),
        f"{moment.phase}, {moment.elapsed_s:.0f} s {rest}\n",
        (f"API   {moment.api_url}/api/v1\n", "cyan"),
        (f"try   {command} \\\n  {address}\n", "cyan"),
    )
    columns = Table.grid(padding=(0, 2), expand=True)
    columns.add_column(ratio=2)
    columns.add_column(ratio=3)
    columns.add_row(_book(figures), Group(_trades(figures), "", _numbers(moment)))
    # Errors come first: what a small terminal has no room for is cut off below.
    parts: list[Panel | Table | Text] = [head]
    if moment.recent_errors:
        parts.append(Panel("\n".join(moment.recent_errors[-SHOWN_ERRORS:]), title="errors", border_style="red"))
    return Group(*parts, columns)


def _book(figures: Figures) -> Table:
    table = Table(
        title=f"Book: {figures.open_orders} open orders", expand=True, box=SIMPLE_HEAD, padding=0, show_edge=False
    )
    for name in ("side", "price", "kWh", "orders"):
        table.add_column(name, justify="left" if name == "side" else "right")
    for level in reversed(figures.asks):
        table.add_row(*_level(level), style="red")
    table.add_section()
    for level in figures.bids:
        table.add_row(*_level(level), style="green")
    return table


def _level(level: BookRow) -> tuple[str, str, str, str]:
    side = "ask" if level.side == "sell" else "bid"
    return side, f"{level.price_micro / 1e6:.3f}", f"{level.energy_wh / 1000:.3f}", str(level.orders)


def _trades(figures: Figures) -> Table:
    table = Table(title="Trades by stage", expand=True, box=SIMPLE_HEAD, padding=0, show_edge=False)
    for stage in STAGES:
        table.add_column(stage, justify="right", style="red" if stage == "Failed" else None)
    table.add_row(*(str(figures.trades.get(stage, 0)) for stage in STAGES))
    if figures.reasons:
        table.caption = "failed: " + ", ".join(f"{count} {reason}" for reason, count in sorted(figures.reasons.items()))
    return table


def _numbers(moment: Moment) -> Table:
    figures = moment.figures
    last = "-" if figures.last_price_micro is None else f"{figures.last_price_micro / 1e6:.3f} tokens/kWh"
    table = Table.grid(padding=(0, 2))
    table.add_row("energy settled", f"{figures.traded_wh / 1000:.3f} kWh")
    table.add_row("energy delivered", f"{figures.delivered_wh / 1000:.3f} kWh")
    table.add_row("tokens settled", f"{figures.settled_nano / 1e9:.6f}")
    table.add_row("last price", last)
    table.add_row("match to confirmed", _middle_and_worst(figures.settle_ms, unit="s"))
    table.add_row(
        f"ticks: {len(moment.tick_ms)}, {moment.ticks_missed} missed",
        _middle_and_worst(moment.tick_ms[-TICKS_SHOWN:], unit="ms"),
    )
    table.add_row("devices online", f"{figures.devices_online} of {figures.devices}")
    table.add_row("orders placed", str(figures.orders))
    table.add_row("errors", str(moment.errors))
    return table


def _middle_and_worst(ms: Sequence[float], *, unit: str) -> str:
    middle, worst = percentile(ms, 50), percentile(ms, 99)
    if middle is None or worst is None:
        return "-"
    if unit == "s":
        return f"p50 {middle / 1000:.1f} s, p99 {worst / 1000:.1f} s"
    return f"p50 {middle:.0f} ms, p99 {worst:.0f} ms"
