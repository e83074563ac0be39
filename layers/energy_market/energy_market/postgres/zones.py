"""Zones: each has its own book."""

from enum import Enum, auto

from psycopg import Connection


class Turn(Enum):
    """The process whose turn it is to match a zone's book."""

    OURS = auto()
    ANOTHERS = auto()  # another tick of the zone is at work
    NOBODYS = auto()  # the market is paused


def try_lock(conn: Connection, zone: str) -> bool:
    """Be the only tick of this zone until the transaction ends; False if there is one already."""
    row = conn.execute("SELECT pg_try_advisory_xact_lock(hashtext('tick'), hashtext(%s))", (zone,)).fetchone()
    assert row is not None  # a SELECT of a function returns one row
    return bool(row[0])


def take_turn(conn: Connection, zone: str) -> Turn:
    """As `try_lock`, for a tick that is to match: it is nobody's turn while the market is paused."""
    row = conn.execute(
        "SELECT pg_try_advisory_xact_lock(hashtext('tick'), hashtext(%s)), (SELECT paused FROM market_state)", (zone,)
    ).fetchone()
    assert row is not None  # a SELECT of a function returns one row
    is_locked, is_paused = row
    if not is_locked:
        return Turn.ANOTHERS
    return Turn.NOBODYS if is_paused else Turn.OURS


def all_zones(conn: Connection) -> list[str]:
    """Every zone, by name."""
    return [row[0] for row in conn.execute("SELECT id FROM zones ORDER BY id").fetchall()]
