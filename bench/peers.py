"""Every matching engine that Python can call and that the bench may install, each driven by its own rule.

All of them match continuously: an order meets what rests when it arrives, best price first, then oldest, and what is
left of it rests. That trades more than one clearing of the same orders. None knows devices or their energy.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.flow import Placed

Result = tuple[int | None, int | None]
"""Trades, energy in Wh; None where the engine does not tell."""


@dataclass(frozen=True, slots=True)
class Drive:
    """One engine with its orders made, about to match: `work` is what is timed, `result` is read afterwards."""

    work: Callable[[], object]
    result: Callable[[], Result]


@dataclass(frozen=True, slots=True)
class Peer:
    """An engine and one way to call it. One that tells nobody what was traded is shown, but it is no match of ours."""

    name: str
    calls: str
    drive: Callable[[Sequence[Placed]], Drive]
    tells_trades: bool = True


def nanobook(flow: Sequence[Placed]) -> Drive:
    """Rust. One call an order."""
    from nanobook import Exchange  # noqa: PLC0415 - may be missing

    exchange = Exchange()
    orders = [("sell" if order.is_ask else "buy", order.price_micro, order.energy_wh) for order in flow]

    def work() -> None:
        submit = exchange.submit_limit
        for side, price, quantity in orders:
            submit(side, price, quantity)

    return Drive(work, lambda: _nanobook_result(exchange))


def nanobook_replay(flow: Sequence[Placed]) -> Drive:
    """Rust. All orders in one call, as the events of an earlier run: it has no other batch."""
    from nanobook import Exchange  # noqa: PLC0415 - may be missing

    earlier = Exchange()
    for order in flow:
        earlier.submit_limit("sell" if order.is_ask else "buy", order.price_micro, order.energy_wh)
    events = earlier.events()
    replayed: list[Any] = []
    return Drive(lambda: replayed.append(Exchange.replay(events)), lambda: _nanobook_result(replayed[0]))


def _nanobook_result(exchange: Any) -> Result:  # noqa: ANN401 - untyped
    trades = exchange.trades()
    return len(trades), sum(trade.quantity for trade in trades)


def limit_order_book(flow: Sequence[Placed]) -> Drive:
    """C++ behind ctypes. It tells the volume that rests, not the trades."""
    from limit_order_book import LimitOrderBook  # noqa: PLC0415 - may be missing

    book = LimitOrderBook()
    place = (book.limit_buy, book.limit_sell)
    orders = [(place[order.is_ask], order.arrival, order.energy_wh, order.price_micro) for order in flow]

    def work() -> None:
        for place_order, order_id, quantity, price in orders:
            place_order(order_id, quantity, price)

    return Drive(work, lambda: (None, (sum(order.energy_wh for order in flow) - book.volume()) // 2))


def liquibook(flow: Sequence[Placed], *, all_or_none: bool = False, listening: bool = True) -> Drive:
    """C++ behind SWIG, its orders made beforehand. Trades are told to a listener; without one nobody learns them."""
    import liquibook as engine  # noqa: PLC0415 - may be missing

    found: list[int] = []

    class Listener(engine.OrderListener):  # type: ignore[misc] # untyped
        def on_accept(self, order: object) -> None:
            """Nothing: but it must be there."""

        def on_fill(self, _resting: object, _incoming: object, quantity: int, _cost: int) -> None:
            """Note a trade."""
            found.append(quantity)

    book = engine.DepthOrderBook()
    listener = Listener()
    if listening:
        book.set_order_listener(listener)
    conditions = engine.oc_all_or_none if all_or_none else engine.oc_no_conditions
    orders = [engine.SimpleOrder(not order.is_ask, order.price_micro, order.energy_wh, 0, conditions) for order in flow]

    def work() -> None:
        add = book.add
        for order in orders:
            add(order, conditions)

    # The listener lives as long as the book that calls it.
    return Drive(work, lambda: (len(found), sum(found)) if listening and listener else (None, None))


def lightmatchingengine(flow: Sequence[Placed]) -> Drive:
    """Python. Each trade is told twice, to both sides."""
    from lightmatchingengine.lightmatchingengine import LightMatchingEngine, Side  # noqa: PLC0415 - may be missing

    engine = LightMatchingEngine()
    orders = [(order.price_micro, order.energy_wh, Side.SELL if order.is_ask else Side.BUY) for order in flow]
    traded: list[list[Any]] = []

    def work() -> None:
        for price, quantity, side in orders:
            traded.append(engine.add_order("energy", price, quantity, side)[1])

    def result() -> Result:
        # It sums what one level gives to an order up, and then lists the resting orders: those are the trades.
        resting = [
            trade
            for trades, (_, _, side) in zip(traded, orders, strict=True)
            for trade in trades
            if trade.trade_side != side
        ]
        return len(resting), sum(trade.trade_qty for trade in resting)

    return Drive(work, result)


def pyorderbook(flow: Sequence[Placed]) -> Drive:
    """Python, its orders made beforehand, all in one call."""
    from pyorderbook import Book, ask, bid  # noqa: PLC0415 - may be missing

    logging.getLogger("pyorderbook").setLevel(logging.WARNING)  # it would say what it does, slowly
    book = Book()
    orders = [(ask if order.is_ask else bid)("energy", order.price_micro, order.energy_wh) for order in flow]
    told: list[Any] = []

    def result() -> Result:
        trades = [trade for blotter in told for trade in blotter.trades]
        return len(trades), sum(trade.fill_quantity for trade in trades)

    return Drive(lambda: told.extend(book.match(orders)), result)


def matching_engine(flow: Sequence[Placed]) -> Drive:
    """Python. Its book and engine alone, without the log that it writes in operation."""
    from matching_engine.domain import NewOrder, SequencedCommand, Side  # noqa: PLC0415 - may be missing
    from matching_engine.engine import MatchingEngine  # noqa: PLC0415
    from matching_engine.events import Trade  # noqa: PLC0415

    engine = MatchingEngine()
    orders = [
        SequencedCommand(
            order.arrival,
            order.arrival,
            NewOrder(
                order.arrival, order.user, Side.SELL if order.is_ask else Side.BUY, order.price_micro, order.energy_wh
            ),
        )
        for order in flow
    ]
    told: list[list[Any]] = []

    def result() -> Result:
        trades = [event for events in told for event in events if type(event) is Trade]
        return len(trades), sum(trade.qty for trade in trades)

    def work() -> None:
        for order in orders:
            told.append(engine.process(order))  # noqa: PERF401 - as one order after the other arrives

    return Drive(work, result)


def liquibook_silent(flow: Sequence[Placed]) -> Drive:
    """See `liquibook`."""
    return liquibook(flow, listening=False)


def liquibook_all_or_none(flow: Sequence[Placed]) -> Drive:
    """See `liquibook`."""
    return liquibook(flow, all_or_none=True)


PARTIAL: Final = (
    Peer("nanobook", "one an order", nanobook),
    Peer("nanobook, replay", "one", nanobook_replay),
    Peer("limit-order-book", "one an order", limit_order_book),
    Peer("liquibook", "one an order", liquibook),
    Peer("liquibook without a listener", "one an order", liquibook_silent, tells_trades=False),
    Peer("matching-engine", "one an order", matching_engine),
    Peer("lightmatchingengine", "one an order", lightmatchingengine),
    Peer("pyorderbook", "one", pyorderbook),
)

ALL_OR_NONE: Final = (Peer("liquibook, all or none", "one an order", liquibook_all_or_none),)
"""The only one of them that lets an order rest until all of it can be had."""

NOT_COMPARED: Final = {
    "Grid Singularity's pay-as-clear": "its licence, GPL-3.0, is none that this project installs",
}
