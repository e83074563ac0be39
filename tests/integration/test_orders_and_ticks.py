"""Orders from the book to a trade, on a real PostgreSQL."""

import contextlib
import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from psycopg import Connection

from energy_market.database import Database
from energy_market.domain.errors import Conflict, InvalidRequest, NotFound
from energy_market.domain.matching import Book, Match
from energy_market.postgres import book, orders, zones
from tests.support.market import SETTINGS, Market


def test_two_orders_that_cross_become_a_pending_trade(market: Market) -> None:
    home, buyer = market.home(), market.user()
    ask = market.order(home.user, "sell", 500, 200_000)
    bid = market.order(buyer, "buy", 500, 250_000)
    assert len(market.tick().trade_ids) == 1
    (trade,) = market.trades(buyer)
    assert (trade.energy_wh, trade.price_micro, trade.amount_nano) == (500, 200_000, 100_000_000)
    assert (trade.status, trade.sell_order_id, trade.buy_order_id) == ("Pending", ask, bid)
    assert (market.status_of(ask), market.status_of(bid)) == ("Matched", "Matched")
    assert market.sql("SELECT * FROM open_orders") == []


def test_the_specifications_columns_are_generated(market: Market) -> None:
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 1_234, 1_234_567)
    market.order(buyer, "buy", 1_234, 1_234_567)
    market.tick()
    assert [tuple(map(str, row)) for row in market.sql("SELECT kwh_amount, token_price FROM energy_orders")] == [
        ("1.234", "1.234567")
    ] * 2
    assert [tuple(map(str, row)) for row in market.sql("SELECT kwh_amount, token_amount FROM transactions")] == [
        ("1.234", "1.523455678")
    ]


def test_the_largest_order_at_the_highest_price_fits(market: Market) -> None:
    home, buyer = market.home(available_wh=10**9), market.user()
    market.order(home.user, "sell", 10**9, 10**9)
    market.order(buyer, "buy", 10**9, 10**9)
    market.tick()
    assert market.trades(buyer)[0].amount_nano == 10**18


def test_a_tick_with_nothing_to_do_makes_nothing(market: Market) -> None:
    home = market.home()
    market.order(home.user, "sell", 500, 200_000)
    assert market.tick().trade_ids == ()
    assert market.tick().trade_ids == ()


def test_every_transition_of_an_order_is_an_event(market: Market) -> None:
    home, _, ask, bid, trade = market.matched()
    market.answer(home.device, ask, "rejected", trade=trade.id)
    market.cancel(market.get(bid).user_id, bid)

    def story(entity: UUID) -> list[tuple[object, ...]]:
        return market.sql("SELECT from_status, to_status, reason FROM events WHERE entity_id = %s ORDER BY id", entity)

    assert story(trade.id) == [(None, "Pending", None), ("Pending", "Failed", "lock_rejected")]
    assert story(ask) == [
        (None, "Created", None),
        ("Created", "Matched", None),
        ("Matched", "Created", "lock_rejected"),
    ]
    assert story(bid) == [
        (None, "Created", None),
        ("Created", "Matched", None),
        ("Matched", "Created", "lock_rejected"),
        ("Created", "Cancelled", "cancelled_by_owner"),
    ]


def test_events_cannot_be_changed(market: Market) -> None:
    market.user()
    for statement in ("UPDATE events SET reason = 'x'", "DELETE FROM events", "TRUNCATE events"):
        with pytest.raises(Exception, match="append-only"):
            market.sql(statement)


def test_an_ask_of_a_device_that_has_not_reported_waits(market: Market) -> None:
    home, buyer = market.home(available_wh=None), market.user()
    ask = market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000)
    assert market.tick().trade_ids == ()
    assert market.get(ask).unmatchable == "no_status_yet"
    market.status(home.device, available_wh=500)
    assert market.get(ask).unmatchable is None
    assert len(market.tick().trade_ids) == 1


def test_an_ask_of_a_device_that_went_quiet_waits(market: Market) -> None:
    home, buyer = market.home(), market.user()
    ask = market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000)
    market.sql("UPDATE iot_devices SET last_ping = now() - interval '121 seconds'")
    assert market.tick().trade_ids == ()
    assert market.get(ask).unmatchable == "device_offline"


def test_energy_that_is_promised_is_not_sold_again(market: Market) -> None:
    home, buyer = market.home(available_wh=900), market.user()
    market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000)
    second = market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000)
    assert len(market.tick().trade_ids) == 1
    assert market.tick().trade_ids == ()
    assert market.get(second).unmatchable == "no_free_energy"


def test_partial_orders_fill_over_several_ticks(market: Market) -> None:
    home, buyer = market.home(), market.user()
    ask = market.order(home.user, "sell", 1_000, 200_000, partial=True)
    market.order(buyer, "buy", 300, 200_000)
    market.tick()
    order = market.get(ask)
    assert (order.status, order.pending_wh, order.remaining_wh) == ("Created", 300, 700)
    market.order(buyer, "buy", 700, 200_000)
    market.tick()
    order = market.get(ask)
    assert (order.status, order.pending_wh, order.remaining_wh) == ("Matched", 1_000, 0)


def test_a_cancelled_order_keeps_its_trades_under_way(market: Market) -> None:
    home, buyer = market.home(), market.user()
    ask = market.order(home.user, "sell", 1_000, 200_000, partial=True)
    market.order(buyer, "buy", 300, 200_000)
    market.tick()
    market.cancel(home.user, ask)
    assert market.status_of(ask) == "Cancelled"
    market.publish()
    (trade,) = market.trades(buyer)
    assert market.answer(home.device, ask, "locked", trade=trade.id) == "locked"
    assert market.trades(buyer)[0].status == "Locked"


def test_a_failed_trade_does_not_reopen_a_cancelled_order(market: Market) -> None:
    home, buyer = market.home(), market.user()
    ask = market.order(home.user, "sell", 300, 200_000)
    bid = market.order(buyer, "buy", 1_000, 200_000, partial=True)
    market.tick()
    market.cancel(buyer, bid)
    market.publish()
    (trade,) = market.trades(buyer)
    market.answer(home.device, ask, "rejected", trade=trade.id)
    assert market.status_of(bid) == "Cancelled"
    assert market.sql("SELECT order_id FROM open_orders") == [(ask,)]


def test_what_is_not_open_cannot_be_cancelled(market: Market) -> None:
    home, buyer, ask, bid, _ = market.matched()
    with pytest.raises(Conflict) as refused:
        market.cancel(home.user, ask)
    assert refused.value.code == "order_not_open"
    for user, order in ((home.user, bid), (buyer, uuid4())):  # out of the book, another's is as if it were not
        with pytest.raises(NotFound):
            market.cancel(user, order)


def test_an_order_leaves_the_book_when_its_time_has_passed(market: Market) -> None:
    home, buyer = market.home(), market.user()
    ask = market.order(home.user, "sell", 500, 200_000, expires_at=datetime.now(UTC) + timedelta(seconds=60))
    market.order(buyer, "buy", 500, 200_000)
    market.sql("UPDATE open_orders SET expires_at = now() - interval '1 second' WHERE order_id = %s", ask)
    tick = market.tick()
    assert (tick.trade_ids, tick.orders_expired) == ((), 1)
    assert market.status_of(ask) == "Expired"


def test_an_order_may_not_expire_before_it_begins_or_after_a_month(market: Market) -> None:
    user = market.user()
    for ahead in (timedelta(seconds=-1), timedelta(days=31)):
        with pytest.raises(InvalidRequest):
            market.order(user, "buy", 500, 200_000, expires_at=datetime.now(UTC) + ahead)


def test_a_sell_order_belongs_to_its_owners_only_device(market: Market) -> None:
    home = market.home()
    assert market.get(market.order(home.user, "sell", 500, 1)).device_id == home.device


def test_of_several_devices_one_must_be_named(market: Market) -> None:
    home = market.home()
    other = market.device(home.user)
    with pytest.raises(Conflict) as refused:
        market.order(home.user, "sell", 500, 1)
    assert refused.value.code == "device_required"
    assert market.get(market.order(home.user, "sell", 500, 1, device=other)).device_id == other


def test_nobody_sells_from_anothers_device(market: Market) -> None:
    home, stranger = market.home(), market.user()
    with pytest.raises(NotFound):
        market.order(stranger, "sell", 500, 1, device=home.device)


def test_an_order_without_a_device_waits_for_the_first_one(market: Market) -> None:
    seller, buyer = market.user(), market.user()
    ask = market.order(seller, "sell", 500, 1)
    market.order(buyer, "buy", 500, 1)
    assert market.get(ask).unmatchable == "no_device"
    device = market.device(seller)
    with market.database.transaction() as conn:
        assert orders.bind_to_first_device(conn, seller, device) == 1
    market.status(device, available_wh=500)
    assert len(market.tick().trade_ids) == 1


def test_two_ticks_of_a_zone_never_overlap(market: Market, database_url: str) -> None:
    other = Database(database_url)
    with other.transaction() as conn:
        assert zones.try_lock(conn, "default")
        assert market.tick().ran is False
    assert market.tick().ran is True
    other.close()


def test_a_tick_is_taken_anew_when_an_order_is_cancelled_under_it(market: Market, database_url: str) -> None:
    """The order is cancelled after the tick has read it: its row is locked by the cancel when the tick writes."""
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 500, 200_000)
    bid = market.order(buyer, "buy", 500, 200_000)
    canceller = Database(database_url)
    done: list[object] = []
    with canceller.transaction() as conn:
        assert orders.cancel(conn, bid)
        ticking = threading.Thread(target=lambda: done.append(market.tick()))
        ticking.start()
        # The tick now waits for the cancelled row, or has not come so far: both end the same way.
        ticking.join(timeout=0.5)
    ticking.join()
    canceller.close()
    assert market.sql("SELECT count(*) FROM transactions") == [(0,)]
    assert market.status_of(bid) == "Cancelled"


def test_whoever_keeps_cancelling_cannot_keep_others_from_trading(
    market: Market, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, buyer = market.home(), market.user()
    market.order(home.user, "sell", 500, 200_000)
    market.order(buyer, "buy", 500, 200_000)
    restless, counterpart = market.home(), market.user()
    market.order(counterpart, "buy", 700, 100_000)
    offered = [market.order(restless.user, "sell", 700, 100_000)]
    disturbing: list[threading.Thread] = []
    write = book.take

    def cancel_and_offer_again() -> None:
        disturber = Market(database_url)
        with contextlib.suppress(Conflict):
            disturber.cancel(restless.user, offered[-1])
            offered.append(disturber.order(restless.user, "sell", 700, 100_000))
        disturber.close()

    def be_disturbed_and_write(conn: Connection, matches: list[Match], seen: Book) -> bool:
        disturbing.append(threading.Thread(target=cancel_and_offer_again))
        disturbing[-1].start()
        disturbing[-1].join(timeout=0.5)  # longer only when the book is held
        return write(conn, matches, seen)

    monkeypatch.setattr(book, "take", be_disturbed_and_write)
    tick = market.tick()
    for thread in disturbing:
        thread.join()
    assert tick.attempts == len(disturbing) == len(offered) == 5
    assert {trade.energy_wh for user in (buyer, counterpart) for trade in market.trades(user)} == {500, 700}


def test_of_cancel_and_match_exactly_one_wins(market: Market, database_url: str) -> None:
    home, buyer = market.home(available_wh=10**8), market.user()
    rounds = 60
    cancelled: list[UUID] = []
    bids = []
    for _ in range(rounds):
        market.order(home.user, "sell", 500, 200_000)
        bids.append(market.order(buyer, "buy", 500, 200_000))
    start = threading.Barrier(2)

    def cancel_all() -> None:
        canceller = Market(database_url)
        start.wait()
        for bid in bids:
            try:
                canceller.cancel(buyer, bid)
                cancelled.append(bid)
            except Conflict:
                pass
        canceller.close()

    racing = threading.Thread(target=cancel_all)
    racing.start()
    start.wait()
    while racing.is_alive():
        market.tick()
    racing.join()
    market.tick()
    traded = {trade.buy_order_id for trade in market.trades(buyer)}
    assert not traded & set(cancelled)
    assert traded | set(cancelled) == set(bids)


def test_the_book_in_pages(market: Market) -> None:
    buyer = market.user()
    placed = [market.order(buyer, "buy", 500, price) for price in (5, 3, 4)]
    with market.database.transaction() as conn:
        first = orders.open_page(conn, buyer, device_online_s=SETTINGS.device_online_s, limit=2)
        rest = orders.open_page(
            conn, buyer, device_online_s=SETTINGS.device_online_s, limit=2, after_arrival=first[-1].arrival
        )
        dear = orders.open_page(
            conn, buyer, device_online_s=SETTINGS.device_online_s, limit=9, min_price_micro=4, order_type="buy"
        )
    assert [order.id for order in first + rest] == placed
    assert [order.price_micro for order in dear] == [5, 4]
