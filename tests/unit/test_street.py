# ruff: noqa: DTZ001 - simulated time is the local clock of the place, as the curves are
"""The simulated street without its network: time, wire and hardware."""

import datetime as dt

import pytest

from local_market.community.clock import SimulatedClock
from local_market.community.energy_books import EnergyBooks
from local_market.community.hardware import HomeHardware, Wire
from local_market.community.household import community
from local_market.community.profiles import Profiles

NOON = dt.datetime(2025, 5, 21, 12)
TRADE = "trade"


class Now:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def hardware(now: Now, wire: Wire) -> HomeHardware:
    """The donor of a community, at noon, its time running sixty times as fast as ours."""
    clock = SimulatedClock(NOON, speed=60, monotonic=now)
    clock.go()
    books = EnergyBooks(household=community(2, seed=1)[0], profiles=Profiles.load(), at=NOON)
    return HomeHardware(books, clock=clock, wire=wire)


def test_the_streets_clock_runs_at_its_speed(now: Now) -> None:
    clock = SimulatedClock(NOON, speed=320, monotonic=now)
    now.s += 1000
    assert clock.now() == NOON
    clock.go()
    now.s += 90
    assert clock.now() == dt.datetime(2025, 5, 21, 20)


def test_time_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match="forward"):
        SimulatedClock(NOON, speed=0)


def test_what_is_fed_in_is_taken_out_once(wire: Wire) -> None:
    wire.feed(TRADE, 100)
    wire.feed(TRADE, 50)
    wire.feed("another", 7)
    assert [wire.take(TRADE), wire.take(TRADE)] == [150, 0]
    wire.feed(TRADE, 25)
    assert [wire.take(TRADE), wire.under_way_wh(), wire.fed_wh(TRADE)] == [25, 7, 175]


def test_a_delivery_takes_the_time_that_the_inverter_needs(hardware: HomeHardware, now: Now, wire: Wire) -> None:
    assert hardware.deliver(TRADE, 250) == 0
    now.s += 1  # a minute on the street: 5 kW feed 83 Wh
    assert hardware.deliver(TRADE, 250) == 83
    now.s += 10
    assert hardware.deliver(TRADE, 250) == 250
    assert hardware.deliver(TRADE, 250) == 250
    assert wire.fed_wh(TRADE) == 250
    assert hardware.look(lambda books: (books.sold_wh, books.unbalanced_wh())) == (250, 0)


def test_a_delivery_that_is_done_is_not_fed_again(hardware: HomeHardware, now: Now) -> None:
    hardware.deliver(TRADE, 100)
    now.s += 10
    hardware.deliver(TRADE, 100)
    hardware.deliver("another", 100)
    now.s += 10
    assert (hardware.deliver("another", 100), hardware.deliver(TRADE, 100)) == (100, 100)
    assert hardware.look(lambda books: books.sold_wh) == 200


def test_a_battery_gives_no_more_than_it_holds(hardware: HomeHardware, now: Now) -> None:
    held_wh = hardware.available_wh()
    hardware.deliver(TRADE, 10 * held_wh)
    now.s += 3600
    fed_wh = hardware.deliver(TRADE, 10 * held_wh)
    assert fed_wh < 10 * held_wh
    assert hardware.available_wh() == 0


def test_the_meter_never_falls_and_the_books_add_up(hardware: HomeHardware, now: Now) -> None:
    before_wh = 0
    for _ in range(50):
        now.s += 7
        meter_wh = hardware.consumption_wh()
        assert meter_wh >= before_wh
        before_wh = meter_wh
        assert 0 <= hardware.battery_level() <= 100
        assert hardware.power_w() > 0
    assert hardware.look(lambda books: books.unbalanced_wh()) == 0
