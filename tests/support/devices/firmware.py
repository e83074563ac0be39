"""A device that knows nothing but MQTT: it says what a test tells it to say, and hears its locks."""

import queue
from collections.abc import Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import msgspec
from awscrt import mqtt5
from awsiot import mqtt5_client_builder

from energy_market_client.answers import RegisteredDevice
from local_market.emulators.local_aws import LocalAws

TIMEOUT_S = 20.0


class Firmware:
    """A connection under a device's own certificate and name."""

    def __init__(self, device: RegisteredDevice, aws: LocalAws) -> None:
        self.device, self.device_id = device, device.device_id
        self.heard: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self._connected: Future[None] = Future()
        self._stopped: Future[None] = Future()
        self._client = mqtt5_client_builder.mtls_from_bytes(
            endpoint=aws.iot_host,
            port=aws.iot_port,
            cert_bytes=device.certificate_pem.encode(),
            pri_key_bytes=device.private_key.encode(),
            ca_bytes=aws.ca_file.read_bytes(),
            client_id=device.device_id,
            enable_metrics_collection=False,
            on_publish_received=self._on_publish,
            on_lifecycle_connection_success=lambda _: self._connected.set_result(None),
            on_lifecycle_connection_failure=lambda data: self._connected.set_exception(data.exception),
            on_lifecycle_stopped=lambda _: self._stopped.set_result(None),
        )

    def __enter__(self) -> Self:
        self._client.start()
        self._connected.result(TIMEOUT_S)
        subscriptions = [
            mqtt5.Subscription(topic_filter=f"energy/donor/{self.device_id}/{command}", qos=mqtt5.QoS.AT_LEAST_ONCE)
            for command in ("lock", "unlock", "transfer")
        ]
        granted = self._client.subscribe(mqtt5.SubscribePacket(subscriptions=subscriptions)).result(TIMEOUT_S)
        assert all(code in {0, 1} for code in granted.reason_codes)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _t: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye to the broker; once is enough."""
        if not self._stopped.done():
            self._client.stop()
            self._stopped.result(TIMEOUT_S)

    def say(self, topic: str, payload: object) -> None:
        """Publish to a topic, in which `{}` is the device; bytes go out as they are."""
        (acknowledged,) = self.say_at_once(topic, [payload])
        acknowledged.result(TIMEOUT_S)

    def say_at_once(self, topic: str, payloads: Iterable[object]) -> list[Future[object]]:
        """Publish them without waiting for one before the next; each future is done when the broker has its message."""
        acknowledged = []
        for payload in payloads:
            raw = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
            packet = mqtt5.PublishPacket(topic=topic.format(self.device_id), payload=raw, qos=mqtt5.QoS.AT_LEAST_ONCE)
            acknowledged.append(self._client.publish(packet))
        return acknowledged

    def hear(self, command: str) -> dict[str, Any]:
        """The next command of that kind."""
        while True:
            topic, payload = self.heard.get(timeout=60)
            if topic == f"energy/donor/{self.device_id}/{command}":
                return payload

    def _on_publish(self, data: mqtt5.PublishReceivedData) -> None:
        packet = data.publish_packet
        self.heard.put((packet.topic, msgspec.json.decode(packet.payload or b"")))
