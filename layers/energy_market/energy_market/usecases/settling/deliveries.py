"""End deliveries whose time is over, and unlocks that no device acknowledges."""

from typing import Final

from energy_market.database import Database
from energy_market.logs import log
from energy_market.postgres import deliveries
from energy_market.usecases.report_shortfalls import report_shortfalls

MAX_TRADES: Final = 500  # a sweep


def end_deliveries(database: Database) -> None:
    """Mark deliveries as Short that are not done by their `deliver_by`, and drop unlocks that are a day old.

    A payment stays: the contract pays once and takes nothing back. Energy that was not delivered is no longer promised,
    and the device is told to release it. A device that returns after its unlock has lapsed lists the lock in its
    status, and is told again.
    """
    with database.transaction() as conn:
        short = deliveries.end_overdue_deliveries(conn, limit=MAX_TRADES)
        lapsed = deliveries.lapse_unlocks(conn, limit=MAX_TRADES)
    report_shortfalls(short)
    for trade, device in lapsed:
        log("unlock.lapsed", level="warning", transaction_id=trade, device_id=device)
