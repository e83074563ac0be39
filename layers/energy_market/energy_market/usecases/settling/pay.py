"""Pay locked trades in batches that node and contract accept, each stored before it is sent."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

from psycopg.errors import UniqueViolation

from energy_market.evm.ledger import Fees, Payment, Reverts
from energy_market.evm.rpc import Refused
from energy_market.logs import log, metric
from energy_market.postgres import batches, leases, settleable, trades
from energy_market.postgres.settleable import Settleable
from energy_market.usecases.report_failures import report_failures
from energy_market.usecases.settling.confirm import confirm_paid_elsewhere
from energy_market.usecases.settling.fees import offer_fees
from energy_market.usecases.settling.resend import send
from energy_market.usecases.settling.sweep import LEASE, LeaseLost, Sweep, say_halted, say_out_of_gas

RESERVE_S: Final = 0.5  # no new batch is begun with less time left
MAX_LONE_REVERTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    payments: list[Payment]
    gas: int


def pay_locked(sweep: Sweep) -> bool:
    """Put locked trades into batches, store and send them; fill a nonce that would otherwise stay unused.

    False if trades are left over because the maximum number of batches is under way. Nothing is signed while the
    contract contradicts the configuration.
    """
    if sweep.ledger.gaps:
        return True
    with sweep.transaction() as conn:
        waiting = [b for b in batches.under_way(conn, sweep.account, limit=1000) if b.status == "Stored"]
        room = max(0, sweep.rules.max_under_way - len(waiting))
        locked = settleable.settleable(
            conn,
            sweep.account,
            contract=sweep.ledger.contract,
            chain_time=datetime.fromtimestamp(sweep.view.head.time_s, UTC),
            margin_s=sweep.rules.margin_s,
            limit=room * sweep.rules.max_batch + 1,
        )
        used = batches.used_nonces(conn, sweep.account, at_least=sweep.view.nonce_pending)
    all_have_room = len(locked) <= room * sweep.rules.max_batch
    locked = locked[: room * sweep.rules.max_batch]
    locked = _without_paid(sweep, locked)
    locked = _within_limit(sweep, locked)
    nonces = _free_nonces(sweep.view.nonce_pending, used)
    fees = offer_fees(sweep) if locked or waiting else None
    if fees is None:
        return True
    balance_wei = sweep.view.balance_wei
    for batch in _batches(sweep, locked):
        if room == 0:
            return False
        if sweep.ledger.remaining_s() < RESERVE_S:
            return True
        cost_wei = batch.gas * fees.max_fee_per_gas
        if cost_wei > balance_wei:
            say_out_of_gas(balance_wei, cost_wei)
            return True
        balance_wei -= cost_wei
        room -= 1
        _store_and_send(sweep, batch, nonce=next(nonces), fees=fees)
    # A batch of ours waits behind an unused nonce: somebody else used the key, and the pool dropped their transaction.
    next_nonce = next(nonces)
    if next_nonce == sweep.view.nonce_pending and any(b.nonce > next_nonce for b in waiting):
        log("settlement.nonce_gap", level="warning", nonce=next_nonce)
        _store_and_send(sweep, _Batch(payments=[], gas=sweep.ledger.gas_for([])), nonce=next_nonce, fees=fees)
    return all_have_room


def end_the_quiet(sweep: Sweep) -> None:
    """Send an empty batch on a chain that makes no empty blocks, so that payments get deeper.

    At most one in `rules.quiet_after_s`, and only while a trade waits for blocks: for each trade no more batches than
    finality takes.
    """
    if sweep.ledger.gaps:
        return
    with sweep.transaction() as conn:
        if not batches.waits_for_blocks(
            conn,
            sweep.account,
            contract=sweep.ledger.contract,
            head_time=datetime.fromtimestamp(sweep.view.head.time_s, UTC),
            quiet_after_s=sweep.rules.quiet_after_s,
        ):
            return
        used = batches.used_nonces(conn, sweep.account, at_least=sweep.view.nonce_pending)
    fees = offer_fees(sweep)
    if fees is None:
        return
    batch = _Batch(payments=[], gas=sweep.ledger.gas_for([]))
    if (cost_wei := batch.gas * fees.max_fee_per_gas) > sweep.view.balance_wei:
        say_out_of_gas(sweep.view.balance_wei, cost_wei)
        return
    nonce = next(_free_nonces(sweep.view.nonce_pending, used))
    log("settlement.chain_is_quiet", level="warning", block_number=sweep.view.head.number, nonce=nonce)
    _store_and_send(sweep, batch, nonce=nonce, fees=fees)


def _free_nonces(start: int, used: set[int]) -> Iterator[int]:
    nonce = start
    while True:
        if nonce not in used:
            yield nonce
        nonce += 1


def _without_paid(sweep: Sweep, locked: Sequence[Settleable]) -> list[Settleable]:
    """The trades that are still unpaid; bytes of an earlier batch may have paid a trade after all."""
    paid = sweep.ledger.paid([t.id for t in locked if t.stored_before], at=sweep.view.head)
    confirm_paid_elsewhere(sweep, {t.id: t.locked_at for t in locked if t.id in paid})
    return [t for t in locked if t.id not in paid]


def _within_limit(sweep: Sweep, locked: list[Settleable]) -> list[Settleable]:
    """The trades for which the contract's limit leaves room in this period, oldest first; the others wait.

    The contract enforces the limit. This only saves the gas for trades that it would skip. A trade above the whole
    limit, which was lowered after its bid was placed, would wait in vain, so it fails. A limit of 0 is a stop, which is
    no trade's fault.
    """
    if sweep.ledger.limit_nano:
        above = {trade.id for trade in locked if trade.amount_nano > sweep.ledger.limit_nano}
        locked = [trade for trade in locked if trade.id not in above]
        if above:
            with sweep.transaction() as conn:
                failed = trades.fail(conn, sorted(above), reason="over_limit", expected="Locked")
            report_failures(failed, "over_limit")
    if not locked:
        return locked
    room_nano = sweep.ledger.movable_nano(at=sweep.view.head, now_s=time.time())
    with sweep.transaction() as conn:
        room_nano -= settleable.unmined_nano(conn, sweep.account, contract=sweep.ledger.contract)
    within = []
    for trade in locked:
        if trade.amount_nano <= room_nano:
            room_nano -= trade.amount_nano
            within.append(trade)
    if waiting := len(locked) - len(within):
        log("settlement.over_limit", level="error", trades=waiting, room_nano=max(0, room_nano))
        metric("TradesOverLimit", waiting)
    return within


def _batches(sweep: Sweep, locked: Sequence[Settleable]) -> Iterator[_Batch]:
    """Batches that the contract accepts. Trades of a batch that reverted go into two batches of half its size."""
    most = min(sweep.rules.max_batch, sweep.ledger.most_trades or sweep.rules.max_batch)

    def limit(trade: Settleable) -> int:
        if trade.smallest_reverted is None:
            return most
        return min(most, (trade.smallest_reverted + 1) // 2)

    def companions(trade: Settleable) -> tuple[int, str]:
        return limit(trade), str(trade.last_batch_id) if trade.smallest_reverted is not None else ""

    # Trades that never went wrong come first (no last batch, the highest limit): a bad trade must not hold them up.
    for (size, _), group in groupby(
        sorted(locked, key=lambda t: (-companions(t)[0], companions(t)[1])), key=companions
    ):
        members = list(group)
        for start in range(0, len(members), size):
            yield from _accepted(sweep, members[start : start + size])


def _accepted(sweep: Sweep, members: Sequence[Settleable]) -> Iterator[_Batch]:
    """These trades in as few batches as node and contract accept; halved until the culprit is alone.

    A trade that the contract refuses after the view's own block fails. A trade that only the node rejects, in whatever
    words (a batch beyond a block's gas cannot even be estimated), waits, and holds up no other.
    """
    payments = [
        Payment(
            id=t.id,
            buyer=t.buyer,
            seller=t.seller,
            amount_nano=t.amount_nano,
            energy_wh=t.energy_wh,
            valid_until=t.valid_until,
        )
        for t in members
    ]
    alone = len(members) == 1
    try:
        gas = sweep.ledger.gas_for(payments)
    except Reverts as refusal:
        if _is_halted(sweep):
            return
        if alone:
            if sweep.ledger.reverts(payments, at=sweep.view.head):
                _give_up(sweep, members[0], reason=str(refusal))
            return
    except Refused as refusal:
        if alone:
            sweep.ledger.gas_for([])  # if the node rejects an empty batch too, no trade is at fault
            log("settlement.not_estimated", level="error", transaction_id=members[0].id, detail=str(refusal))
            metric("TradesUnexplained", 1)
            return
    else:
        if alone and members[0].lone_reverts >= MAX_LONE_REVERTS:
            _give_up(sweep, members[0], reason="reverted on the chain repeatedly")
            return
        if alone or gas <= sweep.view.head.gas_limit:
            yield _Batch(payments=payments, gas=min(gas, sweep.view.head.gas_limit))
            return
    middle = (len(members) + 1) // 2
    yield from _accepted(sweep, members[:middle])
    yield from _accepted(sweep, members[middle:])


def _is_halted(sweep: Sweep) -> bool:
    """Whether the contract refuses even an empty batch: it is paused, or has another operator. No trade is at fault."""
    try:
        sweep.ledger.gas_for([])
    except Reverts as refusal:
        say_halted(str(refusal), data=refusal.data)
        sweep.ledger.doubt()
        return True
    return False


def _give_up(sweep: Sweep, trade: Settleable, *, reason: str) -> None:
    """Fail a trade that the contract refuses, unless signed bytes could still pay it: then it waits."""
    final_nonce = 0 if sweep.view.final is None else sweep.ledger.nonce_at(sweep.view.final.number)
    with sweep.transaction() as conn:
        if settleable.payable_by_old_bytes(conn, trade.id, sweep.account, final_nonce=final_nonce):
            return
        failed = trades.fail(conn, [trade.id], reason="chain_refused", expected="Locked")
    report_failures(failed, "chain_refused", detail=reason)


def _store_and_send(sweep: Sweep, batch: _Batch, *, nonce: int, fees: Fees) -> None:
    """Sign and store a batch, and only then send it. Raises LeaseLost, Unreachable."""
    signed = sweep.ledger.sign(batch.payments, nonce=nonce, gas=batch.gas, fees=fees)
    try:
        with sweep.transaction() as conn:
            if not leases.still_held(conn, LEASE, holder=sweep.holder):
                raise LeaseLost
            batch_id = batches.store(
                conn,
                sweep.account,
                contract=sweep.ledger.contract,
                nonce=nonce,
                tx_hash=signed.hash,
                raw=signed.raw,
                max_fee=signed.fees.max_fee_per_gas,
                priority_fee=signed.fees.max_priority_fee_per_gas,
                asked=(fees.max_fee_per_gas, fees.max_priority_fee_per_gas),
                trades=[p.id for p in batch.payments],
            )
            if batch_id is None:
                raise LeaseLost  # another sweep has moved one of the trades
    except UniqueViolation as error:
        raise LeaseLost from error
    log("settlement.stored", batch_id=batch_id, nonce=nonce, tx_hash=signed.hash, trades=len(batch.payments))
    send(sweep, signed.hash, signed.raw)
