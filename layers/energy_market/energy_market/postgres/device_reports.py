"""Devices' reports: stored for their owners, with their effects on the devices' rows."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.devices import Report, ReportKind
from energy_market.postgres.deliveries import COUNT_FORGOTTEN_AFTER_S

REPORTS_KEPT_DAYS: Final = 7
PRUNED_AT_ONCE: Final = 4
MAX_REPORTS_IN_TEN_MINUTES: Final = 60  # per device and kind
MAX_KEPT_CHARACTERS: Final = 4_096
LIFE_NOTED_EVERY_S: Final = 10
"""Seconds in which at most one sign of life is written that is not a status."""

# The time at which the broker received the message, which may have waited in a queue since: the device was surely
# there only at that time.
HEARD: Final[LiteralString] = "least(clock_timestamp(), to_timestamp(%(received_ms)s::bigint / 1000.0))"
# A device that the broker saw leave after that stays offline.
_BACK: Final[LiteralString] = (
    "CASE WHEN status = 'Offline' AND presence_ms > %(received_ms)s THEN 'Offline' ELSE 'Online' END"
)


def record_status(
    conn: Connection,
    device_id: UUID,
    *,
    available_wh: int | None,
    battery_level: Decimal | None,
    locks: Sequence[UUID] | None,
    seq: int | None,
    received_ms: int,
) -> bool:
    """Apply a donor's status; False if it is from none of our devices, or older than one already applied.

    - A missing field (None) leaves its column unchanged.
    - `received_ms`: the broker's time. A device that has been told to wait since a later time keeps waiting.
    - A device whose count is behind (it lost its memory, and its clock was ahead before) is accepted again once the
      broker's time is `COUNT_FORGOTTEN_AFTER_S` after the last applied status. A message that only waited in a queue
      for that long is not.
    - Without a count, the broker's time decides which status is older.
    """
    return (
        conn.execute(
            """
            UPDATE iot_devices
            SET available_wh = coalesce(%(available_wh)s::bigint, available_wh),
                available_seq = CASE WHEN %(available_wh)s::bigint IS NULL THEN available_seq ELSE %(seq)s::bigint END,
                available_at = CASE WHEN %(available_wh)s::bigint IS NULL THEN available_at ELSE """
            + HEARD
            + """ END,
                battery_level = coalesce(%(battery_level)s::numeric, battery_level),
                reported_locks = coalesce(%(locks)s::uuid[], reported_locks),
                status_seq = coalesce(%(seq)s::bigint, status_seq),
                reports_deliveries = reports_deliveries OR %(seq)s::bigint IS NOT NULL,
                status_heard_at = greatest(status_heard_at, """
            + HEARD
            + """),
                status = """
            + _BACK
            + """, last_ping = greatest(last_ping, """
            + HEARD
            + """),
                silent_since = CASE WHEN silent_since > """
            + HEARD
            + """ THEN silent_since END,
                waits_because = CASE WHEN silent_since > """
            + HEARD
            + """ THEN waits_because END
            WHERE id = %(id)s AND side = 'donor' AND status NOT IN ('Provisioning', 'Removed')
              AND CASE WHEN %(seq)s::bigint IS NULL THEN status_heard_at IS NULL OR status_heard_at <= """
            + HEARD
            + """
                       ELSE status_seq IS NULL OR status_seq < %(seq)s
                            OR status_heard_at < """
            + HEARD
            + """ - make_interval(secs => %(forget_s)s) END
            """,
            {
                "available_wh": available_wh,
                "battery_level": battery_level,
                "locks": None if locks is None else list(locks),
                "seq": seq,
                "id": device_id,
                "received_ms": received_ms,
                "forget_s": COUNT_FORGOTTEN_AFTER_S,
            },
        ).rowcount
        == 1
    )


def note_life(conn: Connection, device_id: UUID, *, received_ms: int, reports_deliveries: bool) -> None:
    """Record, by the broker's time `received_ms`, that a device answered or reported; writes only once in ten seconds.

    A device that waits for its next status keeps waiting. `reports_deliveries`: it reports how its deliveries end.
    """
    conn.execute(
        "UPDATE iot_devices SET status = "
        + _BACK
        + ", last_ping = greatest(last_ping, "
        + HEARD
        + "), reports_deliveries = reports_deliveries OR %(reports_deliveries)s"
        + " WHERE id = %(id)s AND status NOT IN ('Provisioning', 'Removed')"
        + " AND (status <> 'Online' OR last_ping IS NULL OR reports_deliveries < %(reports_deliveries)s"
        + "      OR last_ping < "
        + HEARD
        + " - make_interval(secs => %(pause_s)s))",
        {
            "id": device_id,
            "received_ms": received_ms,
            "reports_deliveries": reports_deliveries,
            "pause_s": LIFE_NOTED_EVERY_S,
        },
    )


def record_sign_of_life(conn: Connection, device_id: UUID, *, received_ms: int) -> bool:
    """Record that a device sent something, by the broker's time `received_ms`; False if it is not one of ours."""
    return (
        conn.execute(
            "UPDATE iot_devices SET status = "
            + _BACK
            + ", last_ping = greatest(last_ping, "
            + HEARD
            + ") WHERE id = %(id)s AND status NOT IN ('Provisioning', 'Removed')",
            {"id": device_id, "received_ms": received_ms},
        ).rowcount
        == 1
    )


def record_presence(
    conn: Connection, device_id: UUID, *, connected: bool, session: str, at_ms: int, received_ms: int
) -> bool:
    """Apply a presence event; False if it is from none of our devices, or a later event was applied already.

    The broker's events may arrive twice and out of order. A device that reconnects before its old session has ended is
    disconnected *after* it connected, so only the end of the current session puts it offline. A session whose end is
    already among the device's reports does not begin any more: its end has overtaken its beginning.
    """
    return (
        conn.execute(
            """
            UPDATE iot_devices
            SET status = CASE WHEN %(connected)s THEN 'Online' ELSE 'Offline' END,
                last_ping = CASE WHEN %(connected)s THEN greatest(last_ping, """
            + HEARD
            + """) ELSE last_ping END,
                presence_session = %(session)s, presence_ms = %(at_ms)s
            WHERE id = %(id)s AND status NOT IN ('Provisioning', 'Removed')
              AND (presence_ms IS NULL OR presence_ms <= %(at_ms)s)
              AND (%(connected)s OR presence_session IS NULL OR presence_session = %(session)s)
              AND NOT (%(connected)s AND EXISTS (
                  SELECT FROM device_reports r
                  WHERE r.device_id = iot_devices.id AND r.kind = 'presence'
                    AND r.received_at > now() - interval '1 hour'
                    AND r.payload ->> 'eventType' = 'disconnected' AND r.payload ->> 'sessionIdentifier' = %(session)s))
            """,
            {"connected": connected, "session": session, "at_ms": at_ms, "id": device_id, "received_ms": received_ms},
        ).rowcount
        == 1
    )


def keep_report(conn: Connection, device_id: UUID, kind: ReportKind, payload: str) -> None:
    """Store a device's message (a JSON object), and delete a few reports older than a week.

    Each new report removes more old ones than it adds, so that the table holds about one week. If a device floods, only
    the first reports of each ten minutes are stored; of a report that is too long, only its length.
    """
    if len(payload) > MAX_KEPT_CHARACTERS:
        payload = f'{{"not_kept_characters": {len(payload)}}}'
    conn.execute(
        """
        WITH pruned AS (
            DELETE FROM device_reports WHERE id IN (
                SELECT id FROM device_reports WHERE received_at < now() - make_interval(days => %(days)s)
                ORDER BY received_at LIMIT %(pruned)s FOR UPDATE SKIP LOCKED)
        )
        INSERT INTO device_reports (device_id, kind, payload) SELECT %(device)s, %(kind)s, %(payload)s::jsonb
        WHERE (SELECT count(*) FROM (
                   SELECT FROM device_reports
                   WHERE device_id = %(device)s AND kind = %(kind)s AND received_at > now() - interval '10 minutes'
                   LIMIT %(most)s) lately) < %(most)s
        """,
        {
            "days": REPORTS_KEPT_DAYS,
            "pruned": PRUNED_AT_ONCE,
            "device": device_id,
            "kind": kind,
            "payload": payload,
            "most": MAX_REPORTS_IN_TEN_MINUTES,
        },
    )


def reports(
    conn: Connection,
    device_id: UUID,
    owner_id: UUID,
    *,
    kinds: Sequence[ReportKind],
    before: tuple[datetime, int] | None,
    limit: int,
) -> list[Report] | None:
    """A device's reports of these kinds, latest first; None if the user has no such device.

    `before`: the time of receipt and the id of the previous page's last report.
    """
    is_owned = conn.execute(
        "SELECT FROM iot_devices WHERE id = %s AND owner_id = %s AND status NOT IN ('Provisioning', 'Removed')",
        (device_id, owner_id),
    ).fetchone()
    if is_owned is None:
        return None
    received_at, report_id = before or (None, None)
    with conn.cursor(row_factory=class_row(Report)) as cursor:
        return cursor.execute(
            """
            SELECT r.id, r.kind, r.received_at, r.payload::text AS payload
            FROM unnest(%(kinds)s::text[]) k(kind) CROSS JOIN LATERAL (
                SELECT * FROM device_reports
                WHERE device_id = %(device)s AND kind = k.kind
                  AND received_at <= coalesce(%(received_at)s::timestamptz, 'infinity')
                  AND (%(received_at)s::timestamptz IS NULL
                       OR (received_at, id) < (%(received_at)s::timestamptz, %(id)s::bigint))
                ORDER BY received_at DESC, id DESC LIMIT %(limit)s) r
            ORDER BY r.received_at DESC, r.id DESC LIMIT %(limit)s
            """,
            {
                "device": device_id,
                "kinds": list(kinds),
                "received_at": received_at,
                "id": report_id,
                "limit": limit,
            },
        ).fetchall()
