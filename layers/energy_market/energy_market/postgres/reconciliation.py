"""Rules that must hold within the database, each as a query for its violations; and data to compare with the chain.

- No order is filled beyond its size, and every trade lies within both limits.
- No trade proceeds without a lock that its device confirmed in time.
- A failed trade leaves no energy reserved, and its bid is back in the book at its old place.
- Everything under way has a deadline ahead of it.
- The last event of each row names its current state.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.reconciliation import MAX_LINES, Differences
from energy_market.domain.trades import TradeStatus

# Each query lists violations, one sentence per row. %(at_rest)s: nothing may be under way any more.
CHECKS: Final[tuple[LiteralString, ...]] = (
    # Orders: never filled beyond their size; the book holds their remainder.
    """SELECT format('order %%s is filled beyond its size: %%s Wh of %%s Wh', id, filled_wh + pending_wh, energy_wh)
       FROM order_states WHERE remaining_wh < 0""",
    """SELECT format('order %%s has %%s Wh open, but %%s in the book', s.id, s.remaining_wh,
                     coalesce(b.remaining_wh || ' Wh', 'is not'))
       FROM order_states s LEFT JOIN open_orders b ON b.order_id = s.id
       WHERE s.closed IS NULL AND s.remaining_wh > 0 AND b.remaining_wh IS DISTINCT FROM s.remaining_wh""",
    """SELECT format('order %%s is in the book, but it is %%s', s.id, s.status)
       FROM open_orders b JOIN order_states s ON s.id = b.order_id WHERE s.closed IS NOT NULL OR s.remaining_wh <= 0""",
    """SELECT format('order %%s stands in the book with other terms than it was placed with', o.id)
       FROM open_orders b JOIN energy_orders o ON o.id = b.order_id
       WHERE (b.arrival, b.price_micro, b.type, b.user_id, b.zone, b.all_or_none)
             <> (o.arrival, o.price_micro, o.type, o.user_id, o.zone, o.all_or_none)
          OR b.device_id IS DISTINCT FROM o.device_id
          OR b.user_no IS DISTINCT FROM (SELECT no FROM users WHERE id = o.user_id)
          OR b.device_no IS DISTINCT FROM (SELECT no FROM iot_devices WHERE id = o.device_id)""",
    # Each order shows the energy that its device had for it, and its owner's admission allowed, at the loop's last
    # step.
    """SELECT format('order %%s shows %%s Wh of %%s Wh where its device has %%s Wh', b.order_id, b.shown_wh,
                     b.remaining_wh, coalesce(s.energy_wh, 0))
       FROM open_orders b CROSS JOIN market_state m LEFT JOIN device_supplies s ON s.device_id = b.device_id
       WHERE b.shown_wh <> wh_to_show(b.type, b.all_or_none, b.remaining_wh, b.verified OR NOT m.verified_only,
                                      s.energy_wh)
         AND NOT EXISTS (SELECT FROM device_changes c WHERE c.device_id = b.device_id)""",
    """SELECT format('zone %%s shows %%s Wh in %%s orders to %%s at %%s (0: at any), but its level says %%s Wh in %%s',
                     zone, coalesce(b.energy_wh, 0), coalesce(b.orders, 0), type, price_micro,
                     coalesce(l.energy_wh, 0), coalesce(l.orders, 0))
       FROM (SELECT zone, type, coalesce(price_micro, 0) AS price_micro, count(*) AS orders,
                    sum(shown_wh) AS energy_wh
             FROM open_orders WHERE shown_wh > 0 GROUP BY GROUPING SETS ((zone, type, price_micro), (zone, type))) b
       FULL JOIN (SELECT zone, type, price_micro, sum(orders) AS orders, sum(energy_wh) AS energy_wh
                  FROM (SELECT zone, type, price_micro, orders, energy_wh FROM price_levels
                        UNION ALL
                        SELECT zone, type, price_micro, orders, energy_wh FROM level_changes
                        UNION ALL
                        SELECT zone, type, 0, orders, energy_wh FROM level_changes) changes
                  GROUP BY zone, type, price_micro HAVING sum(orders) <> 0 OR sum(energy_wh) <> 0) l
            USING (zone, type, price_micro)
       WHERE (b.orders, b.energy_wh) IS DISTINCT FROM (l.orders, l.energy_wh)""",
    """SELECT format('order %%s is all or none, but it was split', o.id)
       FROM energy_orders o
       JOIN transactions t ON o.id IN (t.sell_order_id, t.buy_order_id) AND t.status <> 'Failed'
       WHERE o.all_or_none GROUP BY o.id, o.energy_wh HAVING count(*) > 1 OR min(t.energy_wh) <> o.energy_wh""",
    # Trades: within both limits, between the right parties.
    """SELECT format('trade %%s at %%s micro-tokens lies outside its limits: ask %%s, bid %%s',
                     t.id, t.price_micro, s.price_micro, b.price_micro)
       FROM transactions t JOIN energy_orders s ON s.id = t.sell_order_id JOIN energy_orders b ON b.id = t.buy_order_id
       WHERE t.price_micro < s.price_micro OR t.price_micro > b.price_micro""",
    """SELECT format('trade %%s is not between the owners of its orders', t.id)
       FROM transactions t JOIN energy_orders s ON s.id = t.sell_order_id JOIN energy_orders b ON b.id = t.buy_order_id
       WHERE s.type <> 'sell' OR b.type <> 'buy' OR t.donor_id <> s.user_id OR t.recipient_id <> b.user_id
          OR t.device_id IS DISTINCT FROM s.device_id OR t.donor_id = t.recipient_id""",
    # Matches: a match becomes a trade at once.
    """SELECT format('match %%s of %%s is not a trade yet', seq, matched_at) FROM matches
       WHERE %(at_rest)s OR matched_at < now() - interval '2 minutes'""",
    """SELECT format('match %%s has no order, or not that device', m.seq)
       FROM matches m LEFT JOIN energy_orders a ON a.arrival = m.ask LEFT JOIN energy_orders b ON b.arrival = m.bid
       LEFT JOIN iot_devices d ON d.id = a.device_id
       WHERE a.id IS NULL OR b.id IS NULL OR d.no IS DISTINCT FROM m.device_no""",
    # Locks: in time, or not at all.
    """SELECT format('trade %%s is %%s without a lock that its device confirmed in time', id, status)
       FROM transactions WHERE status IN ('Locked', 'Submitted', 'Confirmed')
        AND (locked_at IS NULL OR expires_at IS NULL OR locked_at >= expires_at)""",
    # Deadlines: everything under way has one ahead of it, with a minute's grace for the process that enforces it.
    """SELECT format('trade %%s is %%s with no deadline ahead', id, status)
       FROM transactions
       WHERE (status = 'Pending'
              AND coalesce(expires_at, "timestamp" + interval '1 minute') < now() - interval '1 minute')
          OR (status = 'Locked' AND batch_id IS NULL AND valid_until < now() - interval '1 minute')
          -- A signed trade waits for the chain's final answer, which comes within hours.
          OR (status IN ('Locked', 'Submitted') AND batch_id IS NOT NULL AND valid_until < now() - interval '1 day')""",
    """SELECT format('the delivery of trade %%s is %%s with no deadline ahead', id, delivery)
       FROM transactions WHERE status = 'Confirmed' AND delivery IN ('Owed', 'Started')
        AND coalesce(deliver_by, '-infinity') < now() - interval '1 minute'""",
    """SELECT format('the unlock of trade %%s is owed with no deadline ahead', id)
       FROM transactions WHERE unlock = 'Owed' AND coalesce(unlock_by, '-infinity') < now() - interval '1 minute'""",
    """SELECT format('the pause of device %%s was over at %%s, and has no deadline ahead', id, paused_until)
       FROM iot_devices WHERE paused_until < now() - interval '1 minute'""",
    """SELECT format('trade %%s is Submitted in a batch that is %%s', t.id, coalesce(b.status, 'unknown'))
       FROM transactions t LEFT JOIN settlement_batches b ON b.id = t.batch_id
       WHERE t.status = 'Submitted' AND coalesce(b.status, '') NOT IN ('Stored', 'Mined')""",
    """SELECT format('trade %%s is still %%s', id, status) FROM transactions
       WHERE %(at_rest)s AND status IN ('Pending', 'Locked', 'Submitted')""",
    """SELECT format('trade %%s is confirmed, but its delivery is %%s (%%s of %%s Wh)',
                     id, coalesce(delivery, 'not ordered'), delivered_wh, energy_wh)
       FROM transactions WHERE status = 'Confirmed'
        AND (delivery IS NULL
             OR delivery IN ('Owed', 'Started') AND %(at_rest)s
             OR delivery = 'Delivered' AND delivered_wh <> energy_wh
             OR delivery = 'Short' AND delivered_wh >= energy_wh)""",
    """SELECT format('trade %%s is over, but its device was not told to release it', id)
       FROM transactions WHERE %(at_rest)s AND unlock = 'Owed'""",
    # The devices' reports, as far as they reached the database.
    """SELECT format('device %%s still reports a lock of trade %%s, which is %%s', d.id, l.id,
                     coalesce(CASE WHEN t.delivery IN ('Delivered', 'Short') THEN t.delivery END, t.status, 'unknown'))
       FROM iot_devices d CROSS JOIN LATERAL unnest(d.reported_locks) l(id) LEFT JOIN transactions t ON t.id = l.id
       WHERE %(at_rest)s
         AND (t.id IS NULL OR t.device_id <> d.id OR t.status = 'Failed' OR t.delivery IN ('Delivered', 'Short'))""",
    # The last recorded transition matches the row.
    """SELECT format('trade %%s is %%s, but its last event says %%s', t.id, t.status, coalesce(e.to_status, 'nothing'))
       FROM transactions t
       LEFT JOIN LATERAL (SELECT to_status FROM events WHERE entity_id = t.id AND entity = 'trade'
                          ORDER BY id DESC LIMIT 1) e ON true
       WHERE e.to_status IS DISTINCT FROM t.status""",
    """SELECT format('the delivery of trade %%s is %%s, but its last event says %%s',
                     t.id, t.delivery, coalesce(e.to_status, 'nothing'))
       FROM transactions t
       LEFT JOIN LATERAL (SELECT to_status FROM events WHERE entity_id = t.id AND entity = 'delivery'
                          ORDER BY id DESC LIMIT 1) e ON true
       WHERE t.delivery IS NOT NULL AND e.to_status IS DISTINCT FROM t.delivery""",
    """SELECT format('order %%s is %%s, but its last event says %%s', s.id, s.status, coalesce(e.to_status, 'nothing'))
       FROM order_states s
       LEFT JOIN LATERAL (SELECT to_status FROM events WHERE entity_id = s.id ORDER BY id DESC LIMIT 1) e ON true
       WHERE e.to_status IS DISTINCT FROM s.status
         -- The event of a match is recorded when it becomes a trade.
         AND NOT EXISTS (SELECT FROM matches WHERE s.arrival IN (ask, bid))""",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedTrade:
    """A trade as the chain should have paid it. Amount in nano-tokens, energy in Wh."""

    id: UUID
    status: TradeStatus
    was_signed: bool  # bytes exist, or existed, that could pay it
    buyer: str
    seller: str
    amount_nano: int
    energy_wh: int
    blockchain_hash: str | None


def hold_still(conn: Connection) -> None:
    """Let the transaction that has just begun see one moment, and write nothing.

    Raises psycopg.errors.ActiveSqlTransaction if it began with another statement.
    """
    conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def allow(conn: Connection, timeout_s: float) -> None:
    """Limit each later statement of this transaction to `timeout_s` seconds; QueryCanceled after that."""
    conn.execute("SELECT set_config('statement_timeout', %s, true)", (f"{max(1, round(timeout_s * 1000))}ms",))


def database_differences(
    conn: Connection, *, at_rest: bool, limit: int = MAX_LINES, allowed_s: Callable[[], float] | None = None
) -> Differences:
    """Contradictions within the database. `at_rest`: anything still under way counts as well.

    `allowed_s` is called before each query, and returns how many seconds it may take.
    """
    found = Differences(limit=limit)
    for check in CHECKS:
        if allowed_s is not None:
            allow(conn, allowed_s())
        rows = conn.execute(
            f"SELECT line, count(*) OVER () FROM ({check}) violations (line) LIMIT %(limit)s",
            {"at_rest": at_rest, "limit": limit},
        ).fetchall()
        for line, _ in rows[:-1]:
            found.add(line)
        if rows:
            line, count = rows[-1]
            found.add(line, times=count - len(rows) + 1)
    return found


def booked_trades(conn: Connection, ids: Collection[UUID]) -> dict[UUID, BookedTrade]:
    """Those of these trades that exist, by id."""
    with conn.cursor(row_factory=class_row(BookedTrade)) as cursor:
        rows = cursor.execute(
            """
            SELECT t.id, t.status, t.batch_id IS NOT NULL AS was_signed, recipient.wallet_address AS buyer,
                   donor.wallet_address AS seller, t.amount_nano, t.energy_wh, t.blockchain_hash
            FROM transactions t JOIN users donor ON donor.id = t.donor_id
            JOIN users recipient ON recipient.id = t.recipient_id
            WHERE t.id = ANY (%s)
            """,
            (list(ids),),
        ).fetchall()
    return {row.id: row for row in rows}


def confirmed_trades(
    conn: Connection, *, chain_id: int, contract: str, after_seq: int, limit: int
) -> list[tuple[int, UUID]]:
    """(Seq, id) of trades that count as paid by this contract, in order of `seq`."""
    return conn.execute(
        """
        SELECT t.seq, t.id FROM transactions t JOIN settlement_batches b ON b.id = t.batch_id
        WHERE t.status = 'Confirmed' AND b.chain_id = %s AND b.contract = %s AND t.seq > %s ORDER BY t.seq LIMIT %s
        """,
        (chain_id, contract, after_seq, limit),
    ).fetchall()


def confirmed_elsewhere(conn: Connection, *, chain_id: int, contract: str) -> int:
    """The number of trades that count as paid by another contract, or on another chain."""
    ((trades,),) = conn.execute(
        """
        SELECT count(*) FROM transactions t JOIN settlement_batches b ON b.id = t.batch_id
        WHERE t.status = 'Confirmed' AND (b.chain_id <> %s OR b.contract <> %s)
        """,
        (chain_id, contract),
    ).fetchall()
    return int(trades)
