"""Send stored batches that are not mined: the same bytes again, or another form under the same nonce.

A form that the node accepted and does not mine is outbid. A form that it rejected does not exist for the network. The
next one is signed with today's fees, and with fewer trades if its size or its cost was rejected. The first batch in the
queue is never given up: tries are counted only while the network's fees stay the same.
"""

from dataclasses import dataclass
from typing import Final

from energy_market.evm.ledger import Fees, Reverts, Sent, Signed
from energy_market.evm.rpc import Refused
from energy_market.logs import log, metric
from energy_market.postgres import batches
from energy_market.postgres.batches import Batch
from energy_market.usecases.settling.fees import offer_fees
from energy_market.usecases.settling.sweep import Sweep, say_out_of_gas

MAX_BATCHES: Final = 100
LEAST_TIP_WEI: Final = 1_000_000
"""Tip in wei per unit of gas with which the search for a pool's minimum begins."""


def resend_batches(sweep: Sweep) -> None:
    """Send every batch that waits to be mined, by nonce. Raises `evm.rpc.Unreachable`.

    After a crash between storing and sending, a pool that the node lost, or a lost answer, the same bytes are sent
    again. This has no effect if the node knows them already.
    """
    with sweep.transaction() as conn:
        # This includes batches that were mined and whose block seems to be gone. Sending them again does no harm, and a
        # chain that makes blocks only for transactions would otherwise make no other block.
        waiting = batches.under_way(conn, sweep.account, limit=MAX_BATCHES)
        # Final ones too, if a reorganisation below finality freed their nonce: no later nonce could be mined.
        waiting += batches.ended_with_free_nonce(conn, sweep.account, nonce=sweep.view.nonce, limit=MAX_BATCHES)
    for batch in sorted(waiting, key=lambda b: b.nonce):
        if batch.nonce < sweep.view.nonce:
            continue
        if sweep.ledger.signs and batch.status == "Stored" and batch.newest_sends > 0 and _wants_another(sweep, batch):
            _revise(sweep, batch)
        elif batch.since_sent_s is None or batch.since_sent_s >= sweep.rules.resend_after_s:
            send(sweep, batch.hashes[0], batch.newest_raw)


def send(sweep: Sweep, tx_hash: str, raw: bytes) -> Sent:
    """Hand stored bytes to the node, and record its answer. Raises `evm.rpc.Unreachable`."""
    sent, message = sweep.ledger.send(raw)
    with sweep.transaction() as conn:
        batches.mark_sent(conn, tx_hash, refusal=sent.value if sent.is_refusal else None)
    if sent is Sent.ACCEPTED:
        log("settlement.sent", tx_hash=tx_hash)
    else:
        log("settlement.not_accepted", level="warning", tx_hash=tx_hash, verdict=sent.value, message=message)
    if sent is Sent.NO_FUNDS:
        metric("OperatorOutOfGas", 1)
    return sent


def _wants_another(sweep: Sweep, batch: Batch) -> bool:
    """Whether another form is signed: at once if the node rejected the last one, and otherwise if it is stuck.

    Only the first batch in line can be stuck; those behind it wait for it. A rejection of unknown kind may be
    temporary.
    """
    if batch.newest_refusal not in {None, Sent.REFUSED.value}:
        return True
    is_first = batch.nonce == sweep.view.nonce
    is_old = batch.newest_age_s >= sweep.rules.stuck_after_s
    return is_first and (is_old or batch.newest_max_fee < sweep.view.head.base_fee)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """Another form of a batch. `asked`: the fees of the network when signed; `tries`: forms in a row at those fees."""

    signed: Signed
    asked: Fees
    tries: int


def _revise(sweep: Sweep, batch: Batch) -> None:
    """Send another form under the same nonce, with today's fees and a fitting size; without one, the newest form."""
    form = _another_form(sweep, batch)
    if form is None:
        send(sweep, batch.hashes[0], batch.newest_raw)
    elif form.signed.hash in batch.hashes:  # the fees are those of an earlier form: these bytes are stored already
        send(sweep, form.signed.hash, form.signed.raw)
    elif _is_added(sweep, batch, form):
        log("settlement.replaced", level="warning", batch_id=batch.id, nonce=batch.nonce, tx_hash=form.signed.hash)
        sent = send(sweep, form.signed.hash, form.signed.raw)
        if sent is Sent.ACCEPTED and batch.newest_refusal == Sent.UNDERPRICED.value:
            sweep.ledger.learn_tip(form.signed.fees.max_priority_fee_per_gas)


def _another_form(sweep: Sweep, batch: Batch) -> _Form | None:
    """A newly signed form; None if fees are above the ceiling, tries are used up, or the balance is too low."""
    today = offer_fees(sweep)
    if today is None:
        return None
    # Between two sweeps pass several blocks, each of which changes the base fee by up to an eighth.
    is_unchanged = _is_near(today.max_fee_per_gas, batch.asked_max_fee, parts=2) and _is_near(
        today.max_priority_fee_per_gas, batch.asked_priority_fee, parts=8
    )
    tries = batch.newest_tries + 1 if is_unchanged else 1
    if tries > sweep.rules.max_forms:
        _say_stuck(batch)
        return None
    fees = offer_fees(sweep, at_least=_least(batch, today, is_unchanged=is_unchanged))
    signed = None if fees is None else _fitting(sweep, batch, fees)
    return None if signed is None else _Form(signed=signed, asked=today, tries=tries)


def _is_added(sweep: Sweep, batch: Batch, form: _Form) -> bool:
    """Store a form before it is sent. Returns whether the batch still waits for one."""
    with sweep.transaction() as conn:
        return batches.add_form(
            conn,
            batch.id,
            tx_hash=form.signed.hash,
            raw=form.signed.raw,
            max_fee=form.signed.fees.max_fee_per_gas,
            priority_fee=form.signed.fees.max_priority_fee_per_gas,
            asked=(form.asked.max_fee_per_gas, form.asked.max_priority_fee_per_gas),
            tries=form.tries,
        )


def _least(batch: Batch, today: Fees, *, is_unchanged: bool) -> Fees | None:
    """The minimum fees of another form, whatever the network asks.

    A form that a node may hold must be outbid. A form that all nodes rejected sets no minimum. If it was called too
    cheap while the network asks the same, the tip is doubled: pools have minimums that no node suggests.
    """
    newest = Fees(max_fee_per_gas=batch.newest_max_fee, max_priority_fee_per_gas=batch.newest_priority_fee)
    if batch.newest_refusal == Sent.OUTBID.value:
        return newest.replacing(newest)
    if batch.held_max_fee is not None and batch.held_priority_fee is not None:
        held = Fees(max_fee_per_gas=batch.held_max_fee, max_priority_fee_per_gas=batch.held_priority_fee)
        return held.replacing(held)
    if batch.newest_refusal == Sent.UNDERPRICED.value and is_unchanged:
        tip = max(2 * newest.max_priority_fee_per_gas, LEAST_TIP_WEI)
        base_fee = max(0, today.max_fee_per_gas - today.max_priority_fee_per_gas)
        return Fees(max_fee_per_gas=base_fee + tip, max_priority_fee_per_gas=tip)
    return None


def _fitting(sweep: Sweep, batch: Batch, fees: Fees) -> Signed | None:
    """The batch with these fees; if the node rejects its size or cost, half of it, down to an empty batch.

    Only one form of a nonce is ever mined. Trades that it leaves out stay with the batch until the chain shows which
    form it was; then another batch may take them (`confirm_trades`). None if even the empty batch cannot be paid for.
    """
    same = sweep.ledger.sign_again(batch.newest_raw, fees)
    newest = Fees(max_fee_per_gas=batch.newest_max_fee, max_priority_fee_per_gas=batch.newest_priority_fee)
    is_cheaper = same.cost_wei * 8 <= sweep.ledger.sign_again(batch.newest_raw, newest).cost_wei * 7
    is_judged = batch.newest_refusal in {Sent.TOO_MUCH.value, Sent.REFUSED.value}
    if not is_judged and same.cost_wei <= sweep.view.balance_wei:
        return same
    payments = sweep.ledger.carried(batch.newest_raw)
    sizes = [len(payments)] if is_cheaper or not is_judged else []
    size = len(payments)
    while size > 0:
        size //= 2
        sizes.append(size)
    for size in sizes:
        try:
            gas = min(sweep.ledger.gas_for(payments[:size]), sweep.view.head.gas_limit)
        except (Refused, Reverts):
            continue
        signed = sweep.ledger.sign(payments[:size], nonce=batch.nonce, gas=gas, fees=fees)
        if signed.cost_wei <= sweep.view.balance_wei:
            if is_judged and 0 < size < len(payments):
                sweep.ledger.most_trades = size
            return signed
    if is_judged and not payments:
        _say_stuck(batch)
    elif same.cost_wei > sweep.view.balance_wei:
        say_out_of_gas(sweep.view.balance_wei, same.cost_wei)
    return None


def _say_stuck(batch: Batch) -> None:
    log("settlement.stuck", level="error", batch_id=batch.id, nonce=batch.nonce, forms=len(batch.hashes))
    metric("BatchesStuck", 1)


def _is_near(fee: int, other: int, *, parts: int) -> bool:
    """Whether two fees differ by less than one of `parts` equal parts of the higher."""
    return abs(fee - other) * parts < max(fee, other, 1)
