"""A tick that looks at what is new makes the same trades as one that looks at the whole book."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_market.domain.candidates import Bounds, Wanted, looked_far_enough, merged, reached_by
from energy_market.domain.matching import Book, Match, match
from tests.support.reference.naive_matching import OpenOrder, book_of, naive_rule
from tests.support.reference.orders import ANN, BEN, CAT, DAN, a_bid, an_ask

PEOPLE = (ANN, BEN, CAT, DAN)


@dataclass
class Market:
    """A market in memory: orders come and go, trades fail and give back, devices come, go, and have more or less."""

    book: dict[int, OpenOrder] = field(default_factory=dict)
    available_wh: dict[Any, int] = field(default_factory=lambda: dict.fromkeys(PEOPLE, 5))
    online: dict[Any, bool] = field(default_factory=lambda: dict.fromkeys(PEOPLE, True))
    under_way: list[tuple[OpenOrder, OpenOrder, int]] = field(default_factory=list)
    new_orders: set[int] = field(default_factory=set)
    new_devices: set[Any] = field(default_factory=set)
    arrivals: int = 0

    def place(self, chance: random.Random) -> None:
        self.arrivals += 1
        make: Callable[..., OpenOrder] = chance.choice([an_ask, a_bid])
        self.put(
            make(
                chance.randint(1, 6),
                chance.randint(1, 6),
                user=chance.choice(PEOPLE),
                arrival=self.arrivals,
                partial=chance.random() < 0.5,
            )
        )

    def put(self, order: OpenOrder) -> None:
        self.book[order.arrival] = order
        self.new_orders.add(order.arrival)

    def cancel(self, chance: random.Random) -> None:
        if self.book:
            del self.book[chance.choice(list(self.book))]

    def report(self, chance: random.Random) -> None:
        device, available_wh = chance.choice(PEOPLE), chance.randint(0, 12)
        if available_wh > self.available_wh[device]:
            self.new_devices.add(device)
        self.available_wh[device] = available_wh

    def come_or_go(self, chance: random.Random) -> None:
        device = chance.choice(PEOPLE)
        self.online[device] = not self.online[device]
        if self.online[device]:
            self.new_devices.add(device)

    def fail(self, chance: random.Random) -> None:
        """Give its energy back to the device, and to those of its orders that are still wanted."""
        if not self.under_way:
            return
        ask, bid, energy_wh = self.under_way.pop(chance.randrange(len(self.under_way)))
        self.new_devices.add(ask.device_id)
        for order in (ask, bid):
            if chance.random() < 0.8:
                standing = self.book.get(order.arrival)
                self.put(_with(order, energy_wh + (standing.remaining_wh if standing else 0)))

    def free_wh(self) -> dict[Any, int]:
        promised = dict.fromkeys(PEOPLE, 0)
        for ask, _, energy_wh in self.under_way:
            assert ask.device_id is not None
            promised[ask.device_id] += energy_wh
        return {one: self.available_wh[one] - promised[one] for one in PEOPLE if self.online[one]}

    def sides(self, only: Callable[[OpenOrder], bool] = lambda _: True) -> tuple[list[OpenOrder], list[OpenOrder]]:
        chosen = [order for order in self.book.values() if only(order)]
        return [o for o in chosen if o.device_id is not None], [o for o in chosen if o.device_id is None]

    def new(self) -> Book:
        return book_of(*self.sides(lambda o: o.arrival in self.new_orders or o.device_id in self.new_devices))

    def read(self, wanted: Wanted) -> tuple[Book, Bounds]:
        """What the database would give."""
        everything, found, bounds = book_of(*self.sides()), Book(), Bounds()
        for kind in ("asks", "bids"):
            of_size = getattr(wanted, f"{kind}_of_size")
            whole, partial = getattr(everything, f"whole_{kind}"), getattr(everything, f"partial_{kind}")
            rows: set[Any] = set()
            for size, (price, count) in of_size.items():
                best = [row for row in whole if row[0] == size and _reaches(row[1], price, kind)][:count]
                rows.update(best)
                if len(best) == count:
                    getattr(bounds, f"{kind}_of_size")[size] = (best[-1][1], best[-1][2])
            for name, orders, place in ((f"whole_{kind}", whole, 1), (f"partial_{kind}", partial, 0)):
                if (limit := getattr(wanted, name)) is None:
                    continue
                best = sorted(orders, key=lambda row: row[place : place + 2])
                best = [row for row in best if _reaches(row[place], limit[0], kind)][: limit[1]]
                if place:
                    rows.update(best)
                else:
                    getattr(found, name).extend(best)
                if len(best) == limit[1]:
                    setattr(bounds, name, best[-1][place : place + 2])
            getattr(found, f"whole_{kind}").extend(sorted(rows))
        return found, bounds

    def take(self, matches: list[Match]) -> None:
        for ask, bid, energy_wh, _ in matches:
            self.under_way.append((self.book[ask], self.book[bid], energy_wh))
            for arrival in (ask, bid):
                left_wh = self.book[arrival].remaining_wh - energy_wh
                if left_wh:
                    self.book[arrival] = _with(self.book[arrival], left_wh)
                else:
                    del self.book[arrival]
        self.new_orders.clear()
        self.new_devices.clear()


def _reaches(price: int, limit: int, kind: str) -> bool:
    return price <= limit if kind == "asks" else -price >= limit


def _with(order: OpenOrder, remaining_wh: int) -> OpenOrder:
    return OpenOrder(
        user_id=order.user_id,
        device_id=order.device_id,
        remaining_wh=remaining_wh,
        price_micro=order.price_micro,
        arrival=order.arrival,
        all_or_none=order.all_or_none,
    )


def matched(market: Market, *, margin: int) -> tuple[list[Match], int]:
    """The matches of a tick that looks at what is new, as `run_tick` does; and how often it read."""
    new, free_wh = market.new(), {one.int: wh for one, wh in market.free_wh().items()}
    for reads in range(1, 10):
        resting, bounds = market.read(reached_by(new, margin=margin))
        seen = merged(new, resting)
        matches = match(seen, free_wh)
        if not bounds.any() or looked_far_enough(new, seen, bounds, matches, free_wh):
            return matches, reads
        margin = margin * 16 + 1
    raise AssertionError("it never reads enough")


EVENTS = ("place", "place", "place", "place", "cancel", "report", "come_or_go", "fail")


@given(
    seed=st.integers(0, 2**32),
    ticks=st.lists(st.lists(st.sampled_from(EVENTS), max_size=8), max_size=12),
    margin=st.sampled_from([0, 1, 32]),
)
@settings(max_examples=400, deadline=None)
def test_what_is_new_and_what_it_reaches_is_enough(seed: int, ticks: list[list[str]], margin: int) -> None:
    chance, market = random.Random(seed), Market()
    for events in ticks:
        for event in events:
            getattr(market, event)(chance)
        expected = naive_rule(*market.sides(), market.free_wh())
        found, _ = matched(market, margin=margin)
        assert sorted(found) == sorted(expected)
        market.take(found)


@pytest.mark.parametrize("margin", [0, 32])
def test_reading_too_little_is_noticed(margin: int) -> None:
    """The best bids of the size are the asker's own: the one that fits lies beyond what was read."""
    market = Market()
    for arrival in range(1, 41):
        market.book[arrival] = a_bid(5, 6, user=ANN, arrival=arrival)
    market.book[41] = a_bid(5, 6, user=BEN, arrival=41)
    market.put(an_ask(5, 6, user=ANN, arrival=42))
    assert matched(market, margin=margin) == ([(42, 41, 5, 6)], 4 if margin == 0 else 2)
