"""Signed transactions and their state."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.settlement import StuckBatch

BatchStatus = Literal["Stored", "Mined", "Final", "Reverted", "Replaced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The account whose nonces a batch uses."""

    chain_id: int
    sender: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch and its signed forms: a later form, with higher fees, replaces the earlier ones."""

    id: UUID
    nonce: int
    status: BatchStatus
    block_number: int | None
    block_hash: str | None
    mined_hash: str | None
    open_trades: int  # trades that it carries and that the chain has not decided yet
    hashes: list[str]  # newest first
    newest_raw: bytes
    newest_max_fee: int
    newest_priority_fee: int
    newest_age_s: float
    newest_sends: int
    newest_refusal: str | None  # the node's last verdict; None: accepted, or not known
    newest_tries: int  # forms in a row at unchanged network fees
    asked_max_fee: int  # the network's fee when the newest form was signed
    asked_priority_fee: int
    held_max_fee: int | None  # the highest fee that a node may hold; None if all were rejected
    held_priority_fee: int | None
    since_sent_s: float | None


_BATCHES: Final = """
    SELECT b.id, b.nonce, b.status, b.block_number, b.block_hash, b.mined_hash,
           (SELECT count(*) FROM transactions t WHERE t.batch_id = b.id AND t.status = 'Submitted') AS open_trades,
           (SELECT array_agg(f.hash ORDER BY f.created_at DESC) FROM signed_transactions f
            WHERE f.batch_id = b.id) AS hashes,
           newest.raw AS newest_raw,
           newest.max_fee_per_gas::bigint AS newest_max_fee,
           newest.max_priority_fee_per_gas::bigint AS newest_priority_fee,
           extract(epoch FROM clock_timestamp() - newest.created_at)::float8 AS newest_age_s,
           newest.sends AS newest_sends, newest.refusal AS newest_refusal, newest.tries AS newest_tries,
           coalesce(newest.asked_max_fee_per_gas, newest.max_fee_per_gas)::bigint AS asked_max_fee,
           coalesce(newest.asked_max_priority_fee_per_gas, newest.max_priority_fee_per_gas)::bigint
               AS asked_priority_fee,
           held.max_fee::bigint AS held_max_fee, held.priority_fee::bigint AS held_priority_fee,
           extract(epoch FROM clock_timestamp() - newest.sent_at)::float8 AS since_sent_s
    FROM settlement_batches b
    CROSS JOIN LATERAL (
        SELECT * FROM signed_transactions f WHERE f.batch_id = b.id ORDER BY f.created_at DESC LIMIT 1
    ) newest
    CROSS JOIN LATERAL (
        SELECT max(f.max_fee_per_gas) AS max_fee, max(f.max_priority_fee_per_gas) AS priority_fee
        FROM signed_transactions f WHERE f.batch_id = b.id AND f.refusal IS NULL
    ) held
"""


def under_way(conn: Connection, account: Account, *, contract: str | None = None, limit: int) -> list[Batch]:
    """Batches that are not final yet, by nonce; with `contract`, only those of that contract."""
    return _batches(
        conn,
        account,
        "b.status IN ('Stored', 'Mined') AND (%(contract)s::text IS NULL OR b.contract = %(contract)s)",
        "ORDER BY b.nonce LIMIT %(limit)s",
        contract=contract,
        limit=limit,
    )


def former(conn: Connection, account: Account, *, contract: str) -> list[tuple[str, str]]:
    """(Contract, sender) of batches under way on this chain that were signed for another contract or by another key."""
    return conn.execute(
        """
        SELECT b.contract, b.sender FROM settlement_batches b JOIN transactions t ON t.batch_id = b.id
        WHERE t.status IN ('Locked', 'Submitted') AND b.chain_id = %(chain)s
          AND (b.contract, b.sender) <> (%(contract)s, %(sender)s)
        UNION
        SELECT contract, sender FROM settlement_batches
        WHERE status = 'Mined' AND chain_id = %(chain)s AND (contract, sender) <> (%(contract)s, %(sender)s)
        """,
        {"chain": account.chain_id, "contract": contract, "sender": account.sender},
    ).fetchall()


def ended_with_free_nonce(conn: Connection, account: Account, *, nonce: int, limit: int) -> list[Batch]:
    """Batches whose end a reorganisation undid: their nonce is unused again. `nonce`: the chain's next one."""
    return _batches(
        conn,
        account,
        "b.status IN ('Final', 'Reverted', 'Replaced') AND b.nonce >= %(nonce)s",
        "ORDER BY b.nonce LIMIT %(limit)s",
        nonce=nonce,
        limit=limit,
    )


def newest_final(conn: Connection, account: Account) -> Batch | None:
    """The newest batch that counts as final."""
    found = _batches(conn, account, "b.status = 'Final'", "ORDER BY b.nonce DESC LIMIT 1")
    return found[0] if found else None


def _batches(
    conn: Connection, account: Account, condition: LiteralString, order: LiteralString, **parameters: object
) -> list[Batch]:
    with conn.cursor(row_factory=class_row(Batch)) as cursor:
        return cursor.execute(
            f"{_BATCHES} WHERE b.chain_id = %(chain_id)s AND b.sender = %(sender)s AND {condition} {order}",
            {"chain_id": account.chain_id, "sender": account.sender, **parameters},
        ).fetchall()


def used_nonces(conn: Connection, account: Account, *, at_least: int) -> set[int]:
    """The nonces, `at_least` or higher, for which something was signed, whatever happened to it."""
    rows = conn.execute(
        "SELECT nonce FROM settlement_batches WHERE chain_id = %s AND sender = %s AND nonce >= %s",
        (account.chain_id, account.sender, at_least),
    ).fetchall()
    return {row[0] for row in rows}


def store(
    conn: Connection,
    account: Account,
    *,
    contract: str,
    nonce: int,
    tx_hash: str,
    raw: bytes,
    max_fee: int,
    priority_fee: int,
    asked: tuple[int, int],
    trades: Sequence[UUID],
) -> UUID | None:
    """Store a signed batch, its trades now Submitted; None if a trade was no longer Locked: then roll back.

    Raises UniqueViolation if another batch has the nonce.
    """
    (batch_id,) = conn.execute(
        "INSERT INTO settlement_batches (chain_id, contract, sender, nonce) VALUES (%s, %s, %s, %s) RETURNING id",
        (account.chain_id, contract, account.sender, nonce),
    ).fetchone() or (None,)
    add_form(conn, batch_id, tx_hash=tx_hash, raw=raw, max_fee=max_fee, priority_fee=priority_fee, asked=asked)
    conn.execute(
        "INSERT INTO settlement_batch_trades (batch_id, transaction_id) SELECT %s, unnest(%s::uuid[])",
        (batch_id, list(trades)),
    )
    submitted = conn.execute(
        """
        UPDATE transactions SET status = 'Submitted', batch_id = %s, submitted_at = clock_timestamp()
        WHERE status = 'Locked' AND id IN (
            SELECT id FROM transactions WHERE id = ANY (%s) AND status = 'Locked' ORDER BY seq FOR NO KEY UPDATE)
        """,
        (batch_id, list(trades)),
    ).rowcount
    return batch_id if submitted == len(trades) else None


def add_form(
    conn: Connection,
    batch_id: UUID | None,
    *,
    tx_hash: str,
    raw: bytes,
    max_fee: int,
    priority_fee: int,
    asked: tuple[int, int],
    tries: int = 1,
) -> bool:
    """Store another signed form of a batch; False if the batch no longer waits to be mined.

    `asked`: the fees that the network asks now, whatever this form pays (maximum, tip).
    """
    return (
        conn.execute(
            """
            INSERT INTO signed_transactions (hash, batch_id, raw, max_fee_per_gas, max_priority_fee_per_gas,
                                             asked_max_fee_per_gas, asked_max_priority_fee_per_gas, tries, created_at)
            SELECT %s, id, %s, %s, %s, %s, %s, %s, clock_timestamp()
            FROM settlement_batches WHERE id = %s AND status = 'Stored'
            ON CONFLICT (hash) DO NOTHING
            """,
            (tx_hash, raw, max_fee, priority_fee, *asked, tries, batch_id),
        ).rowcount
        == 1
    )


def mark_sent(conn: Connection, tx_hash: str, *, refusal: str | None) -> None:
    """Record that these bytes were handed to the node, and its refusal, if any."""
    conn.execute(
        "UPDATE signed_transactions SET sent_at = clock_timestamp(), sends = sends + 1, refusal = %s WHERE hash = %s",
        (refusal, tx_hash),
    )


def raw_of(conn: Connection, tx_hash: str) -> bytes:
    """The bytes of a signed form."""
    ((raw,),) = conn.execute("SELECT raw FROM signed_transactions WHERE hash = %s", (tx_hash,)).fetchall()
    return bytes(raw)


def mark_mined(conn: Connection, batch_id: UUID, *, tx_hash: str, block_number: int, block_hash: str) -> bool:
    """Record that one of the batch's forms is in a block."""
    return (
        conn.execute(
            """
            UPDATE settlement_batches SET status = 'Mined', mined_hash = %s, block_number = %s, block_hash = %s
            WHERE id = %s AND status = 'Stored'
            """,
            (tx_hash, block_number, block_hash, batch_id),
        ).rowcount
        == 1
    )


def put_back(conn: Connection, batch_id: UUID) -> int:
    """Undo a batch after a reorganisation removed its block: batch and paid trades wait again.

    Returns how many trades went from Confirmed back to Submitted. A delivery that has begun stays begun.
    """
    row = conn.execute(
        """
        WITH batch AS (SELECT id, mined_hash FROM settlement_batches WHERE id = %s AND status = 'Mined' FOR UPDATE),
        waiting AS (
            UPDATE settlement_batches b
            SET status = 'Stored', mined_hash = NULL, block_number = NULL, block_hash = NULL
            FROM batch WHERE b.id = batch.id
        ), paid AS (
            SELECT t.id, batch.id AS batch_id FROM transactions t JOIN batch ON t.blockchain_hash = batch.mined_hash
            WHERE t.status = 'Confirmed' ORDER BY t.seq FOR NO KEY UPDATE OF t
        ), unpaid AS (
            UPDATE transactions t
            SET status = 'Submitted', blockchain_hash = NULL, confirmed_at = NULL, batch_id = paid.batch_id,
                delivery = nullif(t.delivery, 'Owed')
            FROM paid WHERE t.id = paid.id AND t.status = 'Confirmed'
            RETURNING t.id
        )
        SELECT count(*) FROM unpaid
        """,
        (batch_id,),
    ).fetchone()
    return 0 if row is None else row[0]


def reopen(conn: Connection, batch_id: UUID) -> bool:
    """Reopen a batch that ended without effect (Reverted, Replaced) if that end was undone: it may still be mined."""
    return (
        conn.execute(
            """
            UPDATE settlement_batches
            SET status = 'Stored', mined_hash = NULL, block_number = NULL, block_hash = NULL, reason = NULL
            WHERE id = %s AND status IN ('Reverted', 'Replaced')
            """,
            (batch_id,),
        ).rowcount
        == 1
    )


def mark_final(conn: Connection, batch_id: UUID) -> bool:
    """Record that the block of a batch is deep enough to stay."""
    return (
        conn.execute(
            "UPDATE settlement_batches SET status = 'Final' WHERE id = %s AND status = 'Mined'", (batch_id,)
        ).rowcount
        == 1
    )


def end_without_effect(
    conn: Connection,
    batch_id: UUID,
    status: Literal["Reverted", "Replaced"],
    *,
    reason: str,
    seen_in: tuple[int, str] | None = None,
) -> int:
    """End a batch that pays nothing: its trades are Locked again, for another batch. Returns how many.

    `seen_in`: number and hash of the block after which its nonce was used, if the batch is in no block itself. This end
    stands as long as that block does.
    """
    row = conn.execute(
        """
        WITH ended AS (
            UPDATE settlement_batches
            SET status = %s, reason = %s, block_number = coalesce(block_number, %s),
                block_hash = coalesce(block_hash, %s)
            WHERE id = %s AND status IN ('Stored', 'Mined')
            RETURNING id
        ), carried AS (
            SELECT t.id FROM transactions t JOIN ended ON t.batch_id = ended.id
            WHERE t.status = 'Submitted' ORDER BY t.seq FOR NO KEY UPDATE OF t
        ), freed AS (
            UPDATE transactions t SET status = 'Locked', submitted_at = NULL
            FROM carried WHERE t.id = carried.id AND t.status = 'Submitted'
            RETURNING t.id
        )
        SELECT count(*) FROM freed
        """,
        (status, reason, *(seen_in or (None, None)), batch_id),
    ).fetchone()
    return 0 if row is None else row[0]


def free(conn: Connection, batch_id: UUID, trades: Collection[UUID]) -> int:
    """Lock trades again that a mined batch did not pay, so that another batch may. Returns how many."""
    return conn.execute(
        """
        UPDATE transactions SET status = 'Locked', submitted_at = NULL
        WHERE status = 'Submitted' AND id IN (
            SELECT id FROM transactions WHERE id = ANY (%s) AND batch_id = %s AND status = 'Submitted'
            ORDER BY seq FOR NO KEY UPDATE)
        """,
        (list(trades), batch_id),
    ).rowcount


def waiting_trades(conn: Connection, batch_id: UUID) -> dict[UUID, datetime]:
    """The trades of a batch that the chain has not decided yet, and when each was locked."""
    return dict(
        conn.execute(
            "SELECT id, locked_at FROM transactions WHERE batch_id = %s AND status = 'Submitted' ORDER BY seq",
            (batch_id,),
        ).fetchall()
    )


def forms_of(conn: Connection, trades: Sequence[UUID]) -> dict[UUID, list[str]]:
    """The hashes of all transactions ever signed to pay each of the trades."""
    return dict(
        conn.execute(
            """
            SELECT m.transaction_id, array_agg(f.hash)
            FROM settlement_batch_trades m JOIN signed_transactions f ON f.batch_id = m.batch_id
            WHERE m.transaction_id = ANY (%s) GROUP BY m.transaction_id
            """,
            (list(trades),),
        ).fetchall()
    )


def waits_for_blocks(
    conn: Connection, account: Account, *, contract: str, head_time: datetime, quiet_after_s: float
) -> bool:
    """Whether the chain has made no block for `quiet_after_s`, and a trade waits for more blocks.

    A mined payment waits for its depth, and a trade whose time is over waits for a final block after it. False while a
    signed batch waits to be mined, since that makes a block.
    """
    row = conn.execute(
        """
        SELECT %(head_time)s < clock_timestamp() - make_interval(secs => %(quiet_after_s)s)
           AND EXISTS (
               SELECT FROM transactions t JOIN settlement_batches b ON b.id = t.batch_id
               WHERE t.status IN ('Locked', 'Submitted') AND b.chain_id = %(chain)s AND b.contract = %(contract)s
                 AND ((b.status = 'Mined' AND t.status = 'Submitted') OR t.valid_until < clock_timestamp()))
           AND NOT EXISTS (
               SELECT FROM settlement_batches WHERE status = 'Stored' AND chain_id = %(chain)s AND sender = %(sender)s)
        """,
        {
            "head_time": head_time,
            "quiet_after_s": quiet_after_s,
            "chain": account.chain_id,
            "sender": account.sender,
            "contract": contract,
        },
    ).fetchone()
    return row == (True,)


def stuck(conn: Connection, *, after_s: int, limit: int) -> list[StuckBatch]:
    """Batches that have waited to be mined for longer than `after_s`, by nonce."""
    with conn.cursor(row_factory=class_row(StuckBatch)) as cursor:
        return cursor.execute(
            """
            SELECT b.id, b.chain_id, b.contract, b.sender, b.nonce, b.created_at, forms.count AS forms,
                   forms.sends::bigint AS sends, forms.sent_at,
                   (SELECT count(*) FROM transactions t WHERE t.batch_id = b.id) AS trades
            FROM settlement_batches b
            CROSS JOIN LATERAL (SELECT count(*), coalesce(sum(sends), 0) AS sends, max(sent_at) AS sent_at
                                FROM signed_transactions WHERE batch_id = b.id) forms
            WHERE b.status = 'Stored' AND b.created_at < now() - make_interval(secs => %s)
            ORDER BY b.chain_id, b.sender, b.nonce LIMIT %s
            """,
            (after_s, limit),
        ).fetchall()
