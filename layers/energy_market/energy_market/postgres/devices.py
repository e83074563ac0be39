"""Devices (the tables `iot_devices` and `device_reports`)."""

from collections.abc import Collection, Iterable
from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain import topics
from energy_market.domain.devices import Device, DeviceSide, DeviceType
from energy_market.domain.trades import (
    FAILURES_FORGOTTEN_AFTER_S,
    FIRST_PAUSE_S,
    MAX_FAILURES_IN_A_ROW,
    MAX_PAUSE_S,
)
from energy_market.postgres.arrays import array
from energy_market.postgres.deliveries import TO_BE_FED
from energy_market.postgres.device_reports import HEARD

UNFINISHED_AFTER_S: Final = 600
"""Seconds after which an unfinished registration counts as dead: no request takes that long."""

# Promises that a device `d` must still keep from the energy in its latest status: its matches and its trades. The part
# of a trade that was fed before that status is left out, since the status no longer includes it.
_OF_TRADES: Final[LiteralString] = " FROM transactions t WHERE t.device_id = d.id AND " + TO_BE_FED + " > t.fed_wh"
_TRADED: Final[LiteralString] = "SELECT coalesce(sum(" + TO_BE_FED + " - t.fed_wh), 0)" + _OF_TRADES
_FED_SINCE: Final[LiteralString] = "SELECT coalesce(sum(greatest(0, t.delivered_wh - t.fed_wh)), 0)" + _OF_TRADES
PROMISED: Final[LiteralString] = (
    "SELECT (" + _TRADED + ") + coalesce((SELECT sum(m.energy_wh) FROM matches m WHERE m.device_no = d.no), 0)"
)


# Whether the latest status of a device `d` was refused.
STATUS_REFUSED: Final[LiteralString] = (
    """EXISTS (
    SELECT FROM device_reports r
    WHERE r.device_id = d.id AND r.kind = 'refused' AND r.received_at > coalesce(d.status_heard_at, '-infinity')
      AND r.payload ->> 'topic' LIKE '"""
    + topics.DONOR_STATUS.replace("+", "%%")
    + """' AND r.payload ->> 'code' <> 'field_ignored')"""
)

# Whether a device `d` may be matched now: it is online, has energy, and waits for nothing. Only silence for `online_s`
# seconds changes this without a write; every other change is written to the row (docs/decisions/0012).
MAY_BE_MATCHED: Final[LiteralString] = (
    "d.status = 'Online' AND d.silent_since IS NULL AND d.paused_until IS NULL AND d.available_wh > 0"
    " AND d.last_ping > now() - make_interval(secs => %(online_s)s)"
)

# Whether a device `d` is a registered donor device.
IS_DONOR: Final[LiteralString] = "d.side = 'donor' AND d.status IN ('Registered', 'Online', 'Offline')"


def insert(
    conn: Connection, *, owner_id: UUID, device_type: DeviceType, side: DeviceSide, location: str, zone: str
) -> UUID:
    """Create a device's id before its certificate exists; the row is 'Provisioning', and tidied away if it stays so."""
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
    """Record that the device has its certificate; False if the registration was abandoned or took too long."""
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
    """Abandon a registration in favour of another; AWS IoT may have something of it, which is tidied."""
    conn.execute(
        """
        UPDATE iot_devices SET status = 'Removed', tidy_at = clock_timestamp()
        WHERE id = %s AND status = 'Provisioning'
        """,
        (device_id,),
    )


def remove(conn: Connection, device_id: UUID) -> bool:
    """Remove the device from the market; False if it was removed before."""
    return (
        conn.execute(
            "UPDATE iot_devices SET status = 'Removed', reported_locks = '{}' WHERE id = %s AND status <> 'Removed'",
            (device_id,),
        ).rowcount
        == 1
    )


def put_offline(conn: Connection, device_id: UUID) -> None:
    """Do not match the device before its next message, whose count may start anew."""
    conn.execute(
        """
        UPDATE iot_devices SET status = CASE WHEN status = 'Online' THEN 'Offline' ELSE status END,
               status_seq = NULL, status_heard_at = NULL
        WHERE id = %s
        """,
        (device_id,),
    )


def hold_owner(conn: Connection, device_id: UUID, owner_id: UUID | None) -> bool:
    """Until this transaction ends, let the device's owner place no sell order; False if there is no such device.

    `owner_id`: the owner that it must have; None: any.
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


def hold_owned(conn: Connection, device_id: UUID, owner_id: UUID | None) -> bool:
    """Whether the device exists and has this owner (None: any). Until this transaction ends, nobody else changes it."""
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


def hold_registered(conn: Connection, device_id: UUID) -> bool:
    """Whether a registration is complete; waits for one whose commit is under way."""
    row = conn.execute("SELECT status FROM iot_devices WHERE id = %s FOR NO KEY UPDATE", (device_id,)).fetchone()
    return row is not None and row[0] not in {"Provisioning", "Removed"}


def of_owner(conn: Connection, owner_id: UUID) -> list[Device]:
    """A user's devices, oldest first, without those whose registration has died half-way."""
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
    """The number of devices that a user has registered, or tried to register, in the last day."""
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
    """The unpromised energy of each device that may be matched, in Wh by the device's number."""
    return dict(
        conn.execute(
            "SELECT d.no, (d.available_wh - (" + _TRADED + ") - coalesce(m.energy_wh, 0))::bigint FROM iot_devices d"
            " LEFT JOIN (SELECT device_no, sum(energy_wh) AS energy_wh FROM matches GROUP BY device_no) m"
            "   ON m.device_no = d.no"
            " WHERE d.no = ANY (%(numbers)s::bigint[]) AND " + MAY_BE_MATCHED,
            {"numbers": array(numbers), "online_s": device_online_s},
        ).fetchall()
    )


def is_recipient(conn: Connection, device_id: UUID) -> bool:
    """Whether a device is registered as a recipient, which only reports."""
    row = conn.execute("SELECT side FROM iot_devices WHERE id = %s", (device_id,)).fetchone()
    return row == ("recipient",)


def hold(conn: Connection, device_id: UUID) -> bool:
    """Until this transaction ends, let nobody else change a device; False if it is not one of ours."""
    return (
        conn.execute(
            "SELECT FROM iot_devices WHERE id = %s AND status NOT IN ('Provisioning', 'Removed') FOR NO KEY UPDATE",
            (device_id,),
        ).rowcount
        == 1
    )


def wait_for_status(conn: Connection, failed: Collection[UUID], *, received_ms: int | None = None) -> None:
    """Do not match the devices of these trades, which failed through their fault, before their next status.

    `received_ms`: the broker's time of the message that failed the trades; a later status ends the wait. Without it,
    the devices were silent until now, by a clock that may be a second ahead of the broker's.

    A failure counts if its trade was matched after the last counted failure. After `MAX_FAILURES_IN_A_ROW` the device
    pauses, whatever it reports: for a minute, and twice as long after each further failure, up to an hour.
    """
    conn.execute(
        """
        UPDATE iot_devices d
        SET silent_since = greatest(d.silent_since, CASE WHEN %(received_ms)s::bigint IS NULL
                                                         THEN now() - interval '1 second' ELSE """
        + HEARD
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
    """Let devices whose pause is over be matched again, longest waiting first. Returns how many.

    This writes to the row, because a tick does not see what only time has changed.
    """
    return conn.execute(
        """
        UPDATE iot_devices SET paused_until = NULL
        WHERE id IN (SELECT id FROM iot_devices WHERE zone = %s AND paused_until <= now()
                     ORDER BY paused_until LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
        """,
        (zone, limit),
    ).rowcount
