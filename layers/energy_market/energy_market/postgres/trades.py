"""Trades (the table `transactions`): made from matches, locked by devices, settled on the chain, delivered.

Each transition is a guarded update: its WHERE clause is the whole concurrency control. Messages arrive at least
once, and sweeps may overlap. If two try the same transition, only the first finds the row in the expected state.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

from psycopg import Connection

from energy_market.domain.trades import (
    BUYERS_FAULT,
    DEVICES_FAULT,
    MAX_FAILURES_IN_A_ROW,
    MAX_TRIES_OF_A_PAIR,
    NOBODYS_FAULT,
    FailReason,
    TradeStatus,
)


def make(conn: Connection, *, limit: int) -> int:
    """Turn the oldest matches into trades, in their order, at most `limit`. Returns how many."""
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

    A transaction that changes several of them locks them first, in one statement and one order. Two transactions that
    want the same rows then never wait for each other.
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

    The settlement then has `settlement_window_s` seconds to pay it. `seq`: the device's count of the answer.
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
) -> list[UUID]:
    """Fail those of the trades that are still `expected`, and return their ids.

    - Their orders return to the book with the trade's energy and their old arrival, unless they were closed meanwhile.
    - The bid is rejected if its owner is at fault, and the ask if its device has failed it too often in a row.
    - Both are rejected if the same pair has failed too often without anybody's fault.
    - The ask of a removed device is cancelled.
    - A published lock is owed an unlock, unless the device itself refused it.

    If a device is at fault, call `devices.wait_for_status` next.

    The rows are locked by separate statements: the statement that writes must see what another trade of the same order
    has just returned to the book, to withdraw that too. They are locked in the order of every transition: trades, their
    orders, the book. For the same reason a transaction fails trades only once: a second call would lock trades while
    the first call's orders are locked.
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
            RETURNING id, sell_order_id, buy_order_id, energy_wh, "timestamp" AS matched_at
        ), tried AS (
            SELECT f.*, %(reason)s = ANY (%(nobodys_fault)s) AND %(max_tries)s <= 1 + (
                SELECT count(*) FROM transactions t
                WHERE t.sell_order_id = f.sell_order_id AND t.buy_order_id = f.buy_order_id
                  AND t.status = 'Failed' AND t.reason = ANY (%(nobodys_fault)s)) AS too_often
            FROM failed f
        ), touched AS (
            SELECT order_id, sum(energy_wh)::bigint AS energy_wh, max(matched_at) AS matched_at,
                   bool_or(too_often OR is_bid AND %(reason)s = ANY (%(buyers_fault)s)) AS rejected,
                   bool_or(NOT is_bid AND %(reason)s = ANY (%(devices_fault)s)) AS failed_by_device
            FROM (SELECT sell_order_id AS order_id, energy_wh, matched_at, too_often, false AS is_bid FROM tried
                  UNION ALL
                  SELECT buy_order_id, energy_wh, matched_at, too_often, true FROM tried) sides
            GROUP BY order_id
        ), open AS (
            SELECT o.id, o.zone, o.type, o.user_id, o.device_id, o.price_micro, o.arrival, o.all_or_none, o.expires_at,
                   t.energy_wh, f.failures,
                   CASE WHEN d.status = 'Removed' THEN 'Cancelled'
                        WHEN t.rejected OR f.failures >= %(max_failures)s THEN 'Rejected' END AS closed
            FROM energy_orders o JOIN touched t ON t.order_id = o.id LEFT JOIN iot_devices d ON d.id = o.device_id
            LEFT JOIN LATERAL (
                SELECT 1 + CASE WHEN EXISTS (SELECT FROM transactions sold WHERE sold.sell_order_id = o.id
                                             AND sold.confirmed_at > o.failed_at)
                                THEN 0 ELSE o.failures END AS failures) f
                ON t.failed_by_device AND (o.failed_at IS NULL OR o.failed_at < t.matched_at)
            WHERE o.closed IS NULL
            ORDER BY o.id FOR NO KEY UPDATE OF o
        ), noted AS (
            UPDATE energy_orders o
            SET closed = open.closed,
                reason = CASE open.closed WHEN 'Cancelled' THEN 'device_removed' WHEN 'Rejected' THEN %(reason)s END,
                closed_at = CASE WHEN open.closed IS NOT NULL THEN clock_timestamp() END,
                failures = coalesce(open.failures, o.failures),
                failed_at = CASE WHEN open.failures IS NOT NULL THEN clock_timestamp() ELSE o.failed_at END
            FROM open WHERE o.id = open.id AND (open.closed IS NOT NULL OR open.failures IS NOT NULL)
        ), withdrawn AS (
            DELETE FROM open_orders WHERE order_id IN (SELECT id FROM open WHERE closed IS NOT NULL)
        ), reopened AS (
            INSERT INTO open_orders AS book (order_id, zone, type, user_id, device_id, remaining_wh, price_micro,
                                             arrival, all_or_none, expires_at)
            SELECT id, zone, type, user_id, device_id, energy_wh, price_micro, arrival, all_or_none, expires_at
            FROM open WHERE closed IS NULL
            ON CONFLICT (order_id) DO UPDATE SET remaining_wh = book.remaining_wh + EXCLUDED.remaining_wh
        )
        SELECT id FROM failed
        """,
        {
            "ids": list(transaction_ids),
            "reason": reason,
            "expected": expected,
            "devices_fault": list(DEVICES_FAULT),
            "buyers_fault": list(BUYERS_FAULT),
            "nobodys_fault": list(NOBODYS_FAULT),
            "max_tries": MAX_TRIES_OF_A_PAIR,
            "max_failures": MAX_FAILURES_IN_A_ROW,
        },
    ).fetchall()
    return [row[0] for row in rows]


def awaiting_lock_too_long(conn: Connection, zone: str, *, limit: int) -> list[UUID]:
    """Trades whose locks expired unanswered, oldest first."""
    rows = conn.execute(
        """
        SELECT id FROM transactions
        WHERE status = 'Pending' AND expires_at <= clock_timestamp() AND zone = %s ORDER BY seq LIMIT %s
        FOR UPDATE SKIP LOCKED
        """,
        (zone, limit),
    ).fetchall()
    return [row[0] for row in rows]


def only_trade_of(conn: Connection, sell_order_id: UUID) -> UUID | None:
    """The only trade that a sell order has ever had, which an answer without a transaction id means; otherwise None."""
    rows = conn.execute("SELECT id FROM transactions WHERE sell_order_id = %s LIMIT 2", (sell_order_id,)).fetchall()
    return rows[0][0] if len(rows) == 1 else None


def sell_order_of(conn: Connection, transaction_id: UUID, *, device_id: UUID) -> UUID | None:
    """The sell order of a trade of that device; None if there is no such trade."""
    row = conn.execute(
        "SELECT sell_order_id FROM transactions WHERE id = %s AND device_id = %s", (transaction_id, device_id)
    ).fetchone()
    return None if row is None else row[0]


def status_at_device(conn: Connection, transaction_id: UUID, *, device_id: UUID, order_id: UUID) -> TradeStatus | None:
    """The status of a trade of that device and that sell order; None if there is no such trade."""
    row = conn.execute(
        "SELECT status FROM transactions WHERE id = %s AND device_id = %s AND sell_order_id = %s",
        (transaction_id, device_id, order_id),
    ).fetchone()
    return None if row is None else row[0]


def is_of_device(conn: Connection, transaction_id: UUID, device_id: UUID) -> bool:
    """Whether the device has this trade."""
    return sell_order_of(conn, transaction_id, device_id=device_id) is not None
