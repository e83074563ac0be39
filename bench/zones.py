"""Zones side by side: the same new orders in one book, in four and in sixteen, each ticked by a process of its own.

As on AWS, where each zone's tick is a call of its own: a process with a connection. The server is one for all of them.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import psycopg
from psycopg import Connection

from bench.flow import Placed, order_flow
from bench.measure import Row, Table, alternated, median, ms
from bench.tick import DEVICE_ONLINE_S, place, server
from energy_market.database import Database
from energy_market.usecases.run_tick import run_tick

RESTING: Final = 96_000
NEW: Final = 9_600
ZONES: Final = (1, 4, 16)
WARM: Final = 320
WARM_ROUNDS: Final = 8
"""So often a sandbox has ticked with something new before its statements are prepared, and their plans settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    """One zone's tick in its process: trades, and the processor's seconds that it took, here and in the server."""

    trades: int
    ours_s: float
    servers_s: float | None  # None where no /proc tells


@dataclass(slots=True, kw_only=True)
class Market:
    """The same people and orders, divided into zones, on a database of their own; and what became of each round."""

    url: str
    zones: list[str]
    fresh: Iterator[Placed]  # orders of the rounds to come
    rounds: list[list[Ticked]] = field(default_factory=list)


def measure(*, quick: bool) -> list[Row | Table]:
    """Whole ticks of all zones at once, when so many orders have come to those that rest."""
    resting = RESTING // (8 if quick else 1)
    rounds = 2 if quick else 11
    flow = order_flow(resting + WARM * WARM_ROUNDS + NEW * rounds)
    with server() as new_database, contextlib.ExitStack() as stack:
        forking = get_context("forkserver")
        forking.set_forkserver_preload(["bench.zones"])  # imported once for all processes
        processes = [stack.enter_context(ProcessPoolExecutor(1, mp_context=forking)) for _ in range(max(ZONES))]

        def all_zones_at_once(market: Market, *, new: int = NEW) -> float:
            with psycopg.connect(market.url, autocommit=True) as conn:
                place(conn, list(islice(market.fresh, new)))
            began = time.perf_counter()
            ticks = [one.submit(tick, market.url, zone) for one, zone in zip(processes, market.zones, strict=False)]
            market.rounds.append([ticked.result() for ticked in ticks])
            return time.perf_counter() - began

        markets: dict[str, Market] = {}
        for count in ZONES:
            market = Market(url=new_database(), zones=[], fresh=iter(flow[resting:]))
            with psycopg.connect(market.url, autocommit=True) as conn:
                market.zones = divided(conn, count)
                # Resting orders do not cross: asks a little dearer.
                place(conn, flow[:resting], price_micro=lambda o: o.price_micro + (160_000 if o.is_ask else 0))
            for _ in range(WARM_ROUNDS):
                all_zones_at_once(market, new=WARM)
            market.rounds.clear()
            markets[f"{count} zones"] = market
        taken = alternated(
            {name: partial(all_zones_at_once, market) for name, market in markets.items()}, rounds=rounds
        )
    one, four, sixteen = (median(taken[name]) for name in markets)
    best = min(four, sixteen)
    return [
        Row(
            name=f"{NEW:,} new orders on {resting:,}: one zone's time in that of several at once",
            measured=one / best,
            shown=f"{ms(one)} for one zone, {ms(four)} for 4, {ms(sixteen)} for 16; {os.cpu_count()} processors",
        ),
        Table(
            title="Whole ticks, each zone in a process of its own, one server; medians",
            columns=["zones", "ms", "orders/s", "trades", "trades/s", "ms of Python", "ms of PostgreSQL", "busy"],
            lines=[line(market, seconds) for market, seconds in zip(markets.values(), taken.values(), strict=True)],
        ),
    ]


def line(market: Market, seconds: Sequence[float]) -> list[str | float | int | None]:
    """What the rounds of one division took. `busy`: processors that were at work on it, on average."""
    took_s = median(seconds)
    trades = median([sum(ticked.trades for ticked in ticks) for ticks in market.rounds])
    ours_s = median([sum(ticked.ours_s for ticked in ticks) for ticks in market.rounds])
    servers_s: float | None = None
    if all(ticked.servers_s is not None for ticks in market.rounds for ticked in ticks):
        servers_s = median([sum(ticked.servers_s or 0 for ticked in ticks) for ticks in market.rounds])
    return [
        len(market.zones),
        took_s * 1000,
        NEW / took_s,
        trades,
        trades / took_s,
        ours_s * 1000,
        None if servers_s is None else servers_s * 1000,
        None if servers_s is None else (ours_s + servers_s) / took_s,
    ]


def divided(conn: Connection, count: int) -> list[str]:
    """Put everybody, and his device, into one of so many zones, by turns; their names."""
    zones = [f"zone-{number:02}" for number in range(count)]
    conn.execute("INSERT INTO zones (id) SELECT unnest(%s::text[])", (zones,))
    conn.execute("UPDATE users SET zone = (%s::text[])[1 + no %% %s]", (zones, count))
    conn.execute("UPDATE iot_devices d SET zone = u.zone FROM users u WHERE u.id = d.owner_id")
    conn.execute("VACUUM (ANALYZE) users, iot_devices")
    return zones


# ------------------------------------------------------------------------------------------------ in each process


@cache
def database(url: str) -> Database:
    """The connection of this process, as of a sandbox."""
    return Database(url)


def tick(url: str, zone: str) -> Ticked:
    """One tick of one zone."""
    with database(url).transaction() as conn:
        before_s = backend_s(conn)
    began = time.process_time()
    done = run_tick(database(url), zone=zone, device_online_s=DEVICE_ONLINE_S)
    ours_s = time.process_time() - began
    assert done.ran
    with database(url).transaction() as conn:
        after_s = backend_s(conn)
    servers_s = None if before_s is None or after_s is None else after_s - before_s
    return Ticked(trades=done.matches, ours_s=ours_s, servers_s=servers_s)


def backend_s(conn: Connection) -> float | None:
    """The processor's seconds that the server's process behind this connection has had."""
    stat = Path(f"/proc/{conn.info.backend_pid}/stat")
    if not stat.exists():
        return None
    user, system = stat.read_text().rpartition(") ")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
