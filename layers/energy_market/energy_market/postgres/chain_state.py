"""The sweeps' knowledge of the chain (the table `chain_state`, one row): its last answer, and whether it can pay.

Ticks rely on it, because a tick never asks the chain.
"""

from typing import Final, LiteralString

from psycopg import Connection

MATCHED_WITHIN_S: Final = 60
"""Seconds after the chain's last answer to a sweep in which ticks match: matches must be paid soon after."""
NOTED_EVERY_S: Final = 10
"""Seconds for which a sweep does not record again that the chain answers."""
SENTENCE_KEPT: Final = 1_000
"""Maximum characters kept of the reason why trades cannot be paid."""

WHY_NOTHING_IS_MATCHED: Final[LiteralString] = f"""
    (SELECT CASE WHEN unfit IS NOT NULL THEN 'chain_unfit'
                 WHEN asked_at > clock_timestamp() - interval '{MATCHED_WITHIN_S} s' THEN NULL
                 ELSE 'chain_unreachable' END FROM chain_state)"""
"""SQL expression: why no tick matches, or NULL. A chain that was never asked is unreachable."""


def mark_asked(conn: Connection, *, unfit: str | None, limit_nano: int) -> None:
    """Record that the chain has answered a sweep. `unfit`: why trades cannot be paid; None if they can.

    `limit_nano`: the amount that the contract lets all trades together move in an hour.
    """
    conn.execute(
        f"""
        UPDATE chain_state SET asked_at = greatest(asked_at, clock_timestamp()), unfit = %(unfit)s,
            limit_nano = %(limit)s
        WHERE unfit IS DISTINCT FROM %(unfit)s OR limit_nano IS DISTINCT FROM %(limit)s OR asked_at IS NULL
           OR asked_at < clock_timestamp() - interval '{NOTED_EVERY_S} s'
        """,
        {"unfit": unfit and unfit[:SENTENCE_KEPT], "limit": limit_nano},
    )


def mark_unfit(conn: Connection, sentence: str) -> None:
    """Record that another chain or contract answers than the one on which trades are to be paid."""
    conn.execute(
        "UPDATE chain_state SET unfit = %(s)s WHERE unfit IS DISTINCT FROM %(s)s", {"s": sentence[:SENTENCE_KEPT]}
    )


def unfit(conn: Connection) -> str | None:
    """The reason why trades cannot be paid, as of the latest sweep; None if they can."""
    row = conn.execute("SELECT unfit FROM chain_state").fetchone()
    assert row is not None  # a migration made the row, and nobody may delete it
    sentence: str | None = row[0]
    return sentence


def limit_nano(conn: Connection) -> int | None:
    """The amount that the contract lets all trades move in an hour, as of the latest sweep; None before the first."""
    row = conn.execute("SELECT limit_nano FROM chain_state").fetchone()
    assert row is not None  # a migration made the row, and nobody may delete it
    limit: int | None = row[0]
    return limit
