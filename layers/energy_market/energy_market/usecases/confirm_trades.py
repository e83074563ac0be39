"""Learn from the chain what became of the batches that were sent.

A payment is taken for made after `confirmations` blocks, and looked after until `finality_blocks`: a reorganisation
until then puts it back. What cannot be put back, failing a trade and opening its orders again, waits for finality.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from energy_market.database import Database
from energy_market.domain.settlement import SettlementRules
from energy_market.domain.trades import FailReason
from energy_market.evm.ledger import Ledger, Receipt, Skip, View
from energy_market.logs import log, metric
from energy_market.postgres import settlement, trades
from energy_market.postgres.settlement import Batch
from energy_market.usecases.report_failures import report_failures

MAX_BATCHES: Final = 1000
OUTCOMES: Final[dict[Skip, tuple[FailReason, trades.Side | None]]] = {
    Skip.INSUFFICIENT_ESCROW: ("insufficient_escrow", "bid"),  # the buyer's doing: the bid is not opened again
    Skip.OVER_CAP: ("spending_cap", "bid"),
    Skip.EXPIRED: ("settlement_expired", None),
}
"""What fails a trade. Of what is left, over the limit of a period means: not now."""


def confirm_trades(database: Database, ledger: Ledger, view: View, rules: SettlementRules) -> None:
    """Bring every batch under way, and its trades, to where the chain has them. Raises `evm.rpc.ChainError`."""
    account = settlement.Account(chain_id=ledger.chain_id, sender=ledger.operator)
    with database.transaction() as conn:
        under_way = settlement.under_way(conn, account, contract=ledger.contract, limit=MAX_BATCHES)
        undone = settlement.ended_with_free_nonce(conn, account, nonce=view.nonce, limit=MAX_BATCHES)
        last_final = settlement.newest_final(conn, account)
    undisturbed = _check_blocks(ledger, [b for b in under_way if b.status == "Mined"], last_final)
    _reopen(database, undone)
    asked = [b for b in under_way if b.nonce < view.nonce and not (undisturbed and _is_settled(b, view, rules))]
    receipts = ledger.receipts([one for b in asked for one in b.hashes])
    for batch in under_way:
        if batch.nonce >= view.nonce:
            if batch.status == "Mined":
                _put_back(database, batch)
        elif batch in asked:
            found = [receipts[one] for one in batch.hashes if one in receipts]
            receipt = next((r for r in found if r.block_number <= view.head.number), None)
            if receipt is not None:
                _follow(database, ledger, view, rules, batch=batch, receipt=receipt)
            elif not found:
                _missing(database, ledger, view, rules, batch)


def confirm_paid_elsewhere(
    database: Database, ledger: Ledger, view: View, rules: SettlementRules, paid: Mapping[UUID, datetime]
) -> set[UUID]:
    """Confirm trades that were paid by another transaction than their batch's; those that are Confirmed now.

    `paid`: trades and when each was locked. Nobody will look after them later, so the payment must be final.
    """
    confirmed = set()
    for trade, locked_at in paid.items():
        payment = ledger.payment_of(trade, since=locked_at, head=view.head)
        if payment is None:
            log("settlement.payment_not_found", level="error", transaction_id=trade)
            metric("TradesUnexplained", 1)
        elif view.final is not None and payment[1] <= view.final.number:
            confirmed.add(trade)
            _confirm(database, rules, [trade], payment[0])
    return confirmed


def _check_blocks(ledger: Ledger, mined: Sequence[Batch], last_final: Batch | None) -> bool:
    """Whether no reorganisation touched the batches in blocks. Raises the alarm when one reached below finality.

    A block's hash holds those of all before it: while the newest of these blocks stands, all do.
    """
    newest = max(mined, key=lambda b: b.block_number or 0, default=None)
    watched = [b for b in (newest, last_final) if b is not None]
    hashes = ledger.block_hashes([b.block_number or 0 for b in watched])
    stands = {b.id: b.block_hash == now for b, now in zip(watched, hashes, strict=True)}
    if last_final is not None and not stands[last_final.id]:
        log(
            "settlement.deep_reorganisation",
            level="error",
            batch_id=last_final.id,
            block_number=last_final.block_number,
            block_hash=last_final.block_hash,
        )
        metric("DeepReorganisations", 1)
    return newest is None or stands[newest.id]


def _is_settled(batch: Batch, view: View, rules: SettlementRules) -> bool:
    """Whether a batch whose block stands has nothing to tell: its trades are decided, and it is not final yet."""
    return (
        batch.status == "Mined"
        and batch.open_trades == 0
        and _depth(view, batch.block_number or 0) < rules.finality_blocks
    )


def _depth(view: View, block_number: int) -> int:
    return view.head.number - block_number + 1


def _reopen(database: Database, undone: Sequence[Batch]) -> None:
    """Nonces that were used up are free again: what was signed for them must be sent again, or all after them waits.

    Their trades may be in other batches by now; the contract pays each once, and `confirm_trades` goes by trade.
    A batch below finality is sent again as well, but not touched otherwise: the alarm is a human's to answer.
    """
    for batch in undone:
        with database.transaction() as conn:
            reopened = settlement.reopen(conn, batch.id)
        log("settlement.reorganised", level="warning", batch_id=batch.id, was=batch.status, reopened=reopened)


def _put_back(database: Database, batch: Batch) -> None:
    with database.transaction() as conn:
        unpaid = settlement.put_back(conn, batch.id)
    log("settlement.reorganised", level="warning", batch_id=batch.id, was="Mined", trades=unpaid)
    metric("Reorganisations", 1)


def _missing(database: Database, ledger: Ledger, view: View, rules: SettlementRules, batch: Batch) -> None:
    """The batch's nonce is used, but by no form of it: somebody else has the operator's key."""
    if batch.status == "Mined":
        _put_back(database, batch)
    if batch.nonce >= view.nonce_confirmed:
        return
    with database.transaction() as conn:
        waiting = settlement.waiting_trades(conn, batch.id)
    paid = ledger.paid(waiting, at=view.head)
    confirmed = confirm_paid_elsewhere(database, ledger, view, rules, {t: waiting[t] for t in paid})
    if confirmed != paid:
        return  # paid by a stranger's transaction that is not final: the batch is ended when it is
    with database.transaction() as conn:
        freed = settlement.end_without_effect(
            conn, batch.id, "Replaced", reason="its nonce was used by another transaction"
        )
    log("settlement.nonce_taken", level="error", batch_id=batch.id, nonce=batch.nonce, trades=freed)
    metric("NoncesTaken", 1)


def _follow(
    database: Database, ledger: Ledger, view: View, rules: SettlementRules, *, batch: Batch, receipt: Receipt
) -> None:
    """Take over what a mined batch did, as far as its depth allows."""
    if batch.status == "Mined" and (batch.block_hash, batch.mined_hash) != (receipt.block_hash, receipt.hash):
        _put_back(database, batch)
    with database.transaction() as conn:
        settlement.mark_mined(
            conn,
            batch.id,
            tx_hash=receipt.hash,
            block_number=receipt.block_number,
            block_hash=receipt.block_hash,
        )
    depth = _depth(view, receipt.block_number)
    if depth < rules.confirmations:
        return
    if not receipt.succeeded:
        with database.transaction() as conn:
            freed = settlement.end_without_effect(conn, batch.id, "Reverted", reason="undone by the contract")
        log("settlement.reverted", level="error", batch_id=batch.id, tx_hash=receipt.hash, trades=freed)
        metric("BatchesReverted", 1)
        return
    _confirm(database, rules, receipt.paid, receipt.hash)
    _try_again(database, batch, receipt)
    if depth >= rules.finality_blocks:
        _finish(database, ledger, view, rules, batch=batch, receipt=receipt)


def _confirm(database: Database, rules: SettlementRules, paid: Collection[UUID], tx_hash: str) -> None:
    with database.transaction() as conn:
        confirmed = settlement.confirm(conn, paid, tx_hash=tx_hash, delivery_window_s=rules.delivery_window_s)
        wrong = settlement.failed_among(conn, paid)
    for trade in confirmed:
        log("trade.confirmed", transaction_id=trade, tx_hash=tx_hash)
    if confirmed:
        metric("TradesConfirmed", len(confirmed))
    for trade in wrong:
        log("settlement.failed_trade_was_paid", level="error", transaction_id=trade, tx_hash=tx_hash)
        metric("FailedTradesPaid", 1)


def _try_again(database: Database, batch: Batch, receipt: Receipt) -> None:
    """What the limit of the period left no room for may go into another batch, until its time is over.

    That needs no finality: should a reorganisation let this batch pay it after all, the other one cannot.
    """
    over_limit = [trade for trade, skip in receipt.skipped.items() if skip == Skip.OVER_LIMIT]
    if not over_limit:
        return
    with database.transaction() as conn:
        freed = settlement.free(conn, batch.id, over_limit)
    if freed:
        log("settlement.over_limit", level="warning", tx_hash=receipt.hash, trades=freed)


def _finish(
    database: Database, ledger: Ledger, view: View, rules: SettlementRules, *, batch: Batch, receipt: Receipt
) -> None:
    """A batch that stays for good: what it skipped fails, and nobody looks after it any more."""
    with database.transaction() as conn:
        waiting = settlement.waiting_trades(conn, batch.id)
    paid_before = [t for t in waiting if receipt.skipped.get(t) == Skip.ALREADY_SETTLED]
    confirmed = confirm_paid_elsewhere(database, ledger, view, rules, {t: waiting[t] for t in paid_before})
    for skip, (reason, side) in OUTCOMES.items():
        if skipped := [t for t in waiting if receipt.skipped.get(t) == skip]:
            with database.transaction() as conn:
                failed = trades.fail(conn, skipped, reason=reason, expected="Submitted", reject=side)
            report_failures(failed, reason, tx_hash=receipt.hash)
    if confirmed != set(paid_before):
        return  # the node cannot say yet what paid them
    with database.transaction() as conn:
        settlement.mark_final(conn, batch.id)
    for trade in waiting.keys() - receipt.skipped.keys() - receipt.paid:
        # It stays Submitted until its time on the chain is over, and fails then as expired.
        log("settlement.no_word_on_trade", level="error", transaction_id=trade, tx_hash=receipt.hash)
        metric("TradesUnexplained", 1)
    log("settlement.final", batch_id=batch.id, tx_hash=receipt.hash, gas_used=receipt.gas_used, paid=len(receipt.paid))
