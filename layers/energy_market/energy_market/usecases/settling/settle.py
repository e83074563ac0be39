"""One settlement sweep: learn what the chain did, expire trades that it can no longer pay, pay locked trades.

The order of side effects makes a crash at any point harmless. A transaction is stored before it is sent, and its trades
become Submitted in the database transaction that stores it. The contract pays a trade id only once. A sweep that finds
bytes stored but not mined sends the same bytes again.
"""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from uuid import UUID, uuid4

from energy_market.database import Database
from energy_market.domain.settlement import SettlementRules
from energy_market.evm.ledger import Ledger, View
from energy_market.evm.node_check import WrongChain
from energy_market.evm.rpc import Refused
from energy_market.logs import log, metric
from energy_market.postgres import batches, chain_state, leases, settleable
from energy_market.usecases.settling.confirm import confirm_trades
from energy_market.usecases.settling.deliveries import end_deliveries
from energy_market.usecases.settling.expire import expire_stored, expire_unstored
from energy_market.usecases.settling.pay import RESERVE_S, end_the_quiet, pay_locked
from energy_market.usecases.settling.resend import resend_batches
from energy_market.usecases.settling.sweep import LEASE, LeaseLost, Sweep, say_halted
from energy_market.usecases.wake_sweep import WOKEN

LEASE_BEYOND_DEADLINE_S: Final = 5.0
LEASE_POLL_S: Final = 0.05
LOOKS: Final = 5  # looks for a new block, while trades wait for room
LOOK_PAUSE_S: Final = 0.5


def settle_trades(
    database: Database,
    ledger: Ledger,
    *,
    rules: SettlementRules,
    deadline_s: float,
    wait_s: float = 0.0,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Run a sweep of at most about `deadline_s` seconds; False if another one is still at work after `wait_s`.

    Raises `evm.rpc.ChainError` if the chain cannot be asked, and psycopg's errors if the database cannot. Completed
    steps stand, and the next sweep continues from there.
    """
    holder = uuid4()
    give_up = monotonic() + wait_s
    while not _lease(database, holder, deadline_s):
        if monotonic() >= give_up:
            return False
        sleep(LEASE_POLL_S * (1 + random.random()))  # noqa: S311 -- not cryptography
    try:
        expire_unstored(database)
        end_deliveries(database)
        ledger.start_deadline(deadline_s)
        view = _first_look(database, ledger, rules)
        sweep: Sweep | None = Sweep(database=database, ledger=ledger, rules=rules, view=view, holder=holder)
        while sweep is not None:
            _follow(sweep)
            all_are_sent = pay_locked(sweep)
            end_the_quiet(sweep)
            latest, sweep = sweep, None if all_are_sent else _moved_on(sweep, sleep)
        _follow_former(latest)
    except LeaseLost:
        log("settlement.lease_lost", level="warning")
        return False
    finally:
        with database.transaction() as conn:
            leases.release(conn, LEASE, holder=holder)
    return True


def _lease(database: Database, holder: UUID, deadline_s: float) -> bool:
    with database.transaction() as conn:
        is_ours = leases.acquire(conn, LEASE, holder=holder, lease_s=deadline_s + LEASE_BEYOND_DEADLINE_S)
        if is_ours:
            leases.clear(conn, WOKEN)  # trades that are locked later may need another sweep
        return is_ours


def _first_look(database: Database, ledger: Ledger, rules: SettlementRules) -> View:
    """Read the chain, and record that it answered and what keeps trades from being paid on it.

    Nothing is matched while the chain does not answer, or trades cannot be paid (`usecases/run_tick.py`).
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
        say_halted(sentence, data=None)
    return view


def _follow(sweep: Sweep) -> None:
    """Bring earlier batches up to date with the chain, and send those that it does not have."""
    confirm_trades(sweep)
    expire_stored(sweep)
    resend_batches(sweep)


def _moved_on(sweep: Sweep, sleep: Callable[[float], None]) -> Sweep | None:
    """The same sweep once the chain has mined another batch of ours; None if that takes long.

    Then the next sweep continues: the loop starts it within five seconds.
    """
    for _ in range(LOOKS):
        view = sweep.ledger.look(finality_blocks=sweep.rules.finality_blocks)
        if view.nonce > sweep.view.nonce:
            return replace(sweep, view=view)
        if sweep.ledger.remaining_s() < LOOK_PAUSE_S + RESERVE_S:
            break
        sleep(LOOK_PAUSE_S)
    return None


def _follow_former(sweep: Sweep) -> None:
    """Follow batches that were signed with another key, or for another contract, before a deploy changed them.

    The same chain answers for both. Nothing is signed with a former key: its bytes are sent again unchanged.
    """
    with sweep.transaction() as conn:
        places = batches.former(conn, sweep.account, contract=sweep.ledger.contract)
        elsewhere = settleable.stored_elsewhere(conn, sweep.account)
    if elsewhere:
        log("settlement.stored_elsewhere", level="error", trades=elsewhere)
        metric("TradesStoredElsewhere", elsewhere)
    for contract, operator in places:
        former = sweep.ledger.elsewhere(contract=contract, operator=operator)
        try:
            view = former.look(finality_blocks=sweep.rules.finality_blocks)
            _follow(replace(sweep, ledger=former, view=view))
        except (Refused, WrongChain) as error:
            log("settlement.former_not_followed", level="error", contract=contract, sender=operator, detail=str(error))
            metric("TradesUnexplained", 1)
