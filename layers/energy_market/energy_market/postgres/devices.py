"""Devices (the tables `iot_devices` and `device_reports`)."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain import topics
from energy_market.domain.devices import Device, DeviceSide, DeviceType, Report, ReportKind
from energy_market.domain.trades import (
    FAILURES_FORGOTTEN_AFTER_S,
    FIRST_PAUSE_S,
    MAX_FAILURES_IN_A_ROW,
    MAX_PAUSE_S,
)
from energy_market.postgres.book import array
from energy_market.postgres.trades import COUNT_FORGOTTEN_AFTER_S, TO_BE_FED

REPORTS_KEPT_DAYS: Final = 7
PRUNED_AT_ONCE: Final = 4
MAX_REPORTS_IN_TEN_MINUTES: Final = 60  # of a kind, of a device
MAX_KEPT_CHARACTERS: Final = 4_096
LIFE_NOTED_EVERY_S: Final = 10
"""A sign of life that is not a status is written if the one before is older than this."""

UNFINISHED_AFTER_S: Final = 600
"""A registration that is not done by then has died: no request takes that long."""

# What the energy that a device `d` told in its latest status is still to cover: its trades, but for what was fed before
# that status and is not in it any more, and its matches.
_OF_TRADES: Final[LiteralString] = " FROM transactions t WHERE t.device_id = d.id AND " + TO_BE_FED + " > t.fed_wh"
_TRADED: Final[LiteralString] = "SELECT coalesce(sum(" + TO_BE_FED + " - t.fed_wh), 0)" + _OF_TRADES
_FED_SINCE: Final[LiteralString] = "SELECT coalesce(sum(greatest(0, t.delivered_wh - t.fed_wh)), 0)" + _OF_TRADES
PROMISED: Final[LiteralString] = (
    "SELECT (" + _TRADED + ") + coalesce((SELECT sum(m.energy_wh) FROM matches m WHERE m.device_no = d.no), 0)"
)


# That the latest status of a device `d` was refused.
STATUS_REFUSED: Final[LiteralString] = (
    """EXISTS (
    SELECT FROM device_reports r
    WHERE r.device_id = d.id AND r.kind = 'refused' AND r.received_at > coalesce(d.status_heard_at, '-infinity')
      AND r.payload ->> 'topic' LIKE '"""
    + topics.DONOR_STATUS.replace("+", "%%")
    + """' AND r.payload ->> 'code' <> 'field_ignored')"""
)

# That a device `d` may be matched now: it is there, has energy, and waits for nothing. Time alone only ends this, by
# silence for `online_s` seconds: all else that changes it is written in the row (docs/decisions/0012).
MAY_BE_MATCHED: Final[LiteralString] = (
    "d.status = 'Online' AND d.silent_since IS NULL AND d.paused_until IS NULL AND d.available_wh > 0"
    " AND d.last_ping > now() - make_interval(secs => %(online_s)s)"
)

# That a device `d` is a donor's and was registered.
IS_DONOR: Final[LiteralString] = "d.side = 'donor' AND d.status IN ('Registered', 'Online', 'Offline')"

# When the broker had the message, which may have lain in a queue since: only then was the device surely there.
_HEARD: Final[LiteralString] = "least(clock_timestamp(), to_timestamp(%(received_ms)s::bigint / 1000.0))"
# Not of one that the broker saw leave after that.
_BACK: Final[LiteralString] = (
    "CASE WHEN status = 'Offline' AND presence_ms > %(received_ms)s THEN 'Offline' ELSE 'Online' END"
)


def insert(
    conn: Connection, *, owner_id: UUID, device_type: DeviceType, side: DeviceSide, location: str, zone: str
) -> UUID:
    """Take a device's id before its certificate exists; it is 'Provisioning', and tidied away if it stays so."""
    row = conn.execute(
        """
        INSERT INTO iot_devices (owner_id, device_type, side, location, zone, tidy_at)
        VALUES (%s, %s, %s, %s, %s, clock_timestamp() + make_interval(secs => %s)) RETURNING id
        """,
        (owner_id, device_type, side, location, zone, UNFINISHED_AFTER_S),
    ).fetchone()
    assert row is not None  # an INSERT of one row returns one row
    device_id: UUID = row[0]
    return device_id


def register(conn: Connection, device_id: UUID) -> bool:
    """The device has its certificate; False if it was not being provisioned, or gave way, or took too long."""
    return (
        conn.execute(
            """
            UPDATE iot_devices SET status = 'Registered'
            WHERE id = %s AND status = 'Provisioning' AND created_at >= now() - make_interval(secs => %s)
            """,
            (device_id, UNFINISHED_AFTER_S),
        ).rowcount
        == 1
    )


def give_way(conn: Connection, device_id: UUID) -> None:
    """Another registration takes the place of this one, of which AWS IoT may have something."""
    conn.execute(
        """
        UPDATE iot_devices SET status = 'Removed', tidy_at = clock_timestamp()
        WHERE id = %s AND status = 'Provisioning'
        """,
        (device_id,),
    )


def remove(conn: Connection, device_id: UUID) -> bool:
    """The device takes part no more; False if it was removed before."""
    return (
        conn.execute(
            "UPDATE iot_devices SET status = 'Removed', reported_locks = '{}' WHERE id = %s AND status <> 'Removed'",
            (device_id,),
        ).rowcount
        == 1
    )


def put_offline(conn: Connection, device_id: UUID) -> None:
    """The device is not matched before it is heard again, with whatever count it has then."""
    conn.execute(
        """
        UPDATE iot_devices SET status = CASE WHEN status = 'Online' THEN 'Offline' ELSE status END,
               status_seq = NULL, status_heard_at = NULL
        WHERE id = %s
        """,
        (device_id,),
    )


def hold_owner(conn: Connection, device_id: UUID, owner_id: UUID | None) -> bool:
    """Let its owner place no sell order until this transaction ends; False if there is no such device.

    Of this owner; None: of anybody.
    """
    return (
        conn.execute(
            """
            SELECT FROM users WHERE id = (SELECT owner_id FROM iot_devices WHERE id = %s)
              AND id = coalesce(%s, id) FOR NO KEY UPDATE
            """,
            (device_id, owner_id),
        ).rowcount
        == 1
    )


def owned(conn: Connection, device_id: UUID, owner_id: UUID | None) -> bool:
    """Whether there is such a device, of this owner (None: of anybody). Nobody else changes it until this one ends."""
    return (
        conn.execute(
            """
            SELECT FROM iot_devices
            WHERE id = %s AND owner_id = coalesce(%s, owner_id) AND status NOT IN ('Provisioning', 'Removed')
            FOR NO KEY UPDATE
            """,
            (device_id, owner_id),
        ).rowcount
        == 1
    )


def is_registered(conn: Connection, device_id: UUID) -> bool:
    """Whether a registration was done; waits for one whose commit is still under way."""
    row = conn.execute("SELECT status FROM iot_devices WHERE id = %s FOR NO KEY UPDATE", (device_id,)).fetchone()
    return row is not None and row[0] not in {"Provisioning", "Removed"}


def of_owner(conn: Connection, owner_id: UUID) -> list[Device]:
    """A user's devices, oldest first; not those whose registration has died half-way."""
    with conn.cursor(row_factory=class_row(Device)) as cursor:
        return cursor.execute(
            "SELECT d.id, d.owner_id, d.device_type, d.side, d.location, d.zone, d.status, d.last_ping,"
            " CASE WHEN d.available_wh IS NOT NULL"
            "      THEN greatest(0, d.available_wh - (" + _FED_SINCE + "))::bigint END AS available_wh,"
            " CASE WHEN d.available_wh IS NOT NULL"
            "      THEN greatest(0, d.available_wh - (" + PROMISED + "))::bigint END AS free_wh,"
            " d.battery_level, d.created_at, r.received_at AS refused_at, r.payload AS refused"
            " FROM iot_devices d LEFT JOIN LATERAL ("
            "     SELECT received_at, payload FROM device_reports WHERE device_id = d.id AND kind = 'refused'"
            "     ORDER BY received_at DESC, id DESC LIMIT 1) r ON true WHERE d.owner_id = %s AND d.status <> 'Removed'"
            " AND (d.status <> 'Provisioning' OR d.created_at > now() - make_interval(secs => %s))"
            " ORDER BY d.created_at, d.id",
            (owner_id, UNFINISHED_AFTER_S),
        ).fetchall()


def registered_today(conn: Connection, owner_id: UUID) -> int:
    """How many devices a user has registered in the last day, or tried to."""
    row = conn.execute(
        "SELECT count(*) FROM iot_devices WHERE owner_id = %s AND created_at > now() - interval '1 day'", (owner_id,)
    ).fetchone()
    assert row is not None  # an aggregate without GROUP BY returns one row
    number: int = row[0]
    return number


def donors_of(conn: Connection, owner_id: UUID) -> list[UUID]:
    """A user's registered donor devices, oldest first."""
    rows = conn.execute(
        "SELECT d.id FROM iot_devices d WHERE d.owner_id = %s AND " + IS_DONOR + " ORDER BY d.created_at, d.id",
        (owner_id,),
    ).fetchall()
    return [row[0] for row in rows]


def free_to_promise(conn: Connection, numbers: Iterable[int], *, device_online_s: int) -> dict[int, int]:
    """The energy that each device that may be matched has not promised to a trade, in Wh by the device's number."""
    return dict(
        conn.execute(
            "SELECT d.no, (d.available_wh - (" + _TRADED + ") - coalesce(m.energy_wh, 0))::bigint FROM iot_devices d"
            " LEFT JOIN (SELECT device_no, sum(energy_wh) AS energy_wh FROM matches GROUP BY device_no) m"
            "   ON m.device_no = d.no"
            " WHERE d.no = ANY (%(numbers)s::bigint[]) AND " + MAY_BE_MATCHED,
            {"numbers": array(numbers), "online_s": device_online_s},
        ).fetchall()
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
    """Take a donor's status; False if it is of no device of ours, or older than one already taken.

    What it does not say (None) stays as it is. `received_ms`: the broker's time. A device that waits for a status after
    that still waits. One whose count is behind (it lost its memory, and its clock was ahead before) is heard again when
    the broker has it for long enough after the last status that was taken; a message that only lay in a queue for so
    long is not. Without a count the broker's time tells which is older.
    """
    return (
        conn.execute(
            """
            UPDATE iot_devices
            SET available_wh = coalesce(%(available_wh)s::bigint, available_wh),
                available_seq = CASE WHEN %(available_wh)s::bigint IS NULL THEN available_seq ELSE %(seq)s::bigint END,
                available_at = CASE WHEN %(available_wh)s::bigint IS NULL THEN available_at ELSE """
            + _HEARD
            + """ END,
                battery_level = coalesce(%(battery_level)s::numeric, battery_level),
                reported_locks = coalesce(%(locks)s::uuid[], reported_locks),
                status_seq = coalesce(%(seq)s::bigint, status_seq),
                reports_deliveries = reports_deliveries OR %(seq)s::bigint IS NOT NULL,
                status_heard_at = greatest(status_heard_at, """
            + _HEARD
            + """),
                status = """
            + _BACK
            + """, last_ping = greatest(last_ping, """
            + _HEARD
            + """),
                silent_since = CASE WHEN silent_since > """
            + _HEARD
            + """ THEN silent_since END,
                waits_because = CASE WHEN silent_since > """
            + _HEARD
            + """ THEN waits_because END
            WHERE id = %(id)s AND side = 'donor' AND status NOT IN ('Provisioning', 'Removed')
              AND CASE WHEN %(seq)s::bigint IS NULL THEN status_heard_at IS NULL OR status_heard_at <= """
            + _HEARD
            + """
                       ELSE status_seq IS NULL OR status_seq < %(seq)s
                            OR status_heard_at < """
            + _HEARD
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


def is_recipient(conn: Connection, device_id: UUID) -> bool:
    """Whether a device is registered as one that only reports."""
    row = conn.execute("SELECT side FROM iot_devices WHERE id = %s", (device_id,)).fetchone()
    return row == ("recipient",)


def note_life(conn: Connection, device_id: UUID, *, received_ms: int, reports_deliveries: bool) -> None:
    """A device answered or told of a delivery at the broker's time `received_ms`; not each of many in a row is written.

    A device that waits for its next status goes on waiting. `reports_deliveries`: it will tell how its deliveries end.
    """
    conn.execute(
        "UPDATE iot_devices SET status = "
        + _BACK
        + ", last_ping = greatest(last_ping, "
        + _HEARD
        + "), reports_deliveries = reports_deliveries OR %(reports_deliveries)s"
        + " WHERE id = %(id)s AND status NOT IN ('Provisioning', 'Removed')"
        + " AND (status <> 'Online' OR last_ping IS NULL OR reports_deliveries < %(reports_deliveries)s"
        + "      OR last_ping < "
        + _HEARD
        + " - make_interval(secs => %(pause_s)s))",
        {
            "id": device_id,
            "received_ms": received_ms,
            "reports_deliveries": reports_deliveries,
            "pause_s": LIFE_NOTED_EVERY_S,
        },
    )


def record_sign_of_life(conn: Connection, device_id: UUID, *, received_ms: int) -> bool:
    """A device said something, at the broker's time `received_ms`; False if it is not one of ours."""
    return (
        conn.execute(
            "UPDATE iot_devices SET status = "
            + _BACK
            + ", last_ping = greatest(last_ping, "
            + _HEARD
            + ") WHERE id = %(id)s AND status NOT IN ('Provisioning', 'Removed')",
            {"id": device_id, "received_ms": received_ms},
        ).rowcount
        == 1
    )


def hold(conn: Connection, device_id: UUID) -> bool:
    """Let nobody else change a device until this transaction ends; False if it is not one of ours."""
    return (
        conn.execute(
            "SELECT FROM iot_devices WHERE id = %s AND status NOT IN ('Provisioning', 'Removed') FOR NO KEY UPDATE",
            (device_id,),
        ).rowcount
        == 1
    )


def record_presence(
    conn: Connection, device_id: UUID, *, connected: bool, session: str, at_ms: int, received_ms: int
) -> bool:
    """Take a presence event; False if it is of no device of ours, or overtaken by a later one.

    The broker's events may come twice and out of order, and a device that connects anew before its old session has
    ended is disconnected *after* it connected: only the end of the session that we know of puts it offline. And a
    session whose end is among the device's reports does not begin any more: its end has overtaken its beginning.
    """
    return (
        conn.execute(
            """
            UPDATE iot_devices
            SET status = CASE WHEN %(connected)s THEN 'Online' ELSE 'Offline' END,
                last_ping = CASE WHEN %(connected)s THEN greatest(last_ping, """
            + _HEARD
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


def wait_for_status(conn: Connection, failed: Collection[UUID], *, received_ms: int | None = None) -> None:
    """The devices of these trades, which failed by their fault, are not matched before their next status.

    `received_ms`: the broker's time of the message that failed them, a status later than which it takes; without one
    they were silent until now, by a clock that may be a second ahead of the broker's.

    A failure counts if its trade was matched after the one counted before. Of so many in a row the last makes the
    device pause, whatever it reports: a minute, and each further one twice as long, up to an hour.
    """
    conn.execute(
        """
        UPDATE iot_devices d
        SET silent_since = greatest(d.silent_since, CASE WHEN %(received_ms)s::bigint IS NULL
                                                         THEN now() - interval '1 second' ELSE """
        + _HEARD
        + """ END),
            waits_because = f.reason, failed_wh = f.failed_wh,
            failures = coalesce(f.failures, d.failures),
            failed_at = CASE WHEN f.failures IS NULL THEN d.failed_at ELSE clock_timestamp() END,
            paused_until = CASE WHEN f.failures >= %(max_failures)s
                THEN clock_timestamp() + make_interval(secs => least(
                    %(max_pause_s)s, %(first_pause_s)s * 2.0 ^ least(f.failures - %(max_failures)s, 30)))
                ELSE d.paused_until END
        FROM (
            SELECT d.id, t.reason,
                   CASE WHEN d.failed_at IS NULL OR d.failed_at < t.matched_at
                        THEN 1 + CASE WHEN r.goes_on THEN d.failures ELSE 0 END END AS failures,
                   greatest(t.energy_wh, CASE WHEN r.goes_on THEN d.failed_wh ELSE 0 END) AS failed_wh
            FROM (SELECT device_id, max(reason) AS reason, max(energy_wh) AS energy_wh, max("timestamp") AS matched_at
                  FROM transactions WHERE id = ANY (%(failed)s) GROUP BY device_id) t
            JOIN iot_devices d ON d.id = t.device_id
            CROSS JOIN LATERAL (SELECT d.failed_at > now() - make_interval(secs => %(forget_s)s) AS goes_on) r
            ORDER BY d.id FOR NO KEY UPDATE OF d
        ) f
        WHERE d.id = f.id
        """,
        {
            "failed": list(failed),
            "received_ms": received_ms,
            "max_failures": MAX_FAILURES_IN_A_ROW,
            "first_pause_s": FIRST_PAUSE_S,
            "max_pause_s": MAX_PAUSE_S,
            "forget_s": FAILURES_FORGOTTEN_AFTER_S,
        },
    )


def end_pauses(conn: Connection, zone: str, *, limit: int) -> int:
    """Let devices be matched again whose pause is over, those first that waited longest; how many.

    By a row that is written, because a tick looks at nothing that only time has changed.
    """
    return conn.execute(
        """
        UPDATE iot_devices SET paused_until = NULL
        WHERE id IN (SELECT id FROM iot_devices WHERE zone = %s AND paused_until <= now()
                     ORDER BY paused_until LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
        """,
        (zone, limit),
    ).rowcount


def keep_report(conn: Connection, device_id: UUID, kind: ReportKind, payload: str) -> None:
    """Keep what a device said (a JSON object), and let go of a few reports older than a week.

    Each new report takes more old ones with it than it adds, so that the table follows what arrives in a week. Of a
    device that floods, the first of each ten minutes are kept; of a report that is too long, its length.
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
    """What a device sent of these kinds, latest first; None if the user has no such device.

    `before`: when the last report of the page before this one was received, and its id.
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
