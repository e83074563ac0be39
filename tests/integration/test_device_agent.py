"""The device agent on a real broker: mutual TLS, the deployed policy, the deployed kind of rule, and cut lines."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from energy_device import agent as agent_module
from energy_device.agent import DeviceAgent, Network
from energy_device.config import ConfigError, DeviceConfig
from energy_device.energy_source import SimulatedBattery

from local_market.emulators.ministack import start_ministack
from local_market.parts.ports import free_port
from tests.support.devices.broker import Broker


class Line:
    """A TCP line to the broker that can be cut and joined again."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._is_cut = False
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        self._is_cut = True
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for end in (self._listener, *self._open):
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._broker_port))
                self._open += [near, far]
                for ends in ((near, far), (far, near)):
                    self._threads.append(threading.Thread(target=self._carry, args=ends))
                    self._threads[-1].start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def holds(*trades: str) -> Callable[[dict[str, Any]], bool]:
    return lambda report: set(report.get("locks", ())) == set(trades)


def new_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture(scope="module")
def broker(state_folder: Path) -> Iterator[Broker]:
    aws = start_ministack(state_folder / "devices")
    broker = Broker(aws)
    yield broker
    broker.close()
    aws.stop()


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.close()


Switch = Callable[..., DeviceAgent]


@pytest.fixture
def switch_on(network: Network) -> Iterator[Switch]:
    """Starts agents, and stops those that still run at the end."""
    agents: list[DeviceAgent] = []

    def start(config: DeviceConfig, battery: SimulatedBattery | None = None, *, wait: bool = True) -> DeviceAgent:
        battery = battery or SimulatedBattery(capacity_wh=10_000, charge_wh=8_000, power_w=5_000, speed_up=3_600)
        agents.append(DeviceAgent(config=config, source=battery, network=network))
        agents[-1].start()
        assert not wait or agents[-1].wait_ready(10)
        return agents[-1]

    yield start
    for agent in agents:
        agent.stop()


@pytest.fixture
def line(broker: Broker) -> Iterator[Line]:
    line = Line(broker.aws.iot_port)
    yield line
    line.close()


def test_two_devices_answer_each_under_its_own_name(broker: Broker, switch_on: Switch, tmp_path: Path) -> None:
    configs = [broker.register(tmp_path) for _ in range(2)]
    for config in configs:
        switch_on(config)
    trades = {config.device_id: new_id() for config in configs}
    for device_id, trade in trades.items():
        broker.lock(device_id, trade)
    for device_id, trade in trades.items():
        answer = broker.answer(device_id, trade)
        assert (answer["status"], answer["client_id"]) == ("locked", device_id)
        broker.wait_for(device_id, "status", holds(trade))


def test_a_trade_is_locked_delivered_and_gone(broker: Broker, switch_on: Switch, tmp_path: Path) -> None:
    config = broker.register(tmp_path)
    agent = switch_on(config)
    trade = new_id()
    broker.lock(config.device_id, trade)
    broker.answer(config.device_id, trade)
    assert agent.reserved_wh == 1_500
    broker.command(config.device_id, "transfer", transaction_id=trade, kwh=1.5)
    topic = f"transfer/{config.device_id}/status"
    done = broker.wait_for(config.device_id, topic, lambda report: report["status"] == "delivered")
    assert done["kwh_delivered"] == 1.5
    broker.wait_for(config.device_id, f"donor/{config.device_id}/status", lambda report: report["available_kwh"] == 6.5)
    assert broker.reports(config.device_id, topic)[0]["status"] == "started"
    assert agent.locks == ()


def test_a_delivery_that_is_unlocked_stops_where_it_stands(broker: Broker, switch_on: Switch, tmp_path: Path) -> None:
    config = broker.register(tmp_path)
    battery = SimulatedBattery(capacity_wh=10_000, charge_wh=8_000, power_w=5_000, speed_up=200)
    agent = switch_on(config, battery)
    trade = new_id()
    broker.lock(config.device_id, trade, kwh=8)
    broker.command(config.device_id, "transfer", transaction_id=trade, kwh=8)
    topic = f"transfer/{config.device_id}/status"
    broker.wait_for(config.device_id, topic, lambda report: report["kwh_delivered"] > 0)
    broker.command(config.device_id, "unlock", transaction_id=trade)
    over = broker.wait_for(config.device_id, topic, lambda report: report["status"] == "delivered")
    assert 0 < over["kwh_delivered"] < 8
    assert over["kwh_delivered"] == (8_000 - battery.charge_wh) / 1_000
    broker.wait_for(config.device_id, f"donor/{config.device_id}/status", lambda report: not report["locks"])
    assert (agent.locks, agent.reserved_wh) == ((), 0)


def test_a_device_that_lost_its_memory_refuses_the_transfer(broker: Broker, switch_on: Switch, tmp_path: Path) -> None:
    config = broker.register(tmp_path)
    agent = switch_on(config)
    trade = new_id()
    broker.lock(config.device_id, trade)
    broker.answer(config.device_id, trade)
    listed = broker.wait_for(config.device_id, f"donor/{config.device_id}/status", holds(trade))
    agent.stop()
    config.state_path.unlink()
    switch_on(config)
    now = broker.wait_for(
        config.device_id, f"donor/{config.device_id}/status", lambda report: report["seq"] > listed["seq"]
    )
    assert now["locks"] == []
    broker.command(config.device_id, "transfer", transaction_id=trade, kwh=1.5)
    topic = f"transfer/{config.device_id}/status"
    refusal = broker.wait_for(config.device_id, topic, lambda report: report["status"] == "refused")
    assert (refusal["kwh_delivered"], refusal["reason"]) == (0, "unknown_transfer")


def test_a_command_delivered_many_times_has_one_effect_and_one_answer(
    broker: Broker, switch_on: Switch, tmp_path: Path
) -> None:
    config = broker.register(tmp_path)
    agent = switch_on(config)
    trade = new_id()
    for _ in range(5):
        broker.lock(config.device_id, trade)
    broker.lock(config.device_id, last := new_id(), kwh=0.001)
    broker.answer(config.device_id, last)
    answers = [each for each in broker.reports(config.device_id, "response") if each["transaction_id"] == trade]
    assert {each["status"] for each in answers} == {"locked"}
    assert agent.reserved_wh == 1_501


def test_commands_sent_while_a_device_is_off_arrive_when_it_is_on(
    broker: Broker, switch_on: Switch, tmp_path: Path
) -> None:
    config = broker.register(tmp_path)
    switch_on(config).stop()
    trade = new_id()
    broker.lock(config.device_id, trade)
    switch_on(config)
    assert broker.answer(config.device_id, trade)["status"] == "locked"


def test_a_device_whose_line_was_cut_comes_back_by_itself(
    broker: Broker, switch_on: Switch, line: Line, tmp_path: Path
) -> None:
    config = broker.register(tmp_path, port=line.port)
    agent = switch_on(config)
    before, meanwhile, after = new_id(), new_id(), new_id()
    broker.lock(config.device_id, before)
    broker.answer(config.device_id, before)
    line.cut()
    until = time.monotonic() + 5
    while agent.is_ready and time.monotonic() < until:
        time.sleep(0.02)
    assert not agent.is_ready
    broker.lock(config.device_id, meanwhile)
    line.join()
    assert agent.wait_ready(10)
    broker.answer(config.device_id, meanwhile)
    broker.lock(config.device_id, after)
    broker.answer(config.device_id, after)
    assert set(agent.locks) == {before, meanwhile, after}


def test_a_delivery_goes_on_while_the_line_is_cut_and_is_reported_afterwards(
    broker: Broker, switch_on: Switch, line: Line, tmp_path: Path
) -> None:
    config = broker.register(tmp_path, port=line.port)
    battery = SimulatedBattery(capacity_wh=10_000, charge_wh=8_000, power_w=5_000, speed_up=1_000)
    agent = switch_on(config, battery)
    trade = new_id()
    broker.lock(config.device_id, trade)
    broker.command(config.device_id, "transfer", transaction_id=trade, kwh=1.5)
    topic = f"transfer/{config.device_id}/status"
    broker.wait_for(config.device_id, topic, lambda report: report["status"] == "started")
    line.cut()
    until = time.monotonic() + 10
    while agent.locks and time.monotonic() < until:
        time.sleep(0.05)
    assert battery.charge_wh == 6_500
    line.join()
    broker.wait_for(config.device_id, topic, lambda report: report["status"] == "delivered")


def test_a_broker_that_lost_every_session_gets_the_subscriptions_again(
    state_folder: Path, switch_on: Switch, tmp_path: Path
) -> None:
    folder, port, iot_port = state_folder / "restarted", free_port(), free_port()
    aws = start_ministack(folder, port=port, iot_port=iot_port, keep_state=True)
    broker = Broker(aws)
    config = broker.register(tmp_path)
    agent = switch_on(config)
    broker.lock(config.device_id, before := new_id())
    broker.answer(config.device_id, before)
    aws.stop()
    aws = start_ministack(folder, port=port, iot_port=iot_port, keep_state=True)
    try:
        assert agent.wait_ready(15)
        broker.lock(config.device_id, after := new_id())
        broker.answer(config.device_id, after)
        assert agent.locks == (before, after)
        agent.stop()
    finally:
        broker.close()
        aws.stop()


def test_a_recipient_reports_its_meter(broker: Broker, switch_on: Switch, tmp_path: Path) -> None:
    config = broker.register(tmp_path, side="recipient")
    battery = SimulatedBattery(capacity_wh=1_000, charge_wh=1_000)
    battery.draw(250)
    switch_on(config, battery)
    report = broker.wait_for(config.device_id, "status", lambda report: "consumption_kwh" in report)
    assert (report["consumption_kwh"], report["power_w"]) == (0.25, 0)


def test_nonsense_is_dropped_with_an_alert_and_the_device_goes_on(
    broker: Broker, switch_on: Switch, tmp_path: Path
) -> None:
    config = broker.register(tmp_path)
    switch_on(config)
    broker.data.publish(topic=f"energy/donor/{config.device_id}/lock", qos=1, payload=b"\xff{")
    alert = broker.wait_for(config.device_id, "alert", lambda _: True)
    assert (alert["severity"], alert["code"]) == ("warning", "unreadable_command")
    broker.lock(config.device_id, trade := new_id())
    broker.answer(config.device_id, trade)


def test_a_certificate_does_not_open_another_devices_session(broker: Broker, switch_on: Switch, tmp_path: Path) -> None:
    mine, other = broker.register(tmp_path), broker.register(tmp_path)
    stolen = DeviceConfig(
        device_id=other.device_id,
        side="donor",
        host=mine.host,
        port=mine.port,
        certificate=mine.certificate,
        private_key=mine.private_key,
        ca=mine.ca,
        state_path=tmp_path / "stolen.db",
    )
    assert not switch_on(stolen, wait=False).wait_ready(1.5)


def test_a_device_keeps_its_promises_when_it_gets_another_certificate(
    broker: Broker, switch_on: Switch, tmp_path: Path
) -> None:
    config = broker.register(tmp_path)
    agent = switch_on(config)
    trade, meanwhile = new_id(), new_id()
    broker.lock(config.device_id, trade)
    broker.answer(config.device_id, trade)
    agent.stop()
    broker.lock(config.device_id, meanwhile)
    switch_on(broker.rotated(config))
    broker.answer(config.device_id, meanwhile)
    broker.wait_for(config.device_id, "status", holds(trade, meanwhile))


def test_many_devices_share_two_threads_and_leave_none(broker: Broker, tmp_path: Path) -> None:
    def threads() -> int:
        # Where the system tells, also those of the SDK.
        tasks = Path("/proc/self/task")
        return len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()

    before = threads()
    network = Network()
    agents = [
        DeviceAgent(
            config=broker.register(tmp_path),
            source=SimulatedBattery(capacity_wh=1_000, charge_wh=1_000),
            network=network,
        )
        for _ in range(10)
    ]
    for agent in agents:
        agent.start()
    assert all(agent.wait_ready(15) for agent in agents)
    # The SDK's socket thread and its name resolver's threads, which end after a while, and the working thread.
    assert threads() - before <= 4
    for agent in agents:
        agent.stop()
    network.close()
    until = time.monotonic() + 10
    while threads() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert threads() == before


@contextlib.contextmanager
def program(config: DeviceConfig, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The agent as a Raspberry Pi runs it."""
    for name, content in (("cert.pem", config.certificate), ("key.pem", config.private_key), ("ca.pem", config.ca)):
        (folder / name).write_bytes(content)
    (folder / "device.json").write_text(
        json.dumps(
            {
                "device_id": config.device_id,
                "side": config.side,
                "broker": f"{config.host}:{config.port}",
                "certificate_file": "cert.pem",
                "private_key_file": "key.pem",
                "ca_file": "ca.pem",
                "status_period_s": 1,
                "hardware_options": {"file": str(folder / "battery.json")},
            }
        )
    )
    environment = os.environ | {"PYTHONPATH": str(Path(agent_module.__file__).parent.parent)}
    command = [sys.executable, "-m", "energy_device", "--config", str(folder / "device.json")]
    process = subprocess.Popen(command, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_device_that_was_killed_comes_back_with_its_promises(broker: Broker, tmp_path: Path) -> None:
    config = broker.register(tmp_path)
    trade, meanwhile = new_id(), new_id()
    with program(config, tmp_path) as process:
        broker.wait_for(config.device_id, "status", lambda _: True)
        broker.lock(config.device_id, trade)
        broker.answer(config.device_id, trade)
        process.send_signal(signal.SIGKILL)
    broker.lock(config.device_id, meanwhile)
    with program(config, tmp_path) as process:
        broker.answer(config.device_id, meanwhile)
        broker.wait_for(config.device_id, "status", holds(trade, meanwhile))
        process.terminate()
        assert process.wait(10) == 0


def test_a_device_that_cannot_begin_says_why(tmp_path: Path) -> None:
    (tmp_path / "device.json").write_text("{}")
    environment = os.environ | {"PYTHONPATH": str(Path(agent_module.__file__).parent.parent)}
    command = [sys.executable, "-m", "energy_device", "--config", str(tmp_path / "device.json")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert run.returncode == 2
    assert "missing" in run.stderr


def test_a_certificate_that_is_none_is_refused_and_leaves_the_state_file_free(
    broker: Broker, network: Network, switch_on: Switch, tmp_path: Path
) -> None:
    config = broker.register(tmp_path)
    broken = dataclasses.replace(config, certificate=b"no certificate")
    battery = SimulatedBattery(capacity_wh=1_000, charge_wh=1_000)
    with pytest.raises(ConfigError, match="certificate"):
        DeviceAgent(config=broken, source=battery, network=network).start()
    switch_on(config)
