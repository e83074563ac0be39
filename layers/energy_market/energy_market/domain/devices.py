"""Devices as their owners see them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

DeviceType = Literal["esp32", "raspi"]
DeviceSide = Literal["donor", "recipient"]
ReportKind = Literal["donor_status", "recipient_status", "alert", "transfer", "presence", "refused"]
DeviceStatus = Literal["Provisioning", "Registered", "Online", "Offline", "Removed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device. `available_wh`: energy for sale, reserved energy included; `free_wh`: the part not yet promised.

    Both follow from the latest status and from the deliveries reported since; they are never below zero.
    `refused`: topic, code, field and sentence of the latest message that was refused, in whole or in part.
    """

    id: UUID
    owner_id: UUID
    device_type: DeviceType
    side: DeviceSide
    location: str
    zone: str
    status: DeviceStatus
    last_ping: datetime | None
    available_wh: int | None
    free_wh: int | None
    battery_level: Decimal | None
    created_at: datetime
    refused_at: datetime | None = None
    refused: Mapping[str, str | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A message from a device, as it was kept: `payload` is the text of a JSON object."""

    id: int
    kind: ReportKind
    received_at: datetime
    payload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate that is valid for a device, for good or until `valid_until`."""

    id: str
    device_id: UUID
    issued_at: datetime
    valid_until: datetime | None
