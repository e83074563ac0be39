"""A device on the network: MQTT 5 over mutual TLS by the AWS IoT Device SDK, and the timers.

    network = Network()
    agent = DeviceAgent(config=config, source=battery, network=network)
    agent.start()
    ...
    agent.stop()
    network.close()

Any number of agents share one Network. It has one thread for the sockets, one on which every device works, and one that
calls the hardware (plus one for each hardware call that hangs). The broker keeps the session of a device that is away,
so commands sent meanwhile arrive later. A command is acknowledged to the broker once its decision is on the device's
disk.
"""

import asyncio
import logging
import random
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from enum import Enum
from typing import Final, TypeVar

from awscrt import mqtt5
from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup
from awsiot import mqtt5_client_builder

from energy_device.config import ConfigError, DeviceConfig
from energy_device.device import Device
from energy_device.energy_source import EnergySource
from energy_device.hardware import Workers
from energy_device.messages import Report
from energy_device.reservations import State
from energy_device.store import Store

logger: Final = logging.getLogger("energy_device")

T = TypeVar("T")

_STATUS_DELAY_S: Final = 0.05
"""Seconds after which a change is reported, so that a burst of commands makes one status message."""

_RETRY_DISK_S: Final = 5.0

_FAILURE: Final = 0x80
"""First MQTT 5 reason code that means a refusal."""


def _wall_clock() -> datetime:
    return datetime.now(UTC)


class Network:
    """The threads that the agents of one process share: for the sockets, for their work, and for their hardware."""

    def __init__(self) -> None:
        # A single loop: an agent sends a few messages a minute, and every further loop would be another thread.
        self._event_loops = EventLoopGroup(1)
        self._bootstrap = ClientBootstrap(self._event_loops, DefaultHostResolver(self._event_loops))
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_log_failure)
        self._thread = threading.Thread(target=self._loop.run_forever, name="energy-devices", daemon=True)
        self._thread.start()
        self.workers = Workers()

    @property
    def bootstrap(self) -> ClientBootstrap:
        """The bootstrap for the SDK's clients."""
        return self._bootstrap

    def soon(self, work: Callable[..., None], *arguments: object) -> None:
        """Have the working thread call this, in order. From any thread."""
        self._loop.call_soon_threadsafe(work, *arguments)

    def later(self, delay_s: float, work: Callable[..., None], *arguments: object) -> asyncio.TimerHandle:
        """Call this after `delay_s`. From the working thread only."""
        return self._loop.call_later(delay_s, work, *arguments)

    def wait(self, work: Callable[[], T], *, timeout_s: float) -> T:
        """Have the working thread call this, and wait for its result or exception. From any thread but that one."""
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                future.set_exception(error)

        self.soon(call)
        return future.result(timeout=timeout_s)

    def close(self, *, timeout_s: float = 10.0) -> None:
        """End the threads, after the agents have stopped. Raises TimeoutError if one does not end.

        A thread whose hardware hangs is excepted: it ends when the hardware returns, or with the program.
        """
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError("The devices' working thread does not end.")
        self.workers.close(timeout_s=timeout_s)
        self._loop.close()
        ended = [self._bootstrap.shutdown_event, self._event_loops.shutdown_event]
        # The SDK ends its threads once the last reference is gone.
        del self._bootstrap, self._event_loops
        for event in ended:
            if not event.wait(timeout_s):
                raise TimeoutError("The SDK's network thread does not end: is an agent not stopped?")


def _log_failure(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    error = context.get("exception")
    logger.error(
        "A device's work failed: %s",
        context.get("message"),
        exc_info=error if isinstance(error, BaseException) else None,
    )


def _words(packet: mqtt5.ConnackPacket | mqtt5.DisconnectPacket | None) -> str | None:
    """The broker's reason for the end of a connection, if it gave one."""
    if packet is None:
        return None
    code = packet.reason_code
    if code == mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER:
        return "another connection took this device's name: is its program running twice?"
    word = code.name.lower().replace("_", " ") if isinstance(code, Enum) else str(code)
    return f"{word}: {packet.reason_string}" if packet.reason_string else word


class DeviceAgent:
    """One device, connected. Call `start` and `stop` from any thread but the working one; an agent starts only once."""

    def __init__(
        self,
        *,
        config: DeviceConfig,
        source: EnergySource,
        network: Network,
        now: Callable[[], datetime] = _wall_clock,
    ) -> None:
        self.config = config
        self._source = source
        self._network = network
        self._broker = f"{config.host}:{config.port}"
        self._now = now
        self._device: Device | None = None
        self._client: mqtt5.Client | None = None
        self._ready = threading.Event()
        self._stopping = False
        self._stopped = threading.Event()
        # Everything below belongs to the working thread.
        self._online = False
        self._connections = 0
        self._subscribed = False
        self._in_flight: set[tuple[str, State]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._reserved_wh = 0
        self._locks: tuple[str, ...] = ()

    @property
    def device_id(self) -> str:
        """The device's id, which is also the thing's name and the MQTT client id."""
        return self.config.device_id

    @property
    def reserved_wh(self) -> int:
        """Energy promised and not yet delivered, which the home must leave in the battery. From any thread."""
        return self._reserved_wh

    @property
    def locks(self) -> tuple[str, ...]:
        """The ids that hold energy. From any thread."""
        return self._locks

    @property
    def is_ready(self) -> bool:
        """Whether the agent is connected and subscribed. From any thread."""
        return self._ready.is_set()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the agent is connected and subscribed."""
        return self._ready.wait(timeout_s)

    def start(self) -> None:
        """Open the state file and connect, with retries until `stop`.

        Raises StateError or `sqlite3.Error` if the state file cannot be used, ConfigError if the certificate cannot. A
        missing broker raises nothing.
        """
        if self._client is not None or self._stopped.is_set():
            raise RuntimeError("An agent is started once.")
        config = self.config
        store = Store.open(config.state_path, device_id=config.device_id, now=self._now)
        self._device = Device(
            device_id=config.device_id,
            side=config.side,
            store=store,
            source=self._source,
            patience_s=config.delivery_patience_s,
            submit=self._network.workers.submit,
        )
        try:
            self._client = self._make_client()
        except Exception as error:
            store.close()
            raise ConfigError(f"The certificate, its key or the authority cannot be used: {error}") from error
        self._network.soon(self._began)
        self._client.start()

    def _make_client(self) -> mqtt5.Client:
        config = self.config
        return mqtt5_client_builder.mtls_from_bytes(
            endpoint=config.host,
            port=config.port,
            cert_bytes=config.certificate,
            pri_key_bytes=config.private_key,
            ca_bytes=config.ca,
            client_id=config.device_id,
            client_bootstrap=self._network.bootstrap,
            # Already for a process's first connection: a command sent while the device restarted must not be lost.
            session_behavior=mqtt5.ClientSessionBehaviorType.REJOIN_ALWAYS,
            session_expiry_interval_sec=config.session_expiry_s,
            # Reports that must arrive are repeated from the disk; other queued messages would soon be outdated.
            offline_queue_behavior=mqtt5.ClientOperationQueueBehaviorType.FAIL_ALL_ON_DISCONNECT,
            retry_jitter_mode=mqtt5.ExponentialBackoffJitterMode.FULL,
            min_reconnect_delay_ms=int(config.min_reconnect_s * 1000),
            max_reconnect_delay_ms=int(config.max_reconnect_s * 1000),
            min_connected_time_to_reset_reconnect_delay_ms=5_000,
            keep_alive_interval_sec=config.keep_alive_s,
            ping_timeout_ms=10_000,
            connack_timeout_ms=10_000,
            ack_timeout_sec=30,
            receive_maximum=config.receive_maximum,
            enable_metrics_collection=False,
            on_publish_received=self._on_publish_received,
            on_lifecycle_connection_success=self._on_connected,
            on_lifecycle_connection_failure=self._on_connection_failed,
            on_lifecycle_disconnection=self._on_disconnected,
            on_lifecycle_stopped=self._on_stopped,
        )

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Disconnect from the broker, which keeps the session, and release the state file. Raises TimeoutError."""
        client, device = self._client, self._device
        if client is None or device is None:
            return
        self._stopping = True
        client.stop(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION))
        if not self._stopped.wait(timeout_s):
            raise TimeoutError(f"The connection of device {self.device_id} does not end.")
        self._network.wait(self._ended, timeout_s=timeout_s)

    # Called by the SDK's thread, which must not wait: all work is passed to the working thread.

    def _on_publish_received(self, data: mqtt5.PublishReceivedData) -> None:
        packet = data.publish_packet
        acquire = data.acquire_publish_acknowledgement_control
        self._network.soon(self._received, packet.topic, bytes(packet.payload or b""), acquire() if acquire else None)

    def _on_connected(self, data: mqtt5.LifecycleConnectSuccessData) -> None:
        self._network.soon(self._connected, bool(data.connack_packet.session_present))

    def _on_connection_failed(self, data: mqtt5.LifecycleConnectFailureData) -> None:
        why = _words(data.connack_packet) or str(data.exception)
        logger.warning("%s: Cannot connect to %s (%s); trying again.", self.device_id, self._broker, why)

    def _on_disconnected(self, data: mqtt5.LifecycleDisconnectData) -> None:
        self._ready.clear()
        self._network.soon(self._disconnected, _words(data.disconnect_packet) or str(data.exception))

    def _on_stopped(self, _data: mqtt5.LifecycleStoppedData) -> None:
        self._stopped.set()

    # Called by the working thread.

    def _began(self) -> None:
        self._publish_state()
        self._advance_soon(0)
        # The devices of one process, or of a street after a power cut, must not report in step.
        self._timers["tick"] = self._network.later(self.config.status_period_s * random.random(), self._tick)  # noqa: S311

    def _ended(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        device, self._device = self._device, None
        # The SDK's client and this agent refer to each other: without this, neither is ever freed.
        self._client = None
        if device is not None:
            device.close()

    def _publish_state(self) -> None:
        """Publish the reservations for other threads to read."""
        if self._device is not None:
            self._locks, self._reserved_wh = tuple(self._device.locks), self._device.reserved_wh

    def _connected(self, session_present: bool) -> None:  # noqa: FBT001 - a callback's argument
        logger.info("%s: Connected to %s.", self.device_id, self._broker)
        self._online = True
        self._connections += 1
        # Subscribe once per process, whatever the broker says: a session may be of a device that died before
        # subscribing.
        self._subscribed = self._subscribed and session_present
        self._subscribe()
        self._report()

    def _disconnected(self, why: str) -> None:
        if self._stopping:
            logger.info("%s: Disconnected.", self.device_id)
        else:
            logger.warning("%s: The connection to %s is lost (%s); trying again.", self.device_id, self._broker, why)
        self._online = False

    def _subscribe(self) -> None:
        device, client = self._device, self._client
        if device is None or client is None or not self._online:
            return
        if self._subscribed or not device.command_topics:
            self._subscribed = True
            self._ready.set()
            return
        subscriptions = [
            mqtt5.Subscription(topic_filter=topic, qos=mqtt5.QoS.AT_LEAST_ONCE) for topic in device.command_topics
        ]
        future = client.subscribe(mqtt5.SubscribePacket(subscriptions=subscriptions))
        future.add_done_callback(lambda done: self._network.soon(self._suback, done))

    def _suback(self, done: "Future[mqtt5.SubackPacket]") -> None:
        error = done.exception()
        refused = [code for code in done.result().reason_codes if code >= _FAILURE] if error is None else []
        if error is not None or refused:
            # The next tick tries again.
            if self._device is not None:
                why = f"The broker refuses the subscription to commands: {error or refused}."
                self._device.alert("critical", "subscription_failed", why)
            return
        self._subscribed = True
        if self._online:
            self._ready.set()

    def _received(
        self,
        topic: str,
        payload: bytes,
        control: mqtt5.PublishAcknowledgementControlHandle | None,
        retried_on: int | None = None,
    ) -> None:
        if self._device is None or retried_on not in (None, self._connections):
            return  # the broker resends unacknowledged commands on a new connection
        try:
            reports = self._device.receive(topic, payload)
        except sqlite3.Error as error:
            self._disk_failed(error)
            self._network.later(_RETRY_DISK_S, self._received, topic, payload, control, self._connections)
            return
        if control is not None and self._client is not None:
            self._acknowledge(control)
        self._publish(reports)
        self._advance_soon(0)
        self._status_soon()

    def _acknowledge(self, control: mqtt5.PublishAcknowledgementControlHandle) -> None:
        if self._client is None:
            return
        try:
            self._client.invoke_publish_acknowledgement(control)
        except Exception as error:  # noqa: BLE001 - the SDK raises many kinds; unacknowledged, the command comes again
            logger.info("%s: A command was not acknowledged, so it comes again: %s", self.device_id, error)

    def _disk_failed(self, error: sqlite3.Error) -> None:
        if self._device is not None:
            self._device.alert("critical", "storage_failed", f"The state file cannot be written: {error}")

    def _status_soon(self) -> None:
        self._publish_state()
        if self._online and "status" not in self._timers:
            self._timers["status"] = self._network.later(_STATUS_DELAY_S, self._report)

    def _tick(self) -> None:
        self._timers["tick"] = self._network.later(self.config.status_period_s, self._tick)
        if self._online:
            if not self._subscribed:
                self._subscribe()
            self._report()
        self._advance_soon(0)

    def _report(self) -> None:
        """Publish the status, and reports that the broker has not acknowledged."""
        timer = self._timers.pop("status", None)
        if timer is not None:
            timer.cancel()
        if self._device is None or not self._online:
            return
        try:
            owed = [report for report in self._device.owed() if not self._is_in_flight(report)]
            self._publish([*owed, *self._device.status()])
        except sqlite3.Error as error:
            self._disk_failed(error)
        self._publish(self._device.take_alerts())

    def _advance_soon(self, delay_s: float) -> None:
        if self._device is not None and self._device.is_delivering and "advance" not in self._timers:
            self._timers["advance"] = self._network.later(delay_s, self._advance)

    def _advance(self) -> None:
        """Continue the delivery, connected or not."""
        self._timers.pop("advance", None)
        if self._device is None:
            return
        held = self._device.locks
        try:
            self._publish(self._device.advance())
        except sqlite3.Error as error:
            self._disk_failed(error)
        self._publish_state()
        if self._device.locks != held:
            self._status_soon()
            self._advance_soon(0)
        else:
            self._advance_soon(self.config.transfer_period_s)

    def _is_in_flight(self, report: Report) -> bool:
        return report.of is not None and (report.of.id, report.of.state) in self._in_flight

    def _publish(self, reports: Sequence[Report]) -> None:
        """Publish, if connected. Otherwise nothing is lost: reports that must arrive are repeated later."""
        if not self._online or self._client is None:
            return
        for report in reports:
            if report.of is not None:
                self._in_flight.add((report.of.id, report.of.state))
            future = self._client.publish(
                mqtt5.PublishPacket(topic=report.topic, payload=report.payload, qos=mqtt5.QoS.AT_LEAST_ONCE)
            )
            future.add_done_callback(lambda done, report=report: self._network.soon(self._puback, report, done))

    def _puback(self, report: Report, done: "Future[mqtt5.PublishCompletionData]") -> None:
        if report.of is not None:
            self._in_flight.discard((report.of.id, report.of.state))
        error = done.exception()
        if error is not None:
            logger.info("%s: A message on %s was not published: %s", self.device_id, report.topic, error)
            return
        reason_code = done.result().puback.reason_code
        if reason_code is not None and reason_code >= _FAILURE:
            logger.warning("%s: The broker refused a message on %s: %r", self.device_id, report.topic, reason_code)
            return
        if self._device is not None:
            self._device.settle(report)
