"""Sessions: one row each, with the hashes of its current refresh token and of the previous one."""

from dataclasses import dataclass
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

PRUNED_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An open session, for a client that sends a token that is not its current one.

    `token_hash`: the current token's, if the given token is its predecessor and was replaced a short time ago.
    """

    user_id: UUID
    token_hash: bytes | None


def open_session(conn: Connection, *, user_id: UUID, token_hash: bytes, life_s: int, most: int) -> UUID:
    """Open a session and delete up to 20 expired ones. The user keeps the newest `most` sessions. Returns its id."""
    row = conn.execute(
        """
        WITH expired AS (
            SELECT id FROM refresh_tokens WHERE expires_at <= now()
            ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
        ), pruned AS (
            DELETE FROM refresh_tokens WHERE id IN (
                SELECT id FROM expired
                UNION ALL
                (SELECT id FROM refresh_tokens WHERE user_id = %s ORDER BY created_at DESC OFFSET %s))
        )
        INSERT INTO refresh_tokens (user_id, token_hash, expires_at) VALUES (%s, %s, now() + make_interval(secs => %s))
        RETURNING id
        """,
        (PRUNED_AT_ONCE, user_id, most - 1, user_id, token_hash, life_s),
    ).fetchone()
    return row[0]  # type: ignore[index, no-any-return]


def rotate(conn: Connection, *, session_id: UUID, token_hash: bytes, next_hash: bytes, life_s: int) -> UUID | None:
    """Replace the session's current token and return its user; None if this is not the current token of a live session.

    The WHERE clause is the whole concurrency control: of two requests with the same token, one finds it current.
    """
    row = conn.execute(
        """
        UPDATE refresh_tokens
        SET token_hash = %s, previous_hash = token_hash, rotated_at = now(),
            expires_at = now() + make_interval(secs => %s)
        WHERE id = %s AND token_hash = %s AND revoked_at IS NULL AND expires_at > now()
        RETURNING user_id
        """,
        (next_hash, life_s, session_id, token_hash),
    ).fetchone()
    return row[0] if row else None


def standing(conn: Connection, *, session_id: UUID, token_hash: bytes, within_s: int) -> Standing | None:
    """The state of a session whose token `rotate` refused; None if it has ended or never existed.

    `clock_timestamp()`, since another request may have rotated after this transaction began.
    """
    with conn.cursor(row_factory=class_row(Standing)) as cursor:
        return cursor.execute(
            """
            SELECT user_id, CASE
                WHEN previous_hash = %s AND rotated_at > clock_timestamp() - make_interval(secs => %s) THEN token_hash
            END AS token_hash
            FROM refresh_tokens WHERE id = %s AND revoked_at IS NULL AND expires_at > now()
            """,
            (token_hash, within_s, session_id),
        ).fetchone()


def revoke(conn: Connection, session_id: UUID) -> None:
    """End a session: none of its tokens counts any more."""
    conn.execute("UPDATE refresh_tokens SET revoked_at = now() WHERE id = %s AND revoked_at IS NULL", (session_id,))


def revoke_with_token(conn: Connection, *, session_id: UUID, token_hash: bytes) -> UUID | None:
    """End the session whose current or previous token this is. Returns its user; None if there was nothing to end."""
    row = conn.execute(
        """
        UPDATE refresh_tokens SET revoked_at = now()
        WHERE id = %s AND (token_hash = %s OR previous_hash = %s) AND revoked_at IS NULL
        RETURNING user_id
        """,
        (session_id, token_hash, token_hash),
    ).fetchone()
    return row[0] if row else None
