"""The matching rule as naively as it can be said, and the specification's loop, word for word: the oracles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from energy_market.domain.matching import Book


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOrder:
    """The open remainder of an order."""

    user_id: UUID
    device_id: UUID | None  # of an ask: the device that will give the energy
    remaining_wh: int
    price_micro: int
    arrival: int
    all_or_none: bool


def book_of(asks: Sequence[OpenOrder], bids: Sequence[OpenOrder]) -> Book:
    """The book that a tick would read; users and devices are numbered by their ids."""
    book = Book()
    for ask in asks:
        assert ask.device_id is not None
        whose = (ask.user_id.int, ask.device_id.int)
        if ask.all_or_none:
            book.whole_asks.append((ask.remaining_wh, ask.price_micro, ask.arrival, *whose))
        else:
            book.partial_asks.append((ask.price_micro, ask.arrival, ask.remaining_wh, *whose))
    for bid in bids:
        if bid.all_or_none:
            book.whole_bids.append((bid.remaining_wh, -bid.price_micro, bid.arrival, bid.user_id.int))
        else:
            book.partial_bids.append((-bid.price_micro, bid.arrival, bid.remaining_wh, bid.user_id.int))
    for orders in (book.whole_asks, book.whole_bids, book.partial_asks, book.partial_bids):
        orders.sort()
    return book


def seeds_loop(asks: Sequence[OpenOrder], bids: Sequence[OpenOrder]) -> list[tuple[int, int]]:
    """Section 5 of the specification: exact sizes only."""
    sells = sorted(asks, key=lambda o: (o.price_micro, o.arrival))
    buys = sorted(bids, key=lambda o: (-o.price_micro, o.arrival))
    pairs = []
    for sell in sells:
        for buy in buys:
            if buy.price_micro >= sell.price_micro and buy.remaining_wh == sell.remaining_wh:
                pairs.append((sell.arrival, buy.arrival))
                buys.remove(buy)
                break
    return pairs


def naive_rule(
    asks: Sequence[OpenOrder], bids: Sequence[OpenOrder], free_wh: Mapping[UUID, int]
) -> list[tuple[int, int, int, int]]:
    """The whole rule: for each ask, over and over, the first bid of all that fits."""
    free = dict(free_wh)
    left = {bid.arrival: bid.remaining_wh for bid in bids}
    made = []
    for ask in sorted(asks, key=lambda o: (o.price_micro, o.arrival)):
        assert ask.device_id is not None
        ask_left = ask.remaining_wh
        while True:
            tradable = min(ask_left, free.get(ask.device_id, 0))
            for bid in sorted(bids, key=lambda o: (-o.price_micro, o.arrival)):
                energy = min(tradable, left[bid.arrival])
                fits = (
                    energy > 0
                    and bid.price_micro >= ask.price_micro
                    and bid.user_id != ask.user_id
                    and (not ask.all_or_none or energy == ask.remaining_wh)
                    and (not bid.all_or_none or energy == bid.remaining_wh)
                )
                if fits:
                    price = ask.price_micro if ask.arrival < bid.arrival else bid.price_micro
                    made.append((ask.arrival, bid.arrival, energy, price))
                    ask_left -= energy
                    left[bid.arrival] -= energy
                    free[ask.device_id] -= energy
                    break
            else:
                break
    return made
