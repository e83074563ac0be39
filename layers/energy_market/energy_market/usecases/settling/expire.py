"""Fail trades that can no longer be paid, and reopen both of their orders, since neither side is at fault."""

from datetime import UTC, datetime
from typing import Final

from energy_market.database import Database
from energy_market.postgres import settleable, trades
from energy_market.usecases.report_failures import report_failures
from energy_market.usecases.settling.confirm import confirm_paid_elsewhere
from energy_market.usecases.settling.sweep import Sweep

MAX_TRADES: Final = 500  # a sweep


def expire_unstored(database: Database) -> None:
    """Fail locked trades that are out of time and were never signed for, so the chain knows nothing of them."""
    with database.transaction() as conn:
        overdue = settleable.overdue_unstored(conn, limit=MAX_TRADES)
        failed = trades.fail(conn, overdue, reason="settlement_expired", expected="Locked") if overdue else []
    report_failures(failed, "settlement_expired")


def expire_stored(sweep: Sweep) -> None:
    """Fail trades that were signed for, once a final block is past their time and they are unpaid.

    Every later block is past it too, so no transaction can pay them any more, whichever bytes still exist.
    """
    if sweep.view.final is None:
        return
    with sweep.transaction() as conn:
        overdue = settleable.overdue_stored(
            conn,
            sweep.account,
            contract=sweep.ledger.contract,
            final_time=datetime.fromtimestamp(sweep.view.final.time_s, UTC),
            limit=MAX_TRADES,
        )
    paid = sweep.ledger.paid([t.id for t in overdue], at=sweep.view.head)
    confirm_paid_elsewhere(sweep, {t.id: t.locked_at for t in overdue if t.id in paid})
    for status in ("Locked", "Submitted"):
        if unpaid := [t.id for t in overdue if t.id not in paid and t.status == status]:
            with sweep.transaction() as conn:
                failed = trades.fail(conn, unpaid, reason="settlement_expired", expected=status)
            report_failures(failed, "settlement_expired")
