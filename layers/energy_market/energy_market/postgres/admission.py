"""Requests of each source and user in the current minute; and whether a session is still open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection

PRUNED_AT_ONCE = 50

# One statement for each number of names, so that the server plans each once.
_COUNT: Final[Mapping[int, LiteralString]] = {
    names: "INSERT INTO rate_limits (source, minute, requests) VALUES "
    + ", ".join(["(%s, date_trunc('minute', now()), 1)"] * names)
    + """
    ON CONFLICT (source, minute) DO UPDATE SET requests = rate_limits.requests + 1
    RETURNING requests, ceil(60 - extract(second FROM now()))::integer,
              (SELECT revoked_at IS NULL AND expires_at > now() FROM refresh_tokens WHERE id = %s)"""
    for names in (1, 2, 3)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Requests of each name in this minute, this one included, and the seconds until the minute ends."""

    requests: list[int]
    rest_of_minute_s: int
    session_goes_on: bool


def admit(conn: Connection, who: Sequence[str], *, session_id: UUID | None = None) -> Admission:
    """Count one more request of each of `who`, three at most.

    The first request of a minute also deletes up to 50 counts of past minutes.

    All callers pass the same names in the same order; otherwise two of them could wait for each other. The same round
    trip also checks that the session has neither been ended nor expired.
    """
    rows = conn.execute(_COUNT[len(who)], (*who, session_id)).fetchall()
    requests = [row[0] for row in rows]
    if 1 in requests:
        conn.execute(
            """
            WITH gone AS (
                SELECT source, minute FROM rate_limits WHERE minute < date_trunc('minute', now())
                LIMIT %s FOR UPDATE SKIP LOCKED
            )
            DELETE FROM rate_limits r USING gone WHERE r.source = gone.source AND r.minute = gone.minute
            """,
            (PRUNED_AT_ONCE,),
        )
    _, rest, goes_on = rows[0]
    return Admission(requests=requests, rest_of_minute_s=max(1, rest), session_goes_on=bool(goes_on))
