"""Send what was stored and is not mined: the same bytes again, or the same call with higher fees when it is stuck."""

from typing import Final

from energy_market.database import Database
from energy_market.domain.settlement import SettlementRules
from energy_market.evm.ledger import Fees, Ledger, Sent, View
from energy_market.logs import log, metric
from energy_market.postgres import settlement
from energy_market.postgres.settlement import Batch

MAX_BATCHES: Final = 100


def resend_batches(database: Database, ledger: Ledger, view: View, rules: SettlementRules) -> None:
    """Send every batch that waits to be mined, by nonce. Raises `evm.rpc.Unreachable`.

    A crash between storing and sending, a node that lost its pool, an answer that got lost: for all of them the same
    bytes are sent again, which has no effect if they are known already.
    """
    account = settlement.Account(chain_id=ledger.chain_id, sender=ledger.operator)
    with database.transaction() as conn:
        # Those that were mined and seem not to be any more, too: it does no harm, and a chain that makes a block only
        # when there is something to put into it would show no other.
        waiting = settlement.under_way(conn, account, limit=MAX_BATCHES)
        # Final ones too, if a reorganisation below finality freed their nonce: nothing after them could be mined.
        waiting += settlement.ended_with_free_nonce(conn, account, nonce=view.nonce, limit=MAX_BATCHES)
    for batch in sorted(waiting, key=lambda b: b.nonce):
        if batch.nonce < view.nonce:
            continue
        if ledger.signs and _is_stuck(batch, view, rules):
            _replace(database, ledger, view, batch, rules)
        elif batch.since_sent_s is None or batch.since_sent_s >= rules.resend_after_s:
            send(database, ledger, batch.hashes[0], batch.newest_raw)


def send(database: Database, ledger: Ledger, tx_hash: str, raw: bytes) -> None:
    """Hand stored bytes to the node, and note that it was done. Raises `evm.rpc.Unreachable`."""
    sent, message = ledger.send(raw)
    with database.transaction() as conn:
        settlement.mark_sent(conn, tx_hash)
    if sent is Sent.ACCEPTED:
        log("settlement.sent", tx_hash=tx_hash)
    else:
        log("settlement.not_accepted", level="warning", tx_hash=tx_hash, verdict=sent.value, message=message)
    if sent is Sent.NO_FUNDS:
        metric("OperatorOutOfGas", 1)


def _is_stuck(batch: Batch, view: View, rules: SettlementRules) -> bool:
    """Only the first in line can be stuck by its fees; those behind it wait for it."""
    return (
        batch.nonce == view.nonce
        and batch.status == "Stored"
        and batch.newest_sends > 0
        and (batch.newest_age_s >= rules.stuck_after_s or batch.newest_max_fee < view.head.base_fee)
    )


def _replace(database: Database, ledger: Ledger, view: View, batch: Batch, rules: SettlementRules) -> None:
    if len(batch.hashes) >= rules.max_forms:
        log("settlement.stuck", level="error", batch_id=batch.id, nonce=batch.nonce, forms=len(batch.hashes))
        metric("BatchesStuck", 1)
        send(database, ledger, batch.hashes[0], batch.newest_raw)
        return
    old = Fees(max_fee_per_gas=batch.newest_max_fee, max_priority_fee_per_gas=batch.newest_priority_fee)
    signed = ledger.sign_again(batch.newest_raw, view.fees.replacing(old))
    if signed.cost_wei > view.balance_wei:
        # No node would take it, and everything after it would have to pay more still.
        log(
            "settlement.operator_out_of_gas",
            level="error",
            balance_wei=view.balance_wei,
            needed_wei=signed.cost_wei,
        )
        metric("OperatorOutOfGas", 1)
        send(database, ledger, batch.hashes[0], batch.newest_raw)
        return
    with database.transaction() as conn:
        stored = settlement.add_form(
            conn,
            batch.id,
            tx_hash=signed.hash,
            raw=signed.raw,
            max_fee=signed.fees.max_fee_per_gas,
            priority_fee=signed.fees.max_priority_fee_per_gas,
        )
    if stored:
        log("settlement.replaced", level="warning", batch_id=batch.id, nonce=batch.nonce, tx_hash=signed.hash)
        send(database, ledger, signed.hash, signed.raw)
