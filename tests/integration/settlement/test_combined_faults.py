"""What the settlement does when two things go wrong at once, or somebody else is at work."""

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import Connection

from energy_market.evm.ledger import Ledger
from tests.integration.alongside import Alongside, wait_until_somebody_waits_for
from tests.integration.settlement.world import FINALITY_BLOCKS, RULES, Deal, World

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
