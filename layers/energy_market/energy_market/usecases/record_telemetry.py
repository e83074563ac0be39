"""Take what devices report: status, alerts, transfers, presence."""

from uuid import UUID

import msgspec
from psycopg import Connection

from energy_market.devices import (
    DonorStatus,
    Dropped,
    QueuedMessage,
    TransferStatus,
    device_uuid,
    read_payload,
    read_text,
    sender,
)
from energy_market.postgres import devices, trades
from energy_market.postgres.devices import ReportKind

PRESENCE_TOPIC = "$aws/events/presence/"


class _Presence(msgspec.Struct, frozen=True, rename="camel"):
    """A broker's presence event."""

    client_id: str
    timestamp: int
    session_identifier: str = ""


def record_telemetry(conn: Connection, message: QueuedMessage) -> tuple[ReportKind, UUID]:
    """Keep a report and let it do what it does; its kind and its device. Raises Dropped for what is not taken."""
    if message.topic.startswith(PRESENCE_TOPIC):
        return _presence(conn, message)
    match message.topic.split("/"):
        case ["energy", "donor", _, "status"]:
            return _donor_status(conn, message)
        case ["energy", "transfer", _, "status"]:
            return _transfer(conn, message)
        case ["energy", "recipient", _, "status"]:
            return _kept(conn, message, "recipient_status", topic="energy/recipient/+/status")
        case ["energy", "device", _, "alert"]:
            return _kept(conn, message, "alert", topic="energy/device/+/alert")
    raise Dropped("unknown_topic")


def _donor_status(conn: Connection, message: QueuedMessage) -> tuple[ReportKind, UUID]:
    device_id = sender(message, topic="energy/donor/+/status")
    status = read_payload(message.payload, DonorStatus)
    text = read_text(message.payload)
    taken = devices.record_status(
        conn,
        device_id,
        available_wh=status.available_kwh.energy_wh,
        battery_level=None if status.battery_level is None else status.battery_level.value,
        locks=status.locks,
        seq=status.seq,
        received_ms=message.received_at_ms,
    )
    if not taken:
        raise Dropped("unknown_device_or_old_news")
    # What the device still holds of failed trades is to be released; what it no longer lists has been.
    trades.owe_unlock(conn, device_id, status.locks)
    trades.settle_unlocks(conn, device_id, status.locks)
    devices.keep_report(conn, device_id, "donor_status", text)
    return "donor_status", device_id


def _transfer(conn: Connection, message: QueuedMessage) -> tuple[ReportKind, UUID]:
    device_id = sender(message, topic="energy/transfer/+/status")
    transfer = read_payload(message.payload, TransferStatus)
    text = read_text(message.payload)
    delivered_wh = transfer.kwh_delivered.energy_wh
    taken = trades.record_delivery(
        conn,
        transfer.transaction_id,
        device_id=device_id,
        delivered=transfer.status == "delivered",
        delivered_wh=delivered_wh,
        seq=transfer.seq,
    )
    if not taken:
        raise Dropped("foreign_transfer_or_old_news")
    if transfer.status == "delivered":
        devices.record_delivered(conn, device_id, delivered_wh=delivered_wh, seq=transfer.seq)
    devices.keep_report(conn, device_id, "transfer", text)
    return "transfer", device_id


def _kept(conn: Connection, message: QueuedMessage, kind: ReportKind, *, topic: str) -> tuple[ReportKind, UUID]:
    device_id = sender(message, topic=topic)
    text = read_text(message.payload)
    if not devices.record_sign_of_life(conn, device_id, received_ms=message.received_at_ms):
        raise Dropped("unknown_device")
    devices.keep_report(conn, device_id, kind, text)
    return kind, device_id


def _presence(conn: Connection, message: QueuedMessage) -> tuple[ReportKind, UUID]:
    event = read_payload(message.payload, _Presence)
    device_id = device_uuid(event.client_id)
    kind, client_id = message.topic.removeprefix(PRESENCE_TOPIC).split("/", 1)
    if client_id != event.client_id or kind not in {"connected", "disconnected"}:
        raise Dropped("unknown_topic")
    text = read_text(message.payload)
    taken = devices.record_presence(
        conn,
        device_id,
        connected=kind == "connected",
        session=event.session_identifier,
        at_ms=event.timestamp,
        received_ms=message.received_at_ms,
    )
    if not taken:
        raise Dropped("unknown_device_or_old_news")
    devices.keep_report(conn, device_id, "presence", text)
    return "presence", device_id
