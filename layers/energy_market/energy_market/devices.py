"""Messages to and from devices (the specification, section 3).

A device is who the topic says. The topic must agree with the MQTT client id, and both with the certificate of the
connection, which the broker's rule adds; what a payload says of its sender is never read.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, Final, Literal, Protocol, TypeVar
from uuid import UUID

import msgspec

from energy_market.domain.commands import Command
from energy_market.domain.errors import InvalidRequest
from energy_market.domain.quantities import kwh, parse_reported_kwh

MAX_PAYLOAD_BYTES: Final = 16 * 1024
MAX_LOCKS: Final = 1000
MAX_SEQ: Final = 2**63 - 1
MAX_EXPONENT: Final = 1000
PUBLISHERS: Final = 16  # at once; the client needs as many connections, or makes new ones again and again

T = TypeVar("T")


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


class Reported:
    """A JSON number of kWh in a device's message, in watt-hours."""

    __slots__ = ("energy_wh",)

    def __init__(self, energy_wh: int) -> None:
        """From an amount that has been checked."""
        self.energy_wh = energy_wh


class Percent:
    """A JSON number from 0 to 100."""

    __slots__ = ("value",)

    def __init__(self, value: Decimal) -> None:
        """From a number that has been checked."""
        self.value = value


class LockResponse(msgspec.Struct, frozen=True):
    """`energy/donor/{device_id}/lock/response`. The specification's two fields, and ours."""

    order_id: UUID
    status: Literal["locked", "rejected"]
    transaction_id: UUID | None = None
    seq: int | None = None

    def __post_init__(self) -> None:
        """What the types do not say."""
        if self.seq is not None and not 0 <= self.seq <= MAX_SEQ:
            raise ValueError("seq out of range")


class DonorStatus(msgspec.Struct, frozen=True):
    """`energy/donor/{device_id}/status`."""

    available_kwh: Reported
    seq: int
    battery_level: Percent | None = None
    locks: list[UUID] = []

    def __post_init__(self) -> None:
        """What the types do not say."""
        if not 0 <= self.seq <= MAX_SEQ or len(self.locks) > MAX_LOCKS:
            raise ValueError("seq or locks out of range")


class TransferStatus(msgspec.Struct, frozen=True):
    """`energy/transfer/{device_id}/status`. `delivered`: it is over; `refused`: nothing is reserved for it here."""

    transaction_id: UUID
    status: Literal["started", "delivering", "delivered", "refused"]
    kwh_delivered: Reported
    seq: int

    def __post_init__(self) -> None:
        """What the types do not say."""
        if not 0 <= self.seq <= MAX_SEQ:
            raise ValueError("seq out of range")


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


def read_payload(payload: bytes, kind: type[T]) -> T:
    """A payload of that kind; Dropped if it is not one. Unknown fields are left alone: firmware may know more."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise Dropped("payload_too_large")
    try:
        return msgspec.json.Decoder(kind, dec_hook=_read_number, float_hook=_decimal).decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError, InvalidRequest) as error:
        raise Dropped("invalid_payload") from error


def read_text(payload: bytes) -> str:
    """Any JSON object as it was said, to be kept; Dropped if it is none (or holds what PostgreSQL's jsonb cannot)."""
    read_payload(payload, dict[str, Any])  # all of it: a Struct would pass over what it does not know
    text = payload.decode()
    if "\\u0000" in text:
        raise Dropped("invalid_payload")
    return text


def _decimal(text: str) -> Decimal:
    """A JSON number with all its digits; ValueError for one that no device measures and PostgreSQL cannot hold."""
    try:
        number = Decimal(text)
    except ArithmeticError:
        raise ValueError("number out of range") from None
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > MAX_EXPONENT:
        raise ValueError("number out of range")
    return number


def _read_number(kind: type, value: object) -> object:
    if kind is Reported:
        return Reported(parse_reported_kwh(value, name="kwh"))
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not 0 <= value <= 100:  # noqa: PLR2004 -- percent
        raise ValueError("not a percentage")
    return Percent(Decimal(value))


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
        sent = [
            (command, pool.submit(client.publish, topic=command.topic, qos=1, payload=payload(command)))
            for command in commands
        ]
        return [(command, error) for command, task in sent if isinstance(error := task.exception(), Exception)]

    return publish
