"""Log failed trades. Call this once the transaction that failed them is committed."""

from collections.abc import Collection
from typing import Final
from uuid import UUID

from energy_market.domain.trades import REASON_SENTENCES, FailReason
from energy_market.logs import Level, log, metric

# Refusals and unpaid bills between neighbours are everyday events; the others are for the operator to look into.
LEVELS: Final[dict[FailReason, Level]] = {
    "lock_rejected": "info",
    "lock_timeout": "warning",
    "reservation_lost": "warning",
    "insufficient_escrow": "info",
    "spending_cap": "info",
    "over_limit": "warning",
    "settlement_expired": "error",
    "chain_refused": "error",
}


def report_failures(trades: Collection[UUID], reason: FailReason, **more: object) -> None:
    """Log a line for each trade, with the reason as a word and a sentence, and count `TradesFailed`, also by reason."""
    for trade in trades:
        log(
            "trade.failed",
            level=LEVELS[reason],
            transaction_id=trade,
            reason=reason,
            reason_text=REASON_SENTENCES[reason],
            **more,
        )
    if trades:
        metric("TradesFailed", len(trades), by={"Reason": reason})
