"""The device agent through the ways of brokers: each trade is locked once, delivered once, and reported."""

import contextlib
import copy
import dataclasses
import json
import logging
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from awscrt import mqtt5
from awsiot import mqtt5_client_builder
from energy_device.agent import DeviceAgent, Network
from energy_device.config import DeviceConfig
from energy_device.energy_source import SimulatedBattery

from local_market.parts.ports import free_port
from tests.support import tools
from tests.support.devices.certificate_authority import CertificateAuthority
from tests.support.devices.scripted_broker import ScriptedBroker, Ways

ORDER = "0a000000-0000-4000-8000-000000000001"
WAIT_S = 20.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    folder: Path = tmp_path_factory.mktemp("authority")
    folder.chmod(0o755)  # mosquitto may drop its privileges before it reads
    return CertificateAuthority(folder)


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.close()


class Plugged(SimulatedBattery):
    """A battery that can be made to fail."""

    fails: Exception | None = None

    def available_wh(self) -> int:
        if self.fails is not None:
            raise self.fails
        return super().available_wh()


@contextlib.contextmanager
def switched_on(
    network: Network, authority: CertificateAuthority, port: int, folder: Path, *, receive_maximum: int = 32
) -> Iterator[tuple[DeviceAgent, Plugged]]:
    device_id = str(uuid.uuid4())
    identity = authority.issue(device_id)
    config = DeviceConfig(
        device_id=device_id,
        side="donor",
        host="localhost",
        port=port,
        certificate=identity.certificate,
        private_key=identity.key,
        ca=authority.certificate,
        state_path=folder / "state.db",
        status_period_s=0.3,
        transfer_period_s=0.1,
        min_reconnect_s=0.05,
        max_reconnect_s=0.2,
        receive_maximum=receive_maximum,
    )
    plugged = Plugged(capacity_wh=10_000, charge_wh=8_000, power_w=5_000, speed_up=36_000)
    agent = DeviceAgent(config=config, source=plugged, network=network)
    agent.start()
    try:
        yield agent, plugged
    finally:
        agent.stop()


class Counterpart:
    """The market's side of a broker: what it sends, and what it has heard."""

    def __init__(
        self, device_id: str, send: Callable[[str, bytes], None], heard: Callable[[], list[tuple[str, bytes]]]
    ) -> None:
        self._topic = f"energy/donor/{device_id}"
        self._send = send
        self._heard = heard

    def reports(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(payload) for at, payload in self._heard() if at.endswith(topic)]

    def until(self, topic: str, is_it: Callable[[dict[str, Any]], bool], *, say: Callable[[], None]) -> dict[str, Any]:
        """The first report that is the one; the market repeats itself until then."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            say()
            pause = time.monotonic() + 0.4
            while time.monotonic() < pause:
                for report in self.reports(topic):
                    if is_it(report):
                        return report
                time.sleep(0.02)
        raise AssertionError(f"no such report on {topic}: {self._heard()}")

    def command(self, name: str, **fields: object) -> None:
        self._send(f"{self._topic}/{name}", json.dumps(fields).encode())

    def lock(self, trade: str, kwh: float = 1.5) -> None:
        self.command("lock", order_id=ORDER, transaction_id=trade, kwh_requested=kwh)

    def answer(self, trade: str) -> dict[str, Any]:
        return self.until(
            "lock/response", lambda answer: answer["transaction_id"] == trade, say=lambda: self.lock(trade)
        )

    def trade(self) -> str:
        """Lock, transfer, and delivered: the whole of it."""
        trade = str(uuid.uuid4())
        assert self.answer(trade)["status"] == "locked"
        done = self.until(
            "/status",
            lambda report: report.get("transaction_id") == trade and report["status"] == "delivered",
            say=lambda: self.command("transfer", transaction_id=trade, kwh=1.5),
        )
        assert done["kwh_delivered"] == 1.5
        return trade


RETAIN_AVAILABLE, MAXIMUM_PACKET, SERVER_KEEP_ALIVE, RECEIVE_MAXIMUM, SESSION_EXPIRY = 0x25, 0x27, 0x13, 0x21, 0x11
BROKERS = {
    "keeps receive maximum": Ways(keeps_receive_maximum=True),
    "forgets every session": Ways(forgets_sessions=True, ends_after_publish=[0x8B] * 3),
    "hangs up again and again": Ways(hangs_up_before_puback=4),
    "sends every message twice": Ways(copies=2),
    "sends every message again when it was acknowledged": Ways(again_after_ack=True),
    "sends one more for a repeated subscription": Ways(
        one_more_for_repeated_subscribe=True, suback_codes=[1, 1, 0x97], ends_after_publish=[0x8B] * 2
    ),
    "sends the newest first": Ways(newest_first=True, keeps_receive_maximum=True),
    "is slow": Ways(holds_back_s=1.0),
    "refuses subscriptions for a while": Ways(suback_codes=[0x87] * 6),
    "has no room for subscriptions for a while": Ways(suback_codes=[0x97] * 3),
    "grants less than was asked for": Ways(suback_codes=[0, 0, 0]),
    "is busy for a while": Ways(connack_codes=[0x89, 0x88, 0x9F, 0x97]),
    "refuses the certificate for a while": Ways(connack_codes=[0x87] * 3),
    "shuts down after each subscription for a while": Ways(ends_after_subscribe=[0x8B, 0x98, 0x9D, 0xA0]),
    "takes the session for another": Ways(ends_after_publish=[0x8E] * 3),
    "finds the quota exceeded": Ways(ends_after_publish=[0x97, 0x96, 0x93, 0x95]),
    "refuses publications for a while": Ways(puback_codes=[0x97, 0x87, 0x80, 0x83, 0x99, 0x90]),
    "has nobody who listens": Ways(puback_codes=[0x10] * 40),
    "keeps no retained messages": Ways(properties={RETAIN_AVAILABLE: 0}),
    "takes small packets only": Ways(properties={MAXIMUM_PACKET: 400}),
    "takes one message at a time": Ways(properties={RECEIVE_MAXIMUM: 1}),
    "wants to hear from its clients every second": Ways(properties={SERVER_KEEP_ALIVE: 1}),
    "keeps no session beyond the connection": Ways(properties={SESSION_EXPIRY: 0}, forgets_sessions=True),
    "sends its packets in crumbs": Ways(byte_by_byte=True),
}


@pytest.mark.parametrize("name", BROKERS)
def test_trades_are_locked_and_delivered_once_through_every_way_of_brokers(
    name: str, authority: CertificateAuthority, network: Network, tmp_path: Path
) -> None:
    broker = ScriptedBroker(authority, copy.deepcopy(BROKERS[name]))
    with switched_on(network, authority, broker.port, tmp_path) as (agent, plugged):
        market = Counterpart(
            agent.device_id,
            lambda topic, payload: broker.send(agent.device_id, topic, payload),
            lambda: broker.published,
        )
        trades = [market.trade() for _ in range(2)]
        market.until(
            f"donor/{agent.device_id}/status",
            lambda status: (status["available_kwh"], status["locks"]) == (5, []),
            say=lambda: None,
        )
        assert plugged.charge_wh == 5_000, "each was fed once"
        assert {answer["status"] for answer in market.reports("lock/response")} == {"locked"}
        assert {answer["transaction_id"] for answer in market.reports("lock/response")} == set(trades)
        if broker.ways.keeps_receive_maximum:
            assert broker.most_in_flight <= agent.config.receive_maximum
    broker.close()


def test_a_plug_in_that_raises_uses_up_no_place_at_a_broker_that_keeps_receive_maximum(
    authority: CertificateAuthority, network: Network, tmp_path: Path
) -> None:
    broker = ScriptedBroker(authority, Ways(keeps_receive_maximum=True))
    with switched_on(network, authority, broker.port, tmp_path, receive_maximum=2) as (agent, plugged):
        assert agent.wait_ready(WAIT_S)
        market = Counterpart(
            agent.device_id,
            lambda topic, payload: broker.send(agent.device_id, topic, payload),
            lambda: broker.published,
        )
        _fail_and_recover(market, plugged)
        assert broker.most_in_flight == 2
    broker.close()


def _fail_and_recover(market: Counterpart, plugged: Plugged) -> None:
    """More locks than the broker sends ahead, while the plug-in raises; then it works again."""
    plugged.fails = ValueError("checksum")
    refused = [str(uuid.uuid4()) for _ in range(5)]
    for trade in refused:
        market.lock(trade)
    for trade in refused:
        answer = market.answer(trade)
        assert (answer["status"], answer["reason"]) == ("rejected", "hardware_failed")
    assert market.until("/alert", lambda alert: alert["code"] == "hardware_failed", say=lambda: None)
    plugged.fails = None
    market.trade()


class Mosquitto:
    """Debian's broker, which a device may use as it uses IoT Core: with a certificate that says its name."""

    def __init__(self, program: Path, authority: CertificateAuthority, folder: Path) -> None:
        self.port = free_port()
        self._settings = folder / "mosquitto.conf"
        certificate, key = authority.server_files
        self._settings.write_text(
            f"listener {self.port} 127.0.0.1\nuser root\nallow_anonymous true\nrequire_certificate true\n"
            f"use_identity_as_username true\ncafile {authority.ca_file}\ncertfile {certificate}\nkeyfile {key}\n"
        )
        self._log = (folder / "mosquitto.log").open("wb")
        self._program = program
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._settings)], stdout=self._log, stderr=subprocess.STDOUT
        )

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def close(self) -> None:
        self.stop()
        self._log.close()


@pytest.fixture
def mosquitto(authority: CertificateAuthority, tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tools.mosquitto(), authority, tmp_path)
    yield broker
    broker.close()


@pytest.fixture
def listening(mosquitto: Mosquitto, authority: CertificateAuthority) -> Iterator["Listening"]:
    market = Listening(mosquitto, authority)
    yield market
    market.close()


class Listening:
    """The market as a client of a real broker."""

    def __init__(self, broker: Mosquitto, authority: CertificateAuthority) -> None:
        self.heard: list[tuple[str, bytes]] = []
        connected = threading.Event()
        self._stopped: Future[None] = Future()
        me = authority.issue("market")
        self._client = mqtt5_client_builder.mtls_from_bytes(
            endpoint="localhost",
            port=broker.port,
            cert_bytes=me.certificate,
            pri_key_bytes=me.key,
            ca_bytes=authority.certificate,
            client_id="market",
            min_reconnect_delay_ms=50,
            max_reconnect_delay_ms=200,
            session_behavior=mqtt5.ClientSessionBehaviorType.REJOIN_POST_SUCCESS,
            session_expiry_interval_sec=3_600,
            enable_metrics_collection=False,
            on_publish_received=self._on_publish,
            on_lifecycle_connection_success=lambda _: connected.set(),
            on_lifecycle_stopped=lambda _: self._stopped.set_result(None),
        )
        self._client.start()
        assert connected.wait(WAIT_S)
        self.subscribe()

    def subscribe(self) -> None:
        everything = mqtt5.Subscription(topic_filter="energy/#", qos=mqtt5.QoS.AT_LEAST_ONCE)
        self._client.subscribe(mqtt5.SubscribePacket(subscriptions=[everything])).result(WAIT_S)

    def send(self, topic: str, payload: bytes) -> None:
        self._client.publish(mqtt5.PublishPacket(topic=topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE))

    def _on_publish(self, data: mqtt5.PublishReceivedData) -> None:
        self.heard.append((data.publish_packet.topic, bytes(data.publish_packet.payload or b"")))

    def close(self) -> None:
        self._client.stop()
        self._stopped.result(WAIT_S)


def test_a_plug_in_that_raises_does_not_make_a_device_deaf_on_mosquitto(
    mosquitto: Mosquitto, listening: Listening, authority: CertificateAuthority, network: Network, tmp_path: Path
) -> None:
    with switched_on(network, authority, mosquitto.port, tmp_path, receive_maximum=2) as (agent, plugged):
        assert agent.wait_ready(WAIT_S)
        market = Counterpart(agent.device_id, listening.send, lambda: listening.heard)
        _fail_and_recover(market, plugged)
        assert plugged.charge_wh == 6_500


def test_mosquitto_that_was_restarted_without_its_sessions_is_subscribed_to_again(
    mosquitto: Mosquitto, listening: Listening, authority: CertificateAuthority, network: Network, tmp_path: Path
) -> None:
    with switched_on(network, authority, mosquitto.port, tmp_path) as (agent, plugged):
        assert agent.wait_ready(WAIT_S)
        market = Counterpart(agent.device_id, listening.send, lambda: listening.heard)
        market.trade()
        mosquitto.stop()
        mosquitto.start()
        assert agent.wait_ready(WAIT_S)
        listening.subscribe()
        market.trade()
        assert plugged.charge_wh == 5_000


def test_a_second_program_under_a_devices_name_is_told_in_a_sentence(
    authority: CertificateAuthority, network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="energy_device")
    broker = ScriptedBroker(authority, Ways())  # mosquitto hangs up without a word
    with switched_on(network, authority, broker.port, tmp_path) as (agent, _):
        assert agent.wait_ready(WAIT_S)
        twin = dataclasses.replace(agent.config, state_path=tmp_path / "twin.db")
        other = DeviceAgent(config=twin, source=Plugged(capacity_wh=1, charge_wh=1), network=network)
        other.start()
        end = time.monotonic() + WAIT_S
        while "running twice?" not in caplog.text and time.monotonic() < end:
            time.sleep(0.05)
        other.stop()
    broker.close()
    assert "another connection took this device's name: is its program running twice?" in caplog.text
