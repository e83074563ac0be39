"""The MQTT topics between devices and the market (the specification, section 3); `+` stands for the device."""

from typing import Final
from uuid import UUID

DONOR_STATUS: Final = "energy/donor/+/status"
LOCK_RESPONSE: Final = "energy/donor/+/lock/response"
TRANSFER_STATUS: Final = "energy/transfer/+/status"
RECIPIENT_STATUS: Final = "energy/recipient/+/status"
ALERT: Final = "energy/device/+/alert"
FROM_DEVICES: Final = (DONOR_STATUS, LOCK_RESPONSE, TRANSFER_STATUS, RECIPIENT_STATUS, ALERT)

LOCK: Final = "energy/donor/+/lock"
UNLOCK: Final = "energy/donor/+/unlock"
TRANSFER: Final = "energy/donor/+/transfer"
TO_DEVICES: Final = {"lock": LOCK, "unlock": UNLOCK, "transfer": TRANSFER}
"""Topics by kind of command."""

PRESENCE: Final = "$aws/events/presence/"
"""Prefix of the broker's own messages about connections; `connected` or `disconnected` and the client id follow."""


def of(topic: str, device: UUID | str) -> str:
    """The topic of one device."""
    return topic.replace("+", str(device))


def parsed(topic: str) -> tuple[str, str] | None:
    """(One of `FROM_DEVICES`, the device id as spelt) for a topic of a device; None for any other topic."""
    levels = topic.split("/")
    known = "/".join("+" if place == _DEVICE_LEVEL else level for place, level in enumerate(levels))
    return (known, levels[_DEVICE_LEVEL]) if known in FROM_DEVICES else None


_DEVICE_LEVEL: Final = 2
