"""Give up trades that can no longer be paid, and open both of their orders again: nobody in the trade is at fault."""

from datetime import UTC, datetime
from typing import Final

from energy_market.database import Database
from energy_market.domain.settlement import SettlementRules
from energy_market.evm.ledger import Ledger, View
from energy_market.postgres import settlement, trades
from energy_market.usecases.confirm_trades import confirm_paid_elsewhere
from energy_market.usecases.report_failures import report_failures

MAX_TRADES: Final = 500  # a sweep


def expire_unstored(database: Database) -> None:
    """Fail locked trades that were never signed for and are out of time. The chain knows nothing of them."""
    with database.transaction() as conn:
        overdue = settlement.overdue_unstored(conn, limit=MAX_TRADES)
        failed = trades.fail(conn, overdue, reason="settlement_expired", expected="Locked") if overdue else []
    report_failures(failed, "settlement_expired")


def expire_stored(database: Database, ledger: Ledger, view: View, rules: SettlementRules) -> None:
    """Fail trades that were signed for when the chain says so: a final block is past their time and they are unpaid.

    Every later block is past it too, so no transaction can pay them any more, whatever is still about.
    """
    if view.final is None:
        return
    account = settlement.Account(chain_id=ledger.chain_id, sender=ledger.operator)
    with database.transaction() as conn:
        overdue = settlement.overdue_stored(
            conn,
            account,
            contract=ledger.contract,
            final_time=datetime.fromtimestamp(view.final.time_s, UTC),
            limit=MAX_TRADES,
        )
    paid = ledger.paid([t.id for t in overdue], at=view.head)
    confirm_paid_elsewhere(database, ledger, view, rules, {t.id: t.locked_at for t in overdue if t.id in paid})
    for status in ("Locked", "Submitted"):
        if unpaid := [t.id for t in overdue if t.id not in paid and t.status == status]:
            with database.transaction() as conn:
                failed = trades.fail(conn, unpaid, reason="settlement_expired", expected=status)
            report_failures(failed, "settlement_expired")
