"""Commands that are still to be sent to devices. The trades' own rows are the outbox; there is no other."""

from typing import Final

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.commands import Command

LOCK_REPEAT_S: Final = 4
"""Seconds after which a lock is repeated, less than a tick: the next tick repeats one that was lost or never sent."""
OWED_REPEAT_S: Final = 9
DELIVERING_REPEAT_S: Final = 60
"""Seconds after which a device that has begun to deliver is reminded, in case it has forgotten."""


def claim_locks(conn: Connection, *, lock_timeout_s: int, limit: int) -> list[Command]:
    """Claim locks to publish now: first those never published, then the unanswered ones, each oldest first.

    A lock's deadline is set when it is first claimed; a repetition keeps it.
    """
    with conn.cursor(row_factory=class_row(Command)) as cursor:
        return cursor.execute(
            """
            WITH claimed AS (
                UPDATE transactions
                SET expires_at = coalesce(expires_at, clock_timestamp() + make_interval(secs => %s)),
                    command_sent_at = clock_timestamp()
                WHERE id IN (
                    SELECT id FROM transactions
                    WHERE status = 'Pending' AND (expires_at IS NULL OR expires_at > clock_timestamp())
                      AND (command_sent_at IS NULL OR command_sent_at < clock_timestamp() - make_interval(secs => %s))
                    ORDER BY command_sent_at NULLS FIRST, seq LIMIT %s FOR UPDATE SKIP LOCKED)
                RETURNING seq, device_id, id, sell_order_id, energy_wh, expires_at
            )
            SELECT 'lock' AS kind, device_id, id AS transaction_id, sell_order_id, energy_wh, expires_at
            FROM claimed ORDER BY seq
            """,
            (lock_timeout_s, LOCK_REPEAT_S, limit),
        ).fetchall()


def claim_owed(conn: Connection, *, device_online_s: int, limit: int) -> list[Command]:
    """Claim unlocks and transfers to publish now: at once, then repeatedly while the device is online and does not act.

    A device that is away gets the first one from the broker when it returns, and the next from here.
    """
    with conn.cursor(row_factory=class_row(Command)) as cursor:
        return cursor.execute(
            """
            UPDATE transactions
            SET command_sent_at = clock_timestamp()
            WHERE id IN (
                SELECT t.id FROM transactions t JOIN iot_devices d ON d.id = t.device_id
                WHERE (t.unlock = 'Owed' OR (t.status = 'Confirmed' AND t.delivery IN ('Owed', 'Started')))
                  AND d.status <> 'Removed'
                  AND (t.command_sent_at IS NULL
                       OR (t.command_sent_at < clock_timestamp() - make_interval(
                               secs => CASE WHEN t.delivery = 'Started' THEN %s ELSE %s END)
                           AND d.status = 'Online' AND d.last_ping > now() - make_interval(secs => %s)))
                ORDER BY t.command_sent_at NULLS FIRST LIMIT %s FOR UPDATE OF t SKIP LOCKED)
            RETURNING CASE WHEN unlock = 'Owed' THEN 'unlock' ELSE 'transfer' END AS kind,
                      device_id, id AS transaction_id, sell_order_id, energy_wh, expires_at
            """,
            (DELIVERING_REPEAT_S, OWED_REPEAT_S, device_online_s, limit),
        ).fetchall()
