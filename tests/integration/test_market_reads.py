"""The market as everybody sees it, on a real PostgreSQL."""

import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from energy_market.domain.errors import Unauthorized
from energy_market.domain.market import Candle, Level, PriceSummary
from energy_market.postgres import market as market_sql
from energy_market.postgres import orders as orders_sql
from energy_market.postgres import trade_reads
from tests.support.loop import Loop
from tests.support.market import Market


def depth(market: Market, viewer: UUID, *, levels: int = 500) -> tuple[list[Level], list[Level]]:
    return market.database.statement(lambda conn: market_sql.depth(conn, viewer, levels=levels))


def prices(market: Market, viewer: UUID) -> PriceSummary:
    return market.database.statement(lambda conn: market_sql.price_summary(conn, viewer))


def fold(market: Market, *, limit: int = 1_000) -> None:
    with market.database.transaction() as conn:
        market_sql.fold_changes(conn, limit=limit)


def a_confirmed_trade(market: Market, *, energy_wh: int, price_micro: int, at: datetime) -> None:
    home, _, ask, _, trade = market.matched(energy_wh=energy_wh, price_micro=price_micro)
    market.answer(home.device, ask, "locked", trade=trade.id)
    market.sql(
        """
        WITH batch AS (INSERT INTO settlement_batches (chain_id, contract, sender, nonce)
                       SELECT 1, '0x', '0x', count(*) FROM settlement_batches RETURNING id)
        UPDATE transactions SET status = 'Confirmed', batch_id = (SELECT id FROM batch), confirmed_at = %s,
               blockchain_hash = '0x1' WHERE id = %s
        """,
        at,
        trade.id,
    )


def test_the_book_is_aggregated_by_price_best_first(market: Market) -> None:
    home, ben = market.home(), market.user()
    ann = home.user
    market.show()
    for user, price, energy_wh in ((ann, 10, 300), (ben, 10, 200), (ben, 12, 100), (ann, 9, 50)):
        market.order(user, "buy", energy_wh, price)
    market.order(ann, "sell", 700, 20)
    market.order(ann, "sell", 800, 15)
    for _ in range(2):
        bids, asks = depth(market, ann, levels=2)
        assert bids == [Level(price_micro=12, energy_wh=100, orders=1), Level(price_micro=10, energy_wh=500, orders=2)]
        assert [level.price_micro for level in asks] == [15, 20]
        fold(market)


def test_prices_and_volumes_count_confirmed_trades_only(market: Market) -> None:
    now = datetime.now(UTC)
    a_confirmed_trade(market, energy_wh=100, price_micro=7, at=now - timedelta(hours=25))
    a_confirmed_trade(market, energy_wh=300, price_micro=9, at=now - timedelta(hours=1))
    market.matched(energy_wh=900, price_micro=99)
    home = market.home()
    market.show()
    market.order(market.user(), "buy", 40, 3)
    market.order(home.user, "sell", 60, 5)
    summary = prices(market, market.user())
    assert (summary.last_micro, summary.volume_24h_wh) == (9, 300)
    assert (summary.best_bid_micro, summary.best_ask_micro) == (3, 5)
    assert (summary.supply_wh, summary.demand_wh) == (60, 40)


def test_an_empty_market_has_no_prices(market: Market) -> None:
    ann = market.user()
    summary = prices(market, ann)
    assert depth(market, ann) == ([], [])
    assert (summary.last_micro, summary.best_bid_micro, summary.best_ask_micro) == (None, None, None)
    assert (summary.volume_24h_wh, summary.supply_wh, summary.demand_wh) == (0, 0, 0)


def test_nobody_has_no_book(market: Market) -> None:
    market.order(market.user(), "buy", 500, 100_000)
    nobody = UUID(int=0)
    for read in (
        lambda: depth(market, nobody),
        lambda: prices(market, nobody),
        lambda: market.order(nobody, "buy", 500, 100_000),
        lambda: market.order(nobody, "sell", 500, 100_000),
        lambda: market.database.statement(
            lambda conn: orders_sql.open_page(conn, nobody, device_online_s=120, verified_only=False, limit=1)
        ),
    ):
        with pytest.raises(Unauthorized) as refusal:
            read()
        assert refusal.value.code == "unknown_user"


# ------------------------------------------------------------------------------------------------ the book by price


def added_up(market: Market, zone: str, kind: str) -> list[Level]:
    """What adding up all that is shown gives, which is what the levels are to say."""
    direction = "DESC" if kind == "buy" else "ASC"
    rows = market.sql(
        "SELECT price_micro, sum(shown_wh)::bigint, count(*) FROM open_orders"
        " WHERE zone = %s AND type = %s AND shown_wh > 0 AND (expires_at IS NULL OR expires_at > now())"
        f" GROUP BY price_micro ORDER BY price_micro {direction}",
        zone,
        kind,
    )
    return [Level(price_micro=int(str(p)), energy_wh=int(str(e)), orders=int(str(o))) for p, e, o in rows]


@pytest.mark.parametrize("seed", range(3))
def test_the_levels_are_what_all_that_is_shown_adds_up_to_at_any_moment(market: Market, seed: int) -> None:
    chance = random.Random(seed)
    homes, buyers = [market.home() for _ in range(3)], [market.user() for _ in range(3)]
    market.sql("INSERT INTO zones (id) VALUES ('other')")
    stranger = market.user()
    market.sql("UPDATE users SET zone = 'other' WHERE id = %s", stranger)
    placed: list[tuple[UUID, UUID]] = []

    def place() -> None:
        is_ask = chance.random() < 0.5
        user = chance.choice(homes).user if is_ask else chance.choice([*buyers, stranger])
        expires_at = datetime.now(UTC) + timedelta(hours=1) if chance.random() < 0.3 else None
        price = 10_000 * chance.randint(8, 12)
        size = 100 * chance.randint(1, 3)
        is_partial = chance.random() < 0.7
        order = market.order(user, "sell" if is_ask else "buy", size, price, partial=is_partial, expires_at=expires_at)
        placed.append((user, order))

    def withdraw() -> None:
        still_open = market.sql("SELECT user_id, order_id FROM open_orders ORDER BY arrival")
        if still_open:
            user, order = chance.choice(still_open)
            market.cancel(UUID(str(user)), UUID(str(order)))

    def run_out() -> None:
        market.sql("UPDATE open_orders SET expires_at = now() WHERE expires_at IS NOT NULL")

    def fall_through() -> None:
        market.publish()
        market.sql("UPDATE transactions SET expires_at = now() WHERE status = 'Pending'")
        for home in homes:
            market.status(home.device, available_wh=100_000)

    steps = [place] * 8 + [market.tick, withdraw, run_out, fall_through] + [lambda: fold(market, limit=2)] * 2
    steps.append(market.show)
    seen = 0
    for _ in range(120):
        chance.choice(steps)()
        for viewer, zone in ((buyers[0], "default"), (stranger, "other")):
            bids, asks = added_up(market, zone, "buy"), added_up(market, zone, "sell")
            assert depth(market, viewer) == (bids, asks)
            assert depth(market, viewer, levels=1) == (bids[:1], asks[:1])
            summary = prices(market, viewer)
            assert summary.best_bid_micro == (bids[0].price_micro if bids else None)
            assert summary.best_ask_micro == (asks[0].price_micro if asks else None)
            assert summary.demand_wh == sum(level.energy_wh for level in bids)
            assert summary.supply_wh == sum(level.energy_wh for level in asks)
            seen = max(seen, len(bids) + len(asks))
    assert seen > 4


def test_a_step_of_the_loop_adds_up_what_has_changed_and_forgets_prices_that_nobody_has(
    loop: Loop, market: Market
) -> None:
    ann = market.user()
    first, second = market.order(ann, "buy", 500, 100_000), market.order(ann, "buy", 700, 100_000)
    other = market.order(ann, "buy", 300, 90_000)
    loop.tick()
    levels = "SELECT price_micro, energy_wh, orders FROM price_levels ORDER BY price_micro"
    assert market.sql(levels) == [(0, 1_500, 3), (90_000, 300, 1), (100_000, 1_200, 2)]
    for order in (second, other):
        market.cancel(ann, order)
    assert market.sql("SELECT count(*) FROM level_changes") == [(2,)]
    loop.tick()
    assert market.sql(levels) == [(0, 500, 1), (100_000, 500, 1)]
    assert market.sql("SELECT count(*) FROM level_changes") == [(0,)]
    market.cancel(ann, first)
    loop.tick()
    assert market.sql(levels) == []


def test_changes_may_be_added_up_in_any_order_and_few_at_a_time(market: Market) -> None:
    ann = market.user()
    for changes in ([(-200, 0), (500, 1)], [(-500, -1), (500, 1)], [(700, 1), (-700, -1)], [(-300, -1), (0, 0)]):
        for energy_wh, orders in changes:
            market.sql("INSERT INTO level_changes VALUES ('default', 'buy', 100000, %s, %s)", energy_wh, orders)
            fold(market, limit=1)
        bids, _ = depth(market, ann)
        assert bids == ([] if changes[0] == (-300, -1) else [Level(price_micro=100_000, energy_wh=300, orders=1)])
    assert market.sql("SELECT * FROM price_levels") == []


def test_of_two_that_add_up_one_does_nothing(market: Market, connection: psycopg.Connection) -> None:
    market.order(market.user(), "buy", 500, 100_000)
    with connection.transaction():
        assert market_sql.fold_changes(connection) == 2  # the price, and the side
        fold(market)
        assert market.sql("SELECT count(*) FROM price_levels") == [(0,)]
    assert market.sql("SELECT count(*) FROM price_levels") == [(2,)]


# ------------------------------------------------------------------------------------------------ a long book


class Explained(psycopg.Cursor[Any]):
    """A cursor that has every statement explained: with the plan for these values, and with the one for any."""

    plans: Final[list[dict[str, Any]]] = []

    def execute(self, query: Any, params: Any = None, **_: Any) -> "Explained":  # noqa: ANN401 -- as psycopg has it
        super().execute(query, params, prepare=True)
        plain = psycopg.Cursor(self.connection)
        plain.execute("SELECT name FROM pg_prepared_statements ORDER BY prepare_time DESC LIMIT 1")
        ((name,),) = plain.fetchall()
        values = [params[name] for name in dict.fromkeys(re.findall(r"%\((\w+)\)s", query))]
        for mode in ("force_custom_plan", "force_generic_plan"):
            plain.execute(f"SET plan_cache_mode = {mode}".encode(), prepare=False)
            plain.execute(
                sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {} ({})").format(
                    sql.Identifier(name), sql.SQL(", ").join(map(sql.Literal, values))
                ),
                prepare=False,
            )
            (((plan,),),) = plain.fetchall()
            self.plans.append(plan["Plan"])
        return self


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


def scans(plan: dict[str, Any]) -> list[tuple[str, str, int]]:
    """(table, kind of scan, rows looked at) of a plan, for the tables that are as long as the book."""
    long = {"open_orders", "energy_orders", "price_levels", "events"}
    return [
        (
            node["Relation Name"],
            node["Node Type"],
            round((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]),
        )
        for node in nodes(plan)
        if node.get("Relation Name") in long
    ]


@pytest.mark.parametrize(
    ("read", "at_most"),
    [
        (
            lambda conn, viewer: orders_sql.open_page(
                conn, viewer, device_online_s=120, verified_only=False, limit=100
            ),
            300,
        ),
        (lambda conn, viewer: market_sql.depth(conn, viewer, levels=20), 40),
        (market_sql.price_summary, 4),
    ],
    ids=["orders", "book", "price"],
)
def test_what_is_read_does_not_grow_with_the_book(
    market: Market, connection: psycopg.Connection, read: Callable[[psycopg.Connection, UUID], object], at_most: int
) -> None:
    looked_at = []
    for orders in (3_000, 12_000):  # each of them at a price of its own
        connection.execute(
            """
            WITH people AS (
                INSERT INTO users (wallet_address)
                SELECT '0x' || lpad(to_hex(%(orders)s + n), 40, '0') FROM generate_series(1, 20) n RETURNING id
            ), roofs AS (
                INSERT INTO iot_devices (owner_id, device_type, side, location, zone, status, last_ping, available_wh)
                SELECT id, 'esp32', 'donor', 'roof', 'default', 'Online', now(), 1000000 FROM people
                RETURNING id, owner_id
            ), placed AS (
                INSERT INTO energy_orders (user_id, device_id, zone, type, energy_wh, price_micro, all_or_none)
                SELECT owner_id, CASE WHEN n %% 2 = 1 THEN id END, 'default',
                       CASE WHEN n %% 2 = 0 THEN 'buy' ELSE 'sell' END, 500, 1000 + %(orders)s + n, true
                FROM (SELECT *, row_number() OVER () AS person FROM roofs) p
                JOIN generate_series(1, %(orders)s) n ON n %% 20 + 1 = person
                RETURNING *)
            INSERT INTO open_orders (order_id, zone, type, user_id, device_id, remaining_wh, price_micro, arrival,
                                     all_or_none)
            SELECT id, zone, type, user_id, device_id, energy_wh, price_micro, arrival, all_or_none FROM placed
            """,
            {"orders": orders},
        )
        market.show()
        assert market.sql("SELECT count(*) FROM open_orders WHERE shown_wh = 0") == [(0,)]
        fold(market, limit=100_000)
        market.database.close()
        connection.execute("VACUUM (ANALYZE)")
        viewer = market.user()  # of one's own orders more is told, which looks at others
        Explained.plans.clear()
        connection.cursor_factory = Explained
        read(connection, viewer)
        connection.cursor_factory = psycopg.Cursor
        assert len(Explained.plans) == 2
        for plan in Explained.plans:
            assert "Seq Scan" not in {kind for _, kind, _ in scans(plan)}, scans(plan)
            looked_at.append(sum(rows for _, _, rows in scans(plan)))
    assert min(looked_at) == max(looked_at) <= at_most


def test_a_candle_is_open_high_low_close_and_volume(market: Market) -> None:
    noon = datetime(2026, 6, 21, 12, tzinfo=UTC)
    for minute, price in ((0, 5), (1, 9), (3, 2), (4, 6), (5, 7)):
        a_confirmed_trade(market, energy_wh=100, price_micro=price, at=noon + timedelta(minutes=minute))
    with market.database.transaction() as conn:
        candles = market_sql.candles(
            conn,
            "default",
            interval=timedelta(minutes=5),
            since=noon,
            until=noon + timedelta(hours=1),
        )
    assert candles == [
        Candle(
            start=noon, open_micro=5, high_micro=9, low_micro=2, close_micro=6, volume_wh=400, trades=4, complete=True
        ),
        Candle(
            start=noon + timedelta(minutes=5),
            open_micro=7,
            high_micro=7,
            low_micro=7,
            close_micro=7,
            volume_wh=100,
            trades=1,
            complete=True,
        ),
    ]


def test_confirmed_trades_in_pages_latest_first(market: Market) -> None:
    noon = datetime(2026, 6, 21, 12, tzinfo=UTC)
    for minute in range(3):
        a_confirmed_trade(market, energy_wh=100, price_micro=minute + 1, at=noon + timedelta(minutes=minute))
    with market.database.transaction() as conn:
        first = trade_reads.confirmed(conn, "default", limit=2)
        assert first[-1].confirmed_at is not None
        rest = trade_reads.confirmed(conn, "default", before=(first[-1].confirmed_at, first[-1].seq), limit=2)
    assert [trade.price_micro for trade in first + rest] == [3, 2, 1]
