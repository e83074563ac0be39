"""Answers stored for a day under the client's own key, so that a request sent twice is done once."""

from dataclasses import dataclass
from uuid import UUID

from psycopg import Connection

LIFE_H = 24
PRUNED_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """The body of the first request with this key, as a hash, and its answer."""

    body_hash: bytes
    status: int
    answer: str


def claim(conn: Connection, *, user_id: UUID, route: str, key: str, body_hash: bytes) -> KeptAnswer | None:
    """Take a key for this transaction: None if it was free, otherwise the answer given under it.

    A second request with the key waits here, on the unique key, until the first has committed or rolled back. It then
    reads the answer, or takes the key. A key older than a day is taken over.
    """
    taken = conn.execute(
        """
        WITH gone AS (
            SELECT user_id, route, key FROM idempotency_keys
            WHERE created_at <= now() - make_interval(hours => %s) AND (user_id, route, key) <> (%s, %s, %s)
            LIMIT %s FOR UPDATE SKIP LOCKED
        ), pruned AS (
            DELETE FROM idempotency_keys k USING gone
            WHERE k.user_id = gone.user_id AND k.route = gone.route AND k.key = gone.key
        )
        INSERT INTO idempotency_keys AS kept (user_id, route, key, body_hash, status, answer)
        VALUES (%s, %s, %s, %s, 0, '')
        ON CONFLICT (user_id, route, key)
        DO UPDATE SET body_hash = excluded.body_hash, status = 0, answer = '', created_at = now()
            WHERE kept.created_at <= now() - make_interval(hours => %s)
        RETURNING key
        """,
        (LIFE_H, user_id, route, key, PRUNED_AT_ONCE, user_id, route, key, body_hash, LIFE_H),
    ).fetchone()
    if taken:
        return None
    first_hash, status, answer = conn.execute(
        "SELECT body_hash, status, answer FROM idempotency_keys WHERE user_id = %s AND route = %s AND key = %s",
        (user_id, route, key),
    ).fetchone()  # type: ignore[misc]
    return KeptAnswer(body_hash=first_hash, status=status, answer=answer)


def release(conn: Connection, *, user_id: UUID, route: str, key: str, answer: str) -> None:
    """Free a claimed key whose work failed, if `answer` is still the answer recorded for it."""
    conn.execute(
        "DELETE FROM idempotency_keys WHERE user_id = %s AND route = %s AND key = %s AND answer = %s",
        (user_id, route, key, answer),
    )


def keep(conn: Connection, *, user_id: UUID, route: str, key: str, status: int, answer: str) -> None:
    """Record the answer to a claimed key."""
    conn.execute(
        "UPDATE idempotency_keys SET status = %s, answer = %s WHERE user_id = %s AND route = %s AND key = %s",
        (status, answer, user_id, route, key),
    )
