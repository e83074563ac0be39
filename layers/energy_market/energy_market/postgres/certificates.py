"""The certificates of devices (the table `device_certificates`), and which of them are valid now.

AWS IoT follows this table: a certificate is recorded before the broker accepts it, and no longer counts once it has
ended here, whatever the broker still does. `iot_devices.tidy_at` means that AWS IoT may have certificates that it
should not, and when it is to be tidied (`usecases/tidy_device.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.devices import Certificate
from energy_market.postgres.devices import UNFINISHED_AFTER_S

OVERLAP_S: Final = 86_400
"""Maximum seconds that an older certificate stays valid after a new one was issued, even if that is never used."""
HEARD_OVERLAP_S: Final = 60
"""Seconds that the old certificate stays valid after the new one was first used: for messages still in the queue."""
MAX_CERTIFICATES_IN_A_DAY: Final = 20  # per device

# Shortens the validity of the certificates that the device got before `this` one.
_THOSE_BEFORE_END: Final[LiteralString] = """
    UPDATE device_certificates
    SET valid_until = least(valid_until, clock_timestamp() + make_interval(secs => %(overlap_s)s))
    WHERE device_id = %(device)s AND issued_at < (SELECT issued_at FROM this)
      AND (valid_until IS NULL OR valid_until > clock_timestamp())"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tidying:
    """A device to tidy: the certificates to keep in AWS IoT, those to delete, and when this was claimed."""

    device_id: UUID
    is_removed: bool
    kept: list[str]
    ended: list[str]
    claimed_at: datetime


def add(conn: Connection, certificate_id: str, device_id: UUID) -> None:
    """Record a certificate that the broker does not accept yet. If it is never activated, it is tidied away."""
    conn.execute("INSERT INTO device_certificates (id, device_id) VALUES (%s, %s)", (certificate_id, device_id))
    will_issue(conn, device_id)


def activated(conn: Connection, certificate_id: str, device_id: UUID) -> None:
    """Record that the broker accepts the certificate. The device's older certificates expire in a day.

    The sweep still visits the device once: an earlier attempt may have died and left something behind.
    """
    conn.execute(
        """
        WITH this AS (
            UPDATE device_certificates SET activated_at = clock_timestamp()
            WHERE id = %(id)s AND activated_at IS NULL RETURNING issued_at
        )
        """
        + _THOSE_BEFORE_END,
        {"id": certificate_id, "device": device_id, "overlap_s": OVERLAP_S},
    )


def to_activate(conn: Connection, owner_id: UUID) -> list[tuple[str, UUID]]:
    """(Certificate, device) of an owner's certificates that the broker may not accept yet."""
    return conn.execute(
        """
        SELECT c.id, c.device_id FROM device_certificates c JOIN iot_devices d ON d.id = c.device_id
        WHERE d.owner_id = %s AND d.status <> 'Removed' AND c.activated_at IS NULL
          AND (c.valid_until IS NULL OR c.valid_until > clock_timestamp())
        """,
        (owner_id,),
    ).fetchall()


def issued_today(conn: Connection, device_id: UUID) -> int:
    """The number of certificates that a device got in the last day."""
    row = conn.execute(
        "SELECT count(*) FROM device_certificates"
        " WHERE device_id = %s AND issued_at > clock_timestamp() - interval '1 day'",
        (device_id,),
    ).fetchone()
    assert row is not None  # an aggregate without GROUP BY returns one row
    number: int = row[0]
    return number


def speaks_for(conn: Connection, certificate_id: str, device_id: UUID) -> bool | None:
    """None if the certificate is not valid for the device now; otherwise whether it is used for the first time."""
    row = conn.execute(
        """
        SELECT c.heard_at IS NULL FROM device_certificates c JOIN iot_devices d ON d.id = c.device_id
        WHERE c.id = %s AND c.device_id = %s AND (c.valid_until IS NULL OR c.valid_until > clock_timestamp())
          AND d.status NOT IN ('Provisioning', 'Removed')
        """,
        (certificate_id, device_id),
    ).fetchone()
    return None if row is None else row[0]


def heard(conn: Connection, certificate_id: str, device_id: UUID) -> None:
    """Record a message under a certificate: the device's older certificates expire in a minute."""
    conn.execute(
        """
        WITH this AS (
            UPDATE device_certificates SET heard_at = clock_timestamp(),
                   activated_at = coalesce(activated_at, clock_timestamp())
            WHERE id = %(id)s AND heard_at IS NULL RETURNING issued_at
        )
        """
        + _THOSE_BEFORE_END,
        {"id": certificate_id, "device": device_id, "overlap_s": HEARD_OVERLAP_S},
    )
    _plan(conn, device_id)


def end(conn: Connection, device_id: UUID) -> int:
    """End all certificates of a device, and have AWS IoT tidied at once. Returns how many were valid."""
    ended = conn.execute(
        """
        UPDATE device_certificates SET valid_until = clock_timestamp()
        WHERE device_id = %s AND (valid_until IS NULL OR valid_until > clock_timestamp())
        """,
        (device_id,),
    ).rowcount
    conn.execute("UPDATE iot_devices SET tidy_at = clock_timestamp() WHERE id = %s", (device_id,))
    return ended


def end_one(conn: Connection, certificate_id: str, device_id: UUID) -> None:
    """End a certificate that was never completed, recorded or not, and have AWS IoT tidied at once."""
    conn.execute(
        """
        WITH ended AS (UPDATE device_certificates SET valid_until = clock_timestamp() WHERE id = %s)
        UPDATE iot_devices SET tidy_at = clock_timestamp() WHERE id = %s
        """,
        (certificate_id, device_id),
    )


def will_issue(conn: Connection, device_id: UUID) -> None:
    """Plan a tidying before AWS IoT is asked for a certificate, in case the process dies half-way."""
    conn.execute(
        "UPDATE iot_devices SET tidy_at = clock_timestamp() + make_interval(secs => %s) WHERE id = %s",
        (UNFINISHED_AFTER_S, device_id),
    )


def due(conn: Connection, *, limit: int) -> list[UUID]:
    """Devices that are to be tidied now, the longest overdue first."""
    rows = conn.execute(
        "SELECT id FROM iot_devices WHERE tidy_at <= clock_timestamp() ORDER BY tidy_at LIMIT %s", (limit,)
    ).fetchall()
    return [row[0] for row in rows]


def claim(conn: Connection, device_id: UUID) -> Tidying | None:
    """Claim a device that is to be tidied now; None if it is not due. Others may try again ten minutes later.

    A registration or a certificate that is still unfinished by now has died, and is ended here.
    """
    conn.execute(
        """
        UPDATE device_certificates SET valid_until = clock_timestamp()
        WHERE device_id = %s AND activated_at IS NULL AND issued_at < clock_timestamp() - make_interval(secs => %s)
          AND (valid_until IS NULL OR valid_until > clock_timestamp())
        """,
        (device_id, UNFINISHED_AFTER_S),
    )
    with conn.cursor(row_factory=class_row(Tidying)) as cursor:
        return cursor.execute(
            """
            UPDATE iot_devices d
            SET tidy_at = clock_timestamp() + make_interval(secs => %(unfinished_s)s),
                status = CASE WHEN status = 'Provisioning' THEN 'Removed' ELSE status END
            WHERE id = %(device)s AND tidy_at <= clock_timestamp()
            RETURNING id AS device_id, status = 'Removed' AS is_removed, tidy_at AS claimed_at,
                ARRAY(SELECT c.id FROM device_certificates c WHERE c.device_id = d.id AND d.status <> 'Removed'
                        AND (c.valid_until IS NULL OR c.valid_until > clock_timestamp())) AS kept,
                ARRAY(SELECT c.id FROM device_certificates c WHERE c.device_id = d.id AND c.deleted_at IS NULL
                        AND (d.status = 'Removed' OR c.valid_until <= clock_timestamp())) AS ended
            """,
            {"device": device_id, "unfinished_s": UNFINISHED_AFTER_S},
        ).fetchone()


def tidied(conn: Connection, done: Tidying) -> None:
    """Note that AWS IoT is tidy for this device, unless its certificates changed since it was claimed."""
    conn.execute(
        "UPDATE device_certificates SET deleted_at = clock_timestamp() WHERE id = ANY (%s)", (list(done.ended),)
    )
    _plan(conn, done.device_id, claimed_at=done.claimed_at)


def _plan(conn: Connection, device_id: UUID, *, claimed_at: datetime | None = None) -> None:
    """Plan the next tidying of AWS IoT: when a certificate ends that it still has."""
    conn.execute(
        """
        UPDATE iot_devices
        SET tidy_at = least(
            (SELECT min(valid_until) FROM device_certificates WHERE device_id = %(device)s AND deleted_at IS NULL),
            -- An abandoned registration may not know it yet, and create its thing only now.
            CASE WHEN status = 'Removed' AND created_at > clock_timestamp() - %(unfinished)s
                 THEN clock_timestamp() + %(unfinished)s END)
        WHERE id = %(device)s AND (%(claimed)s::timestamptz IS NULL OR tidy_at = %(claimed)s)
        """,
        {"device": device_id, "claimed": claimed_at, "unfinished": timedelta(seconds=UNFINISHED_AFTER_S)},
    )


def of_devices(conn: Connection, device_ids: Sequence[UUID]) -> list[Certificate]:
    """The certificates that are valid for these devices now, oldest first."""
    with conn.cursor(row_factory=class_row(Certificate)) as cursor:
        return cursor.execute(
            """
            SELECT id, device_id, issued_at, valid_until FROM device_certificates
            WHERE device_id = ANY (%s) AND activated_at IS NOT NULL
              AND (valid_until IS NULL OR valid_until > clock_timestamp())
            ORDER BY issued_at
            """,
            (list(device_ids),),
        ).fetchall()
