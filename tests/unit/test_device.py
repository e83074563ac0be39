"""What a device does with each command: what it writes, what it answers, what it drops."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from energy_device import messages
from energy_device.device import ALERT_PAUSE_S, PATIENCE_S, STALLED_AFTER_S, Device
from energy_device.energy_source import SimulatedBattery
from energy_device.messages import Report, UnreadableError
from energy_device.store import SEQ_BLOCK, StateError, Store
from hypothesis import given
from hypothesis import strategies as st

DEVICE = "0d000000-0000-4000-8000-000000000001"
ORDER = "0a000000-0000-4000-8000-000000000001"
TRADE = "0b000000-0000-4000-8000-000000000001"
NOON = datetime(2026, 6, 21, 12, 0, tzinfo=UTC)
LOCK = {"order_id": ORDER, "kwh_requested": 1.5, "transaction_id": TRADE, "expires_at": "2026-06-21T12:00:30Z"}


class Bench:
    """A device on the bench: 8 kWh in its battery, clocks that stand still until they are turned."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.db"
        self.now = NOON
        self.ahead = timedelta(0)  # of its own clock
        self.battery = SimulatedBattery(capacity_wh=10_000, charge_wh=8_000, power_w=3_600, clock=self.elapsed)
        self.device = self.switched_on()

    def switched_on(self, device_id: str = DEVICE) -> Device:
        return Device(
            device_id=device_id,
            side="donor",
            store=Store.open(self.path, device_id=device_id, now=lambda: self.now + self.ahead),
            source=self.battery,
            elapsed=self.elapsed,
        )

    def elapsed(self) -> float:
        return self.now.timestamp()

    def restart(self) -> None:
        self.device.close()
        self.device = self.switched_on()

    def send(self, command: str, fields: object) -> list[dict[str, Any]]:
        payload = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        return read(self.device.receive(f"energy/donor/{DEVICE}/{command}", payload))

    def status(self) -> dict[str, Any]:
        (report,) = read(self.device.status())
        return report

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        self.now += timedelta(seconds=seconds)
        return read(self.device.advance())

    def alerts(self) -> list[str]:
        return [alert["code"] for alert in read(self.device.take_alerts())]


def read(reports: list[Report]) -> list[dict[str, Any]]:
    return [json.loads(report.payload, parse_float=Decimal) for report in reports]


def uncounted(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was said, whenever it was."""
    return [{name: value for name, value in answer.items() if name != "seq"} for answer in answers]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.device.close()


def test_a_lock_is_answered_with_the_ids_it_named(bench: Bench) -> None:
    (answer,) = bench.send("lock", LOCK)
    seq = answer.pop("seq")
    assert answer == {"order_id": ORDER, "status": "locked", "transaction_id": TRADE}
    status = bench.status()
    assert status["locks"] == [TRADE]
    assert status["seq"] > seq, "a status said after the answer lists the lock"


def test_a_rejection_says_why(bench: Bench) -> None:
    (answer,) = bench.send("lock", {**LOCK, "kwh_requested": 8.001})
    assert (answer["status"], answer["reason"]) == ("rejected", "insufficient_energy")


def test_reserved_energy_stays_in_what_is_available_but_is_not_promised_again(bench: Bench) -> None:
    bench.send("lock", {**LOCK, "kwh_requested": 5})
    assert bench.status()["available_kwh"] == 8
    (answer,) = bench.send(
        "lock", {**LOCK, "transaction_id": "0b000000-0000-4000-8000-000000000002", "kwh_requested": 4}
    )
    assert answer["status"] == "rejected"


def test_the_specifications_two_fields_are_served_and_go_by_the_order(bench: Bench) -> None:
    command = {"order_id": ORDER, "kwh_requested": 1.5}
    assert bench.send("lock", command) == bench.send("lock", command) == [{"order_id": ORDER, "status": "locked"}]
    assert bench.device.reserved_wh == 1_500
    assert bench.status()["locks"] == [ORDER]
    bench.send("unlock", {"transaction_id": ORDER})
    assert bench.device.reserved_wh == 0


def test_a_lock_outlives_a_restart_and_is_answered_as_before(bench: Bench) -> None:
    first = bench.send("lock", LOCK)
    bench.battery.draw(8_000)
    bench.restart()
    assert bench.device.locks == [TRADE]
    assert uncounted(bench.send("lock", LOCK)) == uncounted(first)


def test_an_unlocked_id_is_remembered_over_a_restart(bench: Bench) -> None:
    bench.send("unlock", {"transaction_id": TRADE})
    bench.restart()
    (answer,) = bench.send("lock", LOCK)
    assert (answer["status"], answer["reason"]) == ("rejected", "released")


def test_an_answer_is_owed_until_the_broker_has_it(bench: Bench) -> None:
    answers = bench.device.receive(f"energy/donor/{DEVICE}/lock", json.dumps(LOCK).encode())
    bench.restart()
    assert uncounted(read(bench.device.owed())) == uncounted(read(answers))
    bench.device.settle(bench.device.owed()[0])
    assert bench.device.owed() == []
    bench.restart()
    assert bench.device.owed() == []


def test_a_late_acknowledgement_of_the_lock_does_not_settle_the_final_report(bench: Bench) -> None:
    (answer,) = bench.device.receive(f"energy/donor/{DEVICE}/lock", json.dumps(LOCK).encode())
    bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    bench.wait(0)
    bench.wait(1_500)
    bench.device.settle(answer)
    assert [report["status"] for report in read(bench.device.owed())] == ["delivered"]


def test_a_repeated_lock_after_delivery_does_not_settle_the_final_report(bench: Bench) -> None:
    bench.send("lock", LOCK)
    bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    bench.wait(0)
    bench.wait(1_500)
    (answer,) = bench.device.receive(f"energy/donor/{DEVICE}/lock", json.dumps(LOCK).encode())
    bench.device.settle(answer)
    assert len(bench.device.owed()) == 1


def test_a_delivery_starts_moves_and_ends(bench: Bench) -> None:
    bench.send("lock", LOCK)
    (started,) = bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    assert (started["status"], started["kwh_delivered"]) == ("started", 0)
    bench.wait(0)
    (moving,) = bench.wait(600)
    assert (moving["status"], moving["kwh_delivered"]) == ("delivering", Decimal("0.6"))
    assert bench.device.reserved_wh == 900
    assert bench.status()["available_kwh"] == Decimal("7.4")
    (done,) = bench.wait(900)
    assert (done["status"], done["kwh_delivered"]) == ("delivered", Decimal("1.5"))
    assert bench.device.locks == []
    assert not bench.device.is_delivering


def test_a_repeated_transfer_tells_how_far_it_is_and_delivers_nothing_again(bench: Bench) -> None:
    bench.send("lock", LOCK)
    transfer = {"transaction_id": TRADE, "kwh": 1.5}
    bench.send("transfer", transfer)
    (under_way,) = bench.send("transfer", transfer)
    assert under_way["status"] == "delivering"
    bench.wait(0)
    bench.wait(1_500)
    (over,) = bench.send("transfer", transfer)
    assert (over["status"], over["kwh_delivered"]) == ("delivered", Decimal("1.5"))
    assert not bench.device.is_delivering
    assert bench.battery.charge_wh == 6_500


def test_a_delivery_goes_on_after_a_restart_and_feeds_no_energy_twice(bench: Bench) -> None:
    bench.send("lock", LOCK)
    bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    bench.wait(0)
    bench.wait(600)
    bench.restart()
    assert bench.device.is_delivering
    bench.wait(0)
    bench.wait(900)
    assert bench.battery.charge_wh == 6_500


def test_of_two_deliveries_the_older_is_served_first(bench: Bench) -> None:
    second = "0b000000-0000-4000-8000-000000000002"
    for trade in (TRADE, second):
        bench.send("lock", {**LOCK, "transaction_id": trade})
    for trade in (TRADE, second):
        bench.send("transfer", {"transaction_id": trade, "kwh": 1.5})
    assert bench.wait(0)[0]["transaction_id"] == TRADE
    assert bench.wait(1_500)[0]["status"] == "delivered"
    assert bench.wait(0)[0]["transaction_id"] == second


def test_a_delivery_without_energy_waits_and_raises_an_alert(bench: Bench) -> None:
    bench.send("lock", LOCK)
    bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    bench.wait(0)
    bench.battery.draw(8_000)
    bench.wait(STALLED_AFTER_S / 2)
    assert bench.alerts() == []
    bench.wait(STALLED_AFTER_S)
    assert bench.alerts() == ["delivery_stalled"]
    bench.battery.charge(2_000)
    bench.wait(1_500)
    assert bench.battery.charge_wh == 500


def test_a_delivery_that_is_unlocked_stops_and_says_what_was_delivered(bench: Bench) -> None:
    bench.send("lock", LOCK)
    bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    bench.wait(0)
    bench.wait(600)
    (over,) = bench.send("unlock", {"transaction_id": TRADE})
    assert (over["status"], over["kwh_delivered"]) == ("delivered", Decimal("0.6"))
    assert (bench.device.locks, bench.device.reserved_wh, bench.device.is_delivering) == ([], 0, False)
    bench.wait(1_500)
    assert bench.battery.charge_wh == 7_400
    for command in ("unlock", "transfer"):
        (again,) = bench.send(command, {"transaction_id": TRADE, "kwh": 1.5})
        assert (again["status"], again["kwh_delivered"]) == ("delivered", Decimal("0.6"))
    assert bench.alerts() == []


def test_a_stopped_delivery_is_reported_until_the_broker_has_it_over_a_restart(bench: Bench) -> None:
    bench.send("lock", LOCK)
    bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    bench.wait(0)
    bench.wait(600)
    bench.send("unlock", {"transaction_id": TRADE})
    bench.restart()
    (owed,) = bench.device.owed()
    assert read([owed])[0]["kwh_delivered"] == Decimal("0.6")
    bench.device.settle(owed)
    assert bench.device.owed() == []


def test_an_unlock_after_the_delivery_is_answered_with_all_of_it(bench: Bench) -> None:
    bench.send("lock", LOCK)
    bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    bench.wait(0)
    bench.wait(1_500)
    (over,) = bench.send("unlock", {"transaction_id": TRADE})
    assert (over["status"], over["kwh_delivered"]) == ("delivered", Decimal("1.5"))


def test_a_delivery_whose_energy_does_not_come_is_ended_as_it_stands(bench: Bench) -> None:
    bench.send("lock", LOCK)
    bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    bench.wait(0)
    bench.wait(600)
    bench.battery.draw(8_000)
    (waiting,) = bench.wait(PATIENCE_S - 1)
    assert waiting["status"] == "delivering"
    (over,) = bench.wait(1)
    assert (over["status"], over["kwh_delivered"]) == ("delivered", Decimal("0.6"))
    assert bench.device.locks == []
    bench.battery.charge(5_000)
    bench.wait(1_500)
    assert bench.battery.charge_wh == 5_000


class Stuck(SimulatedBattery):
    """An inverter that cannot be reached when it is to stop."""

    is_stuck = True

    def stop(self, transaction_id: str) -> int:
        if self.is_stuck:
            raise OSError("no answer on /dev/ttyUSB0")
        return super().stop(transaction_id)


def test_a_delivery_that_could_not_be_stopped_is_stopped_by_the_next_unlock(bench: Bench) -> None:
    bench.battery = stuck = Stuck(capacity_wh=10_000, charge_wh=8_000, power_w=3_600, clock=bench.elapsed)
    bench.restart()
    bench.send("lock", LOCK)
    bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    bench.wait(0)
    bench.wait(600)
    assert bench.send("unlock", {"transaction_id": TRADE}) == []
    assert (bench.device.locks, bench.alerts()) == ([TRADE], ["hardware_failed"])
    bench.wait(300)
    stuck.is_stuck = False
    (over,) = bench.send("unlock", {"transaction_id": TRADE})
    assert (over["status"], over["kwh_delivered"]) == ("delivered", Decimal("0.9"))


def test_a_transfer_without_a_reservation_is_refused(bench: Bench) -> None:
    (refusal,) = bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    seq = refusal.pop("seq")
    assert refusal == {
        "transaction_id": TRADE,
        "status": "refused",
        "kwh_delivered": 0,
        "reason": "unknown_transfer",
    }
    assert bench.alerts() == ["unknown_transfer"]
    bench.send("unlock", {"transaction_id": TRADE})
    (again,) = bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    assert (again["status"], again["reason"]) == ("refused", "transfer_refused")
    assert again["seq"] > seq
    assert bench.device.owed() == []


def test_a_transfer_of_another_amount_is_refused_with_what_was_delivered(bench: Bench) -> None:
    bench.send("lock", LOCK)
    bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    bench.wait(0)
    bench.wait(600)
    (refusal,) = bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.4})
    assert (refusal["status"], refusal["reason"], refusal["kwh_delivered"]) == (
        "refused",
        "transfer_mismatch",
        Decimal("0.6"),
    )
    assert bench.device.is_delivering


@pytest.mark.parametrize(
    ("command", "fields", "code"),
    [
        ("lock", b"{", "unreadable_command"),
        ("lock", b"[]", "unreadable_command"),
        ("lock", b"\xff\xfe", "unreadable_command"),
        ("lock", b"[" * 4_000, "unreadable_command"),
        ("lock", b" " * 4_097, "unreadable_command"),
        ("lock", b'{"kwh_requested": 1e99999999999999999999}', "unreadable_command"),
        ("lock", {**LOCK, "kwh_requested": 0}, "unreadable_command"),
        ("lock", {**LOCK, "kwh_requested": -1}, "unreadable_command"),
        ("lock", {**LOCK, "kwh_requested": True}, "unreadable_command"),
        ("lock", {**LOCK, "kwh_requested": "1.5"}, "unreadable_command"),
        ("lock", {**LOCK, "kwh_requested": 1.0001}, "unreadable_command"),
        ("lock", {**LOCK, "kwh_requested": 1_000_001}, "unreadable_command"),
        ("lock", {**LOCK, "kwh_requested": float("nan")}, "unreadable_command"),
        ("lock", {**LOCK, "kwh_requested": float("inf")}, "unreadable_command"),
        ("lock", {**LOCK, "transaction_id": None}, "unreadable_command"),
        ("lock", {**LOCK, "transaction_id": "urn:" + TRADE.replace("-", "")}, "unreadable_command"),
        ("lock", {**LOCK, "order_id": 7}, "unreadable_command"),
        ("unlock", {}, "unreadable_command"),
        ("transfer", {"transaction_id": TRADE}, "unreadable_command"),
    ],
)
def test_what_is_no_command_is_dropped_with_an_alert_and_changes_nothing(
    bench: Bench, command: str, fields: object, code: str
) -> None:
    assert bench.send(command, fields) == []
    assert bench.device.locks == []
    assert bench.alerts() == [code]


def test_a_number_that_would_fill_the_memory_is_refused_at_once() -> None:
    with pytest.raises(UnreadableError):
        messages.read_transfer(b'{"transaction_id": "%s", "kwh": 1e-999999999}' % TRADE.encode())


def test_a_message_on_another_topic_is_dropped(bench: Bench) -> None:
    assert bench.device.receive(f"energy/donor/{ORDER}/lock", json.dumps(LOCK).encode()) == []
    assert bench.device.locks == []


def test_unknown_fields_are_no_obstacle(bench: Bench) -> None:
    (answer,) = bench.send("lock", {**LOCK, "zone": "default"})
    assert answer["status"] == "locked"


def test_a_flood_of_nonsense_raises_one_alert_a_minute(bench: Bench) -> None:
    for _ in range(100):
        bench.send("lock", b"{")
    assert bench.alerts() == ["unreadable_command"]
    bench.now += timedelta(seconds=ALERT_PAUSE_S)
    bench.send("lock", b"{")
    assert bench.alerts() == ["unreadable_command"]


def test_less_energy_than_was_promised_raises_an_alert(bench: Bench) -> None:
    bench.send("lock", LOCK)
    bench.battery.draw(7_000)
    bench.status()
    assert bench.alerts() == ["over_reserved"]


class Broken(SimulatedBattery):
    def available_wh(self) -> int:
        raise OSError("no answer on /dev/ttyUSB0")


def test_a_device_whose_hardware_is_silent_promises_nothing_and_is_silent_too(bench: Bench) -> None:
    bench.battery = Broken(capacity_wh=10_000, charge_wh=8_000)
    bench.restart()
    (answer,) = bench.send("lock", LOCK)
    assert answer["status"] == "rejected"
    assert bench.device.status() == []
    assert bench.alerts() == ["hardware_failed"]


def test_a_decision_that_cannot_be_written_was_never_made(bench: Bench, tmp_path: Path) -> None:
    class Full(sqlite3.Connection):
        full = False

        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:  # noqa: ANN401 - as the class it replaces
            if self.full and sql.startswith("REPLACE"):
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, parameters)

    connection = sqlite3.connect(tmp_path / "full.db", isolation_level=None, factory=Full)
    store = Store(connection, device_id=DEVICE)
    device = Device(device_id=DEVICE, side="donor", store=store, source=bench.battery)
    connection.full = True
    with pytest.raises(sqlite3.OperationalError):
        device.receive(f"energy/donor/{DEVICE}/lock", json.dumps(LOCK).encode())
    assert device.locks == []
    connection.full = False
    assert len(device.receive(f"energy/donor/{DEVICE}/lock", json.dumps(LOCK).encode())) == 1
    device.close()


def test_seq_rises_over_restarts(bench: Bench) -> None:
    seen = [bench.status()["seq"] for _ in range(3)]
    bench.restart()
    seen.append(bench.status()["seq"])
    assert seen == sorted(set(seen))
    assert seen[-1] <= seen[0] + SEQ_BLOCK + 1


def test_a_device_that_lost_its_file_goes_on_above_what_it_sent_before(bench: Bench) -> None:
    before = [bench.status()["seq"] for _ in range(20)]
    bench.device.close()
    bench.path.unlink()
    bench.now += timedelta(seconds=1)
    bench.device = bench.switched_on()
    assert bench.status()["seq"] > max(before)


def test_a_device_whose_file_is_an_old_copy_goes_on_above_what_it_sent_since(bench: Bench) -> None:
    bench.device.close()
    backup = bench.path.read_bytes()
    bench.device = bench.switched_on()
    sent = []
    for _ in range(3):  # each restart skips the rest of a block
        sent += [bench.status()["seq"] for _ in range(20)]
        bench.now += timedelta(hours=1)
        bench.restart()
    bench.device.close()
    bench.path.write_bytes(backup)
    bench.device = bench.switched_on()
    assert bench.status()["seq"] > max(sent)


def test_a_clock_that_is_set_back_sets_no_seq_back(bench: Bench) -> None:
    before = bench.status()["seq"]
    bench.ahead = timedelta(days=-1)
    bench.restart()
    assert bench.status()["seq"] > before


@pytest.mark.parametrize("ahead", [timedelta(minutes=-10), timedelta(minutes=10)])
def test_whether_a_lock_comes_in_time_is_not_for_the_devices_clock_to_say(bench: Bench, ahead: timedelta) -> None:
    bench.ahead = ahead
    bench.restart()
    (answer,) = bench.send("lock", LOCK)
    assert answer["status"] == "locked"
    bench.now += timedelta(hours=1)
    assert uncounted(bench.send("lock", LOCK)) == uncounted([answer])


def test_the_state_file_of_the_version_before_is_taken_over(bench: Bench) -> None:
    bench.send("lock", LOCK)
    bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    bench.wait(0)
    bench.wait(1_500)
    bench.device.close()
    with sqlite3.connect(bench.path) as connection:
        connection.execute("ALTER TABLE reservations DROP COLUMN delivered_wh")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    bench.device = bench.switched_on()
    (done,) = bench.send("transfer", {"transaction_id": TRADE, "kwh": 1.5})
    assert (done["status"], done["kwh_delivered"]) == ("delivered", Decimal("1.5"))


def test_decisions_are_synced_to_the_disk(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    store = Store(connection, device_id=DEVICE)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_a_state_file_belongs_to_one_device_and_one_process(bench: Bench) -> None:
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        bench.switched_on()
    bench.device.close()
    with pytest.raises(StateError, match="belongs to device"):
        bench.switched_on(ORDER)
    bench.device = bench.switched_on()


def test_a_state_file_of_a_newer_program_is_refused(bench: Bench) -> None:
    bench.device.close()
    with sqlite3.connect(bench.path) as connection:
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(StateError, match="version 3"):
        bench.switched_on()
    bench.path.unlink()
    bench.device = bench.switched_on()


def test_a_recipient_reports_its_meter_and_takes_no_commands(tmp_path: Path) -> None:
    battery = SimulatedBattery(capacity_wh=1_000, charge_wh=1_000)
    battery.draw(250)
    store = Store.open(tmp_path / "state.db", device_id=DEVICE)
    device = Device(device_id=DEVICE, side="recipient", store=store, source=battery)
    (report,) = device.status()
    assert report.topic == f"energy/recipient/{DEVICE}/status"
    fields = json.loads(report.payload, parse_float=Decimal)
    assert (fields["consumption_kwh"], fields["power_w"]) == (Decimal("0.25"), 0)
    assert device.command_topics == []
    device.close()


@given(st.integers(0, messages.MAX_ENERGY_WH))
def test_energy_is_exact_on_the_wire(energy_wh: int) -> None:
    written = json.dumps(messages.kwh(energy_wh))
    assert Decimal(written) * 1000 == energy_wh
    assert len(written.partition(".")[2]) <= 3


@given(st.integers(1, messages.MAX_ENERGY_WH), st.sampled_from(["{:f}", "{:.6f}", "{:E}"]))
def test_energy_is_read_exactly_however_it_is_written(energy_wh: int, form: str) -> None:
    number = form.format(Decimal(energy_wh) / 1000)
    transfer = messages.read_transfer(b'{"transaction_id": "%s", "kwh": %s}' % (TRADE.encode(), number.encode()))
    assert transfer.energy_wh == energy_wh


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=8),
        lambda inner: st.dictionaries(st.sampled_from(["order_id", "transaction_id", "kwh", "kwh_requested"]), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_payload_is_worse_than_unreadable(payload: bytes) -> None:
    readers: list[Callable[[bytes], object]] = [messages.read_lock, messages.read_unlock, messages.read_transfer]
    for reader in readers:
        with pytest.raises(UnreadableError):
            reader(payload)
