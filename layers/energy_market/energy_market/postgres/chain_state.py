"""What the sweeps know of the chain (the table `chain_state`, of one row): when it answered, and if trades can be paid.

Ticks go by it, because a tick asks no chain.
"""

from typing import Final, LiteralString

from psycopg import Connection

MATCHED_WITHIN_S: Final = 60
"""Seconds after the chain's last answer to a sweep in which ticks match: what is matched must be paid soon after."""
NOTED_EVERY_S: Final = 10
"""Seconds for which a sweep does not write down again that the chain answers."""
SENTENCE_KEPT: Final = 1_000
"""Characters that are kept of why trades cannot be paid."""

WHY_NOTHING_IS_MATCHED: Final[LiteralString] = f"""
    (SELECT CASE WHEN unfit IS NOT NULL THEN 'chain_unfit'
                 WHEN asked_at > clock_timestamp() - interval '{MATCHED_WITHIN_S} s' THEN NULL
                 ELSE 'chain_unreachable' END FROM chain_state)"""
"""Expression: why no tick matches, or NULL. A chain that was never asked is unreachable."""


def mark_asked(conn: Connection, *, unfit: str | None, limit_nano: int) -> None:
    """The chain has answered a sweep. `unfit`: a sentence on why trades cannot be paid, None if they can.

    `limit_nano`: what the contract lets all trades together move in an hour.
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
    """What answers is not the chain, or not the contract, that trades are to be paid on."""
    conn.execute(
        "UPDATE chain_state SET unfit = %(s)s WHERE unfit IS DISTINCT FROM %(s)s", {"s": sentence[:SENTENCE_KEPT]}
    )


def unfit(conn: Connection) -> str | None:
    """Why trades cannot be paid, as the latest sweep found it."""
    row = conn.execute("SELECT unfit FROM chain_state").fetchone()
    assert row is not None  # a migration made the row, and nobody may delete it
    sentence: str | None = row[0]
    return sentence


def limit_nano(conn: Connection) -> int | None:
    """What the contract lets all trades move in an hour, as the latest sweep found it; None before the first."""
    row = conn.execute("SELECT limit_nano FROM chain_state").fetchone()
    assert row is not None  # a migration made the row, and nobody may delete it
    limit: int | None = row[0]
    return limit
