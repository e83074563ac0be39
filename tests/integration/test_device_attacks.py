"""What somebody with the AWS IoT Device SDK can do at the broker, with a certificate or without, and what of it counts.

The broker is the local AWS's, with the template's policy and rules and `AUTH=true`; what the rules queue goes through
the product's own use cases into a real database.
"""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import pytest
from awscrt import mqtt5
from awsiot import mqtt5_client_builder

from energy_market.aws.registry import Credentials, DeviceRegistry
from energy_market.messages.received import Dropped, read_queued
from energy_market.usecases.record_lock_response import record_lock_response
from energy_market.usecases.record_telemetry import record_telemetry
from energy_market.usecases.register_device import RegisteredDevice, Registration, register_device
from energy_market.usecases.remove_device import remove_device
from energy_market.usecases.revoke_certificates import revoke_certificates
from energy_market.usecases.rotate_certificate import Rotation, rotate_certificate
from energy_market.usecases.tidy_device import tidy_devices
from local_market.emulators.ministack import start_ministack
from tests.support.devices.broker import Broker
from tests.support.market import SETTINGS, Market

TIMEOUT_S = 10.0
NOT_AUTHORIZED = mqtt5.PubackReasonCode.NOT_AUTHORIZED


@pytest.fixture(scope="module")
def broker(state_folder: Path) -> Iterator[Broker]:
    aws = start_ministack(state_folder / "attacked")
    broker = Broker(aws)
    yield broker
    broker.close()
    aws.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Somebody's device, with what it connects with."""

    owner: UUID
    id: UUID
    credentials: Credentials

    def topic(self, template: str) -> str:
        return template.format(self.id)


class Backend:
    """The market behind the broker."""

    def __init__(self, broker: Broker, market: Market) -> None:
        self.broker, self.market = broker, market
        self.registry = DeviceRegistry("device")
        self.registry._client = broker.iot  # noqa: SLF001 -- the local AWS's

    def device(self) -> Owned:
        made: list[RegisteredDevice] = []

        def present(one: RegisteredDevice) -> str:
            made.append(one)
            return "{}"

        owner = self.market.user()
        asked = Registration(owner_id=owner, device_type="esp32", side="donor", location="the cellar")
        register_device(self.market.database, self.registry, asked, present=present)
        return Owned(owner=owner, id=made[0].device.id, credentials=made[0].credentials)

    def take(self) -> list[str]:
        """What became of each message in the queue: `taken`, or why it was dropped."""
        said = []
        for body in self.broker.take():
            message = read_queued(body)
            try:
                with self.market.database.transaction() as conn:
                    if message.topic.endswith("/lock/response"):
                        record_lock_response(conn, message, settlement_window_s=SETTINGS.settlement_window_s)
                    else:
                        record_telemetry(conn, message)
            except Dropped as dropped:
                said.append(dropped.reason)
            else:
                said.append("taken")
        return said

    def stand(self) -> list[tuple[object, ...]]:
        return self.market.sql(
            "SELECT id, status, available_wh, status_seq, last_ping, presence_session FROM iot_devices ORDER BY no"
        )


@pytest.fixture
def backend(broker: Broker, market: Market) -> Iterator[Backend]:
    broker.take()
    yield Backend(broker, market)
    broker.take()


class Connection:
    """A client that says what it is told to. Without credentials it has no certificate."""

    def __init__(self, broker: Broker, credentials: Credentials | None, client_id: object, **options: Any) -> None:  # noqa: ANN401 -- the SDK's
        self._connected: Future[None] = Future()
        self._stopped: Future[None] = Future()
        self.hung_up = threading.Event()
        named = {
            "endpoint": broker.aws.iot_host,
            "port": broker.aws.iot_port,
            "ca_bytes": broker.ca,
            "client_id": str(client_id),
            "enable_metrics_collection": False,
            "min_reconnect_delay_ms": 60_000,
            "on_lifecycle_connection_success": lambda _: self._connected.set_result(None),
            "on_lifecycle_connection_failure": lambda data: self._connected.set_exception(data.exception),
            "on_lifecycle_disconnection": lambda _: self.hung_up.set(),
            "on_lifecycle_stopped": lambda _: self._stopped.set_result(None),
            **options,
        }
        if credentials is None:
            self._client = mqtt5_client_builder.new_default_builder(**named)
        else:
            assert credentials.private_key is not None
            self._client = mqtt5_client_builder.mtls_from_bytes(
                cert_bytes=credentials.certificate_pem.encode(), pri_key_bytes=credentials.private_key.encode(), **named
            )
        self._client.start()

    def is_let_in(self) -> bool:
        return self._connected.exception(TIMEOUT_S) is None

    def __enter__(self) -> Self:
        assert self.is_let_in()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.stop()
        self._stopped.result(TIMEOUT_S)

    def say(self, topic: str, payload: object, *, retain: bool = False) -> int:
        """The broker's answer to a message: a reason code."""
        packet = mqtt5.PublishPacket(
            topic=topic, payload=json.dumps(payload).encode(), qos=mqtt5.QoS.AT_LEAST_ONCE, retain=retain
        )
        return int(self._client.publish(packet).result(TIMEOUT_S).puback.reason_code)

    def hear(self, topic_filter: str) -> int:
        """The broker's answer to a subscription: a reason code."""
        wanted = [mqtt5.Subscription(topic_filter=topic_filter, qos=mqtt5.QoS.AT_LEAST_ONCE)]
        done = self._client.subscribe(mqtt5.SubscribePacket(subscriptions=wanted)).result(TIMEOUT_S)
        return int(done.reason_codes[0])


STATUS: dict[str, object] = {"available_kwh": 999, "battery_level": 100, "locks": [], "seq": 10**15}


def everything_that_devices_say() -> dict[str, dict[str, object]]:
    return {
        "energy/donor/{}/status": STATUS,
        "energy/recipient/{}/status": {"consumption_kwh": 1},
        "energy/device/{}/alert": {"code": "fire"},
        "energy/transfer/{}/status": {
            "transaction_id": str(UUID(int=1)),
            "status": "delivered",
            "kwh_delivered": 1,
            "seq": 1,
        },
        "energy/donor/{}/lock/response": {"order_id": str(UUID(int=1)), "status": "locked"},
    }


# ------------------------------------------------------------------------------------------------ at the broker


def test_a_device_speaks_on_its_own_topics_and_on_no_others(backend: Backend) -> None:
    mine, other = backend.device(), backend.device()
    before = backend.stand()[1]
    with Connection(backend.broker, mine.credentials, mine.id) as connection:
        for template, said in everything_that_devices_say().items():
            assert connection.say(mine.topic(template), said) == 0, template
            assert connection.say(other.topic(template), said) == NOT_AUTHORIZED, template
        for topic in (
            mine.topic("energy/donor/{}/lock"),  # what it is told
            other.topic("energy/donor/{}/lock"),
            other.topic("energy/donor/{}/unlock"),
            other.topic("energy/donor/{}/transfer"),
            mine.topic("energy/donor/{}/status/more"),
            "energy/donor/status",
            other.topic("$aws/things/{}/shadow/update"),
            mine.topic("$aws/things/{}/shadow/update"),
            "$aws/rules/DonorStatusRule",
        ):
            assert connection.say(topic, STATUS) == NOT_AUTHORIZED, topic
        assert connection.say(other.topic("energy/donor/{}/status"), STATUS, retain=True) == NOT_AUTHORIZED
        # Many a firmware retains by default: that is a message as any other.
        assert connection.say(mine.topic("energy/device/{}/alert"), {"code": "fire"}, retain=True) == 0
    taken = backend.take()
    assert taken.count("taken") == 6  # status, meter, alert, the retained one; and that it came and went
    assert backend.stand()[1] == before


def test_a_device_hears_its_own_commands_and_no_others(backend: Backend) -> None:
    mine, other = backend.device(), backend.device()
    with Connection(backend.broker, mine.credentials, mine.id) as connection:
        for command in ("lock", "unlock", "transfer"):
            assert connection.hear(mine.topic("energy/donor/{}/") + command) in {0, 1}
            assert connection.hear(other.topic("energy/donor/{}/") + command) >= 0x80
            assert connection.hear(f"energy/donor/+/{command}") >= 0x80
        for topic_filter in ("#", "energy/#", "energy/donor/+/#", "energy/donor/+/status", "$aws/events/presence/#"):
            assert connection.hear(topic_filter) >= 0x80, topic_filter


def test_a_device_connects_under_its_own_name_only(backend: Backend) -> None:
    mine, other = backend.device(), backend.device()
    for name in (other.id, "los-tecnicos-backend", str(mine.id).upper(), f"{mine.id}2"):
        connection = Connection(backend.broker, mine.credentials, name)
        assert not connection.is_let_in(), name
        connection.close()


def test_a_device_leaves_no_last_words_on_anothers_topic(backend: Backend) -> None:
    mine, other = backend.device(), backend.device()
    will = mqtt5.PublishPacket(
        topic=other.topic("energy/donor/{}/status"), payload=b"{}", qos=mqtt5.QoS.AT_LEAST_ONCE, retain=False
    )
    connection = Connection(backend.broker, mine.credentials, mine.id, will=will)
    assert not connection.is_let_in()
    connection.close()


# ------------------------------------------------------------------------------------------------ behind it


def test_without_a_certificate_nothing_counts_that_is_said_in_a_devices_name(backend: Backend) -> None:
    """The local broker lets such a client in, under any name, and takes what it says: so the market must not."""
    victim = backend.device()
    with Connection(backend.broker, victim.credentials, victim.id) as connection:
        assert connection.say(victim.topic("energy/donor/{}/status"), {"available_kwh": 1, "seq": 5}) == 0
    backend.take()
    before = backend.stand()
    with Connection(backend.broker, None, victim.id) as stranger:
        for template, said in everything_that_devices_say().items():
            stranger.say(victim.topic(template), said)
    dropped = backend.take()
    assert len(dropped) == 7, "five messages, and that it came and went"
    assert set(dropped) == {"unknown_certificate"}
    assert backend.stand() == before


def test_without_a_certificate_and_under_another_name_nothing_counts_either(backend: Backend) -> None:
    victim = backend.device()
    before = backend.stand()
    with Connection(backend.broker, None, "anybody") as stranger:
        for template, said in everything_that_devices_say().items():
            stranger.say(victim.topic(template), said)
            stranger.say(template.format("no-device"), said)
        stranger.say(f"$aws/events/presence/connected/{victim.id}", {"clientId": str(victim.id), "timestamp": 1})
    assert set(backend.take()) == {"foreign_client", "unknown_device"}
    assert backend.stand() == before


def is_refused(connection: Connection, said: Callable[[], int]) -> bool:
    """Whether a message is refused, or the connection is ended for it."""
    try:
        code = said()
    except Exception:  # noqa: BLE001 -- the SDK's many words for a line that is gone
        return connection.hung_up.wait(TIMEOUT_S)
    return bool(code == NOT_AUTHORIZED)


def test_a_revoked_certificate_opens_nothing_and_what_was_said_under_it_counts_no_more(backend: Backend) -> None:
    mine = backend.device()
    topic = mine.topic("energy/donor/{}/status")
    with Connection(backend.broker, mine.credentials, mine.id) as connection:
        assert connection.say(topic, {"available_kwh": 1, "seq": 1}) == 0
        assert set(backend.take()) == {"taken"}
        assert connection.say(topic, {"available_kwh": 2, "seq": 2}) == 0  # lies in the queue while it is revoked
        revoke_certificates(backend.market.database, backend.registry, mine.id, owner_id=mine.owner)
        assert is_refused(connection, lambda: connection.say(topic, {"available_kwh": 3, "seq": 3}))
    assert "taken" not in backend.take()
    assert backend.market.sql("SELECT available_wh, status FROM iot_devices") == [(1_000, "Offline")]
    again = Connection(backend.broker, mine.credentials, mine.id)
    assert not again.is_let_in()
    again.close()


def test_a_removed_device_is_not_let_in(backend: Backend) -> None:
    mine = backend.device()
    remove_device(backend.market.database, backend.registry, mine.id, owner_id=mine.owner)
    connection = Connection(backend.broker, mine.credentials, mine.id)
    assert not connection.is_let_in()
    connection.close()


def test_of_two_certificates_the_older_ends_once_the_newer_is_heard(backend: Backend) -> None:
    mine = backend.device()
    topic = mine.topic("energy/donor/{}/status")
    made = rotate_certificate(
        backend.market.database, backend.registry, Rotation(owner_id=mine.owner, device_id=mine.id)
    )
    with Connection(backend.broker, mine.credentials, mine.id) as connection:
        assert connection.say(topic, {"available_kwh": 1, "seq": 1}) == 0
    with Connection(backend.broker, made, mine.id) as connection:
        assert connection.say(topic, {"available_kwh": 2, "seq": 2}) == 0
    assert set(backend.take()) == {"taken"}
    backend.market.sql("UPDATE device_certificates SET valid_until = valid_until - interval '61 seconds'")
    backend.market.sql("UPDATE iot_devices SET tidy_at = tidy_at - interval '61 seconds'")
    assert tidy_devices(backend.market.database, backend.registry) == 1
    old = Connection(backend.broker, mine.credentials, mine.id)
    assert not old.is_let_in()
    old.close()
    with Connection(backend.broker, made, mine.id) as connection:
        assert connection.say(topic, {"available_kwh": 3, "seq": 3}) == 0
    assert set(backend.take()) == {"taken"}
    assert backend.market.sql("SELECT available_wh FROM iot_devices") == [(3_000,)]


def test_a_certificate_that_was_made_and_never_let_in_opens_nothing(backend: Backend) -> None:
    """What a process leaves that died before its last step."""
    mine = backend.device()
    made = backend.registry.certify(mine.id, None)
    connection = Connection(backend.broker, made, mine.id)
    assert not connection.is_let_in()
    connection.close()
