"""Do once what a client requests twice."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from psycopg import Connection

from energy_market.domain.errors import Conflict
from energy_market.postgres import idempotency


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer to a client: an HTTP status and a body."""

    status: int
    body: str


def answer_once(
    conn: Connection, *, user_id: UUID, route: str, key: str | None, body_hash: bytes, answer: Callable[[], Answer]
) -> Answer:
    """The answer to a request under an idempotency key: the first answer, however often the request is sent.

    The key is stored in the transaction of the work itself, so both take effect or neither does. A refusal rolls back
    and stores nothing, so the request may be sent again. Without a key every request is new. Raises `Conflict` if the
    key was used for another body.
    """
    if key is None:
        return answer()
    kept = idempotency.claim(conn, user_id=user_id, route=route, key=key, body_hash=body_hash)
    if kept is None:
        first = answer()
        idempotency.keep(conn, user_id=user_id, route=route, key=key, status=first.status, answer=first.body)
        return first
    if kept.body_hash != body_hash:
        raise Conflict("idempotency_key_reused", "This Idempotency-Key was used for a different request.")
    return Answer(status=kept.status, body=kept.answer)
