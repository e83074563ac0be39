# ruff: noqa: DTZ001 - simulated time is the local clock of the place, as the curves are

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_market.community.energy_books import EnergyBooks
from local_market.community.household import FEED_IN_MICRO, TARIFF_MICRO, Household, community
from local_market.community.profiles import Profiles
from local_market.community.trader import CONCESSIONS, LARGE_ASK_WH, LOT_WH, OPEN_ORDERS, OwnOrder, Trader

PROFILES = Profiles.load()
NOON = dt.datetime(2025, 5, 21, 12)
THREE_HOURS = dt.timedelta(hours=3)


def donor() -> Household:
    return Household(
        name="donor",
        annual_kwh=3000,
        peak_w=8000,
        orientation="south",
        battery_wh=10_000,
        reserve_wh=2_000,
        ask_floor_micro=100_000,
        bid_ceiling_micro=290_000,
    )


def recipient() -> Household:
    return Household(
        name="recipient",
        annual_kwh=5000,
        peak_w=0,
        orientation="south",
        battery_wh=0,
        reserve_wh=0,
        ask_floor_micro=100_000,
        bid_ceiling_micro=290_000,
    )


def books(household: Household) -> EnergyBooks:
    return EnergyBooks(household=household, profiles=PROFILES, at=NOON)


def order(side: str, *, open_wh: int = 0, under_way_wh: int = 0, filled_wh: int = 0, age_s: float = 0) -> OwnOrder:
    return OwnOrder(
        order_id=f"{side}-{open_wh}-{age_s}",
        side="buy" if side == "buy" else "sell",
        open_wh=open_wh,
        under_way_wh=under_way_wh,
        filled_wh=filled_wh,
        age_s=age_s,
    )


def test_the_same_seed_makes_the_same_homes() -> None:
    assert community(12, seed=1) == community(12, seed=1)
    assert community(12, seed=1) != community(12, seed=2)


@pytest.mark.parametrize("count", [2, 3, 6, 10, 50])
def test_every_community_has_homes_that_sell_and_homes_that_only_buy(count: int) -> None:
    homes = community(count, seed=1)
    assert len({home.name for home in homes}) == count
    assert {home.is_donor for home in homes} == {True, False}


def test_a_home_cannot_keep_more_than_its_battery_holds() -> None:
    with pytest.raises(ValueError, match="sizes"):
        Household(
            name="impossible",
            annual_kwh=3000,
            peak_w=0,
            orientation="south",
            battery_wh=1000,
            reserve_wh=1001,
            ask_floor_micro=100_000,
            bid_ceiling_micro=290_000,
        )


@settings(max_examples=50, deadline=None)
@given(
    number=st.integers(0, 9),
    acts=st.lists(
        st.one_of(
            st.tuples(st.just("advance"), st.integers(1, 7200)),
            st.tuples(st.just("deliver"), st.integers(1, 3000)),
            st.tuples(st.just("receive"), st.integers(1, 3000)),
            st.tuples(st.just("hold"), st.integers(0, 3000)),
        ),
        max_size=40,
    ),
)
def test_no_watt_hour_appears_or_vanishes(number: int, acts: list[tuple[str, int]]) -> None:
    home = community(10, seed=3)[number]
    account = books(home)
    for act, amount in acts:
        if act == "advance":
            account.advance(account.at + dt.timedelta(seconds=amount))
        elif act == "deliver":
            before_wh = account.sellable_wh
            assert account.deliver(amount) == min(amount, before_wh)
        elif act == "receive":
            account.receive(amount)
        else:
            account.held_wh = min(amount, account.sellable_wh)
        assert account.unbalanced_wh() == 0
        assert 0 <= account.own_wh <= home.reserve_wh
        assert 0 <= account.sellable_wh <= home.battery_wh - home.reserve_wh
        assert account.credit_wh >= 0
        assert 0 <= account.battery_percent <= 100


def test_time_in_small_steps_makes_the_same_energy_as_in_one() -> None:
    at_once, in_steps = books(donor()), books(donor())
    at_once.advance(NOON + dt.timedelta(hours=5))
    for second in range(0, 5 * 3600 + 1, 7):
        in_steps.advance(NOON + dt.timedelta(seconds=second))
    in_steps.advance(NOON + dt.timedelta(hours=5))
    assert (in_steps.used_wh, in_steps.sun_wh) == (at_once.used_wh, at_once.sun_wh)


def test_what_was_offered_is_still_there_after_a_night() -> None:
    account = books(donor())
    account.advance(NOON + dt.timedelta(hours=8))
    account.held_wh = 3000
    account.advance(NOON + dt.timedelta(hours=40))  # a night, a day, and half a night again
    assert account.sellable_wh >= 3000
    assert account.deliver(3000) == 3000


def test_bought_energy_is_used_before_the_grid_is() -> None:
    account = books(recipient())
    account.receive(1000)
    account.advance(NOON + dt.timedelta(hours=1))
    assert account.imported_wh == 0
    assert account.credit_wh == 1000 - account.used_wh


def test_a_home_offers_what_its_battery_holds_in_standard_lots() -> None:
    home = donor()
    decision = Trader(household=home, patience_s=20).decide(books=books(home), orders=[], ahead=THREE_HOURS)
    assert [(draft.side, draft.energy_wh, draft.all_or_none) for draft in decision.place] == [
        ("sell", LOT_WH, True),
        ("sell", LOT_WH, True),
    ]


def test_every_third_order_is_large_and_may_be_filled_in_parts() -> None:
    home = donor()
    trader = Trader(household=home, patience_s=20, placed=2)
    draft = trader.decide(books=books(home), orders=[], ahead=THREE_HOURS).place[0]
    assert (draft.energy_wh, draft.all_or_none) == (LARGE_ASK_WH, False)


def test_a_home_without_a_battery_bids_for_what_it_will_miss() -> None:
    home = recipient()
    decision = Trader(household=home, patience_s=20).decide(books=books(home), orders=[], ahead=THREE_HOURS)
    assert {draft.side for draft in decision.place} == {"buy"}


def test_a_home_does_not_bid_twice_for_the_same_need() -> None:
    home = recipient()
    account = books(home)
    orders = [order("buy", open_wh=1000), order("buy", under_way_wh=account.need_wh(THREE_HOURS))]
    assert Trader(household=home, patience_s=20).decide(books=account, orders=orders, ahead=THREE_HOURS).place == ()


def test_a_home_never_offers_what_it_has_offered_already() -> None:
    home = donor()
    account = books(home)
    account.held_wh = account.sellable_wh - LOT_WH + 1
    assert Trader(household=home, patience_s=20).decide(books=account, orders=[], ahead=THREE_HOURS).place == ()


def test_the_open_orders_of_a_home_are_bounded() -> None:
    home = donor()
    orders = [order("sell", open_wh=250 + number) for number in range(OPEN_ORDERS)]
    assert Trader(household=home, patience_s=20).decide(books=books(home), orders=orders, ahead=THREE_HOURS).place == ()


def test_a_stale_order_is_cancelled_and_the_next_one_concedes() -> None:
    home = donor()
    trader = Trader(household=home, patience_s=20)
    first = trader.price_micro("sell", fullness=0.5)
    decision = trader.decide(books=books(home), orders=[order("sell", open_wh=250, age_s=21)], ahead=THREE_HOURS)
    assert decision.cancel == ("sell-250-21",)
    assert decision.place[0].price_micro < first


def test_an_order_that_has_nothing_left_open_is_not_cancelled() -> None:
    home = donor()
    trader = Trader(household=home, patience_s=20)
    orders = [order("sell", under_way_wh=250, age_s=100)]
    assert trader.decide(books=books(home), orders=orders, ahead=THREE_HOURS).cancel == ()


def test_prices_stay_between_the_feed_in_price_and_the_tariff() -> None:
    for home in community(20, seed=5):
        for conceded in range(CONCESSIONS + 1):
            trader = Trader(household=home, patience_s=20, concessions={"buy": conceded, "sell": conceded})
            ask, bid = trader.price_micro("sell", fullness=0.2), trader.price_micro("buy", fullness=0)
            assert FEED_IN_MICRO < ask < TARIFF_MICRO
            assert FEED_IN_MICRO < bid < TARIFF_MICRO
            assert ask >= home.ask_floor_micro
            assert bid <= home.bid_ceiling_micro


def test_whoever_has_conceded_meets_the_other_side() -> None:
    homes = community(20, seed=7)
    patient = {"buy": CONCESSIONS, "sell": CONCESSIONS}
    asks = [Trader(household=h, patience_s=1, concessions=patient).price_micro("sell", fullness=0) for h in homes]
    bids = [Trader(household=h, patience_s=1, concessions=patient).price_micro("buy", fullness=0) for h in homes]
    assert max(asks) < min(bids)


def test_a_trade_ends_the_hurry() -> None:
    trader = Trader(household=recipient(), patience_s=20, concessions={"buy": 2, "sell": 0})
    trader.filled("buy")
    assert trader.concessions["buy"] == 1
