"""The matching rule: price-time priority.

The specification, section 5: asks by price ascending, bids by price descending, and each ask takes the first bid whose
price reaches it and whose size fits. With orders that trade wholly or not at all this is exactly the specification's
loop; orders that may be filled in parts, devices' free energy and "nobody trades with himself" extend it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

RULE_VERSION: Final = 1
"""Kept with each trade. A change of the rule that changes any trade raises it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOrder:
    """The open remainder of an order. `arrival` grows with time of arrival and is unique."""

    order_id: UUID
    user_id: UUID
    device_id: UUID | None  # of an ask: the device that will give the energy
    remaining_wh: int
    price_micro: int
    arrival: int
    all_or_none: bool

    def __post_init__(self) -> None:
        if self.remaining_wh <= 0 or self.price_micro <= 0:
            raise ValueError("an open order has energy and a price above zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One trade to be made: this much of that ask for that bid, at this price."""

    ask: OpenOrder
    bid: OpenOrder
    energy_wh: int
    price_micro: int


def match(asks: Iterable[OpenOrder], bids: Iterable[OpenOrder], free_wh: Mapping[UUID, int]) -> list[Match]:
    """The trades of one tick, in the order in which they are made.

    `free_wh`: energy each device can still promise; a device that is not in it (offline, silent) gives none.
    Walk the asks, cheapest first, then oldest. Each takes the first bid, dearest first, then oldest, whose price
    reaches its own and whose size fits, and goes on to the next until nothing tradable is left of it.

    - The trade's size is the smaller of what both can trade; an all-or-none order trades wholly, with one
      counterparty, or is passed over.
    - What an ask can trade is bounded by its device's free energy, which falls during the walk.
    - The trade's price is that of the older order. Nobody trades with himself.

    A pure function: the same inputs give the same trades, whatever their order of arrival here.
    """
    remaining_wh = dict(free_wh)
    book = _Bids(sorted(bids, key=lambda bid: (-bid.price_micro, bid.arrival)))
    matches: list[Match] = []
    for ask in sorted(asks, key=lambda ask: (ask.price_micro, ask.arrival)):
        if ask.device_id is None:
            continue
        tradable_wh = min(ask.remaining_wh, remaining_wh.get(ask.device_id, 0))
        if tradable_wh <= 0 or (ask.all_or_none and tradable_wh < ask.remaining_wh):
            continue
        for bid, energy_wh in book.take(ask, tradable_wh):
            remaining_wh[ask.device_id] -= energy_wh
            price_micro = ask.price_micro if ask.arrival < bid.arrival else bid.price_micro
            matches.append(Match(ask=ask, bid=bid, energy_wh=energy_wh, price_micro=price_micro))
    return matches


class _Bids:
    """The bids of one tick, best first.

    Searching all bids for "the first that fits" is what makes the specification's loop quadratic. Of the bids that
    trade wholly only those of exactly its size fit an all-or-none ask, so those are found by size; the others by trees,
    which are made when an order that may be filled in parts first asks for them.
    """

    def __init__(self, bids: list[OpenOrder]) -> None:
        self._bids = bids  # a bid's place here is its rank
        self._left_wh = [bid.remaining_wh for bid in bids]
        self._any_divisible = any(not bid.all_or_none for bid in bids)
        self._by_need: _FirstAtMost | None = None  # the least that each open bid takes
        self._by_room: _FirstAtMost | None = None  # what is left of each divisible bid, below zero
        self._whole: dict[int, list[int]] = {}  # by size; best last, so that taking the best is cheap
        for rank in range(len(bids) - 1, -1, -1):
            if bids[rank].all_or_none:
                self._whole.setdefault(bids[rank].remaining_wh, []).append(rank)

    def take(self, ask: OpenOrder, tradable_wh: int) -> Iterator[tuple[OpenOrder, int]]:
        """Fill up to `tradable_wh` of `ask` from the best bids that fit; each with the energy it takes."""
        if ask.all_or_none:
            fitting = [rank for rank in (self._whole_for(ask), self._divisible_for(ask)) if rank is not None]
            if fitting:
                yield self._fill(min(fitting), ask.remaining_wh)
            return
        if self._by_need is None:
            self._by_need = _FirstAtMost([self._need_wh(rank) for rank in range(len(self._bids))])
        rank = self._by_need.first(0, tradable_wh)
        while rank is not None and self._bids[rank].price_micro >= ask.price_micro:
            if self._bids[rank].user_id != ask.user_id:
                energy_wh = min(tradable_wh, self._left_wh[rank])
                tradable_wh -= energy_wh
                yield self._fill(rank, energy_wh)
            rank = self._by_need.first(rank + 1, tradable_wh)

    def _whole_for(self, ask: OpenOrder) -> int | None:
        """The best open bid of exactly the ask's size that trades wholly."""
        ranks = self._whole.get(ask.remaining_wh, [])
        for rank in reversed(ranks):
            if self._bids[rank].price_micro < ask.price_micro:
                return None
            if self._left_wh[rank] and self._bids[rank].user_id != ask.user_id:
                return rank
        return None

    def _divisible_for(self, ask: OpenOrder) -> int | None:
        """The best divisible bid with at least the ask's size left."""
        if not self._any_divisible:
            return None
        if self._by_room is None:
            self._by_room = _FirstAtMost([-self._room_wh(rank) for rank in range(len(self._bids))])
        rank = self._by_room.first(0, -ask.remaining_wh)
        while rank is not None and self._bids[rank].price_micro >= ask.price_micro:
            if self._bids[rank].user_id != ask.user_id:
                return rank
            rank = self._by_room.first(rank + 1, -ask.remaining_wh)
        return None

    def _need_wh(self, rank: int) -> int:
        if not self._left_wh[rank]:
            return _NEVER
        return self._left_wh[rank] if self._bids[rank].all_or_none else 1

    def _room_wh(self, rank: int) -> int:
        return 0 if self._bids[rank].all_or_none else self._left_wh[rank]

    def _fill(self, rank: int, energy_wh: int) -> tuple[OpenOrder, int]:
        bid = self._bids[rank]
        self._left_wh[rank] -= energy_wh
        if bid.all_or_none and self._whole[bid.remaining_wh][-1] == rank:
            self._whole[bid.remaining_wh].pop()
        if self._by_need is not None:
            self._by_need.set(rank, self._need_wh(rank))
        if self._by_room is not None:
            self._by_room.set(rank, -self._room_wh(rank))
        return bid, energy_wh


_NEVER: Final = 2**62  # more than any order's energy


class _FirstAtMost:
    """A list of numbers that tells fast which is the first, from some place on, that is at most so much.

    A binary tree in an array: the leaves are the numbers, every other node holds the least of the two below it.
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
        """The first place from `start` on whose number is at most `limit`; None if there is none."""
        if start >= self._count:
            return None
        node = self._leaves + start
        while self._least[node] > limit:
            while node % 2:  # a right child: what comes next lies beside one of its parents
                node //= 2
            if node == 0:
                return None
            node += 1
        while node < self._leaves:
            node *= 2
            if self._least[node] > limit:
                node += 1
        return node - self._leaves
