"""Learn from the chain what happened to the batches that were sent.

A payment counts after `confirmations` blocks, and is checked until `finality_blocks`: a reorganisation before that
undoes it. Failing a trade and reopening its orders cannot be undone, so they wait for finality.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from energy_market.domain.trades import FailReason
from energy_market.evm.ledger import NotYet, Receipt, Skip
from energy_market.evm.rpc import Refused
from energy_market.logs import log, metric
from energy_market.postgres import batches, settleable, trades
from energy_market.postgres.batches import Batch
from energy_market.usecases.report_failures import report_failures
from energy_market.usecases.settling.sweep import Sweep

MAX_BATCHES: Final = 1000
LOOKS_BEFORE_REPLACED: Final = 2
"""Further queries for a receipt before a nonce counts as used by another transaction."""
OUTCOMES: Final[dict[Skip, FailReason]] = {
    Skip.INSUFFICIENT_ESCROW: "insufficient_escrow",
    Skip.OVER_CAP: "spending_cap",
    Skip.EXPIRED: "settlement_expired",
}
"""Reasons for which a skipped trade fails. A trade that was over the period's limit is tried again instead."""


def confirm_trades(sweep: Sweep) -> None:
    """Bring every batch under way, and its trades, up to date with the chain. Raises `evm.rpc.ChainError`.

    One address may stand for several nodes, some of them a few blocks behind. An answer of such a node (a null, a lower
    nonce than before) proves nothing. A payment is undone only when another block has its block's number, and a receipt
    counts only if its block has that block's number now.
    """
    with sweep.transaction() as conn:
        under_way = batches.under_way(conn, sweep.account, contract=sweep.ledger.contract, limit=MAX_BATCHES)
        ended = batches.ended_with_free_nonce(conn, sweep.account, nonce=sweep.view.nonce, limit=MAX_BATCHES)
        last_final = batches.newest_final(conn, sweep.account)
    mined = [b for b in under_way if b.status == "Mined"]
    newest = max(mined, key=lambda b: b.block_number or 0, default=None)
    doubtful = [b for b in mined if b.nonce >= sweep.view.nonce]
    stands = _stand(sweep, [b for b in (newest, last_final, *doubtful, *ended) if b is not None])
    if last_final is not None and stands[last_final.id] is False:
        _alarm(last_final)
    _reopen(sweep, [b for b in ended if b.block_hash is None or stands[b.id] is False])
    # A block's hash covers all blocks before it: if the newest of these blocks stands, all do.
    undisturbed = newest is None or stands[newest.id] is True
    asked = [b for b in under_way if b.nonce < sweep.view.nonce and not (undisturbed and _is_settled(sweep, b))]
    receipts = sweep.ledger.receipts([one for b in asked for one in b.hashes])
    canonical = _canonical(sweep, [r for r in receipts.values() if r is not None])
    for batch in doubtful:
        if stands[batch.id] is False:
            _put_back(sweep, batch)
    for batch in asked:
        try:
            found = [receipt for one in batch.hashes if (receipt := receipts.get(one)) is not None]
            receipt = next((r for r in found if r.hash in canonical and r.block_number <= sweep.view.head.number), None)
            if receipt is not None:
                _follow(sweep, batch=batch, receipt=receipt)
            elif not found and all(one in receipts for one in batch.hashes):
                _missing(sweep, batch)
        except Refused as refusal:
            log("settlement.batch_not_followed", level="error", batch_id=batch.id, detail=str(refusal))
            metric("TradesUnexplained", 1)


def confirm_paid_elsewhere(sweep: Sweep, paid: Mapping[UUID, datetime]) -> set[UUID]:
    """Confirm trades that another transaction than their batch's has paid. Returns those that are Confirmed now.

    `paid`: trades, and when each was locked. They are not checked again later, so the payment must be final. A trade
    that cannot be resolved waits for the next sweep, and does not hold up the others.
    """
    confirmed: set[UUID] = set()
    if not paid:
        return confirmed
    with sweep.transaction() as conn:
        forms = batches.forms_of(conn, list(paid))
    receipts = [
        r for r in sweep.ledger.receipts(sorted({one for known in forms.values() for one in known})).values() if r
    ]
    canonical = _canonical(sweep, receipts)
    known = {trade: (r.hash, r.block_number) for r in receipts if r.hash in canonical for trade in r.paid}
    for trade, locked_at in paid.items():
        try:
            payment = known.get(trade) or sweep.ledger.payment_of(trade, since=locked_at, head=sweep.view.head)
        except NotYet as reason:
            log("settlement.payment_searched", transaction_id=trade, detail=str(reason))
            continue
        except Refused as refusal:
            log("settlement.payment_not_found", level="error", transaction_id=trade, detail=str(refusal))
            metric("TradesUnexplained", 1)
            continue
        if payment is None:
            log("settlement.payment_not_found", level="error", transaction_id=trade)
            metric("TradesUnexplained", 1)
        elif sweep.view.final is not None and payment[1] <= sweep.view.final.number:
            confirmed.add(trade)
            _confirm(sweep, [trade], payment[0])
    return confirmed


def _stand(sweep: Sweep, batches: Sequence[Batch]) -> dict[UUID, bool | None]:
    """Whether each batch's block still has its number; None if the node does not know."""
    placed = [b for b in batches if b.block_number is not None]
    hashes = sweep.ledger.block_hashes([b.block_number or 0 for b in placed])
    stands = {b.id: None if now is None else now == b.block_hash for b, now in zip(placed, hashes, strict=True)}
    return {b.id: stands.get(b.id) for b in batches}


def _canonical(sweep: Sweep, receipts: Sequence[Receipt]) -> set[str]:
    """The hashes of the transactions whose receipt names the block that has its number now."""
    numbers = sorted({r.block_number for r in receipts})
    hashes = dict(zip(numbers, sweep.ledger.block_hashes(numbers), strict=True))
    return {r.hash for r in receipts if hashes[r.block_number] == r.block_hash}


def _alarm(batch: Batch) -> None:
    log(
        "settlement.deep_reorganisation",
        level="error",
        batch_id=batch.id,
        block_number=batch.block_number,
        block_hash=batch.block_hash,
    )
    metric("DeepReorganisations", 1)


def _is_settled(sweep: Sweep, batch: Batch) -> bool:
    """Whether a batch whose block stands needs no receipt: its trades are decided, and it is not final yet."""
    return (
        batch.status == "Mined"
        and batch.open_trades == 0
        and _depth(sweep, batch.block_number or 0) < sweep.rules.finality_blocks
    )


def _depth(sweep: Sweep, block_number: int) -> int:
    return sweep.view.head.number - block_number + 1


def _reopen(sweep: Sweep, undone: Sequence[Batch]) -> None:
    """Reopen batches whose nonce is free again: unless they are sent again, all later nonces wait.

    Their trades may be in other batches by now; the contract pays each once, and `confirm_trades` decides by trade.
    A batch below finality is also sent again, but otherwise left as it is: that alarm is for a person to resolve.
    """
    for batch in undone:
        with sweep.transaction() as conn:
            reopened = batches.reopen(conn, batch.id)
        log("settlement.reorganised", level="warning", batch_id=batch.id, was=batch.status, reopened=reopened)


def _put_back(sweep: Sweep, batch: Batch) -> None:
    with sweep.transaction() as conn:
        unpaid = batches.put_back(conn, batch.id)
    log("settlement.reorganised", level="warning", batch_id=batch.id, was="Mined", trades=unpaid)
    metric("Reorganisations", 1)


def _missing(sweep: Sweep, batch: Batch) -> None:
    """Handle a batch whose nonce was used by none of its forms: somebody else has the operator's key.

    The node may only be behind, so it is asked again, and payments are read at the view's own block.
    """
    if batch.status == "Mined":
        if _stand(sweep, [batch])[batch.id] is not False:
            return
        _put_back(sweep, batch)
    if batch.nonce >= sweep.ledger.nonce_at(sweep.view.head.number - sweep.rules.confirmations + 1):
        return
    for _ in range(LOOKS_BEFORE_REPLACED):
        if any(receipt is not None for receipt in sweep.ledger.receipts(batch.hashes).values()):
            return
    with sweep.transaction() as conn:
        waiting = batches.waiting_trades(conn, batch.id)
    paid = sweep.ledger.paid(waiting, at=sweep.view.head)
    confirmed = confirm_paid_elsewhere(sweep, {t: waiting[t] for t in paid})
    if confirmed != paid:
        return  # paid by an unknown transaction that is not final: the batch ends once it is
    with sweep.transaction() as conn:
        freed = batches.end_without_effect(
            conn,
            batch.id,
            "Replaced",
            reason="its nonce was used by another transaction",
            seen_in=(sweep.view.head.number, sweep.view.head.hash),
        )
    log("settlement.nonce_taken", level="error", batch_id=batch.id, nonce=batch.nonce, trades=freed)
    metric("NoncesTaken", 1)


def _follow(sweep: Sweep, *, batch: Batch, receipt: Receipt) -> None:
    """Apply the effects of a mined batch, as far as its depth allows."""
    if batch.status == "Mined" and (batch.block_hash, batch.mined_hash) != (receipt.block_hash, receipt.hash):
        _put_back(sweep, batch)
    with sweep.transaction() as conn:
        batches.mark_mined(
            conn,
            batch.id,
            tx_hash=receipt.hash,
            block_number=receipt.block_number,
            block_hash=receipt.block_hash,
        )
    depth = _depth(sweep, receipt.block_number)
    if depth < sweep.rules.confirmations:
        return
    if not receipt.succeeded:
        with sweep.transaction() as conn:
            freed = batches.end_without_effect(conn, batch.id, "Reverted", reason="reverted by the contract")
        log("settlement.reverted", level="error", batch_id=batch.id, tx_hash=receipt.hash, trades=freed)
        metric("BatchesReverted", 1)
        return
    _confirm(sweep, receipt.paid, receipt.hash)
    _try_again(sweep, batch, receipt)
    _free_left_out(sweep, batch, receipt)
    if depth >= sweep.rules.finality_blocks:
        _finish(sweep, batch=batch, receipt=receipt)


def _confirm(sweep: Sweep, paid: Collection[UUID], tx_hash: str) -> None:
    with sweep.transaction() as conn:
        confirmed = settleable.confirm(conn, paid, tx_hash=tx_hash, delivery_window_s=sweep.rules.delivery_window_s)
        wrong = settleable.failed_among(conn, paid)
    for trade in confirmed:
        log("trade.confirmed", transaction_id=trade, tx_hash=tx_hash)
    if confirmed:
        metric("TradesConfirmed", len(confirmed))
    for trade in wrong:
        log("settlement.failed_trade_was_paid", level="error", transaction_id=trade, tx_hash=tx_hash)
        metric("FailedTradesPaid", 1)


def _try_again(sweep: Sweep, batch: Batch, receipt: Receipt) -> None:
    """Free trades that were over the period's limit: another batch may pay them until they expire.

    This needs no finality: if a reorganisation makes this batch pay a trade after all, the other batch cannot.
    """
    over_limit = [trade for trade, skip in receipt.skipped.items() if skip == Skip.OVER_LIMIT]
    if not over_limit:
        return
    with sweep.transaction() as conn:
        freed = batches.free(conn, batch.id, over_limit)
    if freed:
        log("settlement.over_limit", level="warning", tx_hash=receipt.hash, trades=freed)


def _free_left_out(sweep: Sweep, batch: Batch, receipt: Receipt) -> None:
    """Free trades that the mined form did not carry, because nodes rejected the larger forms.

    The larger forms have the same nonce, so none of them can be mined while blocks of this depth stay.
    """
    with sweep.transaction() as conn:
        waiting = batches.waiting_trades(conn, batch.id)
        if not waiting.keys() - receipt.paid - receipt.skipped.keys():
            return
        raw = batches.raw_of(conn, receipt.hash)
    left_out = waiting.keys() - {payment.id for payment in sweep.ledger.carried(raw)}
    if not left_out:
        return
    with sweep.transaction() as conn:
        freed = batches.free(conn, batch.id, left_out)
    log("settlement.left_out", level="warning", tx_hash=receipt.hash, trades=freed)


def _finish(sweep: Sweep, *, batch: Batch, receipt: Receipt) -> None:
    """Close a final batch: the trades that it skipped fail, and it is not checked again."""
    with sweep.transaction() as conn:
        waiting = batches.waiting_trades(conn, batch.id)
    paid_before = [t for t in waiting if receipt.skipped.get(t) == Skip.ALREADY_SETTLED]
    confirmed = confirm_paid_elsewhere(sweep, {t: waiting[t] for t in paid_before})
    for skip, reason in OUTCOMES.items():
        if skipped := [t for t in waiting if receipt.skipped.get(t) == skip]:
            with sweep.transaction() as conn:
                failed = trades.fail(conn, skipped, reason=reason, expected="Submitted")
            report_failures(failed, reason, tx_hash=receipt.hash)
    if confirmed != set(paid_before):
        return  # the node does not know yet which transaction paid them
    with sweep.transaction() as conn:
        batches.mark_final(conn, batch.id)
    for trade in waiting.keys() - receipt.skipped.keys() - receipt.paid:
        # The trade stays Submitted until its time on the chain is over, and then fails as expired.
        log("settlement.no_word_on_trade", level="error", transaction_id=trade, tx_hash=receipt.hash)
        metric("TradesUnexplained", 1)
    log("settlement.final", batch_id=batch.id, tx_hash=receipt.hash, gas_used=receipt.gas_used, paid=len(receipt.paid))
