"""Orders as examples of the matching write them."""

import itertools
from uuid import UUID

from tests.support.reference.naive_matching import OpenOrder

ANN, BEN, CAT, DAN = (UUID(int=n) for n in range(1, 5))
PLENTY = 10**12
_arrivals = itertools.count(1)


def an_ask(wh: int, price: int, *, user: UUID = ANN, arrival: int | None = None, partial: bool = False) -> OpenOrder:
    return _order(wh, price, user=user, device=user, arrival=arrival, partial=partial)


def a_bid(wh: int, price: int, *, user: UUID = BEN, arrival: int | None = None, partial: bool = False) -> OpenOrder:
    return _order(wh, price, user=user, device=None, arrival=arrival, partial=partial)


def _order(wh: int, price: int, *, user: UUID, device: UUID | None, arrival: int | None, partial: bool) -> OpenOrder:
    arrival = next(_arrivals) if arrival is None else arrival
    return OpenOrder(
        user_id=user,
        device_id=device,
        remaining_wh=wh,
        price_micro=price,
        arrival=arrival,
        all_or_none=not partial,
    )
