"""One tick of the market: close what has run out, match what can trade."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from psycopg import Connection

from energy_market.config import MarketSettings
from energy_market.database import Database
from energy_market.domain.matching import match
from energy_market.postgres import devices, orders, trades, zones
from energy_market.usecases.report_failures import report_failures

ATTEMPTS: Final = 5
MAX_EXPIRED: Final = 5_000
"""At most so many locks, and so many orders, are closed by one tick; the next takes the rest."""
MAX_CROSSING: Final = 50_000
"""At most so many asks, and so many bids, are matched by one tick: those of the best prices. The others wait for these
to leave the book. It bounds a tick's memory (measured: 1 kB for each) and time."""
MAX_TRADES: Final = 10_000
"""At most so many trades are made by one tick: the first that the rule makes. The next tick makes the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What a tick did. `ran` is False when another tick of the zone was at work, and nothing was done."""

    ran: bool
    trade_ids: tuple[UUID, ...] = ()
    locks_expired: int = 0
    orders_expired: int = 0
    attempts: int = 0


class _BookMoved(Exception):
    """An order that was read was cancelled or changed before it was written."""


def run_tick(database: Database, *, zone: str, settings: MarketSettings) -> Tick:
    """Close what has run out, then match a zone's book once.

    Two ticks of a zone never overlap; the second does nothing.
    Matching is one transaction, and a pure function of the open remainders, the devices' free energy and the
    transaction's time. It reads without locking, so that a long book does not hold up those who cancel; the one
    statement that writes checks every row again, and when one has changed meanwhile the book is matched anew. The last
    time it is held, so that whoever keeps changing orders cannot keep all others from trading. For that, what has run
    out is closed in a transaction before it: whoever holds the book must not hold orders.
    """
    with database.transaction() as conn:
        if not zones.try_lock(conn, zone):
            return Tick(ran=False)
        unanswered = _expire_locks(conn, zone)
        orders_expired = orders.expire(conn, zone, limit=MAX_EXPIRED)
    report_failures(unanswered, "lock_timeout")
    trade_ids: tuple[UUID, ...] = ()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with database.transaction() as conn:
                if zones.try_lock(conn, zone):
                    trade_ids = _match_once(conn, zone, settings, hold=attempt == ATTEMPTS)
                break
        except _BookMoved:
            continue
    return Tick(
        ran=True,
        trade_ids=trade_ids,
        locks_expired=len(unanswered),
        orders_expired=orders_expired,
        attempts=attempt,
    )


def _match_once(conn: Connection, zone: str, settings: MarketSettings, *, hold: bool) -> tuple[UUID, ...]:
    if hold:
        orders.hold_book(conn)
    asks, bids = orders.crossing(conn, zone, device_online_s=settings.device_online_s, limit=MAX_CROSSING)
    if not asks or not bids:
        return ()
    free_wh = devices.free_wh(conn, [ask.device_id for ask in asks if ask.device_id is not None])
    matches = match(asks, bids, free_wh)[:MAX_TRADES]
    if not matches:
        return ()
    trade_ids = trades.insert_matches(conn, matches)
    if not trade_ids:
        raise _BookMoved
    return tuple(trade_ids)


def _expire_locks(conn: Connection, zone: str) -> list[UUID]:
    """Locks that ran out unanswered: the ask is rejected, the bid goes back, the device waits for its next status."""
    late = trades.awaiting_lock_too_long(conn, zone, limit=MAX_EXPIRED)
    if not late:
        return []
    failed = trades.fail(conn, [trade for trade, _ in late], reason="lock_timeout", expected="Pending", reject="ask")
    devices.mark_silent(conn, [device for _, device in late])
    return failed
