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
    trade wholly only those of exactly its size fit an all-or-none ask, so those are found by size.
    """

    def __init__(self, bids: list[OpenOrder]) -> None:
        self._bids = bids  # a bid's place here is its rank
        self._left_wh = [bid.remaining_wh for bid in bids]
        self._first_open = 0  # every bid of a better rank is filled
        self._divisible = [rank for rank, bid in enumerate(bids) if not bid.all_or_none]
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
        for rank in range(self._first_open, len(self._bids)):
            bid = self._bids[rank]
            if bid.price_micro < ask.price_micro or tradable_wh == 0:
                break
            if self._left_wh[rank] == 0 or bid.user_id == ask.user_id:
                continue
            if bid.all_or_none and bid.remaining_wh > tradable_wh:
                continue
            energy_wh = min(tradable_wh, self._left_wh[rank])
            tradable_wh -= energy_wh
            yield self._fill(rank, energy_wh)

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
        for rank in self._divisible:
            if self._bids[rank].price_micro < ask.price_micro:
                return None
            if self._left_wh[rank] >= ask.remaining_wh and self._bids[rank].user_id != ask.user_id:
                return rank
        return None

    def _fill(self, rank: int, energy_wh: int) -> tuple[OpenOrder, int]:
        bid = self._bids[rank]
        self._left_wh[rank] -= energy_wh
        if bid.all_or_none and self._whole[bid.remaining_wh][-1] == rank:
            self._whole[bid.remaining_wh].pop()
        while self._first_open < len(self._bids) and self._left_wh[self._first_open] == 0:
            self._first_open += 1
        return bid, energy_wh
