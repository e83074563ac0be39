"""What the settlement does when two things go wrong at once, or somebody else is at work."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import Connection

from tests.integration.alongside import Alongside, wait_until_somebody_waits_for
from tests.integration.settlement.world import FINALITY_BLOCKS, Deal, World

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
