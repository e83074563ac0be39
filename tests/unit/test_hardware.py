"""Whatever is plugged in raises or returns, or if it never comes back: the device rejects, alerts, and goes on."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from energy_device.device import ALERT_PAUSE_S, PATIENCE_S, Device
from energy_device.energy_source import SimulatedBattery
from energy_device.hardware import Hardware, HardwareError, Workers
from energy_device.store import Store

DEVICE = "0d000000-0000-4000-8000-000000000001"
ORDER = "0a000000-0000-4000-8000-000000000001"
TRADES = [f"0b000000-0000-4000-8000-00000000000{number}" for number in range(5)]


class Plugged(SimulatedBattery):
    """A battery whose methods can be made to do anything."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(capacity_wh=10_000, charge_wh=8_000, power_w=3_600, clock=lambda: self.now)
        self.instead: dict[str, Callable[[], Any]] = {}

    def available_wh(self) -> Any:  # noqa: ANN401 -- a plug-in's
        return self.instead.get("available_wh", super().available_wh)()

    def battery_level(self) -> Any:  # noqa: ANN401
        return self.instead.get("battery_level", super().battery_level)()

    def consumption_wh(self) -> Any:  # noqa: ANN401
        return self.instead.get("consumption_wh", super().consumption_wh)()

    def power_w(self) -> Any:  # noqa: ANN401
        return self.instead.get("power_w", super().power_w)()

    def deliver(self, transaction_id: str, energy_wh: int) -> Any:  # noqa: ANN401
        return self.instead.get("deliver", lambda: super(Plugged, self).deliver(transaction_id, energy_wh))()

    def stop(self, transaction_id: str) -> Any:  # noqa: ANN401
        return self.instead.get("stop", lambda: super(Plugged, self).stop(transaction_id))()


def raises(error: BaseException) -> Callable[[], Any]:
    def call() -> None:
        raise error

    return call


class UnspeakableError(Exception):
    """Fails even to say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


BROKEN: dict[str, Callable[[], Any]] = {
    "raises OSError": raises(OSError("no answer on /dev/ttyUSB0")),
    "raises ValueError": raises(ValueError("checksum")),
    "raises KeyError": raises(KeyError("soc")),
    "raises an error without words": raises(UnspeakableError()),
    "ends itself": raises(SystemExit(1)),
    "is cancelled": raises(asyncio.CancelledError()),
    "times out": raises(TimeoutError("modbus")),
    "returns None": lambda: None,
    "returns a text": lambda: "8000",
    "returns a truth value": lambda: True,
    "returns a list": lambda: [8000],
    "returns NaN": lambda: float("nan"),
    "returns infinity": lambda: float("inf"),
    "returns a decimal NaN": lambda: Decimal("nan"),
    "returns more than any home has": lambda: 1e30,
    "returns a counter that ran over": lambda: 2**64 - 1,
}


class Bench:
    """A device on the bench, with its plug-in."""

    def __init__(self, folder: Path, side: str = "donor") -> None:
        self.plugged = Plugged()
        self.device = Device(
            device_id=DEVICE,
            side="recipient" if side == "recipient" else "donor",
            store=Store.open(folder / f"{side}.db", device_id=DEVICE),
            source=self.plugged,
            elapsed=lambda: self.plugged.now,
        )

    def send(self, command: str, **fields: object) -> list[dict[str, Any]]:
        topic = f"energy/donor/{DEVICE}/{command}"
        return [json.loads(report.payload) for report in self.device.receive(topic, json.dumps(fields).encode())]

    def lock(self, trade: str) -> dict[str, Any]:
        (answer,) = self.send("lock", order_id=ORDER, transaction_id=trade, kwh_requested=1.5)
        return answer

    def status(self) -> list[dict[str, Any]]:
        return [json.loads(report.payload) for report in self.device.status()]

    def advance(self, seconds: float) -> list[dict[str, Any]]:
        self.plugged.now += seconds
        return [json.loads(report.payload) for report in self.device.advance()]

    def alerts(self) -> list[str]:
        return [json.loads(report.payload)["code"] for report in self.device.take_alerts()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.device.close()


@pytest.mark.parametrize("way", BROKEN)
def test_a_lock_is_rejected_with_a_reason_until_the_plug_in_works_again(bench: Bench, way: str) -> None:
    bench.plugged.instead["available_wh"] = BROKEN[way]
    answer = bench.lock(TRADES[0])
    assert (answer["status"], answer["reason"]) == ("rejected", "hardware_failed")
    assert (bench.alerts(), bench.status()) == (["hardware_failed"], [])
    bench.plugged.instead.clear()
    assert bench.lock(TRADES[0])["status"] == "rejected", "of one id there is one answer"
    assert bench.lock(TRADES[1])["status"] == "locked"
    assert bench.status()[0]["available_kwh"] == 8


@pytest.mark.parametrize("way", BROKEN)
def test_a_delivery_stands_still_until_the_plug_in_works_again_and_reports_no_more_than_was_fed(
    bench: Bench, way: str
) -> None:
    bench.lock(TRADES[0])
    bench.send("transfer", transaction_id=TRADES[0], kwh=1.5)
    bench.advance(0)
    assert bench.advance(600)[0]["kwh_delivered"] == 0.6
    bench.plugged.instead |= {"deliver": BROKEN[way], "stop": BROKEN[way]}
    assert bench.advance(30) == []
    assert bench.send("unlock", transaction_id=TRADES[0]) == []
    assert bench.alerts() == ["hardware_failed"]
    assert bench.device.locks == [TRADES[0]]
    bench.plugged.instead.clear()
    assert bench.advance(870)[0] | {"seq": 0} == {
        "transaction_id": TRADES[0], "status": "delivered", "kwh_delivered": 1.5, "seq": 0,
    }  # fmt: skip


@pytest.mark.parametrize("way", [*BROKEN, "is far off", "is far below"])
def test_a_level_that_is_not_known_keeps_no_energy_from_the_market(bench: Bench, way: str) -> None:
    off = {"is far off": lambda: 5_000, "is far below": lambda: -40}
    bench.plugged.instead["battery_level"] = (BROKEN | off)[way]
    (status,) = bench.status()
    assert (status["available_kwh"], "battery_level" in status) == (8, False)
    assert bench.alerts() == ["hardware_failed"]
    assert bench.lock(TRADES[0])["status"] == "locked"


@pytest.mark.parametrize("way", BROKEN)
def test_a_meter_is_read_without_its_power_and_not_the_other_way_round(tmp_path: Path, way: str) -> None:
    bench = Bench(tmp_path, "recipient")
    bench.plugged.instead["power_w"] = BROKEN[way]
    (status,) = bench.status()
    assert (status["consumption_kwh"], "power_w" in status) == (0, False)
    bench.plugged.instead = {"consumption_wh": BROKEN[way]}
    assert bench.status() == []
    assert bench.alerts() == ["hardware_failed"]
    bench.device.close()


@pytest.mark.parametrize(
    ("said", "reported"),
    [(2_500.9, 2.5), (Decimal("2500.9"), 2.5), (Fraction(5_001, 2), 2.5), (0.4, 0), (-0.0, 0), (-200, 0), (1e9, 10**6)],
)
def test_a_fraction_of_a_watt_hour_is_cut_off_and_less_than_nothing_is_nothing(
    bench: Bench, said: object, reported: float
) -> None:
    bench.plugged.instead["available_wh"] = lambda: said
    assert bench.status()[0]["available_kwh"] == reported
    assert bench.alerts() == []


@pytest.mark.parametrize(("level", "reported"), [(100.4, 100), (-0.2, 0), (Decimal("55.55"), 55.5), (7, 7)])
def test_a_level_that_is_a_little_off_is_clipped(bench: Bench, level: object, reported: float) -> None:
    bench.plugged.instead["battery_level"] = lambda: level
    assert bench.status()[0]["battery_level"] == pytest.approx(reported, abs=0.1)
    assert bench.alerts() == []


def test_a_counter_that_begins_anew_takes_nothing_back(bench: Bench) -> None:
    bench.lock(TRADES[0])
    bench.send("transfer", transaction_id=TRADES[0], kwh=1.5)
    bench.advance(0)
    bench.advance(600)
    bench.plugged.instead |= {"deliver": lambda: 0, "stop": lambda: 100.7}
    assert bench.advance(60)[0]["kwh_delivered"] == 0.6
    assert bench.send("unlock", transaction_id=TRADES[0])[0]["kwh_delivered"] == 0.6


def test_a_delivery_that_the_plug_in_says_nothing_of_ends_with_its_patience(bench: Bench) -> None:
    bench.lock(TRADES[0])
    bench.send("transfer", transaction_id=TRADES[0], kwh=1.5)
    bench.plugged.instead["deliver"] = raises(ValueError("checksum"))
    bench.advance(0)
    assert bench.advance(PATIENCE_S)[0]["status"] == "delivered"
    assert bench.device.locks == []


def test_a_failure_is_logged_once_a_minute_and_its_end_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="energy_device")
    bench.plugged.instead["battery_level"] = lambda: None
    for _ in range(10):
        bench.status()
    bench.plugged.now += ALERT_PAUSE_S
    bench.status()
    bench.plugged.instead.clear()
    bench.status()
    bench.status()
    said = [record.getMessage().removeprefix(f"{DEVICE}: ") for record in caplog.records]
    why = "battery_level returned None, which is no number."
    failed = f"Alert hardware_failed: The hardware does not answer as it should: {why}"
    assert [line for line in said if "ardware" in line] == [failed, failed, "The hardware answers again."]


def test_hardware_that_hangs_holds_up_its_own_calls_only() -> None:
    before = set(threading.enumerate())
    workers, come_back = Workers(), threading.Event()
    hanging, other = Plugged(), Plugged()
    hanging.instead["available_wh"] = lambda: come_back.wait(20) and 1
    slow = Hardware(hanging, submit=workers.submit, answer_s=0.05)
    quick = Hardware(other, submit=workers.submit, answer_s=10)
    with pytest.raises(HardwareError, match=r"available_wh has not come back in 0\.05 s\."):
        slow.available_wh()
    with pytest.raises(HardwareError, match="battery_level was not called"):
        slow.battery_level()
    assert quick.available_wh() == 8_000
    come_back.set()
    hanging.instead.clear()
    until = threading.Event()
    for _ in range(200):
        try:
            assert slow.available_wh() == 8_000
            break
        except HardwareError:
            until.wait(0.02)
    else:
        raise AssertionError("it is not heard again")
    workers.close(timeout_s=5)
    for thread in set(threading.enumerate()) - before:  # one that just came back ends by itself
        thread.join(5)
        assert not thread.is_alive()


def test_hardware_that_answers_is_called_by_one_thread() -> None:
    workers, plugged = Workers(), Plugged()
    plugged.instead["available_wh"] = lambda: threading.get_ident() % 1_000_000
    hardware = [Hardware(plugged, submit=workers.submit, answer_s=10) for _ in range(5)]
    assert len({one.available_wh() for _ in range(20) for one in hardware}) == 1
    workers.close(timeout_s=5)


def test_a_device_tells_a_person_what_it_does(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="energy_device")
    bench.status()
    bench.status()
    bench.lock(TRADES[0])
    bench.send("lock", order_id=ORDER, transaction_id=TRADES[1], kwh_requested=7)
    bench.send("transfer", transaction_id=TRADES[0], kwh=1.5)
    bench.advance(0)
    bench.advance(1_500)
    bench.status()
    assert [record.getMessage().removeprefix(f"{DEVICE}: ") for record in caplog.records] == [
        "Reporting 8 kWh, of which 0 kWh are reserved.",
        f"Locked 1.5 kWh for trade {TRADES[0]}.",
        f"Rejected a lock of 7 kWh for trade {TRADES[1]}: insufficient_energy.",
        f"Delivering 1.5 kWh for trade {TRADES[0]}.",
        f"Delivered 1.5 of 1.5 kWh for trade {TRADES[0]}.",
        "Reporting 6.5 kWh, of which 0 kWh are reserved.",
    ]
