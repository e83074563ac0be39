"""The market as everybody sees it, on a real PostgreSQL."""

from datetime import UTC, datetime, timedelta

from energy_market.domain.market import Candle, Level
from energy_market.postgres import market as market_sql
from energy_market.postgres import trades
from tests.integration.market import Market


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
    ann, ben = market.user(), market.user()
    for user, price, energy_wh in ((ann, 10, 300), (ben, 10, 200), (ben, 12, 100), (ann, 9, 50)):
        market.order(user, "buy", energy_wh, price)
    market.order(ann, "sell", 700, 20)
    market.order(ann, "sell", 800, 15)
    with market.database.transaction() as conn:
        bids = market_sql.depth(conn, "default", "buy", levels=2)
        asks = market_sql.depth(conn, "default", "sell", levels=9)
    assert bids == [Level(price_micro=12, energy_wh=100, orders=1), Level(price_micro=10, energy_wh=500, orders=2)]
    assert [level.price_micro for level in asks] == [15, 20]


def test_prices_and_volumes_count_confirmed_trades_only(market: Market) -> None:
    now = datetime.now(UTC)
    a_confirmed_trade(market, energy_wh=100, price_micro=7, at=now - timedelta(hours=25))
    a_confirmed_trade(market, energy_wh=300, price_micro=9, at=now - timedelta(hours=1))
    market.matched(energy_wh=900, price_micro=99)
    market.order(market.user(), "buy", 40, 3)
    market.order(market.user(), "sell", 60, 5)
    with market.database.transaction() as conn:
        summary = market_sql.price_summary(conn, "default")
    assert (summary.last_micro, summary.volume_24h_wh) == (9, 300)
    assert (summary.best_bid_micro, summary.best_ask_micro) == (3, 5)
    assert (summary.supply_wh, summary.demand_wh) == (60, 40)


def test_an_empty_market_has_no_prices(market: Market) -> None:
    with market.database.transaction() as conn:
        summary = market_sql.price_summary(conn, "default")
        assert market_sql.depth(conn, "default", "buy", levels=5) == []
    assert (summary.last_micro, summary.best_bid_micro, summary.best_ask_micro) == (None, None, None)
    assert (summary.volume_24h_wh, summary.supply_wh, summary.demand_wh) == (0, 0, 0)


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
            limit=10,
        )
    assert candles == [
        Candle(start=noon, open_micro=5, high_micro=9, low_micro=2, close_micro=6, volume_wh=400, trades=4),
        Candle(
            start=noon + timedelta(minutes=5),
            open_micro=7,
            high_micro=7,
            low_micro=7,
            close_micro=7,
            volume_wh=100,
            trades=1,
        ),
    ]


def test_confirmed_trades_in_pages_latest_first(market: Market) -> None:
    noon = datetime(2026, 6, 21, 12, tzinfo=UTC)
    for minute in range(3):
        a_confirmed_trade(market, energy_wh=100, price_micro=minute + 1, at=noon + timedelta(minutes=minute))
    with market.database.transaction() as conn:
        first = trades.confirmed(conn, "default", limit=2)
        assert first[-1].confirmed_at is not None
        rest = trades.confirmed(conn, "default", before=(first[-1].confirmed_at, first[-1].seq), limit=2)
    assert [trade.price_micro for trade in first + rest] == [3, 2, 1]
