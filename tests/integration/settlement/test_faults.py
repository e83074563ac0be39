"""Crashes, lost transactions, reorganisations, a refusing contract, a shared key, no gas money, two sweeps at once."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest

from energy_market.database import Database
from energy_market.evm.ledger import Fees, Ledger, Payment, Signed
from energy_market.evm.rpc import Unreachable
from energy_market.postgres import batches, settleable, trades
from energy_market.usecases.settling.settle import settle_trades
from energy_market.usecases.wake_sweep import wake_sweep
from tests.support.chain.world import FINALITY_BLOCKS, RULES, World, logged
from tests.support.trouble.crashes import Crashed, Fuse

# ------------------------------------------------------------------------------------------------ crashes


def test_what_was_stored_but_not_sent_is_sent_by_the_next_sweep_byte_for_byte(world: World) -> None:
    deal = world.lock()
    with pytest.raises(Crashed):
        world.sweep(ledger=world.fused_ledger(Fuse(0)))
    assert world.trade(deal) == ("Submitted", None)
    ((tx_hash, _, _, sends),) = world.forms()
    assert (sends, world.nonce()) == (0, 0)

    world.sweep_until_final()

    assert [form[0] for form in world.forms()] == [tx_hash]
    assert world.trade(deal) == ("Confirmed", None)
    assert world.nonce() == 1


def test_what_was_sent_but_not_noted_is_harmless_to_send_again(world: World) -> None:
    deal = world.lock()
    world.hold()
    with pytest.raises(Crashed):
        world.sweep(ledger=world.fused_ledger(Fuse(1)))
    assert world.forms()[0][3] == 0
    world.sweep()  # "already known"
    world.sweep()
    assert world.forms()[0][3] == 2
    world.mine()
    world.go_on()
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    assert (world.nonce(), len(world.forms())) == (1, 1)


# ------------------------------------------------------------------------------------------------ the pool


def test_a_transaction_that_the_node_forgot_is_sent_again(world: World) -> None:
    deal = world.lock()
    world.hold()
    world.sweep()
    world.drop_pool()
    world.mine()
    assert world.nonce() == 0
    world.sweep()
    world.mine()
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    assert len(world.forms()) == 1


def test_a_stuck_transaction_is_replaced_with_higher_fees_under_its_nonce(world: World) -> None:
    deal = world.lock()
    world.hold()
    impatient = replace(RULES, stuck_after_s=0.0)
    world.sweep(impatient)
    world.sweep(impatient)
    world.sweep(impatient)
    forms = world.forms()
    assert len(forms) == 3
    for (_, fee, tip, _), (_, next_fee, next_tip, _) in pairwise(forms):
        assert next_fee * 8 >= fee * 9
        assert next_tip * 8 >= tip * 9
    assert world.batches() == [(0, "Stored", 1)]

    world.mine()
    world.sweep_until_final()

    assert world.trade(deal) == ("Confirmed", None)
    assert world.sql("SELECT mined_hash FROM settlement_batches") == [(forms[-1][0],)]
    assert world.chain.escrow(deal.seller) == deal.amount


def test_when_the_base_fee_outgrows_a_transaction_it_is_replaced_at_once(world: World) -> None:
    deal = world.lock()
    world.hold()
    world.sweep()
    ((first, fee, _, _),) = world.forms()
    world.drop_pool()
    world.chain.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(3 * fee))
    world.mine()
    world.sweep()
    world.mine()
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    hashes = [form[0] for form in world.forms()]
    assert len(hashes) == 2
    assert world.sql("SELECT mined_hash FROM settlement_batches") == [(hashes[1],)]
    assert hashes[0] == first


def test_only_the_first_in_line_is_replaced(world: World) -> None:
    world.lock()
    world.lock()
    world.hold()
    impatient = replace(RULES, max_batch=1, stuck_after_s=0.0)
    world.sweep(impatient)
    world.sweep(impatient)
    world.sweep(impatient)
    forms = world.sql(
        """SELECT nonce, count(*) FROM signed_transactions JOIN settlement_batches b ON b.id = batch_id
        GROUP BY nonce ORDER BY nonce"""
    )
    assert forms == [(0, 3), (1, 1)]


def test_replacements_end_and_then_raise_the_alarm(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.lock()
    world.hold()
    for _ in range(5):
        world.sweep(replace(RULES, stuck_after_s=0.0, max_forms=3))
    assert len(world.forms()) == 3
    assert "settlement.stuck" in logged(capsys)


# ------------------------------------------------------------------------------------------------ reorganisations


def test_a_reorganisation_before_finality_puts_a_trade_back_and_the_same_bytes_pay_it(world: World) -> None:
    deal = world.lock()
    world.sweep()
    world.mine()
    world.sweep()
    assert world.trade(deal) == ("Confirmed", None)

    world.hold()
    world.reorganise(2)
    assert not world.paid(deal)
    world.sweep()

    assert world.trade(deal) == ("Submitted", None)
    assert world.sql("SELECT blockchain_hash, confirmed_at, delivery FROM transactions") == [(None, None, None)]
    assert world.market.status_of(deal.bid) == "Executing"
    world.mine()
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    assert len(world.forms()) == 1
    assert world.chain.escrow(deal.seller) == deal.amount


def test_a_delivery_that_began_is_not_begun_again_after_a_reorganisation(world: World) -> None:
    deal = world.lock()
    world.sweep()
    world.mine()
    world.sweep()
    world.sql("UPDATE transactions SET delivery = 'Started' WHERE id = %s", deal.id)
    world.reorganise(2)
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    assert world.sql("SELECT delivery FROM transactions") == [("Started",)]


def test_a_reorganisation_moves_no_deadline_of_a_delivery(world: World) -> None:
    deal = world.lock()
    world.sweep()
    world.mine()
    world.sweep(replace(RULES, delivery_window_s=3_600))
    ((first, ahead),) = world.sql("SELECT deliver_by, deliver_by - confirmed_at FROM transactions")
    assert timedelta(seconds=3_599) < ahead < timedelta(seconds=3_601)
    world.reorganise(2)
    world.sweep()
    assert world.trade(deal) == ("Submitted", None)
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    assert world.sql("SELECT deliver_by FROM transactions") == [(first,)]


def test_a_delivery_ends_though_the_chain_is_away(world: World) -> None:
    deal = world.lock()
    world.sweep()
    world.mine()
    world.sweep()
    world.sql("UPDATE transactions SET deliver_by = clock_timestamp()")
    with pytest.raises(Unreachable):
        world.sweep(ledger=world.new_ledger(url="http://127.0.0.1:9"), deadline_s=0.2)
    assert world.sql("SELECT delivery, delivery_reason FROM transactions") == [("Short", "delivery_timeout")]
    assert world.trade(deal) == ("Confirmed", None)


def test_a_delivery_that_ended_short_stays_so_through_a_reorganisation(world: World) -> None:
    deal = world.lock()
    world.sweep()
    world.mine()
    world.sweep()
    refusal = {"transaction_id": str(deal.id), "status": "refused", "kwh_delivered": 0, "seq": 10**6}
    world.market.report(f"energy/transfer/{deal.device}/status", refusal)
    world.reorganise(2)
    world.sweep()
    assert world.trade(deal) == ("Submitted", None)
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    assert world.sql("SELECT delivery, delivery_reason FROM transactions") == [("Short", "reservation_lost")]


def test_a_buyer_who_withdraws_in_a_reorganisation_is_found_out(world: World) -> None:
    deal = world.lock()
    world.sweep()
    world.mine()
    world.sweep()
    assert world.trade(deal) == ("Confirmed", None)

    world.reorganise(2)
    world.chain.settlement.transact(deal.buyer, "withdraw", deal.amount)
    world.sweep_until_final()

    assert world.trade(deal) == ("Failed", "insufficient_escrow")
    assert world.chain.escrow(deal.seller) == 0


def test_a_payment_that_the_other_branch_refused_is_taken_back_at_the_next_look(world: World) -> None:
    """The batch has its nonce and a block again before anybody looked: only the block's hash tells."""
    deal = world.lock()
    world.sweep()
    world.mine()
    world.sweep()
    assert world.trade(deal) == ("Confirmed", None)

    world.reorganise(2)
    world.chain.settlement.transact(deal.buyer, "withdraw", deal.amount)
    ((raw,),) = world.sql("SELECT raw FROM signed_transactions")
    world.chain.rpc.call("eth_sendRawTransaction", "0x" + raw.hex())
    assert (world.nonce(), world.paid(deal)) == (1, False)
    world.sweep()

    assert world.trade(deal) == ("Submitted", None)
    assert world.sql("SELECT delivery FROM transactions") == [(None,)]
    world.sweep_until_final()
    assert world.trade(deal) == ("Failed", "insufficient_escrow")


def test_a_transaction_mined_in_another_block_of_the_other_branch_stays_confirmed(world: World) -> None:
    deal = world.lock()
    world.sweep()
    world.mine()
    world.sweep()
    world.reorganise(2)
    world.sweep(ledger=None)  # put back, and sent and mined again at once
    world.mine()
    world.sweep()
    assert world.trade(deal) == ("Confirmed", None)
    ((block_hash, number),) = world.sql("SELECT block_hash, block_number FROM settlement_batches")
    assert world.chain.rpc.call_many([("eth_getBlockByNumber", [hex(number), False])])[0]["hash"] == block_hash


def test_a_reorganisation_below_finality_raises_the_alarm(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    deal = world.lock()
    world.sweep()
    world.mine(FINALITY_BLOCKS)
    world.sweep()
    assert [status for _, status, _ in world.batches()] == ["Final"]
    logged(capsys)

    world.reorganise(FINALITY_BLOCKS + 1)
    world.sweep()
    assert "settlement.deep_reorganisation" in logged(capsys)
    assert world.trade(deal) == ("Confirmed", None)
    # Its bytes were sent again, so that nothing waits behind a nonce that nobody uses.
    assert world.paid(deal)
    other = world.lock()
    world.sweep_until_final()
    assert world.trade(other) == ("Confirmed", None)


# ------------------------------------------------------------------------------------------------ a refusing contract


def test_a_batch_that_reverts_is_halved_until_the_culprit_stands_alone_and_fails(world: World) -> None:
    deals = [world.lock() for _ in range(4)]
    culprit = deals[2]
    world.hold()
    world.sweep()
    world.poison(culprit.id)
    world.mine()
    world.sweep()
    assert world.statuses(deals) == ["Submitted"] * 4
    world.mine()
    world.go_on()
    world.sweep()

    assert world.batches()[0] == (0, "Reverted", 4)
    assert [size for _, _, size in world.batches()[1:]] == [2, 1]  # the culprit is not even sent
    assert world.statuses(deals) == ["Submitted", "Submitted", "Locked", "Submitted"]
    world.sweep_until_final()
    assert world.statuses(deals) == ["Confirmed", "Confirmed", "Failed", "Confirmed"]
    assert world.trade(culprit) == ("Failed", "chain_refused")
    assert [world.market.status_of(order) for order in (culprit.ask, culprit.bid)] == ["Created", "Created"]


def test_a_culprit_that_was_never_signed_for_fails_at_once(world: World) -> None:
    deals = [world.lock() for _ in range(3)]
    world.poison(deals[0].id)
    world.sweep()
    assert world.trade(deals[0]) == ("Failed", "chain_refused")
    assert world.statuses(deals[1:]) == ["Submitted", "Submitted"]


def test_a_trade_that_reverts_only_on_the_chain_is_tried_alone_three_times(world: World) -> None:
    """The trial run passes each time; only the block does not."""
    deals = [world.lock() for _ in range(2)]
    world.hold()
    for _ in range(8):
        world.sweep()
        world.poison(deals[1].id)
        world.mine(2)
        world.poison(None)
    world.mine(FINALITY_BLOCKS)
    world.sweep()
    assert world.trade(deals[1]) == ("Failed", "chain_refused")
    sizes = [(status, size) for _, status, size in world.batches()]
    assert sizes[0] == ("Reverted", 2)
    assert sizes.count(("Reverted", 1)) == 3


def test_a_paused_contract_fails_nobody_and_costs_no_gas(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    deals = [world.lock() for _ in range(2)]
    world.chain.settlement.transact(world.chain.owner, "pause")
    logged(capsys)
    world.sweep()
    assert logged(capsys) == ["settlement.halted"]
    assert world.statuses(deals) == ["Locked", "Locked"]
    assert world.batches() == []
    world.chain.settlement.transact(world.chain.owner, "unpause")
    world.sweep_until_final()
    assert world.statuses(deals) == ["Confirmed", "Confirmed"]


def test_a_pause_while_a_batch_is_under_way_fails_nobody(world: World) -> None:
    deals = [world.lock() for _ in range(3)]
    world.hold()
    world.sweep()
    world.call_first(world.chain.owner, world.chain.settlement, "pause")
    world.mine(2)
    world.sweep()
    assert world.statuses(deals) == ["Locked"] * 3
    assert [status for _, status, _ in world.batches()] == ["Reverted"]
    world.go_on()
    world.chain.settlement.transact(world.chain.owner, "unpause")
    world.sweep_until_final()
    assert world.statuses(deals) == ["Confirmed"] * 3
    assert [size for _, _, size in world.batches()] == [3, 2, 1]


def test_trades_expire_while_the_contract_is_paused(world: World) -> None:
    deal = world.lock()
    world.chain.settlement.transact(world.chain.owner, "pause")
    world.sweep()
    world.let_expire(deal)
    world.sweep()
    assert world.trade(deal) == ("Failed", "settlement_expired")


def test_another_operator_is_no_trades_fault(world: World) -> None:
    deal = world.lock()
    world.chain.settlement.transact(world.chain.owner, "setOperator", world.chain.person().address)
    world.sweep()
    assert (world.trade(deal), world.batches()) == (("Locked", None), [])


# ------------------------------------------------------------------------------------------------ the operator's key


def test_a_batch_whose_nonce_somebody_else_used_goes_under_another(world: World) -> None:
    deal = world.lock()
    world.hold()
    world.sweep()
    world.use_key(0)
    world.mine()
    world.sweep()
    assert world.batches() == [(0, "Stored", 1)]  # not yet for good
    world.mine()
    world.go_on()
    world.sweep()
    assert world.batches() == [(0, "Replaced", 1), (1, "Stored", 1)]
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    assert world.chain.escrow(deal.seller) == deal.amount


def test_a_nonce_that_somebody_else_holds_in_the_pool_is_left_to_him(world: World) -> None:
    deal = world.lock()
    world.hold()
    world.use_key(0)
    world.sweep()
    assert world.batches() == [(1, "Stored", 1)]
    world.mine()
    world.go_on()
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)


def test_a_gap_that_somebody_else_left_is_filled(world: World) -> None:
    deal = world.lock()
    world.hold()
    foreign = world.use_key(0)
    world.sweep()
    world.chain.rpc.call("anvil_dropTransaction", foreign)
    world.mine()
    assert world.nonce() == 0
    world.sweep()
    assert world.batches() == [(0, "Stored", 0), (1, "Stored", 1)]
    world.mine()
    world.go_on()
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)


def test_nonces_used_by_somebody_else_before_are_passed_over(world: World) -> None:
    world.use_key(0)
    world.use_key(1)
    deal = world.lock()
    world.sweep_until_final()
    assert world.batches() == [(2, "Final", 1)]
    assert world.trade(deal) == ("Confirmed", None)


def test_an_operator_without_gas_money_stores_nothing_and_says_so(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    deal = world.lock()
    world.chain.rpc.call("anvil_setBalance", world.chain.operator.address, "0x1")
    logged(capsys)
    world.sweep()
    assert logged(capsys) == ["settlement.operator_out_of_gas"]
    assert (world.trade(deal), world.batches()) == (("Locked", None), [])
    world.chain.rpc.call("anvil_setBalance", world.chain.operator.address, hex(10**18))
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)


def test_an_operator_who_ran_out_of_gas_money_after_signing_sends_again_when_there_is_some(world: World) -> None:
    deal = world.lock()
    world.hold()
    world.sweep()
    world.drop_pool()
    world.chain.rpc.call("anvil_setBalance", world.chain.operator.address, "0x1")
    world.sweep()
    assert world.trade(deal) == ("Submitted", None)
    world.chain.rpc.call("anvil_setBalance", world.chain.operator.address, hex(10**18))
    world.go_on()
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    assert world.nonce() == 1


# ------------------------------------------------------------------------------------------------ two sweeps at once


def test_of_two_sweeps_at_once_one_works(world: World) -> None:
    deals = [world.lock() for _ in range(6)]
    small = replace(RULES, max_batch=1)
    databases = [Database(world.database_url) for _ in range(4)]
    ledgers = [world.new_ledger() for _ in databases]
    start = threading.Barrier(len(databases))
    worked: list[bool] = []

    def sweep(database: Database, ledger: Ledger) -> None:
        start.wait()
        worked.append(settle_trades(database, ledger, rules=small, deadline_s=20.0))

    threads = [threading.Thread(target=sweep, args=pair) for pair in zip(databases, ledgers, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for database in databases:
        database.close()

    assert any(worked)
    world.sweep_until_final()
    assert world.statuses(deals) == ["Confirmed"] * 6
    assert [n for n, _, _ in world.batches()] == list(range(6))
    assert all(world.chain.escrow(deal.seller) == deal.amount for deal in deals)


def test_a_sweep_that_waits_gets_its_turn(world: World) -> None:
    world.lock()
    world.sql("INSERT INTO leases VALUES ('settlement', gen_random_uuid(), clock_timestamp() + interval '300 ms')")
    assert not world.sweep()
    assert settle_trades(world.database, world.ledger, rules=RULES, deadline_s=20.0, wait_s=5.0)


class SlowLedger(Ledger):
    """So slow at signing that something happens meanwhile."""

    meanwhile: Callable[[], None]

    def sign(self, payments: Sequence[Payment], *, nonce: int, gas: int, fees: Fees) -> Signed:
        signed = super().sign(payments, nonce=nonce, gas=gas, fees=fees)
        self.meanwhile()
        return signed


def slow_ledger(world: World, meanwhile: Callable[[], None]) -> SlowLedger:
    ledger = world.ledger_of(SlowLedger)
    ledger.meanwhile = meanwhile
    return ledger


def test_a_sweep_is_woken_once_until_it_begins(world: World) -> None:
    databases = [Database(world.database_url) for _ in range(8)]
    woken: list[int] = []
    together = threading.Barrier(len(databases))

    def answer(database: Database) -> bool:
        together.wait()
        return wake_sweep(database, lambda: woken.append(1))

    with ThreadPoolExecutor(len(databases)) as pool:
        assert sum(pool.map(answer, databases)) == 1
    for database in databases:
        database.close()
    assert len(woken) == 1

    world.lock()
    ledger = slow_ledger(world, lambda: woken.extend([1] * wake_sweep(world.database, lambda: None)))
    assert world.sweep(ledger=ledger)
    assert len(woken) == 2, "what is locked after a sweep has looked needs another"


def test_a_sweep_that_was_woken_and_never_began_is_woken_again(world: World) -> None:
    assert wake_sweep(world.database, lambda: None)
    assert not wake_sweep(world.database, lambda: None)
    world.time_passes_for_the_lease()
    assert wake_sweep(world.database, lambda: None)


def test_a_sweep_that_outlived_its_lease_stores_and_sends_nothing(world: World) -> None:
    deal = world.lock()

    def another_sweep() -> None:
        world.time_passes_for_the_lease()
        other = Database(world.database_url)
        try:
            assert settle_trades(other, world.ledger, rules=RULES, deadline_s=20.0)
        finally:
            other.close()

    assert not world.sweep(ledger=slow_ledger(world, another_sweep))
    assert world.batches() == [(0, "Stored", 1)]
    assert len(world.forms()) == 1
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    assert world.nonce() == 1


def test_a_sweep_without_a_lease_stores_nothing_though_nobody_else_has_begun(world: World) -> None:
    deal = world.lock()
    assert not world.sweep(ledger=slow_ledger(world, world.time_passes_for_the_lease))
    assert (world.trade(deal), world.batches()) == (("Locked", None), [])


def test_a_batch_is_not_stored_if_one_of_its_trades_is_no_longer_locked(world: World) -> None:
    deals = [world.lock(), world.lock()]

    def fail_one() -> None:
        with world.market.database.transaction() as conn:
            trades.fail(conn, [deals[0].id], reason="settlement_expired", expected="Locked")

    assert not world.sweep(ledger=slow_ledger(world, fail_one))
    assert world.statuses(deals) == ["Failed", "Locked"]
    assert (world.batches(), world.nonce()) == ([], 0)


def test_a_nonce_of_something_that_the_node_forgot_is_not_given_away(world: World) -> None:
    first = world.lock()
    world.hold()
    world.sweep()
    world.drop_pool()
    second = world.lock(in_escrow=False)
    world.sweep()
    assert world.statuses([first, second]) == ["Submitted", "Submitted"]
    assert world.batches() == [(0, "Stored", 1), (1, "Stored", 1)]


@pytest.mark.parametrize("status", ["Submitted", "Locked"])  # its batch waits; its batch had no effect
def test_a_signed_trade_is_overdue_by_the_chains_clock_not_by_ours(world: World, status: str) -> None:
    deal = world.lock()
    world.sweep()
    world.sql("UPDATE transactions SET status = %s", status)
    world.let_expire(deal)
    ((valid_until,),) = world.sql("SELECT valid_until FROM transactions")
    account = batches.Account(chain_id=world.ledger.chain_id, sender=world.ledger.operator)

    def overdue(final_time: datetime) -> list[UUID]:
        with world.market.database.transaction() as conn:
            found = settleable.overdue_stored(
                conn, account, contract=world.ledger.contract, final_time=final_time, limit=10
            )
        return [one.id for one in found]

    assert overdue(valid_until) == []
    assert overdue(valid_until + timedelta(seconds=1)) == [deal.id]
    with world.market.database.transaction() as conn:
        assert settleable.overdue_unstored(conn, limit=10) == []


def test_a_trade_that_another_chain_may_have_paid_waits_until_that_one_is_asked(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    deal = world.lock()
    world.sweep()
    assert world.paid(deal)
    world.sql("UPDATE settlement_batches SET chain_id = 1")  # so to us this is another chain
    world.let_expire(deal)
    world.mine_at(world.chain.time() + 100)
    world.mine(FINALITY_BLOCKS)
    logged(capsys)
    world.sweep()
    assert "settlement.stored_elsewhere" in logged(capsys)
    assert world.trade(deal) == ("Submitted", None)
    world.sql("UPDATE settlement_batches SET chain_id = 31337")
    world.sweep()
    assert world.trade(deal) == ("Confirmed", None)


def test_a_trade_that_was_signed_for_one_contract_is_not_signed_for_another(world: World) -> None:
    deal = world.lock()
    other = world.new_ledger(contract=world.chain.deploy_settlement(world.chain.token).address)
    world.hold()
    world.sweep()
    world.sql("UPDATE transactions SET status = 'Locked'")  # as when its batch had no effect
    world.sweep(ledger=other)
    assert world.trade(deal) == ("Locked", None)
    assert len(world.batches()) == 1


def test_ids_are_the_same_on_both_sides() -> None:
    trade = UUID("0190a1b2-c3d4-7e5f-8061-728394a5b6c7")
    assert trade.int.to_bytes(32, "big").hex() == "00" * 16 + trade.hex
