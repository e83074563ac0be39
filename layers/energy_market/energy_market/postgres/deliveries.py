"""Energy that devices reserve for trades, deliver, and release."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.trades import (
    Delivery,
    Shortfall,
    ShortReason,
)

COUNT_FORGOTTEN_AFTER_S: Final = 600
"""Seconds without a message above its count after which a device may restart the count."""

# Energy that the latest status of the device must cover, together with what was fed before: all of a trade under way,
# and the delivered part of one that has ended. The index `transactions_reserving` uses the same expression.
TO_BE_FED: Final[LiteralString] = (
    "CASE WHEN t.status = 'Failed' OR t.delivery IN ('Delivered', 'Short') THEN t.delivered_wh ELSE t.energy_wh END"
)

MAX_REPORTS_BETWEEN_STATUSES: Final = 100
"""Maximum reports of a delivery that are stored until a status arrives. Reports beyond it count with that status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryReport:
    """A delivery before and after a report."""

    before: Delivery
    delivery: Delivery
    reason: ShortReason | None
    delivered_wh: int


def hold_reserved(
    conn: Connection, device_id: UUID, reported_locks: Sequence[UUID] | None, *, seq: int | None
) -> list[UUID]:
    """Lock the trades that a status changes, in the order used everywhere. Returns those whose reservation is lost.

    A reservation is lost if the trade is Locked and the device does not list it, although it counted this status
    (`seq`) after its answer to the lock. The trade must never have been signed for, so that nothing can pay it. Without
    a count or a list, no reservation counts as lost.
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


def owed_by_device(conn: Connection, device_id: UUID) -> int:
    """The number of a device's trades whose energy is promised and not delivered: locked, being paid, or paid."""
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
    """Until the transaction ends, let none of a device's trades fail; waits for trades that are failing now."""
    conn.execute(
        """
        SELECT count(*) FROM (
            SELECT FROM transactions WHERE device_id = %s AND status IN ('Pending', 'Locked', 'Submitted')
            ORDER BY seq FOR NO KEY UPDATE) held
        """,
        (device_id,),
    )


def hold_unsigned(conn: Connection, device_id: UUID) -> list[UUID]:
    """Lock the rows of a device's Locked trades that were never signed for, so that nothing can pay them."""
    rows = conn.execute(
        """
        SELECT id FROM transactions WHERE device_id = %s AND status = 'Locked' AND batch_id IS NULL
        ORDER BY seq FOR NO KEY UPDATE
        """,
        (device_id,),
    ).fetchall()
    return [row[0] for row in rows]


def owe_unlock(conn: Connection, device_id: UUID, transaction_ids: Sequence[UUID], *, seq: int | None = None) -> int:
    """Order the release of reservations that a device still holds for ended trades. Returns how many.

    `seq`: the device's count of the message that lists them. If it has ended a delivery since, it no longer holds it.
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


def acknowledge_unlocks(conn: Connection, device_id: UUID, reported_locks: Sequence[UUID]) -> int:
    """Record unlocks as done: the device's status no longer lists these reservations after the unlock was sent."""
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
    """Apply a device's report of a delivery; None if it is outdated, or fits no confirmed trade of that device.

    - `ended`: the device has finished, and this is the reason if not everything was delivered.
    - A full delivery is Delivered, whenever and in whatever order it is reported.
    - A delivery that ended with less is Short, and the device is told to release the rest.
    - A report without a count (`seq`) is never outdated: amounts only rise, and an ended delivery stays ended.
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


# Whether a report `r` was sent before the status `s`: by the device's count, or, if either has no count, by the
# broker's clock. If count and clock contradict each other by `forget_s` seconds, the count was restarted in between.
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
# The newest report of each trade is on its row, too; this covers reports beyond `MAX_REPORTS_BETWEEN_STATUSES`.
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
    """Count reports that are older than a status: its available energy no longer includes what they delivered.

    The trades must be locked (`hold_reserved`), and everything is rolled back if the status proves to be outdated.
    """
    conn.execute(
        _COUNT_FED_BY_STATUS,
        {"device_id": device_id, "seq": seq, "received_ms": received_ms, "forget_s": COUNT_FORGOTTEN_AFTER_S},
    )


def note_delivered(
    conn: Connection, transaction_id: UUID, *, device_id: UUID, delivered_wh: int, seq: int | None, received_ms: int
) -> bool:
    """Store a delivery's report until a status covers it; False if it adds nothing new.

    It is stored whatever the delivery's own state: reports and statuses overtake each other, and which energy a status
    includes depends on what was delivered when it was sent.
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
    """Mark overdue deliveries as Short, the longest overdue first. Their devices are to release the rest.

    A device that has never reported a delivery is excepted: its delivery is `unreported`, and it knows no unlock.
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
    """Drop unlocks that were owed for a day. Returns (trade, device) of each."""
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
