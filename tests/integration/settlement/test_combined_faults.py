"""What the settlement does when two things go wrong at once, or somebody else is at work."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import Connection

from energy_market.database import Database
from energy_market.evm.ledger import Ledger
from energy_market.evm.rpc import Refused
from energy_market.usecases.settling.settle import settle_trades
from tests.support.chain.world import CONFIRMATIONS, FINALITY_BLOCKS, RULES, Deal, World, logged
from tests.support.market import Market
from tests.support.trouble.alongside import Alongside, wait_until_somebody_waits_for

# ------------------------------------------------------------------------------------------------ who waits for whom


@pytest.fixture
def somebody(database_url: str) -> Iterator[Connection]:
    """Somebody else's transaction."""
    with psycopg.connect(database_url) as conn:
        yield conn
        conn.rollback()


def lock_order(conn: Connection, order: object) -> None:
    conn.execute("SELECT FROM energy_orders WHERE id = %s FOR NO KEY UPDATE NOWAIT", (order,))


def test_trades_that_fail_for_two_reasons_are_failed_one_reason_at_a_time(world: World, somebody: Connection) -> None:
    """Else a sweep could hold the orders of the first while it waits for those of the second: a deadlock."""
    poor, late = world.lock(in_escrow=False), world.lock()
    world.sql("UPDATE transactions SET valid_until = valid_until + interval '1 hour' WHERE id = %s", poor.id)
    world.hold()
    world.sweep()
    world.mine_at(valid_until(world, late) + 1)
    world.mine(FINALITY_BLOCKS)
    lock_order(somebody, late.bid)
    sweeping = Alongside(world.sweep)
    wait_until_somebody_waits_for(somebody)
    lock_order(somebody, poor.bid)
    somebody.rollback()
    sweeping.end()
    assert world.trade(poor) == ("Failed", "insufficient_escrow")
    assert world.trade(late) == ("Failed", "settlement_expired")


def test_trades_that_are_overdue_are_failed_one_status_at_a_time(world: World, somebody: Connection) -> None:
    freed, sent = world.lock(), world.lock()
    world.hold()
    world.sweep()
    world.drop_pool()
    world.chain.rpc.call("anvil_setBalance", world.chain.operator.address, "0x0")  # so nothing is sent again
    world.sql("UPDATE transactions SET status = 'Locked' WHERE id = %s", freed.id)  # as when its batch had no effect
    world.mine_at(valid_until(world, sent) + 1)
    world.mine(FINALITY_BLOCKS)
    lock_order(somebody, sent.bid)
    sweeping = Alongside(world.sweep)
    wait_until_somebody_waits_for(somebody)
    lock_order(somebody, freed.bid)
    somebody.rollback()
    sweeping.end()
    assert world.statuses([freed, sent]) == ["Failed", "Failed"]


def valid_until(world: World, deal: Deal) -> int:
    ((moment,),) = world.sql("SELECT extract(epoch FROM valid_until)::bigint FROM transactions WHERE id = %s", deal.id)
    return int(moment)


# ------------------------------------------------------------------------------------------------ deployed meanwhile


def another_key(world: World) -> Ledger:
    """The operator's key is changed, on the chain and for us."""
    successor = world.chain.person()
    world.chain.settlement.transact(world.chain.owner, "setOperator", successor.address)
    return world.new_ledger(operator=successor)


def another_contract(world: World) -> Ledger:
    return world.new_ledger(contract=world.chain.deploy_settlement(world.chain.token).address)


CHANGES = {"key": another_key, "contract": another_contract}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_paid_before_a_change_is_confirmed_after_it(world: World, change: str) -> None:
    deal = world.lock()
    world.sweep()
    assert world.paid(deal)
    ledger = CHANGES[change](world)
    world.mine()
    world.sweep(ledger=ledger)
    assert world.trade(deal) == ("Confirmed", None)
    world.sweep_until_final(ledger=ledger)
    assert [status for _, status, _ in world.batches()] == ["Final"]
    assert world.chain.escrow(deal.seller) == deal.amount


@pytest.mark.parametrize("change", CHANGES)
def test_a_payment_that_is_undone_after_a_change_is_put_back_and_made_again(world: World, change: str) -> None:
    deal = world.lock()
    ledger = CHANGES[change](world) if change == "contract" else None
    world.sweep()
    world.mine()
    world.sweep()
    assert world.trade(deal) == ("Confirmed", None)
    world.hold()
    world.reorganise(2)
    ledger = ledger or another_key_in_the_pool(world)
    world.sweep(ledger=ledger)
    assert world.trade(deal) == ("Submitted", None)
    world.mine()
    world.go_on()
    world.sweep_until_final(ledger=ledger)
    assert world.trade(deal) == ("Confirmed", None)
    assert world.chain.escrow(deal.seller) == deal.amount


def another_key_in_the_pool(world: World) -> Ledger:
    """As `another_key`, while no block is made: it comes before all else in the next one."""
    successor = world.chain.person()
    nonce = int(world.chain.rpc.call("eth_getTransactionCount", world.chain.owner.address, "latest"), 16)
    data = world.chain.settlement.artifact.call("setOperator", successor.address)
    world.send_as(world.chain.owner, nonce=nonce, to=world.chain.settlement.address, data=data)
    return world.new_ledger(operator=successor)


def test_what_waits_in_the_pool_when_the_key_is_changed_is_paid_with_the_new_one(world: World) -> None:
    """The contract undoes what the old key has signed, and the trade goes into another batch."""
    deal = world.lock()
    world.hold()
    world.sweep()
    ledger = another_key_in_the_pool(world)
    world.mine(2)
    world.go_on()
    second = world.lock()
    world.sweep_until_final(ledger=ledger)
    assert world.statuses([deal, second]) == ["Confirmed", "Confirmed"]
    assert world.chain.escrow(deal.seller) == deal.amount
    batches = world.sql("SELECT status, sender = %s FROM settlement_batches ORDER BY created_at", ledger.operator)
    assert batches[0] == ("Reverted", False)
    assert set(batches[1:]) == {("Final", True)}


def test_what_the_node_forgot_when_the_key_was_changed_is_sent_again_as_it_is(world: World) -> None:
    """Nothing can be signed with the old key any more, though it is stuck."""
    deal = world.lock()
    world.hold()
    world.sweep()
    world.drop_pool()
    ledger = another_key_in_the_pool(world)
    world.sweep(replace(RULES, stuck_after_s=0.0), ledger=ledger)
    assert len(world.forms()) == 1
    world.mine(2)
    world.go_on()
    world.sweep_until_final(ledger=ledger)
    assert world.trade(deal) == ("Confirmed", None)
    assert world.chain.escrow(deal.seller) == deal.amount


def test_what_waits_in_the_pool_when_the_contract_is_changed_is_paid_by_the_old_one(world: World) -> None:
    deal = world.lock()
    ledger = another_contract(world)
    world.hold()
    world.sweep()
    world.drop_pool()
    world.sweep(ledger=ledger)
    world.mine()
    world.go_on()
    world.sweep_until_final(ledger=ledger)
    assert world.trade(deal) == ("Confirmed", None)
    assert world.chain.escrow(deal.seller) == deal.amount
    assert world.paid(deal)


def test_what_the_old_contract_did_not_pay_in_time_fails_on_its_word(world: World) -> None:
    deal = world.lock()
    ledger = another_contract(world)
    world.hold()
    world.sweep()
    world.drop_pool()
    world.chain.rpc.call("anvil_setBalance", world.chain.operator.address, "0x0")
    world.mine_at(valid_until(world, deal) + 1)
    world.mine(FINALITY_BLOCKS)
    world.sweep(ledger=ledger)
    assert world.trade(deal) == ("Failed", "settlement_expired")
    assert [world.market.status_of(order) for order in (deal.ask, deal.bid)] == ["Created", "Created"]
    assert world.chain.escrow(deal.buyer) == deal.amount


def test_other_depths_and_sizes_after_a_deploy_change_no_trade(world: World) -> None:
    """Locked before, settled after; confirmed by shallow rules, looked after by deep ones."""
    deals = [world.lock() for _ in range(3)]
    world.sweep(replace(RULES, max_batch=2, confirmations=1, finality_blocks=2))
    world.mine()
    world.sweep(replace(RULES, max_batch=1, confirmations=1, finality_blocks=2))
    assert world.statuses(deals) == ["Confirmed"] * 3
    later = world.lock()
    world.sweep(replace(RULES, max_batch=50, confirmations=5, finality_blocks=9))
    world.mine(3)
    world.sweep(replace(RULES, max_batch=50, confirmations=5, finality_blocks=9))
    assert world.trade(later) == ("Submitted", None)
    assert world.statuses(deals) == ["Confirmed"] * 3
    world.sweep_until_final()
    assert world.statuses([*deals, later]) == ["Confirmed"] * 4
    assert all(world.chain.escrow(deal.seller) == deal.amount for deal in [*deals, later])


# ------------------------------------------------------------------------------------------------ the chain, twice


IMPATIENT = replace(RULES, stuck_after_s=0.0)


@pytest.mark.parametrize("depth", range(CONFIRMATIONS, FINALITY_BLOCKS))
def test_a_reorganisation_of_any_depth_before_finality_pays_each_trade_once(world: World, depth: int) -> None:
    """Trades of several blocks, confirmed by different depths, and one that is signed after it all."""
    deals = [world.lock() for _ in range(4)]
    world.mine(FINALITY_BLOCKS)  # so that no deposit is undone
    one_each = replace(RULES, max_batch=1, max_under_way=1)
    for _ in deals:
        world.sweep(one_each)
    world.mine()
    world.sweep()
    world.hold()
    world.reorganise(depth)
    world.sweep()
    assert world.statuses(deals)[-1] == "Submitted"
    world.mine()
    world.go_on()
    later = world.lock()
    world.sweep_until_final()
    assert world.statuses([*deals, later]) == ["Confirmed"] * 5
    assert all(world.chain.escrow(deal.seller) == deal.amount for deal in [*deals, later])
    assert world.differences() == []


def test_a_reorganisation_that_prefers_another_form_of_a_replaced_transaction(world: World) -> None:
    """The dearer form was mined; on the other branch the cheaper one is, and the dearer one is unknown there."""
    deal = world.lock()
    world.mine(FINALITY_BLOCKS)
    world.hold()
    world.sweep()
    world.sweep(IMPATIENT)
    cheap, dear = [form[0] for form in world.forms()]
    world.mine(2)
    world.sweep()
    assert world.trade(deal) == ("Confirmed", None)
    assert world.sql("SELECT mined_hash FROM settlement_batches") == [(dear,)]
    world.reorganise(3)
    world.drop_pool()
    ((raw,),) = world.sql("SELECT raw FROM signed_transactions WHERE hash = %s", cheap)
    world.chain.rpc.call("eth_sendRawTransaction", "0x" + raw.hex())
    world.mine(2)
    world.sweep()
    assert world.sql("SELECT mined_hash, status FROM settlement_batches") == [(cheap, "Mined")]
    world.go_on()
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    assert world.sql("SELECT blockchain_hash FROM transactions") == [(cheap,)]
    assert (world.nonce(), world.differences()) == (1, [])


def test_a_nonce_that_a_stranger_took_and_a_reorganisation_gave_back(world: World) -> None:
    """Its batch is signed anew under another nonce, and its old bytes can be mined after all: they pay nothing more."""
    deal = world.lock()
    world.mine(FINALITY_BLOCKS)
    world.hold()
    world.sweep()
    world.drop_pool()
    world.send_as(world.chain.operator, nonce=0, to=world.chain.owner.address)
    world.mine(CONFIRMATIONS)
    world.sweep()
    world.sweep()
    assert world.batches() == [(0, "Replaced", 1), (1, "Stored", 1)]
    world.reorganise(CONFIRMATIONS)
    world.sweep()
    world.mine(2)
    world.go_on()
    world.sweep_until_final()
    assert world.batches() == [(0, "Final", 1), (1, "Final", 1)]
    assert world.trade(deal) == ("Confirmed", None)
    assert (world.chain.escrow(deal.seller), world.differences()) == (deal.amount, [])


def test_a_batch_that_was_undone_and_whose_undoing_was_undone(world: World) -> None:
    """The contract refused it while it was paused; on the other branch it pays, beside those that took its place."""
    deals = [world.lock() for _ in range(3)]
    world.mine(FINALITY_BLOCKS)
    world.hold()
    world.sweep()
    world.call_first(world.chain.owner, world.chain.settlement, "pause")
    world.mine(CONFIRMATIONS)
    world.sweep()
    assert world.statuses(deals) == ["Locked"] * 3
    world.reorganise(CONFIRMATIONS)
    world.sweep()
    world.mine(2)
    world.go_on()
    world.sweep_until_final()
    assert world.statuses(deals) == ["Confirmed"] * 3
    assert all(world.chain.escrow(deal.seller) == deal.amount for deal in deals)
    assert world.differences() == []


def test_a_buyer_who_withdraws_while_the_payment_waits_in_the_pool(world: World) -> None:
    poor, rich = world.lock(), world.lock()
    world.hold()
    world.sweep()
    withdraw(world, poor)
    world.mine()
    world.go_on()
    world.sweep_until_final()
    assert [world.trade(deal) for deal in (poor, rich)] == [("Failed", "insufficient_escrow"), ("Confirmed", None)]
    assert (world.market.status_of(poor.bid), world.market.status_of(poor.ask)) == ("Rejected", "Created")
    assert world.differences() == []


def withdraw(world: World, deal: Deal) -> None:
    """The buyer takes the escrow away, and pays to be served before everybody else."""
    nonce = int(world.chain.rpc.call("eth_getTransactionCount", deal.buyer.address, "latest"), 16)
    data = world.chain.settlement.artifact.call("withdraw", deal.amount)
    world.send_as(deal.buyer, nonce=nonce, to=world.chain.settlement.address, data=data)


def test_a_node_that_comes_back_with_an_older_state_is_told_all_again(world: World) -> None:
    deal = world.lock()
    world.mine(FINALITY_BLOCKS)
    before = world.chain.rpc.call("evm_snapshot")
    world.sweep()
    world.mine(CONFIRMATIONS)
    world.sweep()
    assert world.trade(deal) == ("Confirmed", None)
    world.chain.rpc.call("evm_revert", before)
    assert world.nonce() == 0
    world.sweep()
    until = time.monotonic() + 10
    while world.nonce() == 0 and time.monotonic() < until:  # the node mines a moment after it has taken them
        time.sleep(0.01)
    # So looks a node that is behind: until another block has the number, nothing is taken back. The bytes are sent.
    assert (world.trade(deal), world.nonce()) == (("Confirmed", None), 1)
    world.chain.deposit(world.chain.person(), 1)  # other people's blocks
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    assert (world.nonce(), len(world.forms()), world.differences()) == (1, 1, [])


def test_a_node_that_comes_back_without_what_was_final_raises_the_alarm_and_is_told_all_again(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    deals = [world.lock(), world.lock()]
    world.mine(FINALITY_BLOCKS)
    before = world.chain.rpc.call("evm_snapshot")
    for _ in deals:
        world.sweep(replace(RULES, max_batch=1, max_under_way=1))
    world.sweep_until_final()
    logged(capsys)
    world.chain.rpc.call("evm_revert", before)
    world.sweep()
    world.mine(FINALITY_BLOCKS)
    world.sweep()
    assert "settlement.deep_reorganisation" in logged(capsys)
    world.sweep_until_final()
    assert world.statuses(deals) == ["Confirmed"] * 2
    assert (world.nonce(), world.differences()) == (2, [])


def test_a_forgotten_transaction_that_became_too_cheap_while_the_operator_was_out_of_gas_money(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    deal = world.lock()
    world.hold()
    world.sweep()
    world.drop_pool()
    world.chain.rpc.call("anvil_setBalance", world.chain.operator.address, "0x1")
    ((_, fee, _, _),) = world.forms()
    world.chain.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(3 * fee))
    world.mine()
    logged(capsys)
    world.sweep()
    assert "settlement.operator_out_of_gas" in logged(capsys)
    assert (world.trade(deal), len(world.forms())) == (("Submitted", None), 1)
    world.chain.rpc.call("anvil_setBalance", world.chain.operator.address, hex(10**18))
    world.sweep()
    world.mine()
    world.go_on()
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    assert (world.nonce(), len(world.forms()), world.differences()) == (1, 2, [])


# ------------------------------------------------------------------------------------------------ any two of them


def stranger_in_the_pool(world: World) -> None:
    with contextlib.suppress(Refused):  # he has no gas money either
        world.send_as(world.chain.operator, nonce=world.nonce(), to=world.chain.owner.address)


def stranger_leaves_a_gap(world: World) -> None:
    with contextlib.suppress(Refused):
        foreign = world.send_as(world.chain.operator, nonce=world.nonce(), to=world.chain.owner.address)
        world.sweep()
        world.chain.rpc.call("anvil_dropTransaction", foreign)


USUAL_FEE = 10**9


def dearer_blocks(world: World) -> None:
    world.chain.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(10 * USUAL_FEE))
    world.mine()


def call_as_owner(world: World, function: str) -> None:
    if bool(world.chain.settlement.read("paused")) is (function == "unpause"):
        world.call_first(world.chain.owner, world.chain.settlement, function)


FAULTS: dict[str, Callable[[World], object]] = {
    "nothing but a block": lambda world: world.mine(),
    "pool dropped": lambda world: world.drop_pool(),
    "stuck, replaced": lambda world: world.sweep(IMPATIENT),
    "shallow reorganisation": lambda world: world.reorganise(CONFIRMATIONS - 1),
    "deep reorganisation": lambda world: world.reorganise(FINALITY_BLOCKS - 1),
    "key used by a stranger": stranger_in_the_pool,
    "gap left by a stranger": stranger_leaves_a_gap,
    "base fee outgrows": dearer_blocks,
    "out of gas money": lambda world: world.chain.rpc.call(
        "anvil_setBalance", world.chain.operator.address, hex(10**9)
    ),
    "contract paused": lambda world: call_as_owner(world, "pause"),
}


def cure(world: World) -> None:
    world.chain.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(USUAL_FEE))
    world.chain.rpc.call("anvil_setBalance", world.chain.operator.address, hex(100 * 10**18))
    world.go_on()
    world.mine()
    if world.chain.settlement.read("paused"):
        world.chain.settlement.transact(world.chain.owner, "unpause")


@pytest.mark.parametrize("first", FAULTS)
def test_of_any_two_faults_one_after_the_other_no_trade_is_lost_or_paid_twice(world: World, first: str) -> None:
    """Each pair with a trade of its own, sent before the first fault, and one that is locked between the two.

    COMBINATIONS=all for each pair in either order.
    """
    names = list(FAULTS)
    seconds = names if os.environ.get("COMBINATIONS") == "all" else names[names.index(first) :]
    for second in seconds:
        deal = world.lock()
        world.mine(FINALITY_BLOCKS)  # so that no deposit is undone
        world.hold()
        world.sweep()
        FAULTS[first](world)
        world.sweep()
        world.mine()
        world.go_on()
        # Not if its deposit could be undone, or is not taken.
        between = deal if "reorganisation" in second or "paused" in first else world.lock()
        world.hold()
        world.sweep()
        FAULTS[second](world)
        world.sweep()
        world.mine()
        world.sweep()
        cure(world)
        world.sweep_until_final()
        assert world.statuses([deal, between]) == ["Confirmed"] * 2, second
        assert all(world.chain.escrow(one.seller) == one.amount for one in (deal, between)), second
    assert world.differences() == []


# ------------------------------------------------------------------------------------------------ sweeps at once


def test_sweeps_whose_lease_is_stolen_again_and_again_pay_each_trade_once(world: World) -> None:
    """Two sweepers, and somebody who lets every lease run out: only the nonce protects them from each other."""
    expected = ["Confirmed", "Confirmed", "Failed"] * 3
    deals = [world.lock(in_escrow=status == "Confirmed") for status in expected]
    small = replace(RULES, max_batch=2, confirmations=1, finality_blocks=3)
    over = threading.Event()
    refused: list[BaseException] = []

    def sweep_on() -> None:
        database, ledger = Database(world.database_url), world.new_ledger()
        while not over.is_set():
            try:
                settle_trades(database, ledger, rules=small, deadline_s=5.0)
            except BaseException as error:  # noqa: BLE001 -- looked at in the end
                refused.append(error)
        database.close()

    def steal() -> None:
        thief = Market(world.database_url)
        while not over.is_set():
            thief.sql("UPDATE leases SET expires_at = clock_timestamp()")
            time.sleep(0.05)  # less than a sweep takes; were it much less, none would ever come to an end
        thief.close()

    others = [Alongside(sweep_on) for _ in range(2)] + [Alongside(steal)]
    until = time.monotonic() + 30
    try:
        while time.monotonic() < until and not all(s in {"Confirmed", "Failed"} for s in world.statuses(deals)):
            world.mine()
            time.sleep(0.05)
    finally:
        over.set()
    for other in others:
        other.end()
    world.time_passes_for_the_lease()
    world.sweep_until_final()
    assert refused == []
    assert world.statuses(deals) == expected
    nonces = [nonce for nonce, _, _ in world.batches()]
    assert nonces == list(range(len(nonces)))
    assert all(
        world.chain.escrow(d.seller) == (d.amount if e == "Confirmed" else 0)
        for d, e in zip(deals, expected, strict=True)
    )
    assert world.differences() == []
