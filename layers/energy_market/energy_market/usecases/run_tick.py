"""One tick of the market: close what has expired, match what can trade."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from psycopg import Connection

from energy_market.database import Database
from energy_market.domain.candidates import Bounds, looked_far_enough, merged, reached_by
from energy_market.domain.market import ChainHalt
from energy_market.domain.matching import DEVICE, PARTIAL_ARRIVAL, WHOLE_ARRIVAL, Book, Match, match
from energy_market.postgres import book, devices, orders, trades, zones
from energy_market.usecases.report_failures import report_failures

ATTEMPTS: Final = 5
MAX_EXPIRED: Final = 5_000
"""Maximum locks, orders, and devices' pauses that one tick ends, of each. The next tick takes the rest."""
MAX_NEW: Final = 10_000
"""Maximum new orders that are matched with what they reach: with more, reading all that crosses is quicker."""
MAX_CROSSING: Final = 200_000
"""Maximum orders of a kind that one tick matches: those of the best prices. The others wait until these have left.

It bounds a tick's memory (measured: 0.2 kB for each) and time.
"""
MAX_MATCHES: Final = 50_000
"""Maximum matches of one tick. The next tick makes the others."""
EVERYTHING_EVERY_S: Final = 600
"""Seconds after which the whole book is matched even if little is new. It should find nothing: a match found only here
was missed by an earlier tick."""
MARGIN: Final = 2
"""Resting orders that are read beyond what the new ones can take; four times as many if that was too few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """The outcome of a tick. `ran` is False if another tick of the zone was at work, and nothing was done.

    Matches become trades when the devices' commands are published (`usecases/publish_commands.py`).
    """

    ran: bool
    matches: int = 0
    locks_expired: int = 0
    orders_expired: int = 0
    attempts: int = 0
    overlooked: int = 0  # matches between orders that were not new, when the whole book was matched
    halted: ChainHalt | None = None  # the reason why nothing was matched


@dataclass(frozen=True, slots=True, kw_only=True)
class _Matched:
    matches: int = 0
    overlooked: int = 0


class _BookMoved(Exception):
    """An order that was read has been cancelled or changed before the matches were written."""


def run_tick(database: Database, *, zone: str, device_online_s: int, verified_only: bool = False) -> Tick:
    """Close what has expired, then match a zone's book once.

    - Two ticks of a zone never overlap; the second does nothing. A tick that finds nothing new does not read the book.
    - Matching is one transaction that sees one moment, and a pure function of the open remainders, the devices' free
      energy and the transaction's time.
    - It reads without locks, so that a long book does not block cancelling. The statement that writes checks every row
      again; if one has changed, the book is matched anew.
    - The last attempt holds the book, so that a user who keeps changing orders cannot keep all others from trading.
      Expired orders are therefore closed in an earlier transaction: whoever holds the book must not lock orders.

    `verified_only`: orders of unverified users are left out. While the market is paused, or the sweeps cannot reach the
    chain or find that it cannot pay (`postgres.chain_state`), expired orders are closed, and nothing is matched. All
    new orders then stay new for the next tick.
    """
    with database.transaction() as conn:
        due = book.due(conn, zone, verified_only=verified_only, everything_every_s=EVERYTHING_EVERY_S)
        unanswered: list[UUID] = []
        orders_expired = pauses_ended = 0
        if due.late:
            if not zones.try_lock(conn, zone):
                return Tick(ran=False)
            unanswered = _expire_locks(conn, zone)
            orders_expired = orders.expire(conn, zone, limit=MAX_EXPIRED)
            pauses_ended = devices.end_pauses(conn, zone, limit=MAX_EXPIRED)
    report_failures(unanswered, "lock_timeout")
    matched: _Matched | None = _Matched()
    attempts = 0
    if not (due.paused or due.halted) and (due.new or due.everything or unanswered or pauses_ended):
        matched, attempts = _match_in_turn(
            database, zone, due, device_online_s=device_online_s, verified_only=verified_only
        )
    if matched is None:
        return Tick(ran=False)
    return Tick(
        ran=True,
        matches=matched.matches,
        locks_expired=len(unanswered),
        orders_expired=orders_expired,
        attempts=attempts,
        overlooked=matched.overlooked,
        halted=due.halted,
    )


def _match_in_turn(
    database: Database, zone: str, due: book.Standing, *, device_online_s: int, verified_only: bool
) -> tuple[_Matched | None, int]:
    """(The matches, the number of attempts); None if it is another tick's turn in the zone.

    Raises the error that says that the book moved, after the last attempt.
    """
    attempt = 1
    while True:
        try:
            with database.transaction() as conn:
                book.see_one_moment(conn, hold=attempt == ATTEMPTS)
                turn = zones.take_turn(conn, zone)
                if turn is zones.Turn.OURS:
                    matched = _match_once(conn, zone, due, device_online_s=device_online_s, verified_only=verified_only)
                    return matched, attempt
                return (None if turn is zones.Turn.ANOTHERS else _Matched()), attempt
        except (_BookMoved, *book.MOVED):
            if attempt == ATTEMPTS:
                raise
        attempt += 1


def _match_once(
    conn: Connection, zone: str, due: book.Standing, *, device_online_s: int, verified_only: bool
) -> _Matched:
    new = book.read_new(conn, zone, verified_only=verified_only, limit=MAX_NEW)
    everything = due.everything or new is None
    if new is None or due.everything:
        wanted = book.all_that_crosses(conn, zone, limit=MAX_CROSSING)
        seen, bounds = book.read(conn, zone, wanted, verified_only=verified_only)
        free_wh = _free_wh(conn, seen, device_online_s=device_online_s)
        matches = match(seen, free_wh)
    else:
        seen, free_wh, matches = _match_new(
            conn, zone, new, device_online_s=device_online_s, verified_only=verified_only
        )
        bounds = Bounds()
    is_all = not bounds.any() and len(matches) <= MAX_MATCHES
    del matches[MAX_MATCHES:]
    if matches and not book.take(conn, matches, seen):
        raise _BookMoved
    if is_all:
        book.have_seen(conn, zone, verified_only=verified_only, everything=everything)
    overlooked = _between_old_orders(matches, new) if new is not None and not due.first else 0
    return _Matched(matches=len(matches), overlooked=overlooked)


def _match_new(
    conn: Connection, zone: str, new: Book, *, device_online_s: int, verified_only: bool
) -> tuple[Book, dict[int, int], list[Match]]:
    """Match what is new with the resting orders that it reaches; reads more of them until enough were read."""
    margin = MARGIN
    while True:
        resting, bounds = book.read(conn, zone, reached_by(new, margin=margin), verified_only=verified_only)
        seen = merged(new, resting)
        free_wh = _free_wh(conn, seen, device_online_s=device_online_s)
        matches = match(seen, free_wh)
        if not bounds.any() or looked_far_enough(new, seen, bounds, matches, free_wh):
            return seen, free_wh, matches
        margin *= 4


def _free_wh(conn: Connection, seen: Book, *, device_online_s: int) -> dict[int, int]:
    if seen.is_one_sided():
        return {}
    numbers = {order[DEVICE] for order in (*seen.whole_asks, *seen.partial_asks)}
    return devices.free_to_promise(conn, numbers, device_online_s=device_online_s)


def _between_old_orders(matches: list[Match], new: Book) -> int:
    arrivals = {order[WHOLE_ARRIVAL] for order in (*new.whole_asks, *new.whole_bids)}
    arrivals |= {order[PARTIAL_ARRIVAL] for order in (*new.partial_asks, *new.partial_bids)}
    return sum(ask not in arrivals and bid not in arrivals for ask, bid, _, _ in matches)


def _expire_locks(conn: Connection, zone: str) -> list[UUID]:
    """Fail locks that expired unanswered: both orders return, and the device waits for its next status."""
    late = trades.awaiting_lock_too_long(conn, zone, limit=MAX_EXPIRED)
    if not late:
        return []
    failed = trades.fail(conn, late, reason="lock_timeout", expected="Pending")
    devices.wait_for_status(conn, failed)
    return failed
