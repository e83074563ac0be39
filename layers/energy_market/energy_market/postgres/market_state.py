"""Whether the market is paused (the table `market_state`, one row)."""

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.operators import MarketState


def read(conn: Connection) -> MarketState:
    """The current state."""
    with conn.cursor(row_factory=class_row(MarketState)) as cursor:
        state = cursor.execute("SELECT paused, changed_at FROM market_state").fetchone()
    assert state is not None  # a migration made the row, and nobody may delete it
    return state


def set_paused(conn: Connection, *, paused: bool) -> MarketState:
    """Pause or resume. Returns the previous state. If nothing changes, `changed_at` stays as it is."""
    with conn.cursor(row_factory=class_row(MarketState)) as cursor:
        before = cursor.execute("SELECT paused, changed_at FROM market_state FOR NO KEY UPDATE").fetchone()
    assert before is not None  # a migration made the row, and nobody may delete it
    conn.execute(
        "UPDATE market_state SET paused = %(paused)s, changed_at = clock_timestamp() WHERE paused <> %(paused)s",
        {"paused": paused},
    )
    return before


def wait_for_ticks(conn: Connection) -> None:
    """Wait for all ticks that may have begun to match before the state changed (`book.see_one_moment`)."""
    conn.execute("LOCK TABLE market_state IN EXCLUSIVE MODE")
