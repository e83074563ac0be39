"""Which orders a tick must read, given that an earlier tick has matched all others.

A tick that has matched the whole book leaves no two orders that could trade: during its walk, the remainders of orders
and devices only fall. Any later trade therefore has a side that is *new* since: an order that arrived, returned, grew
or got its device, or an ask whose device is back or has more energy. It is enough to match the new orders with the
resting orders that they reach by price. That walk makes the same trades as a walk over the whole book.

Only the best resting orders are read: as many as the new ones can take, and a few more. Afterwards it is checked
whether that was enough: a new order without a partner, or with a partner worse than the last one read, might have found
another.
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
"""(Worst price that still counts, in micro-tokens per kWh; maximum number of orders)."""
Place: TypeAlias = tuple[int, int]
"""(Price, below zero for a bid; arrival). On one side of the book, the order with the lower place comes first."""


@dataclass(slots=True, kw_only=True)
class Wanted:
    """The resting orders to be read: the best of each size and of each kind. Sizes in Wh."""

    asks_of_size: dict[int, Limit] = field(default_factory=dict)
    bids_of_size: dict[int, Limit] = field(default_factory=dict)
    whole_asks: Limit | None = None
    whole_bids: Limit | None = None
    partial_asks: Limit | None = None
    partial_bids: Limit | None = None


@dataclass(slots=True, kw_only=True)
class Bounds:
    """The places of the last orders that were read, for each list that was not read to its end."""

    asks_of_size: dict[int, Place] = field(default_factory=dict)
    bids_of_size: dict[int, Place] = field(default_factory=dict)
    whole_asks: Place | None = None
    whole_bids: Place | None = None
    partial_asks: Place | None = None
    partial_bids: Place | None = None

    def any(self) -> bool:
        """Whether any list was not read to its end."""
        return bool(
            self.asks_of_size
            or self.bids_of_size
            or self.whole_asks
            or self.whole_bids
            or self.partial_asks
            or self.partial_bids
        )


def reached_by(new: Book, *, margin: int) -> Wanted:
    """The resting orders that new ones reach by price: as many as these can take, plus `margin` of each size and kind.

    A new order takes at most one order of its size. An order that may be filled in parts may take any number. New
    orders also compete with the resting ones for the same partners, so they are counted as well.
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
    """(Size, best price of that size) of orders in natural order. From the back, a size's last order is its best."""
    return {order[WHOLE_SIZE]: order[WHOLE_PRICE] for order in reversed(orders)}.items()


def merged(one: Book, other: Book) -> Book:
    """Both books as one, each order once."""
    return Book(
        _merged(one.whole_asks, other.whole_asks),
        _merged(one.whole_bids, other.whole_bids),
        _merged(one.partial_asks, other.partial_asks),
        _merged(one.partial_bids, other.partial_bids),
    )


def _merged(one: list[Order], other: list[Order]) -> list[Order]:
    """Both lists as one, sorted. Both are sorted already, so Python's sort merges two runs."""
    return [order for order, _ in groupby(sorted(one + other))]


def looked_far_enough(
    new: Book, seen: Book, bounds: Bounds, matches: Collection[Match], free_wh: Mapping[int, int]
) -> bool:
    """Whether no order beyond the bounds could have changed the matches.

    A new order has looked as far as its worst partner if it traded all that it can, and otherwise as far as its price.
    If that lies beyond the last order read, an unread order might come first.
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
