"""Trades (the table `transactions`): made by the tick, locked by devices, settled on the chain, delivered.

Each transition is a guarded update: its WHERE clause is the whole concurrency control. Messages come at least
once, sweeps may overlap, and of two that try the same transition only the first finds the row as it must be.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.trades import (
    MAX_TRIES_OF_A_PAIR,
    NOBODYS_FAULT,
    Delivery,
    FailReason,
    Shortfall,
    ShortReason,
    Trade,
    TradeStatus,
)

Side = Literal["ask", "bid"]

_COLUMNS: Final[LiteralString] = """
    t.id, t.seq, t.sell_order_id, t.buy_order_id, t.donor_id, t.recipient_id, t.device_id, t.zone, t.energy_wh,
    t.price_micro, t.amount_nano, t.status, t.reason, t.blockchain_hash, t."timestamp" AS matched_at, t.locked_at,
    t.submitted_at, t.confirmed_at, t.failed_at, t.delivery, t.delivery_reason, t.deliver_by, t.delivered_wh"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryReport:
    """What a report made of a delivery, and what it was before."""

    before: Delivery
    delivery: Delivery
    reason: ShortReason | None
    delivered_wh: int


def make(conn: Connection, *, limit: int) -> int:
    """Make trades of the oldest matches, in their order, at most `limit`; how many."""
    return conn.execute(
        """
        WITH due AS (
            DELETE FROM matches WHERE seq IN (SELECT seq FROM matches ORDER BY seq LIMIT %s FOR UPDATE SKIP LOCKED)
            RETURNING *
        )
        INSERT INTO transactions (sell_order_id, buy_order_id, donor_id, recipient_id, device_id, zone, energy_wh,
                                  price_micro, rule_version, "timestamp")
        SELECT a.id, b.id, a.user_id, b.user_id, a.device_id, a.zone, m.energy_wh, m.price_micro, m.rule_version,
               m.matched_at
        FROM due m JOIN energy_orders a ON a.arrival = m.ask JOIN energy_orders b ON b.arrival = m.bid
        ORDER BY m.seq
        """,
        (limit,),
    ).rowcount


def _hold_in_book(conn: Connection, order_ids: Collection[UUID]) -> None:
    """Lock these orders' rows in the book.

    Whoever changes several of them locks them first, by a statement of its own and in one order, so that of two who
    want the same rows neither waits for one that the other has.
    """
    conn.execute(
        "SELECT count(*) FROM (SELECT FROM open_orders WHERE order_id = ANY (%s) ORDER BY order_id FOR UPDATE) held",
        (list(order_ids),),
    )


def lock(
    conn: Connection,
    transaction_id: UUID,
    *,
    device_id: UUID,
    order_id: UUID,
    settlement_window_s: int,
    seq: int | None = None,
) -> bool:
    """Mark a trade as locked by its device; False if it was not awaiting that lock from that device in time.

    From now on the settlement has `settlement_window_s` seconds to be paid. `seq`: the device's count of the answer.
    """
    return (
        conn.execute(
            """
            UPDATE transactions
            SET status = 'Locked', locked_at = clock_timestamp(), lock_seq = %s,
                valid_until = clock_timestamp() + make_interval(secs => %s)
            WHERE id = %s AND device_id = %s AND sell_order_id = %s
              AND status = 'Pending' AND expires_at > clock_timestamp()
            """,
            (seq, settlement_window_s, transaction_id, device_id, order_id),
        ).rowcount
        == 1
    )


def fail(
    conn: Connection,
    transaction_ids: Sequence[UUID],
    *,
    reason: FailReason,
    expected: TradeStatus,
    reject: Side | None,
) -> list[UUID]:
    """Fail those of the trades that are still `expected`, and return their ids.

    The orders of the side at fault are closed as Rejected, and both where the same two have failed too often without
    either being at fault; the others go back into the book with the energy they had in the trade and their old arrival,
    unless they were closed meanwhile. A lock that was published is owed an unlock, but for one that the device itself
    refused.

    The rows are locked by statements of their own: the one that writes must see in the book what another trade of the
    same order has just put back, to withdraw that too. And they are locked in the order in which every transition locks
    them: trades, their orders, the book. For the same reason a transaction fails trades only once: a second time would
    lock trades while the first one's orders are locked.
    """
    orders = conn.execute(
        """
        WITH due AS (
            SELECT sell_order_id, buy_order_id FROM transactions
            WHERE id = ANY (%s) AND status = %s ORDER BY seq FOR NO KEY UPDATE
        )
        SELECT id FROM energy_orders WHERE id IN (SELECT sell_order_id FROM due UNION ALL SELECT buy_order_id FROM due)
        ORDER BY id FOR NO KEY UPDATE
        """,
        (list(transaction_ids), expected),
    ).fetchall()
    _hold_in_book(conn, [row[0] for row in orders])
    rows = conn.execute(
        """
        WITH failed AS (
            UPDATE transactions
            SET status = 'Failed', reason = %(reason)s, failed_at = clock_timestamp(), command_sent_at = NULL,
                unlock = CASE WHEN expires_at IS NOT NULL AND %(reason)s <> 'lock_rejected' THEN 'Owed' END,
                delivery = NULL, delivery_reason = NULL, deliver_by = NULL
            WHERE id = ANY (%(ids)s) AND status = %(expected)s
            RETURNING id, sell_order_id, buy_order_id, energy_wh
        ), tried AS (
            SELECT f.*, %(reason)s = ANY (%(nobodys_fault)s) AND %(max_tries)s <= 1 + (
                SELECT count(*) FROM transactions t
                WHERE t.sell_order_id = f.sell_order_id AND t.buy_order_id = f.buy_order_id
                  AND t.status = 'Failed' AND t.reason = ANY (%(nobodys_fault)s)) AS too_often
            FROM failed f
        ), touched AS (
            SELECT order_id, sum(energy_wh)::bigint AS energy_wh,
                   bool_or(too_often OR side IS NOT DISTINCT FROM %(reject)s) AS rejected
            FROM (SELECT sell_order_id AS order_id, energy_wh, too_often, 'ask' AS side FROM tried
                  UNION ALL
                  SELECT buy_order_id, energy_wh, too_often, 'bid' FROM tried) sides
            GROUP BY order_id
        ), open AS (
            SELECT o.id, o.zone, o.type, o.user_id, o.device_id, o.price_micro, o.arrival, o.all_or_none, o.expires_at,
                   t.energy_wh, t.rejected
            FROM energy_orders o JOIN touched t ON t.order_id = o.id
            WHERE o.closed IS NULL
            ORDER BY o.id FOR NO KEY UPDATE OF o
        ), closed AS (
            UPDATE energy_orders SET closed = 'Rejected', reason = %(reason)s, closed_at = clock_timestamp()
            WHERE id IN (SELECT id FROM open WHERE rejected)
        ), withdrawn AS (
            DELETE FROM open_orders WHERE order_id IN (SELECT id FROM open WHERE rejected)
        ), reopened AS (
            INSERT INTO open_orders AS book (order_id, zone, type, user_id, device_id, remaining_wh, price_micro,
                                             arrival, all_or_none, expires_at)
            SELECT id, zone, type, user_id, device_id, energy_wh, price_micro, arrival, all_or_none, expires_at
            FROM open WHERE NOT rejected
            ON CONFLICT (order_id) DO UPDATE SET remaining_wh = book.remaining_wh + EXCLUDED.remaining_wh
        )
        SELECT id FROM failed
        """,
        {
            "ids": list(transaction_ids),
            "reason": reason,
            "expected": expected,
            "reject": reject,
            "nobodys_fault": list(NOBODYS_FAULT),
            "max_tries": MAX_TRIES_OF_A_PAIR,
        },
    ).fetchall()
    return [row[0] for row in rows]


def awaiting_lock_too_long(conn: Connection, zone: str, *, limit: int) -> list[tuple[UUID, UUID]]:
    """(trade, device) of locks that ran out unanswered, oldest first."""
    return conn.execute(
        """
        SELECT id, device_id FROM transactions
        WHERE status = 'Pending' AND expires_at <= clock_timestamp() AND zone = %s ORDER BY seq LIMIT %s
        FOR UPDATE SKIP LOCKED
        """,
        (zone, limit),
    ).fetchall()


def only_trade_of(conn: Connection, sell_order_id: UUID) -> UUID | None:
    """The trade of a sell order that has had exactly one, ever: what an answer without a transaction id can mean."""
    rows = conn.execute("SELECT id FROM transactions WHERE sell_order_id = %s LIMIT 2", (sell_order_id,)).fetchall()
    return rows[0][0] if len(rows) == 1 else None


def sell_order_of(conn: Connection, transaction_id: UUID, *, device_id: UUID) -> UUID | None:
    """The sell order of a trade of that device; None if there is no such trade."""
    row = conn.execute(
        "SELECT sell_order_id FROM transactions WHERE id = %s AND device_id = %s", (transaction_id, device_id)
    ).fetchone()
    return None if row is None else row[0]


def status_at_device(conn: Connection, transaction_id: UUID, *, device_id: UUID, order_id: UUID) -> TradeStatus | None:
    """Where a trade of that device and that sell order stands; None if there is no such trade."""
    row = conn.execute(
        "SELECT status FROM transactions WHERE id = %s AND device_id = %s AND sell_order_id = %s",
        (transaction_id, device_id, order_id),
    ).fetchone()
    return None if row is None else row[0]


def hold_reserved(conn: Connection, device_id: UUID, reported_locks: Sequence[UUID], *, seq: int | None) -> list[UUID]:
    """Lock the trades that a status changes, in the order in which all lock trades; those whose reservation is lost.

    Those are locked trades that the device does not list although it counted this status (`seq`) after its answer, and
    for which nothing was ever signed, so that nothing can pay them. None without a count.
    """
    rows = conn.execute(
        """
        SELECT id, coalesce(status = 'Locked' AND batch_id IS NULL AND lock_seq < %(seq)s
                            AND id <> ALL (%(locks)s), false) AS is_lost
        FROM transactions
        WHERE device_id = %(device_id)s
          AND (unlock = 'Owed'
               OR id = ANY (%(locks)s) AND (status = 'Failed' OR delivery IN ('Delivered', 'Short'))
               OR status = 'Locked' AND delivery IS DISTINCT FROM 'Delivered' AND delivery IS DISTINCT FROM 'Short'
                  AND batch_id IS NULL AND lock_seq < %(seq)s AND id <> ALL (%(locks)s))
        ORDER BY seq FOR NO KEY UPDATE
        """,
        {"device_id": device_id, "locks": list(reported_locks), "seq": seq},
    ).fetchall()
    return [trade for trade, is_lost in rows if is_lost]


def is_of_device(conn: Connection, transaction_id: UUID, device_id: UUID) -> bool:
    """Whether there is such a trade of that device."""
    return sell_order_of(conn, transaction_id, device_id=device_id) is not None


def owed_by_device(conn: Connection, device_id: UUID) -> int:
    """How many trades a device has promised energy to that it has not delivered: locked, being paid, or paid."""
    row = conn.execute(
        """
        SELECT count(*) FROM transactions
        WHERE device_id = %s AND status IN ('Locked', 'Submitted', 'Confirmed')
          AND delivery IS DISTINCT FROM 'Delivered' AND delivery IS DISTINCT FROM 'Short'
        """,
        (device_id,),
    ).fetchone()
    assert row is not None  # an aggregate without GROUP BY returns one row
    number: int = row[0]
    return number


def hold_unsigned(conn: Connection, device_id: UUID) -> list[UUID]:
    """Lock a device's trades that are locked and for which nothing was ever signed, so that nothing can pay them."""
    rows = conn.execute(
        """
        SELECT id FROM transactions WHERE device_id = %s AND status = 'Locked' AND batch_id IS NULL
        ORDER BY seq FOR NO KEY UPDATE
        """,
        (device_id,),
    ).fetchall()
    return [row[0] for row in rows]


def owe_unlock(conn: Connection, device_id: UUID, transaction_ids: Sequence[UUID]) -> int:
    """The device holds reservations of trades that are over: they are to be released (again). Returns how many."""
    return conn.execute(
        """
        UPDATE transactions SET unlock = 'Owed', command_sent_at = NULL
        WHERE device_id = %s AND id = ANY (%s) AND (status = 'Failed' OR delivery IN ('Delivered', 'Short'))
          AND unlock IS DISTINCT FROM 'Owed'
        """,
        (device_id, list(transaction_ids)),
    ).rowcount


def settle_unlocks(conn: Connection, device_id: UUID, reported_locks: Sequence[UUID]) -> int:
    """The device's status no longer lists these reservations, after the unlock was sent: nothing is owed any more."""
    return conn.execute(
        """
        UPDATE transactions SET unlock = 'Done'
        WHERE device_id = %s AND unlock = 'Owed' AND command_sent_at IS NOT NULL AND NOT id = ANY (%s)
        """,
        (device_id, list(reported_locks)),
    ).rowcount


def record_delivery(
    conn: Connection,
    transaction_id: UUID,
    *,
    device_id: UUID,
    ended: ShortReason | None,
    delivered_wh: int,
    seq: int | None,
) -> DeliveryReport | None:
    """Take a device's word on a delivery; None if it is old news, or of no confirmed trade of that device.

    `ended`: the device is done with it, and this is why if it was not all. What was delivered in full is Delivered
    whenever and in whatever order that is said; what ended with less is Short, and its device is told to release what
    it may still hold. A report without a count (`seq`) is never old news: amounts only rise, and what is over stays so.
    """
    with conn.cursor(row_factory=class_row(DeliveryReport)) as cursor:
        return cursor.execute(
            """
            WITH told AS (
                SELECT id, delivery AS before, %(wh)s >= energy_wh AS in_full,
                       %(ended)s::text IS NOT NULL AND delivery <> 'Short' AND %(wh)s < energy_wh AS falls_short
                FROM transactions
                WHERE id = %(id)s AND device_id = %(device_id)s AND status = 'Confirmed' AND delivery <> 'Delivered'
                  AND (%(wh)s >= energy_wh OR delivery_seq IS NULL OR %(seq)s::bigint IS NULL OR delivery_seq < %(seq)s)
                FOR NO KEY UPDATE
            )
            UPDATE transactions t
            SET delivery = CASE WHEN in_full THEN 'Delivered' WHEN falls_short OR before = 'Short' THEN 'Short'
                                ELSE 'Started' END,
                delivery_reason = CASE WHEN in_full THEN NULL WHEN falls_short THEN %(ended)s ELSE delivery_reason END,
                unlock = CASE WHEN falls_short THEN 'Owed' ELSE unlock END,
                command_sent_at = CASE WHEN falls_short THEN NULL ELSE command_sent_at END,
                delivered_wh = greatest(delivered_wh, least(%(wh)s, energy_wh)),
                delivery_seq = greatest(delivery_seq, %(seq)s::bigint)
            FROM told WHERE t.id = told.id
            RETURNING told.before, t.delivery, t.delivery_reason AS reason, t.delivered_wh
            """,
            {"id": transaction_id, "device_id": device_id, "ended": ended, "wh": delivered_wh, "seq": seq},
        ).fetchone()


def end_overdue_deliveries(conn: Connection, *, limit: int) -> list[Shortfall]:
    """Make deliveries Short whose time is over, the longest overdue first. Their devices are to release the rest.

    But for a device that has never told of any delivery: what it delivered is `unreported`, and it knows no unlock.
    """
    with conn.cursor(row_factory=class_row(Shortfall)) as cursor:
        return cursor.execute(
            """
            WITH due AS (
                SELECT t.id, t.delivery = 'Started' OR t.lock_seq IS NOT NULL OR d.reports_deliveries AS is_late
                FROM transactions t JOIN iot_devices d ON d.id = t.device_id
                WHERE t.status = 'Confirmed' AND t.delivery IN ('Owed', 'Started')
                  AND t.deliver_by <= clock_timestamp()
                ORDER BY t.deliver_by LIMIT %s FOR NO KEY UPDATE OF t SKIP LOCKED
            )
            UPDATE transactions t
            SET delivery = 'Short', delivery_reason = CASE WHEN is_late THEN 'delivery_timeout' ELSE 'unreported' END,
                unlock = CASE WHEN is_late THEN 'Owed' ELSE unlock END, command_sent_at = NULL
            FROM due WHERE t.id = due.id
            RETURNING t.id AS transaction_id, t.device_id, t.delivery_reason AS reason, t.delivered_wh
            """,
            (limit,),
        ).fetchall()


def lapse_unlocks(conn: Connection, *, limit: int) -> list[tuple[UUID, UUID]]:
    """Give up unlocks that were owed for a day: (trade, device)."""
    return conn.execute(
        """
        UPDATE transactions SET unlock = 'Lapsed'
        WHERE id IN (
            SELECT id FROM transactions WHERE unlock = 'Owed' AND unlock_by <= clock_timestamp()
            ORDER BY unlock_by LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
        RETURNING id, device_id
        """,
        (limit,),
    ).fetchall()


def of_user(
    conn: Connection,
    user_id: UUID,
    *,
    status: TradeStatus | None = None,
    before_seq: int | None = None,
    limit: int,
) -> list[Trade]:
    """A user's trades, on either side, latest first."""
    with conn.cursor(row_factory=class_row(Trade)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM (
                (SELECT * FROM transactions WHERE donor_id = %(user)s
                   AND (%(status)s::text IS NULL OR status = %(status)s)
                   AND (%(before)s::bigint IS NULL OR seq < %(before)s)
                 ORDER BY seq DESC LIMIT %(limit)s)
                UNION ALL
                (SELECT * FROM transactions WHERE recipient_id = %(user)s
                   AND (%(status)s::text IS NULL OR status = %(status)s)
                   AND (%(before)s::bigint IS NULL OR seq < %(before)s)
                 ORDER BY seq DESC LIMIT %(limit)s)
            ) t ORDER BY t.seq DESC LIMIT %(limit)s
            """,
            {"user": user_id, "status": status, "before": before_seq, "limit": limit},
        ).fetchall()


def confirmed(conn: Connection, zone: str, *, before: tuple[datetime, int] | None = None, limit: int) -> list[Trade]:
    """A zone's confirmed trades, latest first; `before`: (confirmed_at, seq) of the last one seen."""
    before_at, before_seq = before if before is not None else (None, None)
    with conn.cursor(row_factory=class_row(Trade)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM transactions t
            WHERE zone = %(zone)s AND status = 'Confirmed'
              AND (%(at)s::timestamptz IS NULL OR (confirmed_at, seq) < (%(at)s, %(seq)s::bigint))
            ORDER BY confirmed_at DESC, seq DESC LIMIT %(limit)s
            """,
            {"zone": zone, "at": before_at, "seq": before_seq, "limit": limit},
        ).fetchall()


def failed(
    conn: Connection, *, reason: FailReason | None = None, before_seq: int | None = None, limit: int
) -> list[Trade]:
    """Everybody's trades that failed, latest first."""
    with conn.cursor(row_factory=class_row(Trade)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM transactions t
            WHERE t.status = 'Failed' AND (%(reason)s::text IS NULL OR t.reason = %(reason)s)
              AND (%(before)s::bigint IS NULL OR t.seq < %(before)s)
            ORDER BY t.seq DESC LIMIT %(limit)s
            """,
            {"reason": reason, "before": before_seq, "limit": limit},
        ).fetchall()


def short(conn: Connection, *, before_seq: int | None = None, limit: int) -> list[Trade]:
    """Everybody's trades whose delivery fell short, latest first."""
    with conn.cursor(row_factory=class_row(Trade)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM transactions t
            WHERE t.delivery = 'Short' AND (%(before)s::bigint IS NULL OR t.seq < %(before)s)
            ORDER BY t.seq DESC LIMIT %(limit)s
            """,
            {"before": before_seq, "limit": limit},
        ).fetchall()
