"""End what devices were to do and did not: deliveries whose time is over, and unlocks that nobody hears."""

from typing import Final

from energy_market.database import Database
from energy_market.logs import log
from energy_market.postgres import deliveries
from energy_market.usecases.report_shortfalls import report_shortfalls

MAX_TRADES: Final = 500  # a sweep


def end_deliveries(database: Database) -> None:
    """Make deliveries Short that are not done by their `deliver_by`, and give up unlocks of a day ago.

    What was paid stays paid: the contract pays once and takes nothing back. The energy that was not delivered is no
    longer promised, and its device is told to release it. A device that comes back after an unlock has lapsed lists the
    lock in its status, and is told again.
    """
    with database.transaction() as conn:
        short = deliveries.end_overdue_deliveries(conn, limit=MAX_TRADES)
        lapsed = deliveries.lapse_unlocks(conn, limit=MAX_TRADES)
    report_shortfalls(short)
    for trade, device in lapsed:
        log("unlock.lapsed", level="warning", transaction_id=trade, device_id=device)
