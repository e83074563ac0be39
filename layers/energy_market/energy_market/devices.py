"""Messages to and from devices (the specification, section 3).

A device is who the topic says. The topic must agree with the MQTT client id, and both with the certificate of the
connection, which the broker's rule adds; what a payload says of its sender is never read.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Final, Protocol
from uuid import UUID

import msgspec

from energy_market.domain.commands import Command
from energy_market.domain.quantities import kwh

PUBLISHERS: Final = 16  # at once; the client needs as many connections, or makes new ones again and again
PUBLISH_S: Final = 5.0
"""Seconds in which commands are begun to be published: those that a silent broker leaves are claimed again later."""


class Dropped(Exception):
    """A message that changes nothing, and why: a snake_case word for the log."""

    def __init__(self, reason: str) -> None:
        """`reason` is logged; nothing of the message is."""
        super().__init__(reason)
        self.reason = reason


# ---------------------------------------------------------------------------------------------------- from devices


class QueuedMessage(msgspec.Struct, frozen=True):
    """A device's message as every rule queues it: whole and encoded, so that no payload can pass for our own fields."""

    topic: str
    client_id: str
    payload: bytes  # base64 in the queue
    received_at_ms: int
    principal: str = ""  # the certificate of the connection; none of what the broker itself says


def read_queued(body: str) -> QueuedMessage:
    """A message as it lies in the queue; Dropped if it is none."""
    try:
        return msgspec.json.decode(body, type=QueuedMessage)
    except msgspec.MsgspecError as error:
        raise Dropped("not_a_device_message") from error


def sender(message: QueuedMessage, *, topic: str) -> UUID:
    """Whose message it is, by its topic (`+` stands for the device); Dropped if the connection was somebody else's."""
    expected, levels = topic.split("/"), message.topic.split("/")
    if len(expected) != len(levels) or any(e not in {"+", level} for e, level in zip(expected, levels, strict=True)):
        raise Dropped("unknown_topic")
    device_id = levels[expected.index("+")]
    if message.client_id != device_id:
        raise Dropped("foreign_client")
    return device_uuid(device_id)


def device_uuid(text: str) -> UUID:
    """A device's id; Dropped if it cannot be one of ours, in our spelling."""
    try:
        device_id = UUID(text)
    except ValueError as error:
        raise Dropped("unknown_device") from error
    if str(device_id) != text:
        raise Dropped("unknown_device")
    return device_id


# ------------------------------------------------------------------------------------------------------ to devices


_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


def payload(command: Command) -> bytes:
    """The message that says it."""
    fields: dict[str, object] = {"transaction_id": command.transaction_id}
    match command.kind:
        case "lock":
            fields["order_id"] = command.sell_order_id
            fields["kwh_requested"] = kwh(command.energy_wh)
            fields["expires_at"] = command.expires_at
        case "transfer":
            fields["kwh"] = kwh(command.energy_wh)
    return _ENCODER.encode(fields)


class IotData(Protocol):
    """The one call of boto3's `iot-data` client that we use."""

    def publish(self, *, topic: str, qos: int, payload: bytes) -> object:
        """Publish to one topic; raises botocore's errors."""


Publish = Callable[[Iterable[Command]], list[tuple[Command, Exception]]]


def publisher(client: IotData) -> Publish:
    """A function that publishes commands concurrently, at least once each, and returns those that failed, with why.

    One that failed is not tried again here: its row is still waiting, and the next tick claims it again.
    """
    pool = ThreadPoolExecutor(max_workers=PUBLISHERS)

    def publish(commands: Iterable[Command]) -> list[tuple[Command, Exception]]:
        until = monotonic() + PUBLISH_S

        def one(command: Command) -> None:
            if monotonic() >= until:
                raise TimeoutError("The broker is too slow.")
            client.publish(topic=command.topic, qos=1, payload=payload(command))

        sent = [(command, pool.submit(one, command)) for command in commands]
        return [(command, error) for command, task in sent if isinstance(error := task.exception(), Exception)]

    return publish
