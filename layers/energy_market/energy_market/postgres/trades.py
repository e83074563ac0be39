"""Trades (the table `transactions`): made by the tick, locked by devices, settled on the chain, delivered.

Each transition is a guarded update: its WHERE clause is the whole concurrency control. Messages come at least
once, sweeps may overlap, and of two that try the same transition only the first finds the row as it must be.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.trades import (
    BUYERS_FAULT,
    DEVICES_FAULT,
    MAX_FAILURES_IN_A_ROW,
    MAX_TRIES_OF_A_PAIR,
    NOBODYS_FAULT,
    Delivery,
    FailReason,
    Shortfall,
    ShortReason,
    Trade,
    TradeStatus,
)

COUNT_FORGOTTEN_AFTER_S: Final = 600
"""A device that has said nothing above its count for so long may count anew."""

# What the latest status of its device must cover, together with what was fed before: all of a trade that goes on, what
# was delivered of one that has ended. The index `transactions_reserving` has it in these words.
TO_BE_FED: Final[LiteralString] = (
    "CASE WHEN t.status = 'Failed' OR t.delivery IN ('Delivered', 'Short') THEN t.delivered_wh ELSE t.energy_wh END"
)

MAX_REPORTS_BETWEEN_STATUSES: Final = 100
"""Maximum reports of a delivery that are kept until a status comes. Reports beyond it count with the next status."""

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
) -> list[UUID]:
    """Fail those of the trades that are still `expected`, and return their ids.

    Their orders go back into the book with the energy they had in the trade and their old arrival, unless they were
    closed meanwhile. Rejected are the bid where its owner is at fault, the ask whose device has failed it too often in
    a row, and both where the same two have failed too often without anybody being at fault. The ask of a device that
    was removed is cancelled. A lock that was published is owed an unlock, but for one that the device itself refused.

    Where a device is at fault, `devices.wait_for_status` is to be called next.

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
    """Trades whose locks ran out unanswered, oldest first."""
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


def hold_reserved(
    conn: Connection, device_id: UUID, reported_locks: Sequence[UUID] | None, *, seq: int | None
) -> list[UUID]:
    """Lock the trades that a status changes, in the order in which all lock trades; those whose reservation is lost.

    Those are locked trades that the device does not list although it counted this status (`seq`) after its answer, and
    for which nothing was ever signed, so that nothing can pay them. None without a count or a list.
    """
    rows = conn.execute(
        """
        SELECT id, coalesce(status = 'Locked' AND batch_id IS NULL AND lock_seq < %(seq)s::bigint
                            AND id <> ALL (%(locks)s::uuid[]), false) AS is_lost
        FROM transactions t
        WHERE device_id = %(device_id)s
          AND (unlock = 'Owed'
               OR id = ANY (%(locks)s::uuid[]) AND (status = 'Failed' OR delivery IN ('Delivered', 'Short'))
               OR id = ANY (ARRAY(SELECT transaction_id FROM delivery_reports WHERE device_id = %(device_id)s))
               OR """
        + TO_BE_FED
        + """ > t.fed_wh
                  AND (fed_wh < delivered_wh
                       OR status = 'Locked' AND delivery IS DISTINCT FROM 'Delivered'
                          AND delivery IS DISTINCT FROM 'Short' AND batch_id IS NULL AND lock_seq < %(seq)s::bigint
                          AND id <> ALL (%(locks)s::uuid[])))
        ORDER BY seq FOR NO KEY UPDATE
        """,
        {
            "device_id": device_id,
            "locks": None if reported_locks is None else list(reported_locks),
            "seq": seq,
        },
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


def hold_of_device(conn: Connection, device_id: UUID) -> None:
    """Let none of a device's trades fail until the transaction ends; wait for those that are failing."""
    conn.execute(
        """
        SELECT count(*) FROM (
            SELECT FROM transactions WHERE device_id = %s AND status IN ('Pending', 'Locked', 'Submitted')
            ORDER BY seq FOR NO KEY UPDATE) held
        """,
        (device_id,),
    )


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


def owe_unlock(conn: Connection, device_id: UUID, transaction_ids: Sequence[UUID], *, seq: int | None = None) -> int:
    """The device holds reservations of trades that are over: they are to be released (again). Returns how many.

    `seq`: the device's count when it said so. Of a delivery that it has ended since, it holds nothing any more.
    """
    return conn.execute(
        """
        UPDATE transactions SET unlock = 'Owed', command_sent_at = NULL
        WHERE device_id = %(device_id)s AND id = ANY (%(ids)s) AND unlock IS DISTINCT FROM 'Owed'
          AND (status = 'Failed'
               OR delivery IN ('Delivered', 'Short') AND coalesce(delivery_seq < %(seq)s::bigint, true))
        """,
        {"device_id": device_id, "ids": list(transaction_ids), "seq": seq},
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


# That a report `r` was said before the status `s`: by the device's count, or, where either has none, by the broker's
# clock. A count that contradicts the clock by `forget_s` seconds was begun anew in between.
_BEFORE: Final[LiteralString] = """
    CASE WHEN r.seq IS NULL OR s.seq IS NULL THEN r.heard_at <= s.heard_at
         ELSE r.heard_at < s.heard_at - make_interval(secs => %(forget_s)s)
              OR r.seq < s.seq AND r.heard_at <= s.heard_at + make_interval(secs => %(forget_s)s) END"""


_COUNT_FED: Final[LiteralString] = (
    """
    WITH told AS (
        DELETE FROM delivery_reports r USING ({status}) s WHERE {reports} AND """
    + _BEFORE
    + """
        RETURNING r.transaction_id, r.delivered_wh
    )
    UPDATE transactions t SET fed_wh = fed.fed_wh
    FROM (SELECT transaction_id, max(delivered_wh) AS fed_wh FROM ({told}) told GROUP BY transaction_id) fed
    WHERE t.id = fed.transaction_id AND t.fed_wh < fed.fed_wh"""
)
# The newest report of each trade is on its row, too; there it is also where too many came to be kept one by one.
_COUNT_FED_BY_STATUS: Final[LiteralString] = _COUNT_FED.format(
    status="SELECT %(seq)s::bigint AS seq, to_timestamp(%(received_ms)s::bigint / 1000.0) AS heard_at",
    reports="r.device_id = %(device_id)s",
    told="TABLE told UNION ALL SELECT t.id, t.delivered_wh FROM transactions t WHERE t.device_id = %(device_id)s AND "
    + TO_BE_FED
    + " > t.fed_wh AND t.delivery_seq < %(seq)s::bigint",
)
_COUNT_FED_BY_REPORT: Final[LiteralString] = _COUNT_FED.format(
    status="SELECT available_seq AS seq, available_at AS heard_at FROM iot_devices WHERE id = %(device_id)s",
    reports="r.transaction_id = %(id)s",
    told="TABLE told",
)


def count_fed(conn: Connection, device_id: UUID, *, seq: int | None, received_ms: int) -> None:
    """A status of this count tells what is available now: what was delivered before it is in that no more.

    The trades are to be held (`hold_reserved`), and all of it undone if the status proves to be old news.
    """
    conn.execute(
        _COUNT_FED_BY_STATUS,
        {"device_id": device_id, "seq": seq, "received_ms": received_ms, "forget_s": COUNT_FORGOTTEN_AFTER_S},
    )


def note_delivered(
    conn: Connection, transaction_id: UUID, *, device_id: UUID, delivered_wh: int, seq: int | None, received_ms: int
) -> bool:
    """Take a report for what the device's statuses do not tell yet; False if it tells nothing new.

    Whatever is known of the delivery itself by now: reports and statuses overtake each other, and which energy a status
    has in it depends on what was delivered when it was said.
    """
    noted = conn.execute(
        """
        INSERT INTO delivery_reports AS known (transaction_id, device_id, delivered_wh, seq, heard_at)
        SELECT id, device_id, least(%(wh)s, energy_wh), %(seq)s::bigint,
               least(clock_timestamp(), to_timestamp(%(received_ms)s::bigint / 1000.0))
        FROM (SELECT * FROM transactions
              WHERE id = %(id)s AND device_id = %(device_id)s AND (status = 'Confirmed' OR delivery IS NOT NULL)
              FOR NO KEY UPDATE) t
        WHERE fed_wh < least(%(wh)s, energy_wh)
          AND (SELECT count(*) FROM delivery_reports WHERE transaction_id = %(id)s) < %(most)s
        ON CONFLICT (transaction_id, delivered_wh) DO UPDATE
        SET seq = least(known.seq, EXCLUDED.seq), heard_at = least(known.heard_at, EXCLUDED.heard_at)
        WHERE EXCLUDED.seq < known.seq OR EXCLUDED.heard_at < known.heard_at
        """,
        {
            "id": transaction_id,
            "device_id": device_id,
            "wh": delivered_wh,
            "seq": seq,
            "received_ms": received_ms,
            "most": MAX_REPORTS_BETWEEN_STATUSES,
        },
    ).rowcount
    conn.execute(
        _COUNT_FED_BY_REPORT, {"id": transaction_id, "device_id": device_id, "forget_s": COUNT_FORGOTTEN_AFTER_S}
    )
    return noted > 0


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
