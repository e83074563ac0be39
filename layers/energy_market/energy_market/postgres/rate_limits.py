"""How often each source has asked in the present minute."""

from dataclasses import dataclass

from psycopg import Connection

PRUNED_AT_ONCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Requests of one source in this minute, this one included, and how long the minute still lasts."""

    requests: int
    rest_of_minute_s: int


def count(conn: Connection, source: str) -> Rate:
    """Count one more request of a source. Its first one in a minute forgets up to 50 counts of minutes gone by."""
    requests, rest = conn.execute(
        """
        INSERT INTO rate_limits (source, minute, requests) VALUES (%s, date_trunc('minute', now()), 1)
        ON CONFLICT (source, minute) DO UPDATE SET requests = rate_limits.requests + 1
        RETURNING requests, ceil(60 - extract(second FROM now()))::integer
        """,
        (source,),
    ).fetchone()  # type: ignore[misc]
    if requests == 1:
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
    return Rate(requests=requests, rest_of_minute_s=max(1, rest))
