"""The copper in the street, and each home's battery, meter and inverter at it."""

import datetime as dt
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from local_market.community.clock import SimulatedClock
from local_market.community.energy_books import EnergyBooks

T = TypeVar("T")
FEED_IN_W: Final = 5_000  # power of a home's inverter towards the street


class Wire:
    """The copper in the street: watt-hours fed in for a trade, until its recipient takes them out. Thread-safe."""

    def __init__(self) -> None:
        """An empty wire."""
        self._guard = threading.Lock()
        self._fed_wh: dict[str, int] = {}
        self._taken_wh: dict[str, int] = {}

    def feed(self, trade_id: str, fed_wh: int) -> None:
        """Feed in energy for a trade."""
        with self._guard:
            self._fed_wh[trade_id] = self._fed_wh.get(trade_id, 0) + fed_wh

    def take(self, trade_id: str) -> int:
        """Take out what has arrived for a trade since the last time."""
        with self._guard:
            new_wh = self._fed_wh.get(trade_id, 0) - self._taken_wh.get(trade_id, 0)
            self._taken_wh[trade_id] = self._taken_wh.get(trade_id, 0) + new_wh
            return new_wh

    def fed_wh(self, trade_id: str) -> int:
        """The energy fed in for one trade so far, in Wh."""
        with self._guard:
            return self._fed_wh.get(trade_id, 0)

    def under_way_wh(self) -> int:
        """The energy fed in for all trades and not taken out yet, in Wh."""
        with self._guard:
            return sum(self._fed_wh.values()) - sum(self._taken_wh.values())


class HomeHardware:
    """A home's battery, meter and inverter, as its device sees them (an `EnergySource`). Thread-safe."""

    def __init__(self, books: EnergyBooks, *, clock: SimulatedClock, wire: Wire) -> None:
        """`books` belong to this object from here on: use `look` to see them."""
        self._guard = threading.Lock()
        self._books = books
        self._clock = clock
        self._wire = wire
        self._feeding: tuple[str, dt.datetime] | None = None

    def look(self, read: Callable[[EnergyBooks], T]) -> T:
        """Let `read` see, or change, the books as they are at this moment."""
        with self._guard:
            self._books.advance(self._clock.now())
            return read(self._books)

    def receive(self, energy_wh: int) -> None:
        """Take energy in from the street."""
        self.look(lambda books: books.receive(energy_wh))

    def available_wh(self) -> int:
        """What may be sold, promised energy included."""
        return self.look(lambda books: books.sellable_wh)

    def battery_level(self) -> float:
        """How full the battery is, in percent."""
        return float(self.look(lambda books: books.battery_percent))

    def consumption_wh(self) -> int:
        """The meter."""
        return self.look(lambda books: books.used_wh)

    def power_w(self) -> int:
        """What the home draws now."""
        return self.look(lambda books: books.power_w)

    def deliver(self, transaction_id: str, energy_wh: int) -> int:
        """Feed what the inverter can since the last call; the watt-hours fed for this trade in all."""
        with self._guard:
            now = self._clock.now()
            self._books.advance(now)
            fed_wh = self._wire.fed_wh(transaction_id)
            if self._feeding is None or self._feeding[0] != transaction_id:
                self._feeding = (transaction_id, now)
                return fed_wh
            possible_wh = int((now - self._feeding[1]).total_seconds() * FEED_IN_W / 3600)
            step_wh = self._books.deliver(min(possible_wh, energy_wh - fed_wh))
            if step_wh:
                self._feeding = (transaction_id, now)
                self._wire.feed(transaction_id, step_wh)
            return fed_wh + step_wh

    def stop(self, transaction_id: str) -> int:
        """Feed no more for this trade; the watt-hours fed for it in all."""
        with self._guard:
            if self._feeding is not None and self._feeding[0] == transaction_id:
                self._feeding = None
            return self._wire.fed_wh(transaction_id)
