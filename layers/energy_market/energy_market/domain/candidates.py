"""Which orders a tick must look at, if all others were looked at before.

A tick that has looked at everything leaves no two orders that could trade: while it walks, what orders and devices have
left only falls. So whatever trades in the next one has a side that is *new* since: an order that came, came back, grew
or got its device, or an ask whose device is there again or has more to give. It is enough to look at these and at the
resting orders that they reach by price: the walk over them makes the same trades as the walk over the whole book.

Of the resting orders only the best are read, as many as the new ones can take and a few more. Whether that was enough
shows afterwards: an order that found no partner, or a worse one than the last that was read, might have found another.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import TypeAlias, TypeVar

from energy_market.domain.matching import (
    PARTIAL_ARRIVAL,
    PARTIAL_PRICE,
    WHOLE_ARRIVAL,
    WHOLE_PRICE,
    WHOLE_SIZE,
    Book,
    Match,
    WholeAsk,
    WholeBid,
)

Order = TypeVar("Order", WholeAsk, WholeBid)

Limit: TypeAlias = tuple[int, int]
"""(price in micro-tokens a kWh that just still counts, how many orders at most)."""
Place: TypeAlias = tuple[int, int]
"""(price, below zero for a bid; arrival): of two orders of a side the lower place comes first."""


@dataclass(slots=True, kw_only=True)
class Wanted:
    """The resting orders to be read: the best of each size, and of each kind. Sizes in Wh."""

    asks_of_size: dict[int, Limit] = field(default_factory=dict)
    bids_of_size: dict[int, Limit] = field(default_factory=dict)
    whole_asks: Limit | None = None
    whole_bids: Limit | None = None
    partial_asks: Limit | None = None
    partial_bids: Limit | None = None


@dataclass(slots=True, kw_only=True)
class Bounds:
    """The places of the last orders that were read, where there are more."""

    asks_of_size: dict[int, Place] = field(default_factory=dict)
    bids_of_size: dict[int, Place] = field(default_factory=dict)
    whole_asks: Place | None = None
    whole_bids: Place | None = None
    partial_asks: Place | None = None
    partial_bids: Place | None = None

    def any(self) -> bool:
        """Whether there is more than was read."""
        return bool(
            self.asks_of_size
            or self.bids_of_size
            or self.whole_asks
            or self.whole_bids
            or self.partial_asks
            or self.partial_bids
        )


def reached_by(new: Book, *, margin: int) -> Wanted:
    """The orders that new ones reach by price: as many as these take, `margin` more of each size and kind.

    Of a size each new order takes one at most. An order that may be filled in parts may take any number. The new ones
    lie in the book among those that rest, and may be taken by them, so they are counted as well.
    """
    new_of_size = Counter(order[WHOLE_SIZE] for order in (*new.whole_asks, *new.whole_bids))
    wanted = Wanted(
        asks_of_size={size: (-price, margin + new_of_size[size]) for size, price in _best_of_sizes(new.whole_bids)},
        bids_of_size={size: (price, margin + new_of_size[size]) for size, price in _best_of_sizes(new.whole_asks)},
    )
    ask_prices = [ask[WHOLE_PRICE] for ask in new.whole_asks] + [ask[PARTIAL_PRICE] for ask in new.partial_asks]
    bid_prices = [-bid[WHOLE_PRICE] for bid in new.whole_bids] + [-bid[PARTIAL_PRICE] for bid in new.partial_bids]
    if ask_prices:
        wanted.partial_bids = (min(ask_prices), 2 * len(ask_prices) + len(new.partial_bids) + margin)
    if bid_prices:
        wanted.partial_asks = (max(bid_prices), 2 * len(bid_prices) + len(new.partial_asks) + margin)
    if new.partial_asks:
        wanted.whole_bids = (
            new.partial_asks[0][PARTIAL_PRICE],
            4 * len(new.partial_asks) + len(new.whole_bids) + margin,
        )
    if new.partial_bids:
        wanted.whole_asks = (
            -new.partial_bids[0][PARTIAL_PRICE],
            4 * len(new.partial_bids) + len(new.whole_asks) + margin,
        )
    return wanted


def _best_of_sizes(orders: Sequence[WholeAsk] | Sequence[WholeBid]) -> Iterable[tuple[int, int]]:
    """(size, the price of its best order) of orders in their natural order: seen from the back, a size's last."""
    return {order[WHOLE_SIZE]: order[WHOLE_PRICE] for order in reversed(orders)}.items()


def merged(one: Book, other: Book) -> Book:
    """One book of two, each order once."""
    return Book(
        _merged(one.whole_asks, other.whole_asks),
        _merged(one.whole_bids, other.whole_bids),
        _merged(one.partial_asks, other.partial_asks),
        _merged(one.partial_bids, other.partial_bids),
    )


def _merged(one: list[Order], other: list[Order]) -> list[Order]:
    """Sorted, since both are: two runs, which Python merges."""
    return [order for order, _ in groupby(sorted(one + other))]


def looked_far_enough(
    new: Book, seen: Book, bounds: Bounds, matches: Collection[Match], free_wh: Mapping[int, int]
) -> bool:
    """Whether no order beyond the bounds could have changed the matches.

    A new order looked as far as the worst partner that it got when it got all that it can trade, else as far as its
    price: not beyond the last that was read, or there may be one that comes first.
    """
    whole, partial = (*seen.whole_asks, *seen.whole_bids), (*seen.partial_asks, *seen.partial_bids)
    matched = {arrival for ask, bid, *_ in matches for arrival in (ask, bid)}
    places = {
        order[WHOLE_ARRIVAL]: (order[WHOLE_PRICE], order[WHOLE_ARRIVAL])
        for order in whole
        if order[WHOLE_ARRIVAL] in matched
    }
    places |= {
        order[PARTIAL_ARRIVAL]: (order[PARTIAL_PRICE], order[PARTIAL_ARRIVAL])
        for order in partial
        if order[PARTIAL_ARRIVAL] in matched
    }
    got_wh: dict[int, int] = {}
    worst: dict[int, Place] = {}
    for ask, bid, energy_wh, _ in matches:
        for one, other in ((ask, bid), (bid, ask)):
            got_wh[one] = got_wh.get(one, 0) + energy_wh
            worst[one] = max(worst.get(one, places[other]), places[other])

    looked = chain(
        (
            (arrival, size, -price, _nearer(bounds.bids_of_size.get(size), bounds.partial_bids))
            for size, price, arrival, _, device in new.whole_asks
            if free_wh.get(device, 0) >= size
        ),
        (
            (arrival, size, -price, _nearer(bounds.partial_bids, bounds.whole_bids))
            for price, arrival, size, _, device in new.partial_asks
            if free_wh.get(device, 0) > 0
        ),
        (
            (arrival, size, -price, _nearer(bounds.asks_of_size.get(size), bounds.partial_asks))
            for size, price, arrival, _ in new.whole_bids
        ),
        (
            (arrival, size, -price, _nearer(bounds.partial_asks, bounds.whole_asks))
            for price, arrival, size, _ in new.partial_bids
        ),
    )
    for arrival, size, reach, limit in looked:
        if limit is not None and limit < (worst[arrival] if got_wh.get(arrival) == size else (reach, _LAST)):
            return False
    return True


def _nearer(one: Place | None, other: Place | None) -> Place | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


_LAST = 2**63
