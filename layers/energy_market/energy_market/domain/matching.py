"""The matching rule: price-time priority.

The specification, section 5: asks by price ascending, bids by price descending, and each ask takes the first bid whose
price reaches it and whose size fits. If all orders trade wholly or not at all, this is exactly the specification's
loop. Orders that may be filled in parts, the devices' free energy and "no user trades with themselves" extend it.

Orders are plain tuples in the order of the book's indexes. A tick may read a hundred thousand orders, and making an
object of each would take longer than matching them all.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

RULE_VERSION: Final = 2
"""Version stored with each trade. Any change to the rule or to its input that changes a trade raises it.

2: devices pause after failures, and delivered energy is no longer promised.
"""

WholeAsk = tuple[int, int, int, int, int]
"""(Energy in Wh, price in micro-tokens per kWh, arrival, user, device) of an all-or-none ask."""
WholeBid = tuple[int, int, int, int]
"""(Energy, price *below zero*, arrival, user). On both sides the natural order is size first, then priority."""
PartialAsk = tuple[int, int, int, int, int]
"""(Price, arrival, remaining energy, user, device) of an ask that may be filled in parts."""
PartialBid = tuple[int, int, int, int]
"""(Price below zero, arrival, remaining energy, user)."""
Match = tuple[int, int, int, int]
"""A trade to be made: (arrival of the ask, arrival of the bid, energy in Wh, price in micro-tokens per kWh)."""
WHOLE_SIZE, WHOLE_PRICE, WHOLE_ARRIVAL = 0, 1, 2
PARTIAL_PRICE, PARTIAL_ARRIVAL, PARTIAL_SIZE = 0, 1, 2
DEVICE: Final = 4
"""Positions in an order's tuple, for code outside of the loops that unpack it."""


@dataclass(slots=True)
class Book:
    """Open orders, each list in its natural order. `arrival` is unique and grows with the time of arrival."""

    whole_asks: list[WholeAsk] = field(default_factory=list)
    whole_bids: list[WholeBid] = field(default_factory=list)
    partial_asks: list[PartialAsk] = field(default_factory=list)
    partial_bids: list[PartialBid] = field(default_factory=list)

    def is_one_sided(self) -> bool:
        """Whether there are no asks, or no bids."""
        return not (self.whole_asks or self.partial_asks) or not (self.whole_bids or self.partial_bids)


def match(book: Book, free_wh: Mapping[int, int]) -> list[Match]:
    """The trades of one tick.

    `free_wh`: energy that each device can still promise; a device that is missing (offline, silent) has none.
    Walk the asks, cheapest first, then oldest. Each ask takes the first bid, dearest first, then oldest, whose price
    reaches its own and whose size fits, and continues with the next bid until nothing tradable remains.

    - The trade's size is the smaller of the two tradable amounts; an all-or-none order trades wholly, with one
      counterparty, or is skipped.
    - An ask can trade at most its device's free energy, which falls during the walk.
    - The trade's price is that of the older order. No user trades with themselves.

    A pure function: the same book gives the same trades.
    """
    if not book.partial_asks and not book.partial_bids:
        matches = _match_sizes(book, free_wh)
        if matches is not None:
            return matches
    return _walk(book, free_wh)


def _match_sizes(book: Book, free_wh: Mapping[int, int]) -> list[Match] | None:  # noqa: C901 -- calls would cost more
    """The walk if all orders are all-or-none: each size is a separate book.

    Within a size, the cheapest ask meets the dearest bid while their prices cross; a user's own bid is left for the
    next ask. Sizes affect each other only if a device runs short of free energy: then the answer is None, and `_walk`
    is needed.
    """
    asks, bids = book.whole_asks, book.whole_bids
    left_wh = dict(free_wh)
    matches: list[Match] = []
    first_ask = first_bid = 0
    while first_ask < len(asks) and first_bid < len(bids):
        size = asks[first_ask][0]
        if bids[first_bid][0] < size:
            first_bid = bisect_left(bids, (size,), first_bid)
            continue
        if bids[first_bid][0] > size:
            first_ask = bisect_left(asks, (bids[first_bid][0],), first_ask)
            continue
        after_ask, after_bid = bisect_left(asks, (size + 1,), first_ask), bisect_left(bids, (size + 1,), first_bid)
        waiting = bids[first_bid:after_bid]
        waiting.reverse()  # best last, so that removing the best is cheap
        for _, price, arrival, user, device in asks[first_ask:after_ask]:
            _, bid_price, bid_arrival, bid_user = waiting[-1]
            if price + bid_price > 0:
                break
            left = left_wh.get(device, 0) - size
            if left < 0:
                if free_wh.get(device, 0) >= size:
                    return None
                continue
            place = len(waiting) - 1
            if user == bid_user:
                place = _best_of_another(waiting, user)
                if place < 0:
                    continue
                _, bid_price, bid_arrival, _ = waiting[place]
                if price + bid_price > 0:
                    continue
            del waiting[place]
            left_wh[device] = left
            matches.append((arrival, bid_arrival, size, price if arrival < bid_arrival else -bid_price))
            if not waiting:
                break
        first_ask, first_bid = after_ask, after_bid
    return matches


def _best_of_another(waiting: list[WholeBid], user: int) -> int:
    return next((place for place in range(len(waiting) - 1, -1, -1) if waiting[place][3] != user), -1)


def _walk(book: Book, free_wh: Mapping[int, int]) -> list[Match]:  # noqa: C901 -- calls would cost more
    """The walk over all asks. Its lists hold the size of an all-or-none order below zero."""
    left_wh = dict(free_wh)
    asks = book.partial_asks
    if book.whole_asks:
        asks = asks + [(price, arrival, -size, user, device) for size, price, arrival, user, device in book.whole_asks]
        asks.sort()
    bids = _Bids(book)
    rows, open_wh = bids.rows, bids.open_wh
    matches: list[Match] = []
    first = 0
    for price, arrival, size, user, device in asks:
        if not open_wh[first]:
            first = bids.first_open()
        if rows[first][0] + price > 0:
            break  # no later ask reaches any bid either
        free = left_wh.get(device, 0)
        if size < 0:
            found = bids.first_for_all_of(-size, price, user) if free >= -size else None
            if found is not None:
                bid_price, bid_arrival, _, _ = rows[found]
                open_wh[found] = max(0, open_wh[found] + size)
                bids.note(found)
                left_wh[device] = free + size
                matches.append((arrival, bid_arrival, -size, price if arrival < bid_arrival else -bid_price))
            continue
        rank: int | None = first
        tradable = wanted = min(size, free)
        misfits = 0
        while tradable > 0 and rank is not None:
            bid_price, bid_arrival, _, bid_user = rows[rank]
            if bid_price + price > 0:
                break
            energy = open_wh[rank]
            if not energy or -energy > tradable or bid_user == user:
                misfits += 1
                rank = rank + 1 if misfits < _MANY else bids.first_that_takes_at_most(tradable, start=rank + 1)
                continue
            if energy > tradable:
                open_wh[rank] = energy - tradable
                energy = tradable
            else:
                open_wh[rank] = 0
                energy = abs(energy)
            tradable -= energy
            if bids.has_trees:
                bids.note(rank)
            matches.append((arrival, bid_arrival, energy, price if arrival < bid_arrival else -bid_price))
            rank += 1
        left_wh[device] = free - wanted + tradable
    return matches


class _Bids:
    """The bids of one walk, best first; a bid's place in that order is its rank.

    The best open bid nearly always fits. Where it does not, searching all bids for the first that fits would make the
    walk quadratic, as in the specification's loop. All-or-none bids are therefore found by size. After a few misfits,
    the others are found with trees, which are built when first needed.
    """

    def __init__(self, book: Book) -> None:
        self.rows = [*book.partial_bids]
        if book.whole_bids:
            self.rows += [(price, arrival, -size, user) for size, price, arrival, user in book.whole_bids]
            self.rows.sort()
        self.rows.append(_END)
        self.open_wh = [size for _, _, size, _ in self.rows]  # below zero: all-or-none; zero: taken
        self._first = self._first_partial = 0
        self._has_partial = bool(book.partial_bids)
        self.has_trees = False
        self._by_need: _FirstAtMost | None = None  # the smallest amount that each open bid takes
        self._by_room: _FirstAtMost | None = None  # the remainder of each partial bid, below zero
        self._of_size: dict[int, list[int]] = {}  # ranks of all-or-none bids by size; best last
        if book.whole_asks:
            for rank in range(len(self.rows) - 2, -1, -1):
                if self.open_wh[rank] < 0:
                    self._of_size.setdefault(-self.open_wh[rank], []).append(rank)

    def first_open(self) -> int:
        """The rank of the best open bid; of the end, which no ask reaches, if no bid is open."""
        while not self.open_wh[self._first] and self.rows[self._first] is not _END:
            self._first += 1
        return self._first

    def first_for_all_of(self, size: int, price: int, user: int) -> int | None:
        """The rank of the best bid of another user that takes exactly `size`."""
        found = self._whole_bid(size, price, user)
        return self._partial_bid(size, price, user, better_than=found) if self._has_partial else found

    def first_that_takes_at_most(self, tradable_wh: int, *, start: int) -> int | None:
        """The rank of the best bid, at `start` or later, that takes `tradable_wh` or less."""
        if self._by_need is None:
            self.has_trees = True
            self._by_need = _FirstAtMost([_need_wh(open_wh) for open_wh in self.open_wh])
        return self._by_need.first(start, tradable_wh)

    def note(self, rank: int) -> None:
        """Update the trees after a change to a bid's open energy."""
        if self._by_need is not None:
            self._by_need.set(rank, _need_wh(self.open_wh[rank]))
        if self._by_room is not None:
            self._by_room.set(rank, -max(0, self.open_wh[rank]))

    def _whole_bid(self, size: int, price: int, user: int) -> int | None:
        ranks = self._of_size.get(size, [])
        while ranks and not self.open_wh[ranks[-1]]:
            ranks.pop()
        for rank in reversed(ranks):
            if self.rows[rank][0] + price > 0:
                return None
            if self.open_wh[rank] and self.rows[rank][3] != user:
                return rank
        return None

    def _partial_bid(self, size: int, price: int, user: int, *, better_than: int | None) -> int | None:
        self._first_partial = max(self._first_partial, self._first)
        while self.open_wh[self._first_partial] <= 0 and self.rows[self._first_partial] is not _END:
            self._first_partial += 1
        rank: int | None = self._first_partial
        misfits = 0
        while rank is not None and self.rows[rank][0] + price <= 0 and (better_than is None or rank < better_than):
            if self.open_wh[rank] >= size and self.rows[rank][3] != user:
                return rank
            misfits += 1
            if misfits < _MANY:
                rank += 1
                continue
            if self._by_room is None:
                self.has_trees = True
                self._by_room = _FirstAtMost([-max(0, open_wh) for open_wh in self.open_wh])
            rank = self._by_room.first(rank + 1, -size)
        return better_than


_END: Final[PartialBid] = (1, 0, 0, -1)  # a price that no ask reaches
_MANY: Final = 16  # misfits in a row, after which a tree is quicker
_NEVER: Final = 2**62  # more than any order's energy


def _need_wh(open_wh: int) -> int:
    """The smallest amount that a bid takes."""
    if not open_wh:
        return _NEVER
    return 1 if open_wh > 0 else -open_wh


class _FirstAtMost:
    """A list of numbers that quickly finds the first one, at or after a place, that does not exceed a limit.

    A binary tree in an array: the leaves are the numbers, and every other node holds the minimum of its two children.
    """

    def __init__(self, values: list[int]) -> None:
        self._count = len(values)
        self._leaves = 1 << max(0, self._count - 1).bit_length()
        self._least = [_NEVER] * self._leaves + values + [_NEVER] * (self._leaves - self._count)
        for node in range(self._leaves - 1, 0, -1):
            self._least[node] = min(self._least[2 * node], self._least[2 * node + 1])

    def set(self, place: int, value: int) -> None:
        """Change one number."""
        node = self._leaves + place
        self._least[node] = value
        while node > 1:
            node //= 2
            self._least[node] = min(self._least[2 * node], self._least[2 * node + 1])

    def first(self, start: int, limit: int) -> int | None:
        """The first place, at `start` or later, whose number is at most `limit`; None if there is none."""
        if start >= self._count:
            return None
        node = self._leaves + start
        while self._least[node] > limit:
            while node % 2:  # a right child: the next subtree lies beside one of its ancestors
                node //= 2
            if node == 0:
                return None
            node += 1
        while node < self._leaves:
            node *= 2
            if self._least[node] > limit:
                node += 1
        return node - self._leaves
