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
    """A device. `available_wh`: what may be sold, reserved energy included; `free_wh`: what of it is not promised.

    Both by its latest status and what it has reported of deliveries since; never below zero.
    `refused`: topic, code, field and sentence of the latest message, or part of one, that was not taken.
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
    """What a device sent, as it was kept: `payload` is the text of a JSON object."""

    id: int
    kind: ReportKind
    received_at: datetime
    payload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate that speaks for a device: for good, or until a moment that is near."""

    id: str
    device_id: UUID
    issued_at: datetime
    valid_until: datetime | None
