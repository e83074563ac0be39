"""The market as all users see it. Only confirmed trades count for prices and volumes.

An order shows the part of it that could trade at the loop's last step (`open_orders.shown_wh`). The book by price is
`price_levels` plus the changes since those were added up (`level_changes`). Together they equal the sum of all shown
parts at any moment, and are as quick to read for a million orders as for ten.
"""

from datetime import datetime, timedelta
from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.market import Candle, Level, PriceSummary
from energy_market.domain.orders import OrderType
from energy_market.domain.users import unknown_user
from energy_market.postgres import book, devices, users
from energy_market.postgres.chain_state import WHY_NOTHING_IS_MATCHED

MAX_CHANGED_DEVICES: Final = 20_000
"""Maximum changes of devices that one call applies; the next call takes the rest."""
MAX_FOLDED: Final = 50_000
"""Maximum changes of the book that one call adds to its levels; the next call takes the rest."""

SETTLED_AFTER_S: Final = 30
"""Seconds after the end of an interval until its candle is complete. A confirmation gets its time before its commit,
earlier by less than a statement may take (`STATEMENT_TIMEOUT_MS`)."""

# Differences between the levels and the book now: recent changes, and expired orders that are still in the book.
_RECENT: Final[LiteralString] = """
    here AS (SELECT zone FROM users WHERE id = %(viewer)s),
    recent AS (
        SELECT type, price_micro, energy_wh, orders FROM level_changes WHERE zone = (SELECT zone FROM here)
        UNION ALL
        SELECT type, price_micro, -shown_wh, -1 FROM open_orders
        WHERE zone = (SELECT zone FROM here) AND shown_wh > 0 AND expires_at <= now()
    )"""


def _best_levels(order_type: OrderType, levels: LiteralString) -> LiteralString:
    """The best levels of a side. Reads a few more than `levels`, since some may be empty after the recent changes."""
    of_side: LiteralString = "type = 'buy'" if order_type == "buy" else "type = 'sell'"
    direction: LiteralString = "DESC" if order_type == "buy" else "ASC"
    return f"""
        (SELECT type, price_micro, sum(energy_wh)::bigint AS energy_wh, sum(orders)::bigint AS orders
         FROM ((SELECT type, price_micro, energy_wh, orders FROM price_levels
                WHERE zone = (SELECT zone FROM here) AND {of_side} AND price_micro > 0
                ORDER BY price_micro {direction} LIMIT {levels} + (SELECT count(*) FROM recent WHERE {of_side}))
               UNION ALL
               SELECT * FROM recent WHERE {of_side}) levels
         GROUP BY type, price_micro HAVING sum(orders) > 0
         ORDER BY price_micro {direction} LIMIT {levels})"""


_BEST_BID: Final[LiteralString] = _best_levels("buy", "1")
_BEST_ASK: Final[LiteralString] = _best_levels("sell", "1")
_DEPTH: Final[LiteralString] = (
    "WITH " + _RECENT + _best_levels("buy", "%(levels)s") + " UNION ALL " + _best_levels("sell", "%(levels)s")
)


def depth(conn: Connection, viewer: UUID, *, levels: int) -> tuple[list[Level], list[Level]]:
    """The best price levels of a user's zone, bids and asks. Raises Unauthorized if there is no such user."""
    rows = conn.execute(_DEPTH, {"viewer": viewer, "levels": levels}).fetchall()
    if not rows:
        users.zone_of(conn, viewer)  # the book is empty, or there is no such user
    sides: dict[OrderType, list[Level]] = {"buy": [], "sell": []}
    for order_type, price_micro, energy_wh, orders in rows:
        sides[order_type].append(Level(price_micro=price_micro, energy_wh=energy_wh, orders=orders))
    return sides["buy"], sides["sell"]


def price_summary(conn: Connection, viewer: UUID) -> PriceSummary:
    """The market of a user's zone. Raises Unauthorized if there is no such user."""
    with conn.cursor(row_factory=class_row(PriceSummary)) as cursor:
        summary = cursor.execute(
            "WITH "
            + _RECENT
            + """
            SELECT last.price_micro AS last_micro, last.confirmed_at AS last_at,
                   (SELECT price_micro FROM """
            + _BEST_BID
            + """ bids) AS best_bid_micro,
                   (SELECT price_micro FROM """
            + _BEST_ASK
            + """ asks) AS best_ask_micro,
                   (SELECT coalesce(sum(energy_wh), 0)::bigint FROM transactions
                    WHERE zone = here.zone AND status = 'Confirmed' AND confirmed_at > now() - interval '24 hours')
                       AS volume_24h_wh,
                   open.supply_wh, open.demand_wh, (SELECT paused FROM market_state) AS paused,
                   """
            + WHY_NOTHING_IS_MATCHED
            + """ AS halted
            FROM here
            CROSS JOIN (SELECT coalesce(sum(energy_wh) FILTER (WHERE type = 'sell'), 0)::bigint AS supply_wh,
                               coalesce(sum(energy_wh) FILTER (WHERE type = 'buy'), 0)::bigint AS demand_wh
                        FROM (SELECT type, energy_wh FROM price_levels
                              WHERE zone = (SELECT zone FROM here) AND type IN ('buy', 'sell') AND price_micro = 0
                              UNION ALL
                              SELECT type, energy_wh FROM recent) sides) open
            LEFT JOIN LATERAL (SELECT price_micro, confirmed_at FROM transactions
                               WHERE zone = here.zone AND status = 'Confirmed'
                               ORDER BY confirmed_at DESC, seq DESC LIMIT 1) last ON true
            """,
            {"viewer": viewer},
        ).fetchone()
    if summary is None:
        raise unknown_user()
    return summary


def show_what_can_trade(
    conn: Connection, *, device_online_s: int, verified_only: bool, limit: int = MAX_CHANGED_DEVICES
) -> None:
    """Let each order show the part of it that can trade now, in one transaction. If two run at once, one does nothing.

    A bid shows all of it. An ask shows at most its device's free energy, and nothing if it is all-or-none and the
    device has less. Orders show nothing while their owner is not admitted (`verified_only`).

    Only devices that were written to since the last call, or fell silent, are looked at, and only orders whose part
    changes are written. No row is waited for: whoever has locked one is about to change it, so the device is looked at
    again by the next call.

    Raises LockNotAvailable if the rule of admission has changed and the book cannot be held.
    """
    if not _is_alone(conn):
        return
    ((was_verified_only,),) = conn.execute("SELECT verified_only FROM market_state").fetchall()
    if was_verified_only != verified_only:
        book.hold(conn)  # an order placed at this moment is judged by either the old or the new rule
        conn.execute("UPDATE market_state SET verified_only = %s", (verified_only,))
        conn.execute(_SHOW_BY_ADMISSION)
    changed = conn.execute(_TAKE_CHANGED_DEVICES, {"limit": limit, "online_s": device_online_s}).fetchall()
    free_wh = devices.free_to_promise(conn, (no for _, no, _, _ in changed), device_online_s=device_online_s)
    supplies = {device: max(0, free_wh.get(no, 0)) for device, no, _, _ in changed}
    before = {device: wh for device, _, _, wh in changed}
    moved = [device for device, wh in supplies.items() if wh != before[device]]
    if moved:
        conn.execute(
            """
            WITH spent AS (DELETE FROM device_supplies WHERE device_id = ANY (%(spent)s))
            INSERT INTO device_supplies (device_id, energy_wh)
            SELECT * FROM unnest(%(devices)s::uuid[], %(supplies)s::bigint[])
            ON CONFLICT (device_id) DO UPDATE SET energy_wh = EXCLUDED.energy_wh
            """,
            {
                "spent": [device for device in moved if not supplies[device]],
                "devices": [device for device in moved if supplies[device]],
                "supplies": [supplies[device] for device in moved if supplies[device]],
            },
        )
    if to_show := {*moved, *(device for device, _, has_new, _ in changed if has_new)}:
        conn.execute(_SHOW_BY_SUPPLY, {"devices": list(to_show)})


def _is_alone(conn: Connection) -> bool:
    ((is_alone,),) = conn.execute("SELECT pg_try_advisory_xact_lock(hashtext('price_levels'), 0)").fetchall()
    return bool(is_alone)


_SHOWN: Final[LiteralString] = (
    "wh_to_show(o.type, o.all_or_none, o.remaining_wh, o.verified OR NOT (SELECT verified_only FROM market_state),"
    " (SELECT energy_wh FROM device_supplies s WHERE s.device_id = o.device_id))"
)
_SHOW_BY_ADMISSION: Final[LiteralString] = (
    "UPDATE open_orders o SET shown_wh = " + _SHOWN + " WHERE NOT o.verified AND o.shown_wh <> " + _SHOWN
)
_TAKE_CHANGED_DEVICES: Final[LiteralString] = (
    """
    WITH taken AS (
        DELETE FROM device_changes WHERE ctid = ANY (ARRAY(SELECT ctid FROM device_changes LIMIT %(limit)s))
        RETURNING device_id, has_new
    )
    SELECT d.id, d.no, bool_or(seen.has_new), coalesce(s.energy_wh, 0)
    FROM (SELECT device_id, has_new FROM taken
          UNION ALL
          SELECT id, false FROM iot_devices WHERE no IN (SELECT device_no FROM matches)
          UNION ALL
          SELECT d.id, false FROM device_supplies s JOIN iot_devices d ON d.id = s.device_id WHERE NOT ("""
    + devices.MAY_BE_MATCHED
    + """)) seen
    JOIN iot_devices d ON d.id = seen.device_id LEFT JOIN device_supplies s ON s.device_id = d.id
    GROUP BY d.id, d.no, s.energy_wh"""
)
_SHOW_BY_SUPPLY: Final[LiteralString] = (
    """
    WITH other AS (
        SELECT o.order_id, o.device_id
        FROM iot_devices d JOIN open_orders o ON o.user_id = d.owner_id AND o.device_id = d.id
        WHERE d.id = ANY (%(devices)s) AND o.shown_wh <> """
    + _SHOWN
    + """), held AS (
        SELECT order_id FROM open_orders WHERE order_id IN (SELECT order_id FROM other)
        FOR NO KEY UPDATE SKIP LOCKED
    ), shown AS (
        UPDATE open_orders o SET shown_wh = """
    + _SHOWN
    + """ WHERE o.order_id IN (SELECT order_id FROM held) RETURNING o.order_id
    )
    INSERT INTO device_changes (device_id, has_new)
    SELECT DISTINCT device_id, true FROM other WHERE order_id NOT IN (SELECT order_id FROM shown)"""
)


def fold_changes(conn: Connection, *, limit: int = MAX_FOLDED) -> int:
    """Add the changes of the book to its levels. Returns how many changed. One of two calls at once does nothing."""
    if not _is_alone(conn):
        return 0
    return conn.execute(
        """
        WITH changes AS (
            DELETE FROM level_changes WHERE ctid = ANY (ARRAY(SELECT ctid FROM level_changes LIMIT %s)) RETURNING *
        ), changed AS (
            SELECT zone, type, coalesce(price_micro, 0) AS price_micro, sum(energy_wh) AS energy_wh,
                   sum(orders) AS orders
            FROM changes GROUP BY GROUPING SETS ((zone, type, price_micro), (zone, type))
        )
        MERGE INTO price_levels l USING changed c
        ON l.zone = c.zone AND l.type = c.type AND l.price_micro = c.price_micro
        WHEN MATCHED AND l.orders + c.orders = 0 AND l.energy_wh + c.energy_wh = 0 THEN DELETE
        WHEN MATCHED THEN UPDATE SET energy_wh = l.energy_wh + c.energy_wh, orders = l.orders + c.orders
        WHEN NOT MATCHED AND (c.orders <> 0 OR c.energy_wh <> 0) THEN
            INSERT VALUES (c.zone, c.type, c.price_micro, c.energy_wh, c.orders)
        """,
        (limit,),
    ).rowcount


def candles(conn: Connection, zone: str, *, interval: timedelta, since: datetime, until: datetime) -> list[Candle]:
    """A zone's confirmed trades from `since` to before `until`, one candle for each interval with trades, oldest first.

    Intervals are counted from 1970 (UTC). `since` and `until` must be boundaries of intervals; otherwise the first and
    the last candle lack trades.
    """
    with conn.cursor(row_factory=class_row(Candle)) as cursor:
        return cursor.execute(
            """
            SELECT date_bin(%(interval)s, confirmed_at, 'epoch') AS start,
                   (array_agg(price_micro ORDER BY confirmed_at, seq))[1] AS open_micro,
                   max(price_micro) AS high_micro, min(price_micro) AS low_micro,
                   (array_agg(price_micro ORDER BY confirmed_at DESC, seq DESC))[1] AS close_micro,
                   sum(energy_wh)::bigint AS volume_wh, count(*) AS trades,
                   date_bin(%(interval)s, confirmed_at, 'epoch') + %(interval)s
                       <= now() - make_interval(secs => %(settled_s)s) AS complete
            FROM transactions
            WHERE zone = %(zone)s AND status = 'Confirmed' AND confirmed_at >= %(since)s AND confirmed_at < %(until)s
            GROUP BY 1, complete ORDER BY 1
            """,
            {"zone": zone, "interval": interval, "since": since, "until": until, "settled_s": SETTLED_AFTER_S},
        ).fetchall()
