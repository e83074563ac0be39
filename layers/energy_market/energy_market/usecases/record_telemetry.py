"""Record devices' reports: status, alerts, transfers, presence."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec
from psycopg import Connection

from energy_market.domain import topics
from energy_market.domain.devices import ReportKind
from energy_market.domain.trades import Shortfall, ShortReason
from energy_market.messages.received import Dropped, QueuedMessage, addressed, device_uuid
from energy_market.messages.reports import Refused, read_donor_status, read_object, read_transfer_status
from energy_market.postgres import certificates, deliveries, device_reports, devices, trades
from energy_market.usecases.note_refusals import note_ignored
from energy_market.usecases.recognise_device import recognise

WHY_SHORT: Final[dict[str, ShortReason]] = {"delivered": "under_delivered", "refused": "reservation_lost"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A report that was taken. `short`: a delivery that fell short; `lost`: trades whose lock the device has lost."""

    kind: ReportKind
    device_id: UUID
    short: Shortfall | None = None
    lost: tuple[UUID, ...] = ()


class _Presence(msgspec.Struct, frozen=True, rename="camel"):
    """A broker's presence event."""

    client_id: str
    timestamp: int
    principal_identifier: str
    session_identifier: str = ""


def record_telemetry(conn: Connection, message: QueuedMessage) -> Recorded:
    """Store a report and apply its effects. Raises Dropped if the message is not taken, Refused if its device erred.

    A report counts only under a valid certificate of its device; the first one under a new certificate ends the older
    ones.
    """
    if message.topic.startswith(topics.PRESENCE):
        return _presence(conn, message)
    topic, device_id = addressed(message)
    if topic not in _TAKE:
        raise Dropped("unknown_topic")
    is_new = recognise(conn, device_id, message.principal)
    recorded = _TAKE[topic](conn, message, device_id)
    if is_new and topic != topics.TRANSFER_STATUS:
        certificates.heard(conn, message.principal, device_id)
    return recorded


def _donor_status(conn: Connection, message: QueuedMessage, device_id: UUID) -> Recorded:
    payload = read_object(message.payload)
    status = read_donor_status(payload)
    # Reservations that the device still lists for ended trades are to be released. Trades that it no longer lists were
    # released, or lost before they could be paid. Trades are locked before devices, as everywhere. If the status proves
    # to be outdated, this is rolled back.
    lost = deliveries.hold_reserved(conn, device_id, status.locks, seq=status.seq)
    if status.locks is not None:
        deliveries.owe_unlock(conn, device_id, status.locks, seq=status.seq)
        deliveries.acknowledge_unlocks(conn, device_id, status.locks)
    if status.available_wh is not None:
        deliveries.count_fed(conn, device_id, seq=status.seq, received_ms=message.received_at_ms)
    failed = trades.fail(conn, lost, reason="reservation_lost", expected="Locked") if lost else []
    taken = device_reports.record_status(
        conn,
        device_id,
        available_wh=status.available_wh,
        battery_level=status.battery_level,
        locks=status.locks,
        seq=status.seq,
        received_ms=message.received_at_ms,
    )
    if not taken:
        if devices.is_recipient(conn, device_id):
            raise Refused("wrong_side", "The device is registered as a recipient, and sends a donor's status.")
        raise Dropped("unknown_device_or_old_news")
    if failed:  # the device is matched after its next status, not after this one
        devices.wait_for_status(conn, failed, received_ms=message.received_at_ms)
    device_reports.keep_report(conn, device_id, "donor_status", payload.text)
    note_ignored(conn, message, status.ignored)
    return Recorded(kind="donor_status", device_id=device_id, lost=tuple(failed))


def _transfer(conn: Connection, message: QueuedMessage, device_id: UUID) -> Recorded:
    payload = read_object(message.payload)
    transfer = read_transfer_status(payload)
    report = deliveries.record_delivery(
        conn,
        transfer.transaction_id,
        device_id=device_id,
        ended=WHY_SHORT.get(transfer.status),
        delivered_wh=transfer.delivered_wh,
        seq=transfer.seq,
    )
    noted = deliveries.note_delivered(
        conn,
        transfer.transaction_id,
        device_id=device_id,
        delivered_wh=transfer.delivered_wh,
        seq=transfer.seq,
        received_ms=message.received_at_ms,
    )
    if report is None and not noted:
        if not trades.is_of_device(conn, transfer.transaction_id, device_id):
            raise Refused("foreign_trade", "This is no trade of this device.", field="transaction_id")
        raise Dropped("unpaid_trade_or_old_news")
    device_reports.note_life(conn, device_id, received_ms=message.received_at_ms, reports_deliveries=True)
    device_reports.keep_report(conn, device_id, "transfer", payload.text)
    note_ignored(conn, message, transfer.ignored)
    short = None
    if report is not None and report.delivery == "Short" and report.before != "Short":
        assert report.reason is not None  # a constraint of the table
        short = Shortfall(
            transaction_id=transfer.transaction_id,
            device_id=device_id,
            reason=report.reason,
            delivered_wh=report.delivered_wh,
        )
    return Recorded(kind="transfer", device_id=device_id, short=short)


def _recipient_status(conn: Connection, message: QueuedMessage, device_id: UUID) -> Recorded:
    return _kept(conn, message, device_id, "recipient_status")


def _alert(conn: Connection, message: QueuedMessage, device_id: UUID) -> Recorded:
    return _kept(conn, message, device_id, "alert")


def _kept(conn: Connection, message: QueuedMessage, device_id: UUID, kind: ReportKind) -> Recorded:
    text = read_object(message.payload).text
    if not device_reports.record_sign_of_life(conn, device_id, received_ms=message.received_at_ms):
        raise Dropped("unknown_device")
    device_reports.keep_report(conn, device_id, kind, text)
    return Recorded(kind=kind, device_id=device_id)


def _presence(conn: Connection, message: QueuedMessage) -> Recorded:
    payload = read_object(message.payload)
    try:
        event = msgspec.convert(payload.fields, _Presence)
    except msgspec.ValidationError as error:
        raise Dropped("invalid_payload") from error
    device_id = device_uuid(event.client_id)
    kind, client_id = message.topic.removeprefix(topics.PRESENCE).split("/", 1)
    if client_id != event.client_id or kind not in {"connected", "disconnected"}:
        raise Dropped("unknown_topic")
    # The broker sends the event, but the client chose its own id.
    recognise(conn, device_id, event.principal_identifier)
    # Two events of a device at once: the later one must see what the earlier one stored.
    if not devices.hold(conn, device_id):
        raise Dropped("unknown_device_or_old_news")
    taken = device_reports.record_presence(
        conn,
        device_id,
        connected=kind == "connected",
        session=event.session_identifier,
        at_ms=event.timestamp,
        received_ms=message.received_at_ms,
    )
    if not taken and kind == "connected":
        raise Dropped("unknown_device_or_old_news")
    # The end of an unknown session is stored too, because its beginning may come later.
    device_reports.keep_report(conn, device_id, "presence", payload.text)
    return Recorded(kind="presence", device_id=device_id)


_TAKE: Final[dict[str, Callable[[Connection, QueuedMessage, UUID], Recorded]]] = {
    topics.DONOR_STATUS: _donor_status,
    topics.TRANSFER_STATUS: _transfer,
    topics.RECIPIENT_STATUS: _recipient_status,
    topics.ALERT: _alert,
}
"""Functions that record a report, by topic."""
