"""While the chain can't be asked, or trades can't be paid on it, nothing is matched: orders are taken, and rest."""

import pytest

from energy_market.postgres import chain_state
from energy_market.postgres.chain_state import MATCHED_WITHIN_S, NOTED_EVERY_S
from energy_market.usecases.run_tick import run_tick
from tests.support.api import Client, signed_in
from tests.support.fixtures import LoadApi
from tests.support.market import SETTINGS, Market


@pytest.fixture
def market(market: Market) -> Market:
    """One that no sweep has asked the chain for."""
    market.sql("UPDATE chain_state SET asked_at = NULL")
    return market


def asked(market: Market, *, unfit: str | None = None) -> None:
    """A sweep has asked the chain."""
    with market.database.transaction() as conn:
        chain_state.mark_asked(conn, unfit=unfit, limit_nano=10**18)


def asked_ago(market: Market, seconds: float) -> None:
    market.sql("UPDATE chain_state SET asked_at = clock_timestamp() - make_interval(secs => %s)", seconds)


def crossing(market: Market) -> None:
    home = market.home(available_wh=1_000)
    market.order(home.user, "sell", 100, 1)
    market.order(market.user(), "buy", 100, 1)


def test_before_the_first_sweep_nothing_is_matched_and_after_it_all_is(market: Market) -> None:
    crossing(market)
    tick = run_tick(market.database, zone="default", device_online_s=SETTINGS.device_online_s)
    assert (tick.ran, tick.matches, tick.halted) == (True, 0, "chain_unreachable")
    asked(market)
    tick = run_tick(market.database, zone="default", device_online_s=SETTINGS.device_online_s)
    assert (tick.matches, tick.halted) == (1, None)


def test_nothing_is_matched_a_minute_after_the_chain_last_answered(market: Market) -> None:
    crossing(market)
    asked_ago(market, MATCHED_WITHIN_S + 1)
    assert market.tick().trade_ids == ()
    market.publish()
    assert market.sql("SELECT count(*) FROM transactions") == [(0,)]
    asked_ago(market, MATCHED_WITHIN_S - 10)
    assert len(market.tick().trade_ids) == 1


def test_what_came_during_the_gap_is_matched_after_it_and_nothing_is_overlooked(market: Market) -> None:
    asked(market)
    home, buyer = market.home(available_wh=1_000), market.user()
    market.order(home.user, "sell", 100, 5)
    market.tick()  # has seen the ask
    asked_ago(market, MATCHED_WITHIN_S + 1)
    market.order(buyer, "buy", 100, 5)
    for _ in range(3):
        market.tick()
    asked(market)
    tick = market.tick()
    assert (len(tick.trade_ids), tick.overlooked) == (1, 0)


def test_what_has_run_out_is_closed_while_nothing_is_matched(market: Market) -> None:
    asked(market)
    crossing(market)
    (trade,) = market.tick().trade_ids
    market.publish()
    asked_ago(market, MATCHED_WITHIN_S + 1)
    market.sql("UPDATE transactions SET expires_at = clock_timestamp() WHERE id = %s", trade)
    assert market.tick().locks_expired == 1


def test_a_chain_on_which_nothing_can_be_paid_stops_matching_at_once(market: Market) -> None:
    crossing(market)
    asked(market, unfit="the contract is paused by its owner")
    tick = run_tick(market.database, zone="default", device_online_s=SETTINGS.device_online_s)
    assert (tick.matches, tick.halted) == (0, "chain_unfit")
    asked(market)
    assert len(market.tick().trade_ids) == 1


def test_that_the_chain_answers_is_written_down_seldom_and_a_change_at_once(market: Market) -> None:
    def written() -> tuple[object, ...]:
        (row,) = market.sql("SELECT xmin::text, unfit FROM chain_state")
        return row

    asked(market)
    first = written()
    asked(market)
    assert written() == first
    asked(market, unfit="x" * 5_000)
    assert written()[1] == "x" * chain_state.SENTENCE_KEPT
    second = written()
    asked_ago(market, NOTED_EVERY_S + 1)
    asked(market, unfit="x" * 5_000)
    assert written() != second


def test_price_and_orders_say_why(market: Market, load_api: LoadApi, auth: Client) -> None:
    ann = signed_in(auth)
    api = load_api("market_api")

    def place() -> dict[str, object]:
        body = {"type": "buy", "kwh_amount": 1, "token_price": 0.1}
        answer = api.post("/api/v1/market/order/create", body, token=ann.token)
        assert answer.status == 201
        placed: dict[str, object] = answer.json
        return placed

    def halted() -> object:
        return api.get("/api/v1/market/price", token=ann.token).json["halted"]

    order = place()
    assert (order["status"], order["unmatchable"], halted()) == ("Created", "chain_unreachable", "chain_unreachable")
    asked(market, unfit="the contract is paused by its owner")
    assert (place()["unmatchable"], halted()) == ("chain_unfit", "chain_unfit")
    asked(market)
    assert (place()["unmatchable"], halted()) == (None, None)
    (mine, *_) = api.get("/api/v1/market/orders/mine", token=ann.token).json
    assert mine["unmatchable"] is None
