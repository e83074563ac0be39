"""One sweep of the settlement: learn what the chain did, give up what it cannot do any more, send what is locked.

The order of side effects is what makes a crash anywhere harmless: a transaction is stored before it is sent, its trades
become Submitted in the statement block that stores it, and the contract pays a trade id once, ever. A sweep that
finds bytes stored but not mined sends those very bytes again.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Final
from uuid import UUID, uuid4

from psycopg.errors import UniqueViolation

from energy_market.database import Database
from energy_market.domain.settlement import SettlementRules
from energy_market.evm.ledger import Fees, Ledger, Payment, Reverts, View
from energy_market.evm.node_check import WrongChain
from energy_market.evm.rpc import Refused
from energy_market.logs import log, metric
from energy_market.postgres import chain_state, leases, settlement, trades
from energy_market.postgres.settlement import Settleable
from energy_market.usecases.confirm_trades import confirm_paid_elsewhere, confirm_trades
from energy_market.usecases.end_deliveries import end_deliveries
from energy_market.usecases.expire_trades import expire_stored, expire_unstored
from energy_market.usecases.offer_fees import offer_fees
from energy_market.usecases.report_failures import report_failures
from energy_market.usecases.resend_batches import resend_batches, send
from energy_market.usecases.wake_sweep import WOKEN

LEASE: Final = "settlement"
LEASE_BEYOND_BUDGET_S: Final = 5.0
LEASE_POLL_S: Final = 0.05
RESERVE_S: Final = 0.5  # no new batch is begun with less time left than this
LOOKS: Final = 5  # for a block, while trades wait for room
LOOK_PAUSE_S: Final = 0.5
MAX_LONE_REVERTS: Final = 3


class LeaseLost(Exception):
    """The sweep took longer than its lease: another may be at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    payments: list[Payment]
    gas: int


def settle_trades(
    database: Database,
    ledger: Ledger,
    *,
    rules: SettlementRules,
    budget_s: float,
    wait_s: float = 0.0,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Run a sweep that takes about `budget_s` seconds at most; False if another one is at work after `wait_s`.

    Raises `evm.rpc.ChainError` when the chain cannot be asked, psycopg's errors when the database cannot: what was
    done until then stands, and the next sweep goes on from there.
    """
    holder = uuid4()
    give_up = monotonic() + wait_s
    while not _lease(database, holder, budget_s):
        if monotonic() >= give_up:
            return False
        sleep(LEASE_POLL_S * (1 + random.random()))  # noqa: S311 -- not cryptography
    try:
        expire_unstored(database)
        end_deliveries(database)
        ledger.start_budget(budget_s)
        view: View | None = _first_look(database, ledger, rules)
        while view is not None:
            confirm_trades(database, ledger, view, rules)
            expire_stored(database, ledger, view, rules)
            resend_batches(database, ledger, view, rules)
            all_are_sent = _settle_locked(database, ledger, view, rules, holder)
            _end_the_quiet(database, ledger, view, rules, holder)
            view = None if all_are_sent else _moved_on(ledger, view, rules, sleep)
        _follow_former(database, ledger, rules)
    except LeaseLost:
        log("settlement.lease_lost", level="warning")
        return False
    finally:
        with database.transaction() as conn:
            leases.release(conn, LEASE, holder=holder)
    return True


def _lease(database: Database, holder: UUID, budget_s: float) -> bool:
    with database.transaction() as conn:
        is_ours = leases.acquire(conn, LEASE, holder=holder, lease_s=budget_s + LEASE_BEYOND_BUDGET_S)
        if is_ours:
            leases.clear(conn, WOKEN)  # whatever is locked from now on may need another sweep
        return is_ours


def _first_look(database: Database, ledger: Ledger, rules: SettlementRules) -> View:
    """The chain now; that it could be asked, and what keeps trades from being paid on it, is written down.

    Nothing is matched while it cannot be asked, or trades cannot be paid (`usecases/run_tick.py`).
    """
    try:
        view = ledger.look(finality_blocks=rules.finality_blocks)
    except WrongChain as error:
        with database.transaction() as conn:
            chain_state.mark_unfit(conn, str(error))
        raise
    sentence = "; ".join(gap.sentence for gap in ledger.gaps) or None
    with database.transaction() as conn:
        chain_state.mark_asked(conn, unfit=sentence, limit_nano=ledger.limit_nano)
    if sentence is not None:
        _report_halt(sentence, data=None)
    return view


def _report_halt(reason: str, *, data: str | None) -> None:
    log("settlement.halted", level="error", reason=reason, data=data)
    metric("SettlementHalted", 1)


def _moved_on(ledger: Ledger, since: View, rules: SettlementRules, sleep: Callable[[float], None]) -> View | None:
    """The chain as soon as it has mined something more of ours; None where that takes longer than on a fast chain.

    Then the next sweep goes on: the loop's comes within five seconds.
    """
    for _ in range(LOOKS):
        view = ledger.look(finality_blocks=rules.finality_blocks)
        if view.nonce > since.nonce:
            return view
        if ledger.remaining_s() < LOOK_PAUSE_S + RESERVE_S:
            return None
        sleep(LOOK_PAUSE_S)
    return None


def _follow_former(database: Database, ledger: Ledger, rules: SettlementRules) -> None:
    """Bring to an end what was signed with another key, or for another contract, before a deploy changed them.

    The same chain can be asked about both. Nothing is signed with a key that is not in use any more: its bytes are sent
    again as they are.
    """
    account = settlement.Account(chain_id=ledger.chain_id, sender=ledger.operator)
    with database.transaction() as conn:
        places = settlement.former(conn, account, contract=ledger.contract)
        elsewhere = settlement.stored_elsewhere(conn, account)
    if elsewhere:
        log("settlement.stored_elsewhere", level="error", trades=elsewhere)
        metric("TradesStoredElsewhere", elsewhere)
    for contract, operator in places:
        former = ledger.elsewhere(contract=contract, operator=operator)
        try:
            view = former.look(finality_blocks=rules.finality_blocks)
            confirm_trades(database, former, view, rules)
            expire_stored(database, former, view, rules)
            resend_batches(database, former, view, rules)
        except (Refused, WrongChain) as error:
            log("settlement.former_not_followed", level="error", contract=contract, sender=operator, detail=str(error))
            metric("TradesUnexplained", 1)


def _settle_locked(database: Database, ledger: Ledger, view: View, rules: SettlementRules, holder: UUID) -> bool:
    """Put locked trades into batches, store and send them; fill a nonce that nothing will ever use.

    False if trades are left because as many batches are under way as may be. Nothing is signed while the contract
    contradicts the configuration.
    """
    if ledger.gaps:
        return True
    account = settlement.Account(chain_id=ledger.chain_id, sender=ledger.operator)
    with database.transaction() as conn:
        waiting = [b for b in settlement.under_way(conn, account, limit=1000) if b.status == "Stored"]
        room = max(0, rules.max_under_way - len(waiting))
        locked = settlement.settleable(
            conn,
            account,
            contract=ledger.contract,
            chain_time=datetime.fromtimestamp(view.head.time_s, UTC),
            margin_s=rules.margin_s,
            limit=room * rules.max_batch + 1,
        )
        used = settlement.used_nonces(conn, account, at_least=view.nonce_pending)
    all_have_room = len(locked) <= room * rules.max_batch
    locked = locked[: room * rules.max_batch]
    locked = _without_paid(database, ledger, view, rules, locked)
    locked = _within_limit(database, ledger, view, locked)
    nonces = _free_nonces(view.nonce_pending, used)
    fees = offer_fees(view, rules) if locked or waiting else None
    if fees is None:
        return True
    balance_wei = view.balance_wei
    for batch in _batches(database, ledger, view, locked, rules):
        if room == 0:
            return False
        if ledger.remaining_s() < RESERVE_S:
            return True
        cost_wei = batch.gas * fees.max_fee_per_gas
        if cost_wei > balance_wei:
            log("settlement.operator_out_of_gas", level="error", balance_wei=balance_wei, needed_wei=cost_wei)
            metric("OperatorOutOfGas", 1)
            return True
        balance_wei -= cost_wei
        room -= 1
        _store_and_send(database, ledger, batch, nonce=next(nonces), fees=fees, holder=holder)
    # Something of ours waits behind a nonce that nobody fills: somebody else used the key, and the pool dropped that.
    next_nonce = next(nonces)
    if next_nonce == view.nonce_pending and any(b.nonce > next_nonce for b in waiting):
        log("settlement.nonce_gap", level="warning", nonce=next_nonce)
        _store_and_send(
            database, ledger, _Batch(payments=[], gas=ledger.gas_for([])), nonce=next_nonce, fees=fees, holder=holder
        )
    return all_have_room


def _end_the_quiet(database: Database, ledger: Ledger, view: View, rules: SettlementRules, holder: UUID) -> None:
    """Have a chain that makes no empty blocks make one: no payment gets deeper on it until somebody sends something.

    An empty batch, at most one in `rules.quiet_after_s`, and only while a trade waits for blocks: no more for each than
    finality takes.
    """
    if ledger.gaps:
        return
    account = settlement.Account(chain_id=ledger.chain_id, sender=ledger.operator)
    with database.transaction() as conn:
        if not settlement.waits_for_blocks(
            conn,
            account,
            contract=ledger.contract,
            head_time=datetime.fromtimestamp(view.head.time_s, UTC),
            quiet_after_s=rules.quiet_after_s,
        ):
            return
        used = settlement.used_nonces(conn, account, at_least=view.nonce_pending)
    fees = offer_fees(view, rules)
    if fees is None:
        return
    batch = _Batch(payments=[], gas=ledger.gas_for([]))
    if (cost_wei := batch.gas * fees.max_fee_per_gas) > view.balance_wei:
        log("settlement.operator_out_of_gas", level="error", balance_wei=view.balance_wei, needed_wei=cost_wei)
        metric("OperatorOutOfGas", 1)
        return
    nonce = next(_free_nonces(view.nonce_pending, used))
    log("settlement.chain_is_quiet", level="warning", block_number=view.head.number, nonce=nonce)
    _store_and_send(database, ledger, batch, nonce=nonce, fees=fees, holder=holder)


def _free_nonces(start: int, used: set[int]) -> Iterator[int]:
    nonce = start
    while True:
        if nonce not in used:
            yield nonce
        nonce += 1


def _without_paid(
    database: Database, ledger: Ledger, view: View, rules: SettlementRules, locked: Sequence[Settleable]
) -> list[Settleable]:
    """Those that are still to be paid: bytes of an earlier batch may have paid a trade after all."""
    paid = ledger.paid([t.id for t in locked if t.stored_before], at=view.head)
    confirm_paid_elsewhere(database, ledger, view, rules, {t.id: t.locked_at for t in locked if t.id in paid})
    return [t for t in locked if t.id not in paid]


def _within_limit(database: Database, ledger: Ledger, view: View, locked: list[Settleable]) -> list[Settleable]:
    """Those for which the contract's limit leaves room in this period, oldest first; the others wait for the next.

    It is the contract that holds the limit: this spares the gas of asking it for what it would skip. A trade above the
    whole limit, which was lowered after its bid was taken, would wait in vain and fails. A limit of 0 is a stop, and
    nobody's fault.
    """
    if ledger.limit_nano:
        above = {trade.id for trade in locked if trade.amount_nano > ledger.limit_nano}
        locked = [trade for trade in locked if trade.id not in above]
        if above:
            with database.transaction() as conn:
                failed = trades.fail(conn, sorted(above), reason="over_limit", expected="Locked")
            report_failures(failed, "over_limit")
    if not locked:
        return locked
    account = settlement.Account(chain_id=ledger.chain_id, sender=ledger.operator)
    room_nano = ledger.movable_nano(at=view.head, now_s=time.time())
    with database.transaction() as conn:
        room_nano -= settlement.unmined_nano(conn, account, contract=ledger.contract)
    within = []
    for trade in locked:
        if trade.amount_nano <= room_nano:
            room_nano -= trade.amount_nano
            within.append(trade)
    if waiting := len(locked) - len(within):
        log("settlement.over_limit", level="error", trades=waiting, room_nano=max(0, room_nano))
        metric("TradesOverLimit", waiting)
    return within


def _batches(
    database: Database, ledger: Ledger, view: View, locked: Sequence[Settleable], rules: SettlementRules
) -> Iterator[_Batch]:
    """Batches that the contract takes. Trades of a batch that was undone go into two of half its size."""
    most = min(rules.max_batch, ledger.most_trades or rules.max_batch)

    def limit(trade: Settleable) -> int:
        if trade.smallest_reverted is None:
            return most
        return min(most, (trade.smallest_reverted + 1) // 2)

    def companions(trade: Settleable) -> tuple[int, str]:
        return limit(trade), str(trade.last_batch_id) if trade.smallest_reverted is not None else ""

    # Those that never went wrong come first (no last batch, the highest limit): a bad trade must not hold them up.
    for (size, _), group in groupby(
        sorted(locked, key=lambda t: (-companions(t)[0], companions(t)[1])), key=companions
    ):
        members = list(group)
        for start in range(0, len(members), size):
            yield from _accepted(database, ledger, view, members[start : start + size])


def _accepted(database: Database, ledger: Ledger, view: View, members: Sequence[Settleable]) -> Iterator[_Batch]:
    """These trades in as few batches as node and contract take; halved until the culprit stands alone.

    Whom the contract refuses, after the view's own block, fails. Whom only the node refuses, in whatever words (a
    batch beyond a block's gas can't even be estimated), waits, and holds up no other.
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
        gas = ledger.gas_for(payments)
    except Reverts as refusal:
        if _halted(ledger):
            return
        if alone:
            if ledger.reverts(payments, at=view.head):
                _give_up(database, ledger, view, members[0], reason=str(refusal))
            return
    except Refused as refusal:
        if alone:
            ledger.gas_for([])  # what the node refuses of a batch of nothing, is no trade's trouble
            log("settlement.not_estimated", level="error", transaction_id=members[0].id, detail=str(refusal))
            metric("TradesUnexplained", 1)
            return
    else:
        if alone and members[0].lone_reverts >= MAX_LONE_REVERTS:
            _give_up(database, ledger, view, members[0], reason="reverted on the chain, again and again")
            return
        if alone or gas <= view.head.gas_limit:
            yield _Batch(payments=payments, gas=min(gas, view.head.gas_limit))
            return
    middle = (len(members) + 1) // 2
    yield from _accepted(database, ledger, view, members[:middle])
    yield from _accepted(database, ledger, view, members[middle:])


def _halted(ledger: Ledger) -> bool:
    """Whether the contract refuses even a batch of nothing: it is paused, or has another operator. No trade's fault."""
    try:
        ledger.gas_for([])
    except Reverts as refusal:
        _report_halt(str(refusal), data=refusal.data)
        ledger.doubt()
        return True
    return False


def _give_up(database: Database, ledger: Ledger, view: View, trade: Settleable, *, reason: str) -> None:
    """Fail a trade that the contract refuses, unless bytes are still about that could pay it: those are waited for."""
    account = settlement.Account(chain_id=ledger.chain_id, sender=ledger.operator)
    final_nonce = 0 if view.final is None else ledger.nonce_at(view.final.number)
    with database.transaction() as conn:
        if settlement.payable_by_old_bytes(conn, trade.id, account, final_nonce=final_nonce):
            return
        failed = trades.fail(conn, [trade.id], reason="chain_refused", expected="Locked")
    report_failures(failed, "chain_refused", detail=reason)


def _store_and_send(database: Database, ledger: Ledger, batch: _Batch, *, nonce: int, fees: Fees, holder: UUID) -> None:
    """Sign, store, and only then send. Raises LeaseLost, Unreachable."""
    signed = ledger.sign(batch.payments, nonce=nonce, gas=batch.gas, fees=fees)
    try:
        with database.transaction() as conn:
            if not leases.holds(conn, LEASE, holder=holder):
                raise LeaseLost
            batch_id = settlement.store(
                conn,
                settlement.Account(chain_id=ledger.chain_id, sender=ledger.operator),
                contract=ledger.contract,
                nonce=nonce,
                tx_hash=signed.hash,
                raw=signed.raw,
                max_fee=signed.fees.max_fee_per_gas,
                priority_fee=signed.fees.max_priority_fee_per_gas,
                asked=(fees.max_fee_per_gas, fees.max_priority_fee_per_gas),
                trades=[p.id for p in batch.payments],
            )
            if batch_id is None:
                raise LeaseLost  # somebody else moved one of the trades
    except UniqueViolation as error:
        raise LeaseLost from error
    log("settlement.stored", batch_id=batch_id, nonce=nonce, tx_hash=signed.hash, trades=len(batch.payments))
    send(database, ledger, signed.hash, signed.raw)
