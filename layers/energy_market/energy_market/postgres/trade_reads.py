"""Trades as the API shows them."""

from datetime import datetime
from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.trades import (
    FailReason,
    Trade,
    TradeStatus,
)

_COLUMNS: Final[LiteralString] = """
    t.id, t.seq, t.sell_order_id, t.buy_order_id, t.donor_id, t.recipient_id, t.device_id, t.zone, t.energy_wh,
    t.price_micro, t.amount_nano, t.status, t.reason, t.blockchain_hash, t."timestamp" AS matched_at, t.locked_at,
    t.submitted_at, t.confirmed_at, t.failed_at, t.delivery, t.delivery_reason, t.deliver_by, t.delivered_wh"""


def of_user(
    conn: Connection,
    user_id: UUID,
    *,
    status: TradeStatus | None = None,
    before_seq: int | None = None,
    limit: int,
) -> list[Trade]:
    """A user's trades, on either side, latest first."""
    with conn.cursor(row_factory=class_row(Trade)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM (
                (SELECT * FROM transactions WHERE donor_id = %(user)s
                   AND (%(status)s::text IS NULL OR status = %(status)s)
                   AND (%(before)s::bigint IS NULL OR seq < %(before)s)
                 ORDER BY seq DESC LIMIT %(limit)s)
                UNION ALL
                (SELECT * FROM transactions WHERE recipient_id = %(user)s
                   AND (%(status)s::text IS NULL OR status = %(status)s)
                   AND (%(before)s::bigint IS NULL OR seq < %(before)s)
                 ORDER BY seq DESC LIMIT %(limit)s)
            ) t ORDER BY t.seq DESC LIMIT %(limit)s
            """,
            {"user": user_id, "status": status, "before": before_seq, "limit": limit},
        ).fetchall()


def confirmed(conn: Connection, zone: str, *, before: tuple[datetime, int] | None = None, limit: int) -> list[Trade]:
    """A zone's confirmed trades, latest first; `before`: (confirmed_at, seq) of the previous page's last trade."""
    before_at, before_seq = before if before is not None else (None, None)
    with conn.cursor(row_factory=class_row(Trade)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM transactions t
            WHERE zone = %(zone)s AND status = 'Confirmed'
              AND (%(at)s::timestamptz IS NULL OR (confirmed_at, seq) < (%(at)s, %(seq)s::bigint))
            ORDER BY confirmed_at DESC, seq DESC LIMIT %(limit)s
            """,
            {"zone": zone, "at": before_at, "seq": before_seq, "limit": limit},
        ).fetchall()


def failed(
    conn: Connection, *, reason: FailReason | None = None, before_seq: int | None = None, limit: int
) -> list[Trade]:
    """All users' trades that failed, latest first."""
    with conn.cursor(row_factory=class_row(Trade)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM transactions t
            WHERE t.status = 'Failed' AND (%(reason)s::text IS NULL OR t.reason = %(reason)s)
              AND (%(before)s::bigint IS NULL OR t.seq < %(before)s)
            ORDER BY t.seq DESC LIMIT %(limit)s
            """,
            {"reason": reason, "before": before_seq, "limit": limit},
        ).fetchall()


def short(conn: Connection, *, before_seq: int | None = None, limit: int) -> list[Trade]:
    """All users' trades whose delivery fell short, latest first."""
    with conn.cursor(row_factory=class_row(Trade)) as cursor:
        return cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM transactions t
            WHERE t.delivery = 'Short' AND (%(before)s::bigint IS NULL OR t.seq < %(before)s)
            ORDER BY t.seq DESC LIMIT %(limit)s
            """,
            {"before": before_seq, "limit": limit},
        ).fetchall()
