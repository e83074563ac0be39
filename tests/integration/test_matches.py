"""What a tick has matched and nobody has made a trade of yet: the process died in between."""

from collections.abc import Iterable
from uuid import UUID

import pytest

from energy_market.domain.commands import Command
from energy_market.postgres import devices
from energy_market.usecases import publish_commands
from energy_market.usecases import run_tick as ticking
from energy_market.usecases.run_tick import Tick, run_tick
from tests.support.market import SETTINGS, Home, Market


def only_tick(market: Market) -> Tick:
    return run_tick(market.database, zone="default", device_online_s=SETTINGS.device_online_s)


def free_wh(market: Market, home: Home) -> int | None:
    with market.database.transaction() as conn:
        (device,) = devices.of_owner(conn, home.user)
    return device.free_wh


def test_a_match_counts_as_matched_and_as_promised_before_it_is_a_trade(market: Market) -> None:
    home, buyer = market.home(available_wh=900), market.user()
    ask, bid = market.order(home.user, "sell", 500, 200_000), market.order(buyer, "buy", 500, 200_000)
    assert only_tick(market).matches == 1
    assert [market.status_of(order) for order in (ask, bid)] == ["Matched", "Matched"]
    assert free_wh(market, home) == 400
    market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000)
    assert only_tick(market).matches == 0
    assert market.trades(buyer) == []


def test_all_matches_become_trades_before_the_next_locks_are_published(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_commands, "MAX_AT_ONCE", 2)
    home, buyer = market.home(), market.user()
    asks: list[UUID] = []
    for _ in range(3):
        asks.append(market.order(home.user, "sell", 500, 200_000))
        market.order(buyer, "buy", 500, 200_000)
    only_tick(market)
    told = [market.publish().locks]
    assert [trade.status for trade in market.trades(buyer)] == ["Pending"] * 3
    told += [market.publish().locks, market.publish().locks]
    assert told == [2, 1, 0]
    assert [command.sell_order_id for command in market.published] == asks


def test_a_locks_time_begins_when_its_turn_comes(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_commands, "LOCKS_AT_ONCE", 1)
    home, buyer = market.home(), market.user()
    for _ in range(3):
        market.order(home.user, "sell", 500, 200_000)
        market.order(buyer, "buy", 500, 200_000)
    only_tick(market)
    still_unclaimed: list[int] = []

    def say(claimed: Iterable[Command]) -> list[tuple[Command, Exception]]:
        if [command.kind for command in claimed] == ["lock"]:
            still_unclaimed.append(len(market.sql("SELECT id FROM transactions WHERE expires_at IS NULL")))
        return []

    published = publish_commands.publish_commands(
        market.database, say, lock_timeout_s=SETTINGS.lock_timeout_s, device_online_s=SETTINGS.device_online_s
    )
    assert (published.locks, still_unclaimed) == (3, [2, 1, 0])


def test_where_the_broker_is_slow_the_next_step_says_the_other_locks(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_commands, "LOCKS_AT_ONCE", 1)
    monkeypatch.setattr(publish_commands, "LOCKS_FOR_S", 0.0)
    home, buyer = market.home(), market.user()
    for _ in range(2):
        market.order(home.user, "sell", 500, 200_000)
        market.order(buyer, "buy", 500, 200_000)
    only_tick(market)
    assert [market.publish().locks for _ in range(3)] == [1, 1, 0]


def test_while_one_tells_the_devices_another_says_nothing(market: Market, database_url: str) -> None:
    home, buyer, other = market.home(), market.user(), Market(database_url)
    market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000)
    only_tick(market)
    said_meanwhile: list[int] = []

    def say(_claimed: Iterable[Command]) -> list[tuple[Command, Exception]]:
        market.sql("UPDATE transactions SET command_sent_at = command_sent_at - interval '5 s'")
        said_meanwhile.append(other.publish().locks)
        return []

    assert (
        publish_commands.publish_commands(
            market.database, say, lock_timeout_s=SETTINGS.lock_timeout_s, device_online_s=SETTINGS.device_online_s
        ).locks
        >= 1
    )
    assert set(said_meanwhile) == {0}
    market.sql("UPDATE transactions SET command_sent_at = command_sent_at - interval '5 s'")
    assert other.publish().locks == 1
    other.close()


def test_a_lock_that_was_never_said_goes_before_those_that_are_said_again(market: Market) -> None:
    home, buyer = market.home(), market.user()
    asks: list[UUID] = []
    for _ in range(3):
        asks.append(market.order(home.user, "sell", 500, 200_000))
        market.order(buyer, "buy", 500, 200_000)
        market.tick()
        if len(asks) < 3:
            assert [command.sell_order_id for command in market.claim_locks()] == [asks[-1]]
    market.sql("UPDATE transactions SET command_sent_at = command_sent_at - interval '5 s'")
    assert [command.sell_order_id for command in market.claim_locks(limit=1)] == [asks[2]]
    assert [command.sell_order_id for command in market.claim_locks(limit=1)] == [asks[0]]


def test_an_order_that_is_cancelled_between_match_and_trade_keeps_the_trade(market: Market) -> None:
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 300, 200_000)
    bid = market.order(buyer, "buy", 500, 200_000, partial=True)
    only_tick(market)
    cancelled = market.cancel(buyer, bid)
    assert (cancelled.status, cancelled.pending_wh, cancelled.remaining_wh) == ("Cancelled", 300, 200)
    market.publish()
    (trade,) = market.trades(buyer)
    assert (trade.energy_wh, market.status_of(bid)) == (300, "Cancelled")


def test_a_tick_with_nothing_new_asks_one_question(market: Market) -> None:
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 500, 300_000)
    market.order(buyer, "buy", 500, 200_000)
    assert only_tick(market).attempts == 1
    assert only_tick(market) == Tick(ran=True)


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
def test_what_is_new_is_looked_up_by_indexes_alone(market: Market, plan: str) -> None:
    """Else a tick takes as long as the book is. Whether planned for these values, or once for any."""
    home = market.home()
    market.sql(
        """
        WITH people AS (
            INSERT INTO users (wallet_address) SELECT '0x' || lpad(n::text, 40, '0') FROM generate_series(1, 500) n
            RETURNING id
        ), accepted AS (
            INSERT INTO energy_orders (user_id, zone, type, energy_wh, price_micro, all_or_none)
            SELECT id, 'default', 'buy', n, 100000 + n, true FROM people CROSS JOIN generate_series(481, 520) n
            RETURNING id, zone, type, user_id, energy_wh, price_micro, arrival, all_or_none
        )
        INSERT INTO open_orders (order_id, zone, type, user_id, remaining_wh, price_micro, arrival, all_or_none)
        SELECT * FROM accepted
        """
    )
    # As orders that have come over months lie: one that is new is anywhere.
    market.sql("UPDATE open_orders SET touched = (3 + (random() * 500)::integer)::text::xid8")
    market.sql("ANALYZE")
    only_tick(market)

    def read_from_end_to_end() -> int:
        with market.database.transaction() as conn:
            conn.execute("SELECT pg_stat_force_next_flush()")
        ((scans,),) = market.sql("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'open_orders'")
        assert isinstance(scans, int)
        return scans

    with market.database.transaction() as conn:
        conn.prepare_threshold = 0
        conn.execute(f"SET SESSION plan_cache_mode = {plan}".encode())
    before = read_from_end_to_end()
    ask = market.order(home.user, "sell", 500, 100_000)
    assert only_tick(market).matches == 1
    assert market.status_of(ask) == "Matched"
    assert only_tick(market) == Tick(ran=True)
    assert read_from_end_to_end() == before


def test_an_order_that_commits_after_a_later_one_was_seen_is_seen(market: Market, database_url: str) -> None:
    home, buyer = market.home(), market.user()
    late = Market(database_url)
    with late.database.transaction() as conn:
        early = conn.execute(
            "INSERT INTO energy_orders (user_id, zone, type, energy_wh, price_micro, all_or_none)"
            " VALUES (%s, 'default', 'buy', 500, 200000, true) RETURNING id, arrival",
            (buyer,),
        ).fetchone()
        assert early is not None
        conn.execute(
            "INSERT INTO open_orders (order_id, zone, type, user_id, remaining_wh, price_micro, arrival, all_or_none)"
            " VALUES (%s, 'default', 'buy', %s, 500, 200000, %s, true)",
            (early[0], buyer, early[1]),
        )
        ask = market.order(home.user, "sell", 500, 200_000)
        assert only_tick(market).matches == 0
    assert only_tick(market).matches == 1
    assert market.status_of(ask) == "Matched"
    late.close()


def test_more_new_orders_than_are_looked_at_one_by_one_are_all_seen(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticking, "MAX_NEW", 2)
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 500, 200_000)
    only_tick(market)
    market.order(market.user(), "sell", 100, 1)  # it has no device, and is none of those that are looked at
    for price_micro in (1, 1, 1, 200_000):
        market.order(buyer, "buy", 500, price_micro)
    assert only_tick(market).matches == 1


def test_a_bid_that_grows_again_meets_an_ask_that_was_too_large_for_it(market: Market) -> None:
    home, other, buyer = market.home(), market.home(), market.user()
    small = market.order(home.user, "sell", 300, 200_000)
    market.order(buyer, "buy", 500, 200_000, partial=True)
    market.tick()
    large = market.order(other.user, "sell", 500, 200_000)
    assert only_tick(market).matches == 0
    market.publish()
    (trade,) = market.trades(buyer)
    assert market.answer(home.device, small, "rejected", trade=trade.id) == "rejected"
    assert only_tick(market).matches == 1
    assert market.status_of(large) == "Matched"


def test_what_only_a_look_at_the_whole_book_finds_is_counted(market: Market) -> None:
    """It cannot happen: here somebody has changed the book behind everybody's back."""
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 500, 300_000)
    bid = market.order(buyer, "buy", 500, 200_000)
    only_tick(market)
    market.sql("UPDATE open_orders SET price_micro = 300000 WHERE order_id = %s", bid)
    assert only_tick(market).matches == 0
    market.sql("UPDATE ticks SET whole_at = whole_at - interval '10 minutes'")
    done = only_tick(market)
    assert (done.matches, done.overlooked) == (1, 1)


def test_a_snapshot_of_another_server_is_not_believed(market: Market) -> None:
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 500, 200_000)
    only_tick(market)
    market.order(buyer, "buy", 500, 200_000)
    market.sql("UPDATE ticks SET seen = '9000000000:9000000000:'")
    done = only_tick(market)
    assert (done.matches, done.overlooked) == (1, 0)
    assert market.sql("SELECT pg_snapshot_xmax(seen)::text::bigint < 9000000000 FROM ticks") == [(True,)]
