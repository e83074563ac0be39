"""The matcher alone: beside the specification's loop, and beside every matching engine that Python can call.

All times are processor time of this process: nothing here waits.
"""

import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

from bench import peers
from bench.flow import Placed, order_flow
from bench.measure import Row, Table, alternated, median, ms, timed
from energy_market.domain.matching import Book, match
from energy_market.domain.quantities import MAX_ENERGY_WH

ORDERS: Final = 100_000
LOOP_ORDERS_QUICK: Final = 10_000
AT_LEAST_THE_LOOP: Final = 1_500
AT_LEAST_THE_BEST: Final = 2.5
AT_LEAST_THE_BEST_PARTIAL: Final = 2.0

WHOLE: Final = "ours, all-or-none orders"
DIVISIBLE: Final = "ours, divisible orders"
CALLS: Final = "only calls, of a built-in function that does nothing"

Trade = tuple[int, int, int, int]
"""(arrival of the ask, arrival of the bid, energy in Wh, price in micro-tokens a kWh)."""


class OurMatcher:
    """Our matcher, with the flow as a tick reads it. The only place here that knows the form of a book."""

    def __init__(self, flow: Sequence[Placed], *, all_or_none: bool) -> None:
        """In the order of the book's indexes, and so, as from the database, one after the other in memory."""
        book = Book()
        for order in flow:
            size, price, arrival, user = order.energy_wh, order.price_micro, order.arrival, order.user
            if order.is_ask and all_or_none:
                book.whole_asks.append((size, price, arrival, user, user))
            elif order.is_ask:
                book.partial_asks.append((price, arrival, size, user, user))
            elif all_or_none:
                book.whole_bids.append((size, -price, arrival, user))
            else:
                book.partial_bids.append((-price, arrival, size, user))
        for orders in (book.whole_asks, book.whole_bids, book.partial_asks, book.partial_bids):
            orders[:] = made_anew(sorted(orders))
        self._book = book
        self._free_wh = {order.user: len(flow) * MAX_ENERGY_WH for order in flow if order.is_ask}

    def match(self) -> object:
        """What is timed."""
        return match(self._book, self._free_wh)

    def trades(self) -> list[Trade]:
        """What it finds."""
        return match(self._book, self._free_wh)


def made_anew(rows: list[Any]) -> Iterator[Any]:
    """The same rows of the same numbers, made in this order: sorting leaves them scattered where they were made."""
    return zip(*(array("q", column) for column in zip(*rows, strict=True)), strict=True)


@dataclass(slots=True)
class EnergyOrder:
    """An order as the specification has it."""

    id: int
    type: str
    kwh_amount: float
    token_price: float
    status: str = "Created"


def the_specifications_loop(
    orders: Sequence[EnergyOrder], *, stops: bool = False
) -> list[tuple[EnergyOrder, EnergyOrder]]:
    """The matching of the specification, section 5, step by step, with the orders already fetched.

    It looks through the bids until it finds one that fits. As they are sorted it could stop at the first that is too
    cheap, which the specification does not say: `stops` shows what that would change.
    """
    sells = sorted((o for o in orders if o.type == "sell" and o.status == "Created"), key=lambda o: o.token_price)
    buys = sorted((o for o in orders if o.type == "buy" and o.status == "Created"), key=lambda o: -o.token_price)
    prices = [-buy.token_price for buy in buys]
    matched = []
    for sell in sells:
        reached = bisect_right(prices, -sell.token_price) if stops else len(buys)
        for buy in islice(buys, reached):
            if buy.status == "Created" and buy.token_price >= sell.token_price and buy.kwh_amount == sell.kwh_amount:
                sell.status = buy.status = "Matched"
                matched.append((sell, buy))
                break
    return matched


def measure(*, quick: bool) -> Iterator[Row | Table]:
    """First all-or-none against the specification, then both kinds of orders against the engines."""
    flow = order_flow(ORDERS)
    yield from against_the_loop(order_flow(LOOP_ORDERS_QUICK) if quick else flow)
    yield from against_engines(flow, rounds=3 if quick else 9)


def against_the_loop(flow: Sequence[Placed]) -> Iterator[Row]:
    """Ours, before and after, and the specification's loop: one round of it, since it takes its time."""
    matcher = OurMatcher(flow, all_or_none=True)
    expected = {(ask, bid) for ask, bid, _, _ in matcher.trades()}

    def ours() -> list[float]:
        return [timed(matcher.match, clock=time.process_time) for _ in range(7)]

    def loop(*, stops: bool) -> float:
        orders = fetched(flow)
        pairs: list[tuple[EnergyOrder, EnergyOrder]] = []
        took_s = timed(lambda: pairs.extend(the_specifications_loop(orders, stops=stops)), clock=time.process_time)
        assert {(sell.id, buy.id) for sell, buy in pairs} == expected
        return took_s

    before = ours()
    loop_s, stopping_s = loop(stops=False), loop(stops=True)
    ours_s = median([*before, *ours()])
    yield Row(
        name=f"Pure matching, all-or-none book, {len(flow):,} orders: against the specification's loop",
        measured=loop_s / ours_s,
        at_least=AT_LEAST_THE_LOOP if len(flow) == ORDERS else None,
        shown=f"{ms(ours_s)} against {ms(loop_s)}, with the same {len(expected):,} pairs; "
        f"{stopping_s / ours_s:,.0f} times if the loop stopped at the first bid that is too cheap",
    )


def fetched(flow: Sequence[Placed]) -> list[EnergyOrder]:
    """The specification's orders, made in the order in which it fetches them."""
    return [
        EnergyOrder(
            id=order.arrival,
            type="sell" if order.is_ask else "buy",
            kwh_amount=order.energy_wh / 1000,
            token_price=order.price_micro / 1_000_000,
        )
        for order in sorted(flow, key=lambda order: (order.is_ask, order.price_micro * (1 if order.is_ask else -1)))
    ]


def against_engines(flow: Sequence[Placed], *, rounds: int) -> Iterator[Row | Table]:
    """Ours, with all-or-none orders and with divisible ones, and every engine, in turn."""
    results: dict[str, peers.Result] = {}
    missing: dict[str, str] = dict(peers.NOT_COMPARED)
    runs: dict[str, Callable[[], float]] = {}
    lines: list[tuple[str, str]] = []  # name, calls
    for name, matcher in (
        (WHOLE, OurMatcher(flow, all_or_none=True)),
        (DIVISIBLE, OurMatcher(flow, all_or_none=False)),
    ):
        trades = matcher.trades()
        results[name] = (len(trades), sum(energy_wh for _, _, energy_wh, _ in trades))
        runs[name] = partial(timed, matcher.match, clock=time.process_time)
        lines.append((name, "one"))
    for peer in (*peers.PARTIAL, *peers.ALL_OR_NONE):
        try:
            peer.drive(flow[:1])
        except ImportError as error:
            missing[peer.name] = f"{error} (see localstack/locks/bench.txt and docs/speed.md)"
            continue
        runs[peer.name] = partial(run_peer, flow, peer=peer, results=results)
        lines.append((peer.name, peer.calls))
    runs[CALLS] = partial(run_calls, flow)
    taken = {name: median(seconds) for name, seconds in alternated(runs, rounds=rounds).items()}
    yield Table(
        title=f"Who matches {len(flow):,} orders, each by its own rule (medians of {rounds} rounds)",
        columns=["who", "calls", "ms", "million orders/s", "trades", "energy, MWh"],
        lines=[
            [name, calls, taken[name] * 1000, len(flow) / taken[name] / 1e6, *told(results.get(name))]
            for name, calls in (*lines, (CALLS, "one an order"))
        ],
    )
    yield Table(title="Not available", columns=["who", "why"], lines=list(missing.items()))
    telling = [peer for peer in peers.PARTIAL if peer.tells_trades and peer.name in taken]
    best = min(telling, key=lambda peer: taken[peer.name])
    by_order = min((peer for peer in telling if peer.calls != "one"), key=lambda peer: taken[peer.name])
    for name, what, at_least in (
        (WHOLE, "all-or-none book", AT_LEAST_THE_BEST),
        (DIVISIBLE, "partial fills", AT_LEAST_THE_BEST_PARTIAL),
    ):
        yield Row(
            name=f"Pure matching, {what}, {len(flow):,} orders: against the best library",
            measured=taken[best.name] / taken[name],
            at_least=at_least,
            shown=f"{ms(taken[name])} against {ms(taken[best.name])} of {best.name}; "
            f"{taken[by_order.name] / taken[name]:.3g} times the best with one call an order, {by_order.name}",
        )


def told(result: peers.Result | None) -> tuple[int | None, float | None]:
    """Trades and MWh, as far as they are known."""
    trades, energy_wh = result or (None, None)
    return trades, None if energy_wh is None else energy_wh / 1e6


def run_peer(flow: Sequence[Placed], *, peer: peers.Peer, results: dict[str, peers.Result]) -> float:
    """One round of an engine, in a book of its own."""
    drive = peer.drive(flow)
    took_s = timed(drive.work, clock=time.process_time)
    results[peer.name] = drive.result()
    return took_s


def run_calls(flow: Sequence[Placed]) -> float:
    """What the calls alone cost: of a built-in function that does nothing with the same arguments."""
    orders = [("sell", order.price_micro, order.energy_wh) for order in flow]

    def work() -> None:
        nothing = dict[str, int]().get
        for side, _, quantity in orders:
            nothing(side, quantity)

    return timed(work, clock=time.process_time)
