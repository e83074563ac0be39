"""Messages from devices (the specification, section 3).

The topic names the device. It must agree with the MQTT client id, and both with the certificate of the connection,
which the broker's rule adds. A sender's id inside a payload is never read.
"""

from uuid import UUID

import msgspec

from energy_market.domain import topics


class Dropped(Exception):
    """A message that changes nothing, and the reason: a snake_case word for the log."""

    def __init__(self, reason: str) -> None:
        """`reason` is logged; no part of the message is."""
        super().__init__(reason)
        self.reason = reason


class QueuedMessage(msgspec.Struct, frozen=True):
    """A device's message as the rules queue it: whole and encoded, so that a payload cannot imitate our own fields."""

    topic: str
    client_id: str
    payload: bytes  # base64 in the queue
    received_at_ms: int
    principal: str = ""  # the connection's certificate; empty for the broker's own messages


def read_queued(body: str) -> QueuedMessage:
    """A message from the text in the queue. Raises Dropped if it is malformed."""
    try:
        return msgspec.json.decode(body, type=QueuedMessage)
    except msgspec.MsgspecError as error:
        raise Dropped("not_a_device_message") from error


def addressed(message: QueuedMessage) -> tuple[str, UUID]:
    """(Topic with `+`, device) of a message. Raises Dropped if the connection is another client's."""
    known = topics.parsed(message.topic)
    if known is None:
        raise Dropped("unknown_topic")
    topic, device_id = known
    if message.client_id != device_id:
        raise Dropped("foreign_client")
    return topic, device_uuid(device_id)


def device_uuid(text: str) -> UUID:
    """A device's id. Raises Dropped if it cannot be one of ours, in our spelling."""
    try:
        device_id = UUID(text)
    except ValueError as error:
        raise Dropped("unknown_device") from error
    if str(device_id) != text:
        raise Dropped("unknown_device")
    return device_id
