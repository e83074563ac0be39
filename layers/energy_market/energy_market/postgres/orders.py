"""Orders (the tables `energy_orders` and `open_orders`, the view `order_states`)."""

from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.orders import Order, OrderStatus, OrderTerms, OrderType
from energy_market.postgres import users
from energy_market.postgres.chain_state import WHY_NOTHING_IS_MATCHED
from energy_market.postgres.devices import IS_DONOR, PROMISED, STATUS_REFUSED

LOOKED_AT: Final = 200
"""Maximum crossing orders of a kind that are read to explain why an order is not matched with them."""

# Why the matcher skips an open order; shown to its owner only. `f.free_wh` is the device's energy that is not promised
# (see devices.py), `b` the order's row in the book.
_UNMATCHABLE: Final[LiteralString] = f"""
    CASE WHEN s.status <> 'Created' OR s.user_id <> coalesce(%(viewer)s, s.user_id) THEN NULL
         WHEN {WHY_NOTHING_IS_MATCHED} IS NOT NULL THEN {WHY_NOTHING_IS_MATCHED}
         WHEN %(verified_only)s AND NOT {{verified}} THEN 'kyc_required'
         WHEN s.type = 'buy' THEN {{otherwise}}
         WHEN s.device_id IS NULL THEN 'no_device'
         WHEN d.status = 'Removed' THEN 'device_removed'
         WHEN d.available_wh IS NULL
             THEN CASE WHEN {STATUS_REFUSED} THEN 'status_refused'
                       WHEN d.status_heard_at IS NOT NULL THEN 'no_available_kwh'
                       ELSE 'no_status_yet' END
         WHEN d.status <> 'Online' OR d.last_ping <= now() - make_interval(secs => %(online_s)s)
             THEN CASE WHEN {STATUS_REFUSED} THEN 'status_refused' ELSE 'device_offline' END
         WHEN d.paused_until IS NOT NULL THEN 'device_paused'
         WHEN d.silent_since IS NOT NULL
             THEN CASE d.waits_because WHEN 'lock_rejected' THEN 'device_refused'
                                       WHEN 'reservation_lost' THEN 'device_lost_reservation'
                                       ELSE 'device_silent' END
         WHEN f.free_wh <= 0 OR (s.all_or_none AND f.free_wh < s.remaining_wh) THEN 'no_free_energy'
         ELSE {{otherwise}}
    END AS unmatchable"""


def _best_crossing(kind: LiteralString, side: OrderType) -> LiteralString:
    """The best orders of the other `side` whose price `s` reaches: all of them (`true`), or those of a kind."""
    reached: LiteralString = (
        "o.type = 'buy' AND o.price_micro >= s.price_micro"
        if side == "buy"
        else "o.type = 'sell' AND o.price_micro <= s.price_micro"
    )
    best_first: LiteralString = "o.price_micro DESC" if side == "buy" else "o.price_micro"
    return f"""(
        SELECT o.user_id, o.all_or_none, o.shown_wh, o.shown_wh > 0 AND (o.expires_at IS NULL OR o.expires_at > now())
               AS is_shown
        FROM open_orders o WHERE o.zone = s.zone AND {reached} AND {kind}
        ORDER BY {best_first}, o.arrival LIMIT {LOOKED_AT}) o"""


def _with_whom(side: OrderType) -> LiteralString:
    """Why an order crosses others and is not matched with them; NULL also if there are too many to tell.

    If not all crossing orders are read, those of the order's own size and those that trade in parts may still be.
    """
    whole: LiteralString = "o.all_or_none AND o.remaining_wh = b.shown_wh"
    parts: LiteralString = "NOT o.all_or_none"
    fits: LiteralString = "o.shown_wh >= b.shown_wh"
    return f"""
        (SELECT CASE
            WHEN NOT near.others AND near.own AND near.seen < {LOOKED_AT} THEN 'own_orders_cross'
            WHEN near.others AND NOT near.fit AND near.seen < {LOOKED_AT} THEN 'no_counterparty_of_this_size'
            WHEN near.others AND NOT near.fit AND s.all_or_none AND NOT EXISTS (
                SELECT FROM (SELECT count(*) AS seen,
                                    coalesce(bool_or(o.is_shown AND o.user_id <> s.user_id), false) AS fit
                             FROM {_best_crossing(whole, side)}
                             UNION ALL
                             SELECT count(*), coalesce(bool_or(o.is_shown AND o.user_id <> s.user_id AND {fits}), false)
                             FROM {_best_crossing(parts, side)}) kinds
                WHERE fit OR seen >= {LOOKED_AT}) THEN 'no_counterparty_of_this_size'
         END
         FROM (SELECT count(*) AS seen,
                      coalesce(bool_or(o.is_shown AND o.user_id = s.user_id), false) AS own,
                      coalesce(bool_or(o.is_shown AND o.user_id <> s.user_id), false) AS others,
                      coalesce(bool_or(o.is_shown AND o.user_id <> s.user_id AND CASE
                          WHEN s.all_or_none AND o.all_or_none THEN o.shown_wh = b.shown_wh
                          WHEN s.all_or_none THEN o.shown_wh >= b.shown_wh
                          WHEN o.all_or_none THEN o.shown_wh <= b.shown_wh
                          ELSE true END), false) AS fit
               FROM {_best_crossing("true", side)}) near
         WHERE b.shown_wh > 0)"""


# `b` is the order's row in the book.
_IN_THE_BOOK: Final[LiteralString] = _UNMATCHABLE.format(
    verified="b.verified",
    otherwise="CASE WHEN (SELECT paused FROM market_state) THEN 'market_paused' WHEN s.type = 'sell' THEN"
    + _with_whom("buy")
    + " ELSE "
    + _with_whom("sell")
    + " END",
)

_COLUMNS: Final[LiteralString] = """
    s.id, s.user_id, s.device_id, s.zone, s.type, s.energy_wh, s.price_micro, s.all_or_none, s.expires_at, s.created_at,
    s.closed_at, s.arrival, s.status, s.reason, s.filled_wh, s.pending_wh, s.remaining_wh, """

_DEVICE: Final[LiteralString] = f"""
    LEFT JOIN iot_devices d ON d.id = s.device_id
    LEFT JOIN LATERAL (SELECT d.available_wh - ({PROMISED}) AS free_wh) f ON s.type = 'sell'"""

_ORDERS: Final[LiteralString] = (
    "SELECT "
    + _COLUMNS
    + "CASE WHEN b.expires_at <= now() THEN 0 ELSE coalesce(b.shown_wh, 0) END AS shown_wh, "
    + _IN_THE_BOOK
    # With LIMIT, because the server would otherwise expect many orders, and read the whole book to find theirs.
    + """ FROM order_states s LEFT JOIN LATERAL (
          SELECT shown_wh, verified, expires_at FROM open_orders WHERE order_id = s.id LIMIT 1) b ON true"""
    + _DEVICE
)

# A new order is in the state in which it was placed, so nothing known is looked up. The next tick finds its partners.
_INSERT: Final[LiteralString] = (
    """
    WITH accepted AS (
        INSERT INTO energy_orders (user_id, device_id, zone, type, energy_wh, price_micro, all_or_none, expires_at)
        SELECT u.id, CASE WHEN %(type)s = 'sell' THEN coalesce(%(device)s, donors.ids[1]) END, u.zone, %(type)s,
               %(energy_wh)s, %(price_micro)s, %(all_or_none)s, %(expires_at)s::timestamptz
        FROM users u
        CROSS JOIN LATERAL (SELECT array_agg(d.id) AS ids FROM iot_devices d WHERE d.owner_id = u.id AND """
    + IS_DONOR
    + """) donors
        WHERE u.id = %(user)s AND (u.kyc_status = 'Verified' OR NOT %(verified_only)s)
          AND NOT (SELECT paused FROM market_state)
          AND NOT EXISTS (SELECT FROM chain_state WHERE limit_nano < %(least_nano)s)
          AND CASE WHEN %(type)s = 'buy' THEN true
                   WHEN %(device)s::uuid IS NULL THEN donors.ids[2] IS NULL
                   ELSE %(device)s = ANY (donors.ids) END
          AND (SELECT count(*) FROM (SELECT FROM open_orders WHERE user_id = %(user)s LIMIT %(most_open)s) open)
              < %(most_open)s
        RETURNING *
    ), booked AS (
        INSERT INTO open_orders (order_id, zone, type, user_id, device_id, remaining_wh, price_micro, arrival,
                                 all_or_none, expires_at)
        SELECT id, zone, type, user_id, device_id, energy_wh, price_micro, arrival, all_or_none, expires_at
        FROM accepted
        RETURNING shown_wh
    )
    SELECT """
    + _COLUMNS
    + "b.shown_wh, "
    + _UNMATCHABLE.format(verified="true", otherwise="NULL")
    + """
    FROM (SELECT *, 'Created' AS status, 0::bigint AS filled_wh, 0::bigint AS pending_wh, energy_wh AS remaining_wh
          FROM accepted) s CROSS JOIN booked b"""
    + _DEVICE
)


def insert(
    conn: Connection,
    terms: OrderTerms,
    *,
    user_id: UUID,
    verified_only: bool,
    most_open: int,
    least_nano: int,
    device_online_s: int,
) -> Order | None:
    """Accept an order and put it into the book; None if a condition is not met.

    The conditions:

    - The user exists, and is verified if `verified_only`.
    - The market is not paused, and the contract's limit is at least `least_nano`.
    - The user has fewer than `most_open` orders in the book.
    - A sell order names a donor device of the user, or none if they have at most one.

    The database sets the order's arrival and time; its owner's row gives the zone and, if there is only one, the
    device. Simultaneous requests do not see each other's orders, so that many requests may exceed `most_open` by their
    number.
    """
    with conn.cursor(row_factory=class_row(Order)) as cursor:
        return cursor.execute(
            _INSERT,
            {
                "user": user_id,
                "viewer": user_id,
                "verified_only": verified_only,
                "device": terms.device_id,
                "type": terms.type,
                "energy_wh": terms.energy_wh,
                "price_micro": terms.price_micro,
                "all_or_none": terms.all_or_none,
                "expires_at": terms.expires_at,
                "most_open": most_open,
                "least_nano": least_nano,
                "online_s": device_online_s,
            },
        ).fetchone()


def cancel(conn: Connection, order_id: UUID) -> bool:
    """Close the remainder of an order; False if nothing of it was open. Trades under way go on.

    The order's row is locked before its row in the book, as everywhere, so that no two transactions wait for each
    other. Deleting the row in the book decides the race against the matcher.
    """
    conn.execute("SELECT FROM energy_orders WHERE id = %s FOR NO KEY UPDATE", (order_id,))
    return (
        conn.execute(
            """
            WITH withdrawn AS (DELETE FROM open_orders WHERE order_id = %s RETURNING order_id)
            UPDATE energy_orders SET closed = 'Cancelled', reason = 'cancelled_by_owner', closed_at = clock_timestamp()
            WHERE id IN (SELECT order_id FROM withdrawn) AND closed IS NULL
            """,
            (order_id,),
        ).rowcount
        == 1
    )


def cancel_of_device(conn: Connection, device_id: UUID) -> int:
    """Close the remainders of a device's orders. Returns how many. Trades under way go on."""
    conn.execute(
        """
        SELECT FROM energy_orders WHERE id IN (SELECT order_id FROM open_orders WHERE device_id = %s)
        ORDER BY id FOR NO KEY UPDATE
        """,
        (device_id,),
    )
    return conn.execute(
        """
        WITH withdrawn AS (DELETE FROM open_orders WHERE device_id = %s RETURNING order_id)
        UPDATE energy_orders SET closed = 'Cancelled', reason = 'device_removed', closed_at = clock_timestamp()
        WHERE id IN (SELECT order_id FROM withdrawn) AND closed IS NULL
        """,
        (device_id,),
    ).rowcount


def expire(conn: Connection, zone: str, *, limit: int) -> int:
    """Close the remainders of orders whose time in force has passed. Returns how many."""
    return conn.execute(
        """
        WITH due AS (
            SELECT o.id FROM energy_orders o JOIN open_orders b ON b.order_id = o.id
            WHERE b.expires_at <= now() AND b.zone = %s ORDER BY o.id LIMIT %s FOR NO KEY UPDATE OF o SKIP LOCKED
        ), withdrawn AS (
            DELETE FROM open_orders WHERE order_id IN (SELECT id FROM due) RETURNING order_id
        )
        UPDATE energy_orders SET closed = 'Expired', reason = 'expired', closed_at = clock_timestamp()
        WHERE id IN (SELECT order_id FROM withdrawn) AND closed IS NULL
        """,
        (zone, limit),
    ).rowcount


def bind_to_first_device(conn: Connection, user_id: UUID, device_id: UUID) -> int:
    """Bind a user's sell orders that have no device to the first device that the user registers. Returns how many."""
    return conn.execute(
        """
        WITH bound AS (
            UPDATE energy_orders SET device_id = %(device)s
            WHERE user_id = %(user)s AND type = 'sell' AND device_id IS NULL AND closed IS NULL
            RETURNING id
        )
        UPDATE open_orders SET device_id = %(device)s WHERE order_id IN (SELECT id FROM bound)
        """,
        {"device": device_id, "user": user_id},
    ).rowcount


def unbind(conn: Connection, user_id: UUID, device_id: UUID) -> int:
    """Let orders bound to a failed registration wait for their owner's first device again. Returns how many."""
    return conn.execute(
        """
        WITH unbound AS (
            UPDATE energy_orders SET device_id = NULL
            WHERE user_id = %s AND device_id = %s AND closed IS NULL RETURNING id
        )
        UPDATE open_orders SET device_id = NULL WHERE order_id IN (SELECT id FROM unbound)
        """,
        (user_id, device_id),
    ).rowcount


def get(conn: Connection, order_id: UUID, *, device_online_s: int, verified_only: bool = False) -> Order | None:
    """An order's current state, as its owner sees it."""
    with conn.cursor(row_factory=class_row(Order)) as cursor:
        return cursor.execute(
            _ORDERS + " WHERE s.id = %(id)s",
            {"id": order_id, "viewer": None, "verified_only": verified_only, "online_s": device_online_s},
        ).fetchone()


# The orders that every user of a zone can see.
_IN_BOOK_OF_VIEWER: Final[LiteralString] = """EXISTS (
    SELECT FROM open_orders b JOIN users u ON u.zone = b.zone
    WHERE b.order_id = %(id)s AND u.id = %(viewer)s AND (b.expires_at IS NULL OR b.expires_at > now()))"""


def seen_by(
    conn: Connection, viewer: UUID, order_id: UUID, *, device_online_s: int, verified_only: bool = False
) -> Order | None:
    """An order's current state, if it is the viewer's own or in the book of their zone."""
    with conn.cursor(row_factory=class_row(Order)) as cursor:
        return cursor.execute(
            _ORDERS + " WHERE s.id = %(id)s AND (s.user_id = %(viewer)s OR " + _IN_BOOK_OF_VIEWER + ")",
            {"id": order_id, "viewer": viewer, "verified_only": verified_only, "online_s": device_online_s},
        ).fetchone()


def is_in_book_of(conn: Connection, viewer: UUID, order_id: UUID) -> bool:
    """Whether an order is in the book of a user's zone."""
    row = conn.execute("SELECT " + _IN_BOOK_OF_VIEWER, {"id": order_id, "viewer": viewer}).fetchone()
    return row == (True,)


def open_page(
    conn: Connection,
    viewer: UUID,
    *,
    device_online_s: int,
    verified_only: bool = False,
    order_type: OrderType | None = None,
    min_price_micro: int | None = None,
    max_price_micro: int | None = None,
    after_arrival: int = 0,
    limit: int,
) -> list[Order]:
    """Open orders of a user's zone by arrival, after `after_arrival`. Raises Unauthorized if there is no such user."""
    with conn.cursor(row_factory=class_row(Order)) as cursor:
        page = cursor.execute(
            "WITH page AS ("
            "    SELECT order_id FROM open_orders"
            "    WHERE zone = (SELECT zone FROM users WHERE id = %(viewer)s) AND arrival > %(after)s"
            "      AND (%(type)s::text IS NULL OR type = %(type)s)"
            "      AND (%(min)s::bigint IS NULL OR price_micro >= %(min)s)"
            "      AND (%(max)s::bigint IS NULL OR price_micro <= %(max)s)"
            "      AND (expires_at IS NULL OR expires_at > now())"
            "    ORDER BY arrival LIMIT %(limit)s)"
            + _ORDERS
            # As an array, because the server, which does not know the limit, would otherwise expect a tenth of all
            # orders.
            + " WHERE s.id = ANY (ARRAY(SELECT order_id FROM page)) ORDER BY s.arrival",
            {
                "viewer": viewer,
                "verified_only": verified_only,
                "after": after_arrival,
                "type": order_type,
                "min": min_price_micro,
                "max": max_price_micro,
                "limit": limit,
                "online_s": device_online_s,
            },
        ).fetchall()
    if not page:
        users.zone_of(conn, viewer)  # nothing is open, or there is no such user
    return page


def of_user(
    conn: Connection,
    user_id: UUID,
    *,
    device_online_s: int,
    verified_only: bool = False,
    status: OrderStatus | None = None,
    before_arrival: int | None = None,
    limit: int,
) -> list[Order]:
    """A user's orders, latest first, starting before `before_arrival`."""
    with conn.cursor(row_factory=class_row(Order)) as cursor:
        return cursor.execute(
            _ORDERS
            + """
            WHERE s.user_id = %(user)s AND (%(before)s::bigint IS NULL OR s.arrival < %(before)s)
              AND (%(status)s::text IS NULL OR s.status = %(status)s)
            ORDER BY s.arrival DESC LIMIT %(limit)s
            """,
            {
                "user": user_id,
                "viewer": user_id,
                "verified_only": verified_only,
                "before": before_arrival,
                "status": status,
                "limit": limit,
                "online_s": device_online_s,
            },
        ).fetchall()


def owner(conn: Connection, order_id: UUID) -> UUID | None:
    """The owner of an order; None if there is no such order."""
    row = conn.execute("SELECT user_id FROM energy_orders WHERE id = %s", (order_id,)).fetchone()
    return None if row is None else row[0]
