"""Take a device's answer to a lock."""

from typing import Literal
from uuid import UUID

from psycopg import Connection

from energy_market.devices import Dropped, LockResponse, QueuedMessage, read_payload, sender
from energy_market.postgres import trades
from energy_market.usecases.recognise_device import recognise

TOPIC = "energy/donor/+/lock/response"

Outcome = Literal["locked", "rejected", "repeated", "late", "contradicted"]


def record_lock_response(conn: Connection, message: QueuedMessage, *, settlement_window_s: int) -> tuple[Outcome, UUID]:
    """What the answer did, and to which trade.

    `locked` counts only from the trade's own device, while the trade waits for it, and before the deadline by the
    database's clock. `rejected` fails the trade: the ask is rejected, the bid goes back with its old arrival.
    A late `locked` never settles; what the device has reserved is released again. Of two answers that contradict each
    other the first counts.

    Raises Dropped for an answer that means no trade of that device.
    """
    device_id = sender(message, topic=TOPIC)
    recognise(conn, device_id, message.principal)
    response = read_payload(message.payload, LockResponse)
    transaction_id = response.transaction_id or trades.only_trade_of(conn, response.order_id)
    if transaction_id is None:
        raise Dropped("ambiguous_lock_response")
    if response.status == "locked":
        if trades.lock(
            conn,
            transaction_id,
            device_id=device_id,
            order_id=response.order_id,
            settlement_window_s=settlement_window_s,
            seq=response.seq,
        ):
            return "locked", transaction_id
        status = trades.status_at_device(conn, transaction_id, device_id=device_id, order_id=response.order_id)
        if status is None:
            raise Dropped("foreign_lock_response")
        if status == "Failed":
            trades.owe_unlock(conn, device_id, [transaction_id])
        return ("late" if status in {"Pending", "Failed"} else "repeated"), transaction_id
    status = trades.status_at_device(conn, transaction_id, device_id=device_id, order_id=response.order_id)
    if status is None:
        raise Dropped("foreign_lock_response")
    if trades.fail(conn, [transaction_id], reason="lock_rejected", expected="Pending", reject="ask"):
        return "rejected", transaction_id
    return ("repeated" if status == "Failed" else "contradicted"), transaction_id
