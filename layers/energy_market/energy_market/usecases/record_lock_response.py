"""Take a device's answer to a lock."""

from typing import Literal
from uuid import UUID

from psycopg import Connection

from energy_market.domain import topics
from energy_market.messages.received import Dropped, QueuedMessage, addressed
from energy_market.messages.reports import LockResponse, Refused, read_lock_response, read_object
from energy_market.postgres import deliveries, device_reports, devices, trades
from energy_market.usecases.note_refusals import note_ignored
from energy_market.usecases.recognise_device import recognise

Outcome = Literal["locked", "rejected", "repeated", "late", "contradicted"]


def record_lock_response(conn: Connection, message: QueuedMessage, *, settlement_window_s: int) -> tuple[Outcome, UUID]:
    """Record the answer. Returns its effect, and the trade.

    - `locked` counts only from the trade's own device, while the trade waits for it, and before the deadline by the
      database's clock. A late `locked` never settles; the device is told to release its reservation.
    - `rejected` fails the trade: both orders return with their old arrival, and the device is not matched before its
      next status, which reports its free energy.
    - If two answers contradict each other, the first counts.

    Every answer is a sign of life; only a status ends a device's wait for its next status. Raises Refused for an answer
    that fits no trade of that device.
    """
    topic, device_id = addressed(message)
    if topic != topics.LOCK_RESPONSE:
        raise Dropped("unknown_topic")
    recognise(conn, device_id, message.principal)
    response = read_lock_response(read_object(message.payload))
    taken = _take(
        conn, device_id, response, settlement_window_s=settlement_window_s, received_ms=message.received_at_ms
    )
    counts = response.seq is not None
    device_reports.note_life(conn, device_id, received_ms=message.received_at_ms, reports_deliveries=counts)
    note_ignored(conn, message, response.ignored)
    return taken


def _take(
    conn: Connection, device_id: UUID, response: LockResponse, *, settlement_window_s: int, received_ms: int
) -> tuple[Outcome, UUID]:
    transaction_id, order_id = response.transaction_id, response.order_id
    if transaction_id is None:
        assert order_id is not None  # one of the two is there
        transaction_id = trades.only_trade_of(conn, order_id)
        if transaction_id is None:
            sentence = "The order has had no trade yet, or more than one: the answer must name the transaction_id."
            raise Refused("ambiguous_lock_response", sentence, field="transaction_id")
    if order_id is None:
        order_id = trades.sell_order_of(conn, transaction_id, device_id=device_id)
    status = None
    if order_id is not None:
        if response.status == "locked" and trades.lock(
            conn,
            transaction_id,
            device_id=device_id,
            order_id=order_id,
            settlement_window_s=settlement_window_s,
            seq=response.seq,
        ):
            return "locked", transaction_id
        status = trades.status_at_device(conn, transaction_id, device_id=device_id, order_id=order_id)
    if status is None:
        field = "order_id" if response.transaction_id is None else "transaction_id"
        raise Refused("foreign_trade", "This is no trade of this device and this sell order.", field=field)
    if response.status == "locked":
        if status == "Failed":
            deliveries.owe_unlock(conn, device_id, [transaction_id])
        return ("late" if status in {"Pending", "Failed"} else "repeated"), transaction_id
    if failed := trades.fail(conn, [transaction_id], reason="lock_rejected", expected="Pending"):
        devices.wait_for_status(conn, failed, received_ms=received_ms)
        return "rejected", transaction_id
    return ("repeated" if status == "Failed" else "contradicted"), transaction_id
