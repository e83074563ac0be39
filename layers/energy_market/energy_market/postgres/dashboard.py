"""One user's figures."""

from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.dashboard import Dashboard, Day, Totals

DAYS: Final = 30

# Both sides of a user's trades: the other side's columns are 0.
_SIDES: Final[LiteralString] = """
    SELECT confirmed_at, status, energy_wh AS bought_wh, 0 AS sold_wh, amount_nano AS spent_nano, 0 AS earned_nano
    FROM transactions WHERE recipient_id = %(user)s
    UNION ALL
    SELECT confirmed_at, status, 0, energy_wh, 0, amount_nano FROM transactions WHERE donor_id = %(user)s"""
_SUMS: Final[LiteralString] = """
    coalesce(sum(bought_wh), 0)::bigint AS bought_wh, coalesce(sum(sold_wh), 0)::bigint AS sold_wh,
    coalesce(sum(spent_nano), 0) AS spent_nano, coalesce(sum(earned_nano), 0) AS earned_nano"""


def dashboard(conn: Connection, user_id: UUID) -> Dashboard:
    """A user's totals, open orders, trades by status, and the last thirty days (UTC)."""
    parameters = {"user": user_id, "days": DAYS}
    with conn.cursor(row_factory=class_row(Totals)) as cursor:
        totals = cursor.execute(
            "SELECT " + _SUMS + " FROM (" + _SIDES + ") sides WHERE status = 'Confirmed'", parameters
        ).fetchone()
    assert totals is not None  # an aggregate without GROUP BY returns one row
    with conn.cursor(row_factory=class_row(Day)) as cursor:
        days = cursor.execute(
            "SELECT d.day, d.day < d.today AS complete, " + _SUMS + " FROM (SELECT t.today, t.today - n AS day"
            "       FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS today) t, generate_series(0, %(days)s - 1) n) d"
            " LEFT JOIN (" + _SIDES + ") sides ON sides.status = 'Confirmed'"
            "   AND sides.confirmed_at >= d.day::timestamp AT TIME ZONE 'UTC'"
            "   AND sides.confirmed_at < (d.day + 1)::timestamp AT TIME ZONE 'UTC'"
            " GROUP BY d.day, d.today ORDER BY d.day",
            parameters,
        ).fetchall()
    trades = conn.execute(
        "SELECT status, count(*) FROM (" + _SIDES + ") sides GROUP BY status ORDER BY status", parameters
    ).fetchall()
    ((open_orders,),) = conn.execute(
        "SELECT count(*) FROM open_orders WHERE user_id = %(user)s AND (expires_at IS NULL OR expires_at > now())",
        parameters,
    ).fetchall()
    return Dashboard(totals=totals, open_orders=open_orders, trades=dict(trades), days=days)
