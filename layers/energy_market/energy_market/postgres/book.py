"""The book as a tick reads and writes it (the tables `open_orders`, `matches` and `ticks`).

Everything happens in one transaction that sees one moment (REPEATABLE READ). If another transaction changes a matched
order meanwhile, the write fails with one of `MOVED`, and the tick is tried again. Triggers write the columns that mark
new rows: `open_orders.touched`, `iot_devices.freed` and `transactions.released` (migrations 0005 and 0010).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, LiteralString

from psycopg import Connection
from psycopg.errors import LockNotAvailable, SerializationFailure

from energy_market.domain.candidates import Bounds, Limit, Place, Wanted
from energy_market.domain.market import ChainHalt
from energy_market.domain.matching import (
    DEVICE,
    PARTIAL_ARRIVAL,
    PARTIAL_SIZE,
    RULE_VERSION,
    WHOLE_ARRIVAL,
    Book,
    Match,
)
from energy_market.postgres.arrays import array
from energy_market.postgres.chain_state import WHY_NOTHING_IS_MATCHED

MOVED: Final = (SerializationFailure, LockNotAvailable)
WAIT_FOR_A_ROW_MS: Final = 200
"""Milliseconds that a tick waits for an order that another transaction is changing, while it holds all its matched
orders. Less than the server's deadlock timeout, so that of two that wait for each other the tick gives way."""
WAIT_FOR_THE_BOOK_MS: Final = 1_000
"""Milliseconds that a tick waits to hold the book; meanwhile all changes of the book wait behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The work of a zone's tick: end what is `late`, match what is `new` in the book, or `everything` in it.

    `first`: it is not known what earlier ticks have seen. While the market is `paused`, or `halted` because trades
    could not be paid, nothing is matched.
    """

    paused: bool
    halted: ChainHalt | None
    late: bool
    new: bool
    everything: bool
    first: bool


# Written by a transaction that is not in {1}, the snapshot of the latest tick.
_NEW: Final[LiteralString] = "{0} >= pg_snapshot_xmin({1}) AND NOT pg_visible_in_snapshot({0}, {1})"


def _any_new(table: LiteralString, column: LiteralString) -> LiteralString:
    """Whether a table of the zone has a row whose `column` is new.

    Takes the first row in the index's order: the server knows nothing of snapshots, would expect to meet a new row
    soon, and would otherwise read the whole table. EXISTS cannot be used, since it ignores the order.
    """
    new = _NEW.format(column, "t.seen")
    return f"(SELECT true FROM {table} WHERE zone = %(zone)s AND {new} ORDER BY {column} DESC LIMIT 1) IS NOT NULL"


_DUE: Final[LiteralString] = (
    """
    SELECT EXISTS (SELECT FROM transactions WHERE status = 'Pending' AND zone = %(zone)s
                   AND expires_at <= clock_timestamp())
        OR (SELECT true FROM iot_devices WHERE paused_until <= now() AND zone = %(zone)s
            ORDER BY paused_until LIMIT 1) IS NOT NULL
        OR (SELECT true FROM open_orders WHERE expires_at <= now() AND zone = %(zone)s
            ORDER BY expires_at LIMIT 1) IS NOT NULL,
    """
    + _any_new("open_orders", "touched")
    + " OR "
    + _any_new("iot_devices", "freed")
    + " OR "
    + _any_new("transactions", "released")
    + """,
           t.seen IS NULL OR t.whole_at <= now() - make_interval(secs => %(every_s)s),
           -- After a restore, the snapshot is of another server and says nothing here. And other orders may be matched
           -- than then, if the rule of admission has changed.
           t.seen IS NULL OR pg_snapshot_xmax(t.seen) > pg_snapshot_xmax(pg_current_snapshot())
           OR t.verified_only <> %(verified_only)s,
           (SELECT paused FROM market_state), """
    + WHY_NOTHING_IS_MATCHED
    + """
    FROM (VALUES (1)) one LEFT JOIN ticks t ON t.zone = %(zone)s"""
)


def due(conn: Connection, zone: str, *, verified_only: bool, everything_every_s: int) -> Standing:
    """Find out what is due.

    Only reads indexes, and rows written since the latest tick, so it takes as long for a million orders as for ten.
    """
    row = conn.execute(_DUE, {"zone": zone, "verified_only": verified_only, "every_s": everything_every_s}).fetchone()
    assert row is not None  # one row is left-joined
    late, new, whole, first, paused, halted = row
    return Standing(
        paused=paused, halted=halted, late=late, new=bool(new), everything=bool(whole or first), first=first
    )


def see_one_moment(conn: Connection, *, hold: bool) -> None:
    """Let the transaction that has just begun see one moment, and wait for no row for long.

    `hold`: wait until nobody changes the book; until this transaction ends, nobody else can change it or lock a row of
    it. Another transaction that waits for the book may have locked an order's row, so the holder must not need any such
    row.

    An operator's request that pauses the market waits for the lock on its state (`market_state.wait_for_ticks`). This
    lock is taken before the moment that is seen: a tick that has it either began before that wait, or sees the pause.
    """
    conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    conn.execute(
        f"SET LOCAL lock_timeout = {WAIT_FOR_THE_BOOK_MS if hold else WAIT_FOR_A_ROW_MS};"
        "LOCK TABLE market_state IN ROW SHARE MODE",
        prepare=False,  # two statements in one string cannot be prepared
    )
    if hold:
        _lock(conn)


def hold(conn: Connection) -> None:
    """Until the transaction ends, let nobody else change the book or lock a row of it. The wait for it is short.

    Raises LockNotAvailable.
    """
    conn.execute(f"SET LOCAL lock_timeout = {WAIT_FOR_THE_BOOK_MS}")
    _lock(conn)


def _lock(conn: Connection) -> None:
    conn.execute("LOCK TABLE open_orders IN EXCLUSIVE MODE")


def have_seen(conn: Connection, zone: str, *, verified_only: bool, everything: bool) -> None:
    """Record that this transaction's snapshot was matched, so the next tick need not look at it."""
    conn.execute(
        """
        INSERT INTO ticks (zone, seen, whole_at, verified_only)
        VALUES (%(zone)s, pg_current_snapshot(), now(), %(verified_only)s)
        ON CONFLICT (zone) DO UPDATE
        SET seen = EXCLUDED.seen, verified_only = EXCLUDED.verified_only,
            whole_at = CASE WHEN %(everything)s THEN now() ELSE ticks.whole_at END
        """,
        {"zone": zone, "verified_only": verified_only, "everything": everything},
    )


def _by_whom(statement: LiteralString) -> dict[bool, LiteralString]:
    """A statement about orders of a zone; under True, restricted to those of verified users."""
    of_zone: LiteralString = "o.zone = %(zone)s"
    return {False: statement, True: statement.replace(of_zone, of_zone + " AND o.verified")}


# --------------------------------------------------------------------------------------------------- what is new


# Two bounds: the server plans this statement once for all values. With one bound it would expect a third of all rows
# and read the whole book. Every row that this transaction sees was written before its own snapshot ends.
_SINCE: Final[LiteralString] = (
    _NEW.format("{0}", "%(seen)s::pg_snapshot") + " AND {0} < pg_snapshot_xmax(pg_current_snapshot())"
)
_NEW_ORDER: Final[LiteralString] = (
    "SELECT o.type, o.all_or_none, o.remaining_wh, o.price_micro, o.arrival, o.user_no, o.device_no FROM "
)
# Applied before the limit: rows that are filtered out after it would leave a book that only seems complete.
_TRADABLE: Final[LiteralString] = (
    "o.zone = %(zone)s AND (o.expires_at IS NULL OR o.expires_at > now())"
    " AND (o.type = 'buy' OR o.device_no IS NOT NULL)"
)
_READ_NEW: Final = _by_whom(
    f"({_NEW_ORDER} open_orders o WHERE {_TRADABLE} AND "
    + _SINCE.format("o.touched")
    + f" LIMIT %(limit)s + 1) UNION ({_NEW_ORDER} (SELECT d.id FROM iot_devices d WHERE d.zone = %(zone)s AND "
    + _SINCE.format("d.freed")
    + " UNION SELECT r.device_id FROM transactions r WHERE r.zone = %(zone)s AND "
    + _SINCE.format("r.released")
    + f""") freed JOIN iot_devices d ON d.id = freed.id
          JOIN open_orders o ON o.user_id = d.owner_id AND o.device_id = d.id
          WHERE {_TRADABLE} LIMIT %(limit)s + 1)"""
)


def read_new(conn: Connection, zone: str, *, verified_only: bool, limit: int) -> Book | None:
    """The orders that are new since the latest tick; None if there are more than `limit`, or there was no tick.

    Asks are included only if they have a device, whatever it can deliver.
    """
    seen = conn.execute("SELECT seen::text FROM ticks WHERE zone = %s", (zone,)).fetchone()
    if seen is None:
        return None
    rows = conn.execute(
        _READ_NEW[verified_only], {"zone": zone, "limit": limit, "seen": seen[0]}, binary=True
    ).fetchall()
    if len(rows) > limit:
        return None
    new = Book()
    for order_type, is_whole, size, price, arrival, user, device in rows:
        match order_type, is_whole:
            case "sell", True:
                new.whole_asks.append((size, price, arrival, user, device))
            case "sell", False:
                new.partial_asks.append((price, arrival, size, user, device))
            case "buy", True:
                new.whole_bids.append((size, -price, arrival, user))
            case _:
                new.partial_bids.append((-price, arrival, size, user))
    for orders in (new.whole_asks, new.whole_bids, new.partial_asks, new.partial_bids):
        orders.sort()
    return new


def all_that_crosses(conn: Connection, zone: str, *, limit: int) -> Wanted:
    """The orders to read for matching the whole book: each size and kind as far as its prices cross.

    At most `limit` orders of each kind, shared among its sizes. Only the best price of each size is looked at for this.
    """
    best_asks: dict[int, int] = dict(conn.execute(_BEST_OF_SIZES["sell"], {"zone": zone}).fetchall())
    best_bids: dict[int, int] = dict(conn.execute(_BEST_OF_SIZES["buy"], {"zone": zone}).fetchall())
    row = conn.execute(
        """
        SELECT (SELECT min(price_micro) FROM open_orders WHERE zone = %(zone)s AND type = 'sell' AND NOT all_or_none),
               (SELECT max(price_micro) FROM open_orders WHERE zone = %(zone)s AND type = 'buy' AND NOT all_or_none)
        """,
        {"zone": zone},
    ).fetchone()
    assert row is not None  # a SELECT without FROM returns one row
    cheapest_partial, dearest_partial = row
    least = _NO_PRICE if dearest_partial is None else dearest_partial
    most = _ANY_PRICE if cheapest_partial is None else cheapest_partial
    asks = {size: max(least, best_bids.get(size, _NO_PRICE)) for size in best_asks}
    bids = {size: min(most, best_asks.get(size, _ANY_PRICE)) for size in best_bids}
    asks = {size: price for size, price in asks.items() if best_asks[size] <= price}
    bids = {size: price for size, price in bids.items() if best_bids[size] >= price}
    wanted = Wanted(
        asks_of_size={size: (price, max(1, limit // len(asks))) for size, price in asks.items()},
        bids_of_size={size: (price, max(1, limit // len(bids))) for size, price in bids.items()},
    )
    if cheapest_partial is not None and (best_bids or dearest_partial is not None):
        wanted.partial_asks = (max(least, *best_bids.values(), _NO_PRICE), limit)
    if dearest_partial is not None and (best_asks or cheapest_partial is not None):
        wanted.partial_bids = (min(most, *best_asks.values(), _ANY_PRICE), limit)
    return wanted


_NO_PRICE: Final = 0
_ANY_PRICE: Final = 2**62


def _best_of_sizes(order_type: LiteralString, price: LiteralString) -> LiteralString:
    """(Size, best price) of the all-or-none orders: a skip scan, with one index look-up per size."""
    of_side = f"FROM open_orders WHERE zone = %(zone)s AND type = '{order_type}' AND all_or_none"
    in_order = f"ORDER BY remaining_wh, {price} LIMIT 1"
    return f"""
        WITH RECURSIVE best AS (
            (SELECT remaining_wh, price_micro {of_side} {in_order})
            UNION ALL
            SELECT next.* FROM best CROSS JOIN LATERAL (
                SELECT remaining_wh, price_micro {of_side} AND remaining_wh > best.remaining_wh {in_order}) next
        )
        SELECT * FROM best"""


_BEST_OF_SIZES: Final[dict[str, LiteralString]] = {
    "sell": _best_of_sizes("sell", "price_micro"),
    "buy": _best_of_sizes("buy", "price_micro DESC"),
}


# ------------------------------------------------------------------------------------------------------- reading

_OPEN: Final[LiteralString] = "o.zone = %(zone)s AND (o.expires_at IS NULL OR o.expires_at > now())"
_ASK: Final[LiteralString] = _OPEN + " AND o.type = 'sell' AND o.device_no IS NOT NULL"
_BID: Final[LiteralString] = _OPEN + " AND o.type = 'buy'"
_OF_SIZES: Final[LiteralString] = (
    "FROM unnest(%(sizes)s::bigint[], %(prices)s::bigint[], %(counts)s::bigint[]) w(size, price, count)"
    " CROSS JOIN LATERAL (SELECT * FROM open_orders o WHERE o.all_or_none AND o.remaining_wh = w.size AND "
)
_WHOLE_ASKS: Final[LiteralString] = "SELECT o.remaining_wh, o.price_micro, o.arrival, o.user_no, o.device_no "
_WHOLE_BIDS: Final[LiteralString] = "SELECT o.remaining_wh, -o.price_micro, o.arrival, o.user_no "
_PARTIAL_ASKS: Final[LiteralString] = "SELECT o.price_micro, o.arrival, o.remaining_wh, o.user_no, o.device_no "
_PARTIAL_BIDS: Final[LiteralString] = "SELECT -o.price_micro, o.arrival, o.remaining_wh, o.user_no "
_CHEAPEST: Final[LiteralString] = "ORDER BY o.price_micro, o.arrival LIMIT "
_DEAREST: Final[LiteralString] = "ORDER BY o.price_micro DESC, o.arrival LIMIT "

_ASKS_OF_SIZES: Final = _by_whom(
    _WHOLE_ASKS + _OF_SIZES + _ASK + " AND o.price_micro <= w.price " + _CHEAPEST + "w.count) o"
)
_BIDS_OF_SIZES: Final = _by_whom(
    _WHOLE_BIDS + _OF_SIZES + _BID + " AND o.price_micro >= w.price " + _DEAREST + "w.count) o"
)
_ALL_ASKS: Final = _by_whom("FROM open_orders o WHERE " + _ASK + " AND o.price_micro <= %(price)s ")
_ALL_BIDS: Final = _by_whom("FROM open_orders o WHERE " + _BID + " AND o.price_micro >= %(price)s ")


def read(conn: Connection, zone: str, wanted: Wanted, *, verified_only: bool) -> tuple[Book, Bounds]:
    """The orders that are wanted, in order, and the bounds of lists with more orders. Only asks that have a device."""
    book, bounds = Book(), Bounds()
    if wanted.asks_of_size:
        statement = _ASKS_OF_SIZES[verified_only]
        book.whole_asks, bounds.asks_of_size = _of_sizes(conn, zone, statement, wanted.asks_of_size)
    if wanted.bids_of_size:
        statement = _BIDS_OF_SIZES[verified_only]
        book.whole_bids, bounds.bids_of_size = _of_sizes(conn, zone, statement, wanted.bids_of_size)
    if wanted.partial_asks:
        statement = _PARTIAL_ASKS + _ALL_ASKS[verified_only] + "AND NOT o.all_or_none " + _CHEAPEST + "%(count)s"
        book.partial_asks, bounds.partial_asks = _best(conn, zone, statement, wanted.partial_asks, place=0)
    if wanted.partial_bids:
        statement = _PARTIAL_BIDS + _ALL_BIDS[verified_only] + "AND NOT o.all_or_none " + _DEAREST + "%(count)s"
        book.partial_bids, bounds.partial_bids = _best(conn, zone, statement, wanted.partial_bids, place=0)
    if wanted.whole_asks:
        statement = _WHOLE_ASKS + _ALL_ASKS[verified_only] + "AND o.all_or_none " + _CHEAPEST + "%(count)s"
        asks, bounds.whole_asks = _best(conn, zone, statement, wanted.whole_asks, place=1)
        book.whole_asks = sorted({*book.whole_asks, *asks})
    if wanted.whole_bids:
        statement = _WHOLE_BIDS + _ALL_BIDS[verified_only] + "AND o.all_or_none " + _DEAREST + "%(count)s"
        bids, bounds.whole_bids = _best(conn, zone, statement, wanted.whole_bids, place=1)
        book.whole_bids = sorted({*book.whole_bids, *bids})
    return book, bounds


def _of_sizes(
    conn: Connection, zone: str, statement: LiteralString, wanted: Mapping[int, Limit]
) -> tuple[list[Any], dict[int, Place]]:
    sizes = sorted(wanted)
    rows = conn.execute(
        statement,
        {
            "zone": zone,
            "sizes": array(sizes),
            "prices": array(wanted[size][0] for size in sizes),
            "counts": array(wanted[size][1] for size in sizes),
        },
        binary=True,  # a third quicker to read
    ).fetchall()
    rows.sort()  # they are in order already, but SQL does not guarantee it
    read, last = Counter(map(itemgetter(0), rows)), {row[0]: row for row in rows}
    bounds = {size: (last[size][1], last[size][2]) for size, count in read.items() if count >= wanted[size][1]}
    return rows, bounds


def _best(
    conn: Connection, zone: str, statement: LiteralString, wanted: Limit, *, place: int
) -> tuple[list[Any], Place | None]:
    """`place`: position of the price in a row; the arrival follows it."""
    price, count = wanted
    rows = conn.execute(statement, {"zone": zone, "price": price, "count": count}, binary=True).fetchall()
    return rows, (rows[-1][place], rows[-1][place + 1]) if len(rows) >= count else None


# ------------------------------------------------------------------------------------------------------- writing


def take(conn: Connection, matches: Sequence[Match], seen: Book) -> bool:
    """Take the matched energy out of the book and store the matches, in one statement; False if the book has moved.

    It has moved if an order was cancelled or changed since it was read; the caller must then roll back. Raises one of
    `MOVED` if that happens at this moment.
    """
    devices = {order[WHOLE_ARRIVAL]: order[DEVICE] for order in seen.whole_asks} | {
        order[PARTIAL_ARRIVAL]: order[DEVICE] for order in seen.partial_asks
    }
    asks, bids, energy, prices = zip(*matches, strict=True)
    left_wh = {
        order[PARTIAL_ARRIVAL]: order[PARTIAL_SIZE]
        for orders in (seen.partial_asks, seen.partial_bids)
        for order in orders
    }
    for ask, bid, energy_wh, _ in matches if left_wh else ():
        for arrival in (ask, bid):
            if arrival in left_wh:
                left_wh[arrival] -= energy_wh
    taken = sorted({*asks, *bids})
    filled = [arrival for arrival in taken if not left_wh.get(arrival)]
    shrunk = [arrival for arrival in taken if left_wh.get(arrival)]
    written = conn.execute(
        """
        WITH filled AS (
            DELETE FROM open_orders WHERE arrival = ANY (%(filled)s::bigint[])
            RETURNING arrival
        ), shrunk AS (
            UPDATE open_orders o SET remaining_wh = left_wh
            FROM unnest(%(shrunk)s::bigint[], %(left)s::bigint[]) shrunk (arrival, left_wh)
            WHERE o.arrival = ANY (%(shrunk)s::bigint[]) AND o.arrival = shrunk.arrival AND NOT o.all_or_none
            RETURNING o.arrival
        )
        INSERT INTO matches (ask, bid, device_no, energy_wh, price_micro, rule_version)
        SELECT made.*, %(rule)s
        FROM unnest(%(asks)s::bigint[], %(bids)s::bigint[], %(devices)s::bigint[], %(energy)s::bigint[],
                    %(prices)s::bigint[]) made
        WHERE (SELECT count(*) FROM filled) + (SELECT count(*) FROM shrunk) = %(orders)s
        """,
        {
            "filled": array(filled),
            "shrunk": array(shrunk),
            "left": array(left_wh[arrival] for arrival in shrunk),
            "asks": array(asks),
            "bids": array(bids),
            "devices": array(devices[ask] for ask in asks),
            "energy": array(energy),
            "prices": array(prices),
            "rule": RULE_VERSION,
            "orders": len(taken),
        },
    ).rowcount
    return written == len(matches)
