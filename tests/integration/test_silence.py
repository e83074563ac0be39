"""A device that is silent, refuses or forgets costs its owner a turn, not the order. Again and again it costs more."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from energy_market.domain.trades import (
    DEVICES_FAULT,
    FAILURES_FORGOTTEN_AFTER_S,
    MAX_FAILURES_IN_A_ROW,
    MAX_PAUSE_S,
    FailReason,
)
from energy_market.postgres import book, deliveries, devices, trades
from energy_market.postgres.reconciliation import database_differences
from tests.support.market import Home, Market, Ticked, now_ms
from tests.support.trouble.alongside import Alongside, wait_until_somebody_waits_for


def a_bid(market: Market, energy_wh: int = 500) -> UUID:
    return market.order(market.user(), "buy", energy_wh, 200_000)


def fail(market: Market, home: Home, trade: UUID, reason: FailReason = "lock_rejected") -> None:
    """Have a trade whose lock is published fail by its device's fault."""
    ((ask,),) = market.sql("SELECT sell_order_id FROM transactions WHERE id = %s", trade)
    assert isinstance(ask, UUID)
    match reason:
        case "lock_rejected":
            assert market.answer(home.device, ask, "rejected", trade=trade) == "rejected"
        case "lock_timeout":
            market.sql("UPDATE transactions SET expires_at = clock_timestamp() WHERE id = %s", trade)
            assert market.tick().locks_expired == 1
        case _:
            assert market.answer(home.device, ask, "locked", trade=trade) == "locked"
            market.sql("UPDATE transactions SET lock_seq = 0 WHERE id = %s", trade)
            market.status(home.device, available_wh=100_000)
    assert market.sql("SELECT status, reason FROM transactions WHERE id = %s", trade) == [("Failed", reason)]


def matched(market: Market) -> tuple[UUID, ...]:
    ticked = market.tick()
    market.publish()
    return ticked.trade_ids


def fails_again(market: Market, home: Home, reason: FailReason = "lock_rejected") -> None:
    """The device says what it has, is matched, and fails."""
    market.status(home.device, available_wh=100_000)
    (trade,) = matched(market)
    fail(market, home, trade, reason)


def pause(market: Market) -> float | None:
    """Seconds that the only device that ever failed still pauses."""
    ((left,),) = market.sql("SELECT paused_until - clock_timestamp() FROM iot_devices WHERE failures > 0")
    assert left is None or isinstance(left, timedelta)
    return None if left is None else left.total_seconds()


def time_passes(market: Market, seconds: float) -> None:
    """The pause, and the failures, are so much further back."""
    market.sql(
        """
        UPDATE iot_devices SET paused_until = paused_until - make_interval(secs => %s),
               failed_at = failed_at - make_interval(secs => %s)
        """,
        seconds,
        seconds,
    )


def is_sound(market: Market) -> None:
    with market.database.transaction() as conn:
        assert database_differences(conn, at_rest=False).as_lines() == []


WORDS: dict[FailReason, str] = {
    "lock_timeout": "device_silent",
    "lock_rejected": "device_refused",
    "reservation_lost": "device_lost_reservation",
}


@pytest.mark.parametrize("reason", DEVICES_FAULT)
def test_the_ask_goes_back_with_its_place_and_waits_for_its_devices_next_status(
    market: Market, reason: FailReason
) -> None:
    home, buyer, ask, bid, trade = market.matched()
    later = market.order(home.user, "sell", 500, 200_000)
    fail(market, home, trade.id, reason)
    assert [market.status_of(order) for order in (ask, bid)] == ["Created", "Created"]
    assert [market.get(order).unmatchable for order in (ask, later)] == [WORDS[reason]] * 2
    assert matched(market) == ()
    market.report(f"energy/device/{home.device}/alert", {"severity": "info", "code": "x", "message": "y"})
    assert matched(market) == (), "an alert does not tell what is free"
    market.status(home.device, available_wh=100_000)
    assert [market.get(order).unmatchable for order in (ask, later)] == [None] * 2
    (again,) = matched(market)
    assert market.sql("SELECT sell_order_id, buy_order_id FROM transactions WHERE id = %s", again) == [(ask, bid)]
    assert len(market.trades(buyer)) == 2
    is_sound(market)


def test_a_partial_order_keeps_what_met_no_unanswered_lock_and_what_did(market: Market) -> None:
    home = market.home()
    ask = market.order(home.user, "sell", 100_000, 200_000, partial=True)
    a_bid(market, 100)
    (trade,) = matched(market)
    fail(market, home, trade, "lock_timeout")
    found = market.get(ask)
    assert (found.status, found.remaining_wh, found.unmatchable) == ("Created", 100_000, "device_silent")


def test_trades_of_the_order_that_are_under_way_go_on(market: Market) -> None:
    home = market.home()
    ask = market.order(home.user, "sell", 1_000, 200_000, partial=True)
    for size in (300, 400):
        a_bid(market, size)
    kept, failed = matched(market)
    assert market.answer(home.device, ask, "locked", trade=kept) == "locked"
    fail(market, home, failed)
    assert market.sql("SELECT status FROM transactions WHERE id = %s", kept) == [("Locked",)]
    assert market.get(ask).remaining_wh == 700
    is_sound(market)


def test_an_order_that_was_cancelled_stays_closed(market: Market) -> None:
    home = market.home()
    ask = market.order(home.user, "sell", 1_000, 200_000, partial=True)
    a_bid(market)
    (trade,) = matched(market)
    market.cancel(home.user, ask)
    fail(market, home, trade)
    assert market.status_of(ask) == "Cancelled"
    assert market.sql("SELECT FROM open_orders WHERE order_id = %s", ask) == []


def test_a_status_from_before_the_refusal_does_not_end_the_wait(market: Market) -> None:
    home, _, ask, _, trade = market.matched()
    before_ms = now_ms() - 5
    fail(market, home, trade.id)
    market.status(home.device, available_wh=100_000, received_ms=before_ms - 1_000)
    assert market.get(ask).unmatchable == "device_refused"
    market.status(home.device, available_wh=100_000)
    assert market.get(ask).unmatchable is None


def test_a_status_that_came_while_a_lock_ran_out_ends_the_wait_whichever_clock_is_ahead(market: Market) -> None:
    home, _, ask, _, trade = market.matched()
    fail(market, home, trade.id, "lock_timeout")
    market.status(home.device, available_wh=100_000, received_ms=now_ms() - 500)
    assert market.get(ask).unmatchable is None


@pytest.mark.parametrize("reason", DEVICES_FAULT)
def test_the_third_failure_in_a_row_rejects_the_order_and_makes_its_device_pause(
    market: Market, reason: FailReason
) -> None:
    home = market.home()
    bid = a_bid(market)
    ask = market.order(home.user, "sell", 500, 200_000)
    for _ in range(MAX_FAILURES_IN_A_ROW - 1):
        fails_again(market, home, reason)
        assert (market.status_of(ask), pause(market)) == ("Created", None)
    fails_again(market, home, reason)
    assert (market.status_of(ask), market.get(ask).reason, market.status_of(bid)) == ("Rejected", reason, "Created")
    another = market.order(home.user, "sell", 500, 100_000)
    market.status(home.device, available_wh=100_000)
    assert market.get(another).unmatchable == "device_paused", "whatever it reports, and under whatever order"
    assert matched(market) == ()
    is_sound(market)


def test_who_holds_up_the_best_bid_again_and_again_pauses_longer_each_time(market: Market) -> None:
    """A cheap ask that is cancelled and placed anew before it is rejected."""
    home, seller = market.home(), market.home()
    a_bid(market)
    pauses = []
    for failures in range(1, 13):
        cheap = market.order(home.user, "sell", 500, 1_000)
        fails_again(market, home)
        if market.status_of(cheap) == "Created":
            market.cancel(home.user, cheap)
        left = pause(market)
        pauses.append(0 if left is None else round(left))
        if left is not None:
            time_passes(market, left)
        assert failures == len(pauses)
    assert pauses == [0, 0, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600]
    assert max(pauses) == MAX_PAUSE_S
    # Meanwhile whoever keeps his word has the bid.
    market.status(home.device, available_wh=100_000)
    market.order(home.user, "sell", 500, 1_000)
    fail(market, home, matched(market)[0])
    ask = market.order(seller.user, "sell", 500, 200_000)
    (trade,) = matched(market)
    assert market.sql("SELECT sell_order_id FROM transactions WHERE id = %s", trade) == [(ask,)]


def test_the_end_of_a_pause_is_seen_by_the_next_tick_though_nothing_else_is_new(market: Market) -> None:
    home = market.home()
    a_bid(market)
    for _ in range(MAX_FAILURES_IN_A_ROW):
        cheap = market.order(home.user, "sell", 500, 1_000)
        fails_again(market, home)
        if market.status_of(cheap) == "Created":
            market.cancel(home.user, cheap)
    market.order(home.user, "sell", 500, 200_000)
    market.status(home.device, available_wh=100_000)
    assert matched(market) == ()
    idle: Ticked = market.tick()
    assert idle.attempts == 0, "nothing is new while it pauses"
    left = pause(market)
    assert left is not None
    time_passes(market, left - 1)
    market.status(home.device, available_wh=100_000)
    assert matched(market) == ()
    time_passes(market, 1)
    assert len(matched(market)) == 1
    assert market.sql("SELECT paused_until FROM iot_devices WHERE id = %s", home.device) == [(None,)]


def test_a_tick_that_has_nothing_to_do_reads_no_devices_to_find_that_out(market: Market) -> None:
    market.sql(
        """INSERT INTO iot_devices (owner_id, device_type, side, location, zone)
           SELECT %s, 'esp32', 'donor', 'roof', 'default' FROM generate_series(1, 5000)""",
        market.user(),
    )
    market.sql("ANALYZE iot_devices")
    with market.database.transaction() as conn:
        values = {"zone": "default", "verified_only": False, "every_s": 600}
        rows = conn.execute("EXPLAIN " + book._DUE, values).fetchall()  # noqa: SLF001 -- its plan is what is promised
    assert "Seq Scan on iot_devices" not in "".join(row[0] for row in rows)


@pytest.mark.parametrize("reason", ["lock_timeout", "lock_rejected"])
def test_what_was_matched_before_a_failure_was_noticed_fails_with_it_once(market: Market, reason: FailReason) -> None:
    """A line that is down for a minute: of four orders none is answered, or all are refused one by one."""
    home = market.home()
    asks = [market.order(home.user, "sell", 500, 200_000) for _ in range(4)]
    for _ in asks:
        a_bid(market)
    for trade in matched(market):
        fail(market, home, trade, reason)
    assert [market.status_of(ask) for ask in asks] == ["Created"] * 4
    assert market.sql("SELECT failures, paused_until FROM iot_devices WHERE id = %s", home.device) == [(1, None)]
    market.status(home.device, available_wh=100_000)
    assert len(matched(market)) == 4


def test_a_partial_order_fails_once_by_all_its_trades_of_one_silence(market: Market) -> None:
    home = market.home()
    ask = market.order(home.user, "sell", 10_000, 200_000, partial=True)
    for _ in range(5):
        a_bid(market)
    assert len(matched(market)) == 5
    market.sql("UPDATE transactions SET expires_at = clock_timestamp()")
    assert market.tick().locks_expired == 5
    assert market.sql("SELECT failures FROM energy_orders WHERE id = %s", ask) == [(1,)]
    assert market.get(ask).remaining_wh == 10_000


def sells(market: Market, home: Home, energy_wh: int) -> None:
    """A trade that is locked and paid."""
    ask = market.order(home.user, "sell", energy_wh, 1_000)
    market.order(market.user(), "buy", energy_wh, 900_000)
    market.status(home.device, available_wh=100_000)
    for trade in matched(market):
        ((order,),) = market.sql("SELECT sell_order_id FROM transactions WHERE id = %s", trade)
        if order == ask:
            assert market.answer(home.device, ask, "locked", trade=trade) == "locked"
            market.confirm(trade)


def test_a_confirmed_trade_ends_the_row(market: Market) -> None:
    home = market.home()
    ask = market.order(home.user, "sell", 100_000, 200_000, partial=True)
    for _ in range(2):
        for _ in range(MAX_FAILURES_IN_A_ROW - 1):
            bid = a_bid(market)
            fails_again(market, home)
            market.cancel(market.get(bid).user_id, bid)
        a_bid(market)
        market.status(home.device, available_wh=100_000)
        (trade,) = matched(market)
        assert market.answer(home.device, ask, "locked", trade=trade) == "locked"
        assert market.sql("SELECT failures FROM iot_devices WHERE id = %s", home.device) == [(2,)], "not the lock"
        market.confirm(trade)
        assert market.sql("SELECT failures FROM iot_devices WHERE id = %s", home.device) == [(0,)]
    assert market.status_of(ask) == "Created"


def test_crumbs_do_not_make_up_for_a_large_bid_that_was_held_up(market: Market) -> None:
    home = market.home()
    a_bid(market, 5_000)
    for failures in range(1, MAX_FAILURES_IN_A_ROW + 1):
        cheap = market.order(home.user, "sell", 5_000, 1_000)
        fails_again(market, home)
        if failures < MAX_FAILURES_IN_A_ROW:
            market.cancel(home.user, cheap)
            sells(market, home, 1)
    assert pause(market) is not None


def test_a_failure_of_yesterday_is_forgotten(market: Market) -> None:
    home = market.home()
    market.order(home.user, "sell", 100_000, 200_000, partial=True)
    for _ in range(MAX_FAILURES_IN_A_ROW + 1):
        bid = a_bid(market)
        fails_again(market, home)
        market.cancel(market.get(bid).user_id, bid)
        time_passes(market, FAILURES_FORGOTTEN_AFTER_S)
        market.sql("UPDATE energy_orders SET failures = 0")
    assert pause(market) is None


# ------------------------------------------------------------------------------------------------------ removal


def removes(home: Home, database_url: str, between: Callable[[psycopg.Connection], None]) -> None:
    """The device is removed as `remove_device` does it, and something happens before that is committed."""
    with psycopg.connect(database_url) as conn:
        assert devices.hold_owner(conn, home.device, home.user)
        deliveries.hold_of_device(conn, home.device)
        assert devices.remove(conn, home.device)
        between(conn)
        conn.commit()


def test_an_ask_whose_device_is_removed_while_its_lock_fails_does_not_rest_in_the_book_for_ever(
    market: Market, database_url: str
) -> None:
    home, _, ask, bid, trade = market.matched()
    failing: list[Alongside] = []

    def fails(conn: psycopg.Connection) -> None:
        def run() -> None:
            with psycopg.connect(database_url) as other:
                assert trades.fail(other, [trade.id], reason="lock_timeout", expected="Pending") == [trade.id]

        failing.append(Alongside(run))
        wait_until_somebody_waits_for(conn)

    removes(home, database_url, fails)
    failing[0].end()
    assert (market.status_of(ask), market.get(ask).reason) == ("Cancelled", "device_removed")
    assert market.sql("SELECT order_id FROM open_orders") == [(bid,)]


def test_an_ask_that_comes_back_for_nobodys_fault_after_its_device_was_removed_is_cancelled(market: Market) -> None:
    home, _, ask, bid, trade = market.matched()
    market.answer(home.device, ask, "locked", trade=trade.id)
    market.sql("UPDATE iot_devices SET status = 'Removed' WHERE id = %s", home.device)
    with market.database.transaction() as conn:
        trades.fail(conn, [trade.id], reason="settlement_expired", expected="Locked")
    assert (market.status_of(ask), market.status_of(bid)) == ("Cancelled", "Created")
