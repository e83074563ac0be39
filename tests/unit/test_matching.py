"""The matching rule. Books in, trades out."""

import time
from collections.abc import Mapping, Sequence
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_market.domain.matching import match
from tests.support.reference.naive_matching import OpenOrder, book_of, naive_rule, seeds_loop
from tests.support.reference.orders import ANN, BEN, CAT, DAN, PLENTY, a_bid, an_ask


def trades(
    asks: Sequence[OpenOrder], bids: Sequence[OpenOrder], free_wh: Mapping[UUID, int] | None = None
) -> list[tuple[int, int, int, int]]:
    """(ask's arrival, bid's arrival, energy, price) of each match, in the order of the walk."""
    free = dict.fromkeys((ANN, BEN, CAT, DAN), PLENTY) if free_wh is None else free_wh
    matches = match(book_of(asks, bids), {device.int: energy_wh for device, energy_wh in free.items()})
    place = {order.arrival: (order.price_micro, order.arrival) for order in asks}
    return sorted(matches, key=lambda m: place[m[0]])


def test_a_bid_that_reaches_the_ask_trades_with_it() -> None:
    assert trades([an_ask(500, 10, arrival=1)], [a_bid(500, 12, arrival=2)]) == [(1, 2, 500, 10)]


def test_a_bid_below_the_ask_does_not_trade() -> None:
    assert trades([an_ask(500, 10)], [a_bid(500, 9)]) == []


def test_the_older_order_sets_the_price() -> None:
    assert trades([an_ask(500, 10, arrival=2)], [a_bid(500, 12, arrival=1)]) == [(2, 1, 500, 12)]


def test_at_one_price_the_earlier_ask_trades_first() -> None:
    asks = [an_ask(500, 10, arrival=2), an_ask(500, 10, arrival=1, user=CAT)]
    assert trades(asks, [a_bid(500, 10, arrival=3)]) == [(1, 3, 500, 10)]


def test_at_one_price_the_earlier_bid_trades_first() -> None:
    bids = [a_bid(500, 10, arrival=3), a_bid(500, 10, arrival=2, user=CAT)]
    assert trades([an_ask(500, 10, arrival=1)], bids) == [(1, 2, 500, 10)]


def test_the_cheaper_ask_trades_before_the_earlier_one() -> None:
    asks = [an_ask(500, 11, arrival=1), an_ask(500, 10, arrival=2, user=CAT)]
    assert trades(asks, [a_bid(500, 12, arrival=3)]) == [(2, 3, 500, 10)]


def test_the_dearer_bid_trades_before_the_earlier_one() -> None:
    bids = [a_bid(500, 11, arrival=2), a_bid(500, 12, arrival=3, user=CAT)]
    assert trades([an_ask(500, 10, arrival=1)], bids) == [(1, 3, 500, 10)]


def test_whole_orders_of_different_sizes_do_not_trade() -> None:
    assert trades([an_ask(500, 10)], [a_bid(400, 12), a_bid(600, 12)]) == []


def test_a_worse_priced_bid_that_fits_may_trade_past_one_that_does_not() -> None:
    bids = [a_bid(400, 20, arrival=2), a_bid(500, 11, arrival=3)]
    assert trades([an_ask(500, 10, arrival=1)], bids) == [(1, 3, 500, 10)]


def test_nobody_trades_with_himself() -> None:
    bids = [a_bid(500, 12, user=ANN, arrival=2), a_bid(500, 11, arrival=3)]
    assert trades([an_ask(500, 10, arrival=1)], bids) == [(1, 3, 500, 10)]


def test_a_partial_ask_fills_bid_after_bid() -> None:
    bids = [a_bid(300, 12, arrival=2), a_bid(300, 11, arrival=3, partial=True)]
    assert trades([an_ask(500, 10, arrival=1, partial=True)], bids) == [(1, 2, 300, 10), (1, 3, 200, 10)]


def test_a_partial_ask_passes_over_a_whole_bid_that_is_too_large() -> None:
    bids = [a_bid(600, 12, arrival=2), a_bid(300, 11, arrival=3)]
    assert trades([an_ask(500, 10, arrival=1, partial=True)], bids) == [(1, 3, 300, 10)]


def test_a_partly_filled_bid_keeps_its_place() -> None:
    asks = [an_ask(200, 10, arrival=1), an_ask(200, 10, arrival=2)]
    bids = [a_bid(500, 12, arrival=3, partial=True), a_bid(200, 12, arrival=4, user=CAT)]
    assert trades(asks, bids) == [(1, 3, 200, 10), (2, 3, 200, 10)]


def test_a_whole_ask_does_not_trade_with_a_partial_bid_that_has_too_little_left() -> None:
    asks = [an_ask(300, 10, arrival=1), an_ask(300, 10, arrival=2)]
    assert trades(asks, [a_bid(500, 12, arrival=3, partial=True)]) == [(1, 3, 300, 10)]


@pytest.mark.parametrize("asks_are_partial", [True, False])
def test_orders_that_cross_and_never_fit_cost_little(asks_are_partial: bool) -> None:  # noqa: FBT001 -- a parameter
    """They stay in the book, and every tick sees them: all against all took 28 s for 10,000 of each."""
    size, other = (1, 1000) if asks_are_partial else (1000, 1)
    asks = [an_ask(size, 1, partial=asks_are_partial) for _ in range(6000)]
    bids = [a_bid(other, 5, partial=not asks_are_partial) for _ in range(6000)]
    began = time.process_time()
    assert trades(asks, bids) == []
    assert time.process_time() - began < 1


def test_a_device_promises_no_more_than_its_free_energy() -> None:
    asks = [an_ask(500, 10, arrival=1), an_ask(500, 11, arrival=2)]
    bids = [a_bid(500, 12, arrival=3), a_bid(500, 12, arrival=4)]
    assert trades(asks, bids, {ANN: 999}) == [(1, 3, 500, 10)]


def test_a_partial_ask_offers_what_its_device_has_free() -> None:
    assert trades(
        [an_ask(500, 10, arrival=1, partial=True)], [a_bid(500, 12, arrival=2, partial=True)], {ANN: 120}
    ) == [(1, 2, 120, 10)]


def test_a_whole_ask_above_its_devices_free_energy_is_passed_over() -> None:
    asks = [an_ask(500, 10, arrival=1), an_ask(100, 11, arrival=2)]
    bids = [a_bid(500, 12, arrival=3), a_bid(100, 12, arrival=4)]
    assert trades(asks, bids, {ANN: 499}) == [(2, 4, 100, 11)]


def test_an_ask_of_a_device_that_is_not_online_does_not_trade() -> None:
    assert trades([an_ask(500, 10)], [a_bid(500, 12)], {}) == []


_PEOPLE = st.sampled_from([ANN, BEN, CAT, DAN])
_SIZES = st.integers(1, 6)
_PRICES = st.integers(1, 6)


@st.composite
def books(draw: st.DrawFn, *, partial: bool, one_side_each: bool) -> tuple[list[OpenOrder], list[OpenOrder]]:
    rows = draw(st.lists(st.tuples(st.booleans(), _SIZES, _PRICES, _PEOPLE, st.booleans()), max_size=40))
    arrivals = draw(st.permutations(range(1, len(rows) + 1)))
    asks: list[OpenOrder] = []
    bids: list[OpenOrder] = []
    for arrival, (is_ask, size, price, person, divisible) in zip(arrivals, rows, strict=True):
        make = an_ask if is_ask else a_bid
        user = (ANN if is_ask else BEN) if one_side_each else person
        order = make(size, price, user=user, arrival=arrival, partial=partial and divisible)
        (asks if is_ask else bids).append(order)
    return asks, bids


@given(book=books(partial=False, one_side_each=True))
@settings(max_examples=300, deadline=None)
def test_with_whole_orders_it_is_exactly_the_specifications_loop(book: tuple[list[OpenOrder], list[OpenOrder]]) -> None:
    asks, bids = book
    assert [(ask, bid) for ask, bid, _, _ in trades(asks, bids)] == seeds_loop(asks, bids)


@given(
    book=books(partial=True, one_side_each=False),
    free=st.dictionaries(_PEOPLE, st.integers(0, 20)),
)
@settings(max_examples=500, deadline=None)
def test_it_is_the_naive_rule(book: tuple[list[OpenOrder], list[OpenOrder]], free: dict[UUID, int]) -> None:
    asks, bids = book
    assert trades(asks, bids, free) == naive_rule(asks, bids, free)


@given(book=books(partial=True, one_side_each=False), free=st.dictionaries(_PEOPLE, st.integers(0, 20)))
@settings(max_examples=200, deadline=None)
def test_no_order_and_no_device_gives_more_than_it_has(
    book: tuple[list[OpenOrder], list[OpenOrder]], free: dict[UUID, int]
) -> None:
    orders = {order.arrival: order for order in (*book[0], *book[1])}
    given_wh: dict[object, int] = {}
    for ask, bid, energy_wh, price_micro in trades(*book, free):
        assert orders[ask].price_micro <= price_micro <= orders[bid].price_micro
        for key in (ask, bid, orders[ask].device_id):
            given_wh[key] = given_wh.get(key, 0) + energy_wh
    for order in (*book[0], *book[1]):
        filled = given_wh.get(order.arrival, 0)
        assert filled in {0, order.remaining_wh} if order.all_or_none else filled <= order.remaining_wh
    for device, energy_wh in free.items():
        assert given_wh.get(device, 0) <= energy_wh
