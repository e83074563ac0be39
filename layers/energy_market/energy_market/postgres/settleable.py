"""Trades that are to be paid, are paid, or can no longer be paid."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.trades import UNREPORTED_AFTER_S
from energy_market.postgres.batches import Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Settleable:
    """A locked trade that may be put into a batch. Amount in nano-tokens, energy in Wh."""

    id: UUID
    buyer: str
    seller: str
    amount_nano: int
    energy_wh: int
    locked_at: datetime
    valid_until: datetime
    stored_before: bool
    last_batch_id: UUID | None
    smallest_reverted: int | None  # size of the smallest batch that carried it and reverted
    lone_reverts: int  # number of reverted batches that carried it alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """A trade that was stored in a batch, and whose time on the chain is over for good."""

    id: UUID
    status: Literal["Locked", "Submitted"]
    locked_at: datetime


def settleable(
    conn: Connection, account: Account, *, contract: str, chain_time: datetime, margin_s: int, limit: int
) -> list[Settleable]:
    """Locked trades, oldest first, that the chain can still pay: `margin_s` seconds are left by both clocks.

    Trades that were once signed for another contract are left out, since that contract may have paid them.
    """
    with conn.cursor(row_factory=class_row(Settleable)) as cursor:
        return cursor.execute(
            """
            SELECT t.id, buyer.wallet_address AS buyer, seller.wallet_address AS seller, t.amount_nano, t.energy_wh,
                   t.locked_at, t.valid_until, t.batch_id IS NOT NULL AS stored_before, t.batch_id AS last_batch_id,
                   reverts.smallest_reverted, reverts.lone_reverts
            FROM transactions t
            JOIN users buyer ON buyer.id = t.recipient_id
            JOIN users seller ON seller.id = t.donor_id
            CROSS JOIN LATERAL (
                SELECT min(size) AS smallest_reverted, count(*) FILTER (WHERE size = 1) AS lone_reverts
                FROM (SELECT (SELECT count(*) FROM settlement_batch_trades other WHERE other.batch_id = b.id) AS size
                      FROM settlement_batch_trades m JOIN settlement_batches b ON b.id = m.batch_id
                      WHERE m.transaction_id = t.id AND b.status = 'Reverted') reverted
            ) reverts
            WHERE t.status = 'Locked'
              AND t.valid_until > greatest(clock_timestamp(), %s) + make_interval(secs => %s)
              AND (t.batch_id IS NULL OR EXISTS (
                  SELECT FROM settlement_batches b WHERE b.id = t.batch_id AND b.chain_id = %s AND b.contract = %s))
            ORDER BY t.seq LIMIT %s
            """,
            (chain_time, margin_s, account.chain_id, contract, limit),
        ).fetchall()


def unmined_nano(conn: Connection, account: Account, *, contract: str) -> int:
    """The amount in nano-tokens that this contract's unmined batches will move."""
    ((amount_nano,),) = conn.execute(
        """
        SELECT coalesce(sum(t.amount_nano), 0) FROM settlement_batches b JOIN transactions t ON t.batch_id = b.id
        WHERE b.status = 'Stored' AND b.chain_id = %s AND b.sender = %s AND b.contract = %s AND t.status = 'Submitted'
        """,
        (account.chain_id, account.sender, contract),
    ).fetchall()
    return int(amount_nano)


def confirm(conn: Connection, trades: Collection[UUID], *, tx_hash: str, delivery_window_s: int) -> list[UUID]:
    """Record that a transaction paid these trades. Returns those that were not Confirmed yet; their delivery may begin.

    A delivery has `delivery_window_s` seconds after the first confirmation, whatever a reorganisation undoes. If the
    device has never reported a delivery nor sent a count, it has at most UNREPORTED_AFTER_S.
    """
    rows = conn.execute(
        """
        UPDATE transactions
        SET status = 'Confirmed', blockchain_hash = %(hash)s, confirmed_at = clock_timestamp(),
            delivery = coalesce(delivery, 'Owed'), command_sent_at = NULL,
            deliver_by = coalesce(deliver_by, clock_timestamp() + make_interval(secs => CASE
                WHEN lock_seq IS NOT NULL OR (SELECT d.reports_deliveries FROM iot_devices d WHERE d.id = device_id)
                THEN %(window_s)s ELSE least(%(window_s)s, %(unreported_s)s) END))
        WHERE status IN ('Locked', 'Submitted') AND batch_id IS NOT NULL AND id IN (
            SELECT id FROM transactions WHERE id = ANY (%(trades)s) AND status IN ('Locked', 'Submitted')
            ORDER BY seq FOR NO KEY UPDATE)
        RETURNING id
        """,
        {
            "hash": tx_hash,
            "window_s": delivery_window_s,
            "unreported_s": UNREPORTED_AFTER_S,
            "trades": list(trades),
        },
    ).fetchall()
    return [row[0] for row in rows]


def failed_among(conn: Connection, trades: Collection[UUID]) -> list[UUID]:
    """Those of the trades that have failed."""
    rows = conn.execute(
        "SELECT id FROM transactions WHERE id = ANY (%s) AND status = 'Failed'", (list(trades),)
    ).fetchall()
    return [row[0] for row in rows]


def overdue_unstored(conn: Connection, *, limit: int) -> list[UUID]:
    """Locked trades that were never signed for and whose time is over: no bytes exist that could pay them."""
    rows = conn.execute(
        """
        SELECT id FROM transactions
        WHERE status = 'Locked' AND batch_id IS NULL AND valid_until < clock_timestamp()
        ORDER BY seq LIMIT %s FOR UPDATE SKIP LOCKED
        """,
        (limit,),
    ).fetchall()
    return [row[0] for row in rows]


def overdue_stored(
    conn: Connection, account: Account, *, contract: str, final_time: datetime, limit: int
) -> list[Overdue]:
    """Trades that were signed for, and that no block after `final_time`, the time of a final block, can pay any more.

    Only trades of this contract, since it does not know what another one paid.
    """
    with conn.cursor(row_factory=class_row(Overdue)) as cursor:
        return cursor.execute(
            """
            SELECT t.id, t.status, t.locked_at FROM transactions t JOIN settlement_batches b ON b.id = t.batch_id
            WHERE t.status IN ('Locked', 'Submitted') AND t.valid_until < %s AND b.chain_id = %s AND b.contract = %s
            ORDER BY t.seq LIMIT %s
            """,
            (final_time, account.chain_id, contract, limit),
        ).fetchall()


def stored_elsewhere(conn: Connection, account: Account) -> int:
    """The number of trades that wait for another chain."""
    ((trades,),) = conn.execute(
        """
        SELECT count(*) FROM transactions t JOIN settlement_batches b ON b.id = t.batch_id
        WHERE t.status IN ('Locked', 'Submitted') AND b.chain_id <> %s
        """,
        (account.chain_id,),
    ).fetchall()
    return int(trades)


def payable_by_old_bytes(conn: Connection, trade: UUID, account: Account, *, final_nonce: int) -> bool:
    """Whether signed bytes exist that may yet pay this trade: a batch whose nonce is not used up for good."""
    row = conn.execute(
        """
        SELECT FROM settlement_batch_trades m JOIN settlement_batches b ON b.id = m.batch_id
        WHERE m.transaction_id = %s AND (b.nonce >= %s OR b.chain_id <> %s OR b.sender <> %s) LIMIT 1
        """,
        (trade, final_nonce, account.chain_id, account.sender),
    ).fetchone()
    return row is not None
