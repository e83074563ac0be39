"""The market as everybody sees it. Only confirmed trades count as prices and volumes."""

from datetime import datetime, timedelta

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.market import Candle, Level, PriceSummary
from energy_market.domain.orders import OrderType


def depth(conn: Connection, zone: str, order_type: OrderType, *, levels: int) -> list[Level]:
    """The best price levels of one side of the book, best first."""
    direction = "ASC" if order_type == "sell" else "DESC"
    with conn.cursor(row_factory=class_row(Level)) as cursor:
        return cursor.execute(
            f"""
            SELECT price_micro, sum(remaining_wh)::bigint AS energy_wh, count(*) AS orders
            FROM open_orders
            WHERE zone = %s AND type = '{order_type}' AND (expires_at IS NULL OR expires_at > now())
            GROUP BY price_micro ORDER BY price_micro {direction} LIMIT %s
            """,
            (zone, levels),
        ).fetchall()


def price_summary(conn: Connection, zone: str) -> PriceSummary:
    """Where a zone's market stands."""
    with conn.cursor(row_factory=class_row(PriceSummary)) as cursor:
        summary = cursor.execute(
            """
            SELECT last.price_micro AS last_micro, last.confirmed_at AS last_at,
                   (SELECT max(price_micro) FROM open_orders
                    WHERE zone = %(zone)s AND type = 'buy' AND (expires_at IS NULL OR expires_at > now()))
                       AS best_bid_micro,
                   (SELECT min(price_micro) FROM open_orders
                    WHERE zone = %(zone)s AND type = 'sell' AND (expires_at IS NULL OR expires_at > now()))
                       AS best_ask_micro,
                   (SELECT coalesce(sum(energy_wh), 0)::bigint FROM transactions
                    WHERE zone = %(zone)s AND status = 'Confirmed' AND confirmed_at > now() - interval '24 hours')
                       AS volume_24h_wh,
                   open.supply_wh, open.demand_wh
            FROM (SELECT coalesce(sum(remaining_wh) FILTER (WHERE type = 'sell'), 0)::bigint AS supply_wh,
                         coalesce(sum(remaining_wh) FILTER (WHERE type = 'buy'), 0)::bigint AS demand_wh
                  FROM open_orders WHERE zone = %(zone)s AND (expires_at IS NULL OR expires_at > now())) open
            LEFT JOIN (SELECT price_micro, confirmed_at FROM transactions
                       WHERE zone = %(zone)s AND status = 'Confirmed'
                       ORDER BY confirmed_at DESC, seq DESC LIMIT 1) last ON true
            """,
            {"zone": zone},
        ).fetchone()
    assert summary is not None  # an aggregate without GROUP BY returns one row
    return summary


def candles(
    conn: Connection, zone: str, *, interval: timedelta, since: datetime, until: datetime, limit: int
) -> list[Candle]:
    """A zone's confirmed trades from `since` to before `until`, one candle an interval that has any, oldest first."""
    with conn.cursor(row_factory=class_row(Candle)) as cursor:
        return cursor.execute(
            """
            SELECT date_bin(%(interval)s, confirmed_at, 'epoch') AS start,
                   (array_agg(price_micro ORDER BY confirmed_at, seq))[1] AS open_micro,
                   max(price_micro) AS high_micro, min(price_micro) AS low_micro,
                   (array_agg(price_micro ORDER BY confirmed_at DESC, seq DESC))[1] AS close_micro,
                   sum(energy_wh)::bigint AS volume_wh, count(*) AS trades
            FROM transactions
            WHERE zone = %(zone)s AND status = 'Confirmed' AND confirmed_at >= %(since)s AND confirmed_at < %(until)s
            GROUP BY 1 ORDER BY 1 LIMIT %(limit)s
            """,
            {"zone": zone, "interval": interval, "since": since, "until": until, "limit": limit},
        ).fetchall()
