"""Locked trades are paid, and the chain's word on each is taken over."""

import pytest

from energy_market.domain.settlement import SettlementRules
from energy_market.evm.node_check import WrongChain
from energy_market.evm.rpc import Unreachable
from tests.support.chain.chain import trade as chain_trade
from tests.support.chain.world import FINALITY_BLOCKS, RULES, World, logged


def test_a_locked_trade_is_paid_and_confirmed_after_its_confirmations(world: World) -> None:
    deal = world.lock()

    world.sweep()
    assert world.trade(deal) == ("Submitted", None)
    assert world.market.status_of(deal.bid) == "Executing"
    assert world.paid(deal)
    world.sweep()
    assert world.trade(deal) == ("Submitted", None)  # in the newest block: one confirmation of two
    world.mine()
    world.sweep()

    assert world.trade(deal) == ("Confirmed", None)
    assert (world.chain.escrow(deal.buyer), world.chain.escrow(deal.seller)) == (0, deal.amount)
    ((tx_hash, delivery, sent),) = world.sql("SELECT blockchain_hash, delivery, command_sent_at FROM transactions")
    assert (tx_hash, delivery, sent) == (world.forms()[0][0], "Owed", None)
    assert (world.market.status_of(deal.ask), world.market.status_of(deal.bid)) == ("Completed", "Completed")
    assert [status for _, status, _ in world.batches()] == ["Mined"]
    world.mine(FINALITY_BLOCKS - 2)
    world.sweep()
    assert [status for _, status, _ in world.batches()] == ["Final"]


def test_trades_go_in_batches_oldest_first(world: World) -> None:
    deals = [world.lock() for _ in range(5)]
    world.hold()
    world.sweep(SettlementRules(max_batch=2, confirmations=2, finality_blocks=3))
    carried = [size for _, _, size in world.batches()]
    assert carried == [2, 2, 1]
    assert [n for n, _, _ in world.batches()] == [0, 1, 2]
    by_batch = world.sql(
        "SELECT t.id FROM transactions t JOIN settlement_batches b ON b.id = batch_id ORDER BY nonce, seq"
    )
    assert [row[0] for row in by_batch] == [deal.id for deal in deals]
    world.mine()
    world.sweep_until_final()
    assert world.statuses(deals) == ["Confirmed"] * 5
    assert sum(world.chain.escrow(deal.seller) for deal in deals) == sum(deal.amount for deal in deals)


def test_not_more_batches_are_under_way_than_a_node_queues(world: World) -> None:
    deals = [world.lock() for _ in range(4)]
    world.hold()
    rules = SettlementRules(max_batch=1, confirmations=1, finality_blocks=1, max_under_way=3)
    world.sweep(rules)
    world.sweep(rules)
    assert world.statuses(deals) == ["Submitted"] * 3 + ["Locked"]
    world.mine()
    world.sweep(rules)
    assert world.statuses(deals) == ["Confirmed"] * 3 + ["Submitted"]


def test_a_sweep_goes_on_while_the_chain_makes_room(world: World) -> None:
    deals = [world.lock() for _ in range(5)]
    world.sweep(SettlementRules(max_batch=1, confirmations=1, finality_blocks=1, max_under_way=2))
    statuses = world.statuses(deals)
    assert set(statuses) == {"Confirmed", "Submitted"}
    assert statuses.count("Submitted") <= 2  # whose blocks were not there yet at the last look


def test_a_sweep_with_nothing_to_do_changes_nothing(world: World) -> None:
    assert world.sweep()
    assert world.batches() == []
    assert world.sql("SELECT name FROM leases") == []


def test_a_buyer_short_of_escrow_loses_the_bid_and_the_ask_is_open_again(world: World) -> None:
    poor, rich = world.lock(in_escrow=False), world.lock()
    world.sweep()
    world.mine(FINALITY_BLOCKS - 2)
    world.sweep()
    assert world.statuses([poor, rich]) == ["Submitted", "Confirmed"]  # failing waits until nothing can undo it
    world.mine()
    world.sweep()

    assert world.trade(poor) == ("Failed", "insufficient_escrow")
    assert world.market.status_of(poor.bid) == "Rejected"
    assert world.market.get(poor.bid).reason == "insufficient_escrow"
    assert world.market.status_of(poor.ask) == "Created"
    assert world.sql("SELECT order_id FROM open_orders") == [(poor.ask,)]
    assert world.sql("SELECT unlock FROM transactions WHERE id = %s", poor.id) == [("Owed",)]
    assert world.chain.escrow(rich.seller) == rich.amount


def test_a_trade_mined_too_late_fails_and_both_orders_are_open_again(world: World) -> None:
    deal = world.lock()
    world.hold()
    world.sweep()
    ((valid_until,),) = world.sql("SELECT extract(epoch FROM valid_until)::bigint FROM transactions")
    world.mine_at(valid_until + 1)
    world.sweep_until_final()
    assert world.trade(deal) == ("Failed", "settlement_expired")
    assert not world.paid(deal)
    assert [world.market.status_of(order) for order in (deal.ask, deal.bid)] == ["Created", "Created"]


def test_a_trade_that_was_never_signed_expires_by_our_clock_though_the_chain_is_away(world: World) -> None:
    deal = world.lock()
    world.let_expire(deal)
    with pytest.raises(Unreachable):
        world.sweep(ledger=world.new_ledger(url="http://127.0.0.1:9"), deadline_s=0.2)
    assert world.trade(deal) == ("Failed", "settlement_expired")
    assert [world.market.status_of(order) for order in (deal.ask, deal.bid)] == ["Created", "Created"]
    assert world.sql("SELECT name FROM leases") == []


def test_a_trade_with_too_little_time_left_is_not_sent(world: World) -> None:
    deal = world.lock()
    world.sql("UPDATE transactions SET valid_until = clock_timestamp() + interval '20 s' WHERE id = %s", deal.id)
    world.sweep()
    assert world.trade(deal) == ("Locked", None)
    assert world.batches() == []


def test_a_trade_that_is_stored_fails_only_on_the_chains_word(world: World) -> None:
    deal = world.lock()
    world.hold()
    world.sweep()
    ((valid_until,),) = world.sql("SELECT extract(epoch FROM valid_until)::bigint FROM transactions")
    world.drop_pool()
    world.chain.rpc.call("anvil_setBalance", world.chain.operator.address, "0x0")  # so it cannot be sent again

    world.mine_at(valid_until + 1)
    world.mine(FINALITY_BLOCKS - 2)
    world.sweep()
    assert world.trade(deal) == ("Submitted", None)  # late, but not for good
    world.mine()
    world.sweep()
    assert world.trade(deal) == ("Failed", "settlement_expired")

    world.chain.rpc.call("anvil_setBalance", world.chain.operator.address, hex(10**20))
    world.sweep()
    world.sweep_until_final()  # the old bytes use up their nonce, and pay nothing
    assert [status for _, status, _ in world.batches()] == ["Final"]
    assert world.chain.escrow(deal.buyer) == deal.amount


def test_a_trade_that_somebody_else_settled_with_the_operators_key_is_confirmed_with_that_transaction(
    world: World,
) -> None:
    deal = world.lock()
    world.hold()
    world.sweep()
    world.drop_pool()
    world.go_on()
    receipt = world.chain.settle([chain_trade(deal.buyer, deal.seller, deal.amount, id=deal.id)])
    second = world.lock()

    world.sweep_until_final()

    assert world.statuses([deal, second]) == ["Confirmed", "Confirmed"]
    ((tx_hash,),) = world.sql("SELECT blockchain_hash FROM transactions WHERE id = %s", deal.id)
    assert tx_hash == receipt["transactionHash"]
    assert world.chain.escrow(deal.seller) == deal.amount
    assert [status for _, status, _ in world.batches()] == ["Replaced", "Final"]


def test_a_trade_that_was_paid_before_its_batch_is_confirmed_with_what_paid_it(world: World) -> None:
    deal = world.lock()
    receipt = world.chain.settle([chain_trade(deal.buyer, deal.seller, deal.amount, id=deal.id)])
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    ((tx_hash,),) = world.sql("SELECT blockchain_hash FROM transactions WHERE id = %s", deal.id)
    assert tx_hash == receipt["transactionHash"]
    assert world.chain.escrow(deal.seller) == deal.amount


def test_the_wrong_chain_is_not_settled_on(world: World) -> None:
    deal = world.lock()
    with pytest.raises(WrongChain, match="on chain 31337, not on 1"):
        world.sweep(ledger=world.new_ledger(chain_id=1))
    world.chain.rpc.call("anvil_setCode", world.chain.settlement.address, "0x")
    with pytest.raises(WrongChain, match="no settlement contract"):
        world.sweep()
    assert world.trade(deal) == ("Locked", None)


def test_every_outcome_is_a_line_in_the_log(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.lock()
    world.lock(in_escrow=False)
    logged(capsys)
    world.sweep_until_final()
    assert logged(capsys) == [
        "settlement.stored",
        "settlement.sent",
        "trade.confirmed",
        "trade.failed",
        "settlement.final",
    ]


def test_rules_that_make_no_sense_are_refused() -> None:
    for wrong in ({"confirmations": 0}, {"confirmations": 7}, {"max_batch": 0}):
        fields = {"max_batch": 1, "confirmations": 1, "finality_blocks": RULES.finality_blocks} | wrong
        with pytest.raises(ValueError, match="at least"):
            SettlementRules(**fields)
