"""Open sign-in challenges. A row is deleted by the sign-in that uses it, or at some time after it expired."""

from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.sign_in import Challenge

CANDIDATES = 5
PRUNED_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenChallenge:
    """A challenge that was not answered yet."""

    nonce: str
    message: str
    issued_at: datetime


def database_time(conn: Connection) -> datetime:
    """The time of this transaction: the value of `now()` in its statements."""
    (moment,) = conn.execute("SELECT now()").fetchone()  # type: ignore[misc]
    return moment  # type: ignore[no-any-return]


def add(conn: Connection, challenge: Challenge, *, source: str) -> None:
    """Store a challenge, and the source address that requested it.

    Each call also deletes up to 20 expired ones, so that a flood cannot pile up.
    """
    conn.execute(
        """
        WITH expired AS (
            SELECT nonce FROM challenges WHERE expires_at <= now()
            ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
        ), pruned AS (
            DELETE FROM challenges WHERE nonce IN (SELECT nonce FROM expired)
        )
        INSERT INTO challenges (nonce, wallet_address, message, source, created_at, expires_at)
        VALUES (%s, %s, %s, %s, %s, %s)
        """,
        (
            PRUNED_AT_ONCE,
            challenge.nonce,
            challenge.wallet_address,
            challenge.message,
            source,
            challenge.issued_at,
            challenge.expires_at,
        ),
    )


def candidates(conn: Connection, wallet_address: str, nonce: str | None, *, source: str) -> list[OpenChallenge]:
    """The challenges that a signature of this wallet may answer: the named one, or at most five.

    Challenges requested by the same source come first, newest first, so that others' challenges cannot push them out.
    """
    with conn.cursor(row_factory=class_row(OpenChallenge)) as cursor:
        return cursor.execute(
            """
            SELECT nonce, message, created_at AS issued_at FROM challenges
            WHERE wallet_address = %s AND expires_at > now() AND (%s::text IS NULL OR nonce = %s)
            ORDER BY (source = %s) DESC, created_at DESC LIMIT %s
            """,
            (wallet_address, nonce, nonce, source, CANDIDATES),
        ).fetchall()


def use(conn: Connection, nonce: str) -> bool:
    """Use a challenge up; False if it was used or has expired. Only one of two simultaneous uses finds the row."""
    return (
        conn.execute(
            "DELETE FROM challenges WHERE nonce = %s AND expires_at > now() RETURNING nonce", (nonce,)
        ).fetchone()
        is not None
    )
