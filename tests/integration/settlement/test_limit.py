"""What the contract's limit of a period leaves no room for is paid in the next, or comes to the end of its time."""

from datetime import timedelta

import pytest

from energy_market.evm.node_check import WrongChain
from tests.support.api import Answer, Client, signed_in
from tests.support.chain.chain import LIMIT
from tests.support.chain.world import CONFIRMATIONS, NANO, RULES, Deal, World, logged
from tests.support.fixtures import LoadApi


def lock_for_hours(world: World, *, energy_wh: int = 500) -> Deal:
    """A locked trade that outlives the period."""
    deal = world.lock(energy_wh=energy_wh)
    world.sql("UPDATE transactions SET valid_until = valid_until + %s", timedelta(hours=3))
    return deal


def test_what_is_over_the_limit_waits_for_the_next_period(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    first, large, last = lock_for_hours(world), lock_for_hours(world, energy_wh=900), lock_for_hours(world)
    world.chain.settlement.transact(world.chain.owner, "setLimit", first.amount + last.amount)
    world.chain.next_period()
    logged(capsys)

    world.sweep()
    assert world.statuses([first, large, last]) == ["Submitted", "Locked", "Submitted"]
    assert [size for _, _, size in world.batches()] == [2]  # no gas is spent on what would be skipped
    said = capsys.readouterr().out
    assert '"settlement.over_limit"' in said
    assert '"TradesOverLimit":1' in said.replace(" ", "")
    world.sweep()
    assert world.trade(large) == ("Locked", None)

    world.chain.next_period()
    world.sweep()
    world.sweep_until_final()
    assert world.statuses([first, large, last]) == ["Confirmed"] * 3
    assert world.chain.escrow(large.seller) == large.amount
    assert world.differences() == []


def test_what_waits_to_be_mined_counts(world: World) -> None:
    first, second = world.lock(), world.lock()
    world.leave_room(first.amount)
    world.hold()
    world.sweep()
    world.sweep()
    assert world.statuses([first, second]) == ["Submitted", "Locked"]


def test_a_trade_that_the_chain_calls_over_the_limit_is_tried_again_and_paid_once(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody else used the room up between the look and the block."""
    deal = world.lock()
    world.hold()
    world.sweep()
    world.leave_room(0)
    world.mine()
    world.sweep()
    assert world.trade(deal) == ("Submitted", None)
    world.mine(CONFIRMATIONS - 1)
    logged(capsys)
    world.sweep()
    assert world.trade(deal) == ("Locked", None)
    assert world.market.status_of(deal.bid) == "Executing"
    assert logged(capsys).count("settlement.over_limit") == 2  # the chain's word, and the wait that follows
    assert [size for _, _, size in world.batches()] == [1]

    world.leave_room(LIMIT)
    world.go_on()
    world.sweep_until_final()
    assert world.trade(deal) == ("Confirmed", None)
    assert world.batches() == [(0, "Final", 1), (1, "Final", 1)]
    assert world.chain.escrow(deal.seller) == deal.amount
    assert world.differences() == []


def test_what_never_fits_fails_when_its_time_is_over_and_nobody_bears_it(world: World) -> None:
    deal = world.lock()
    world.leave_room(0)
    world.sweep()
    assert world.trade(deal) == ("Locked", None)
    world.let_expire(deal)
    world.sweep()
    assert world.trade(deal) == ("Failed", "settlement_expired")
    assert [world.market.status_of(order) for order in (deal.ask, deal.bid)] == ["Created", "Created"]


def test_the_next_period_begins_by_our_clock_where_the_chain_stands_still(world: World) -> None:
    """A chain may make no block while nobody sends anything."""
    view = world.ledger.look(finality_blocks=RULES.finality_blocks)
    period = view.head.time_s // 3600
    used_up = (period << 224 | 7 * 10**9 << 112 | 7 * 10**9).to_bytes(32, "big")
    world.chain.rpc.call("anvil_setStorageAt", world.chain.settlement.address, "0x4", "0x" + used_up.hex())
    assert world.ledger.movable_nano(at=view.head, now_s=view.head.time_s) == 0
    assert world.ledger.movable_nano(at=view.head, now_s=(period + 1) * 3600 - 1) == 0
    assert world.ledger.movable_nano(at=view.head, now_s=(period + 1) * 3600) == 7


def test_a_contract_without_a_limit_is_not_settled_on(world: World) -> None:
    deal = world.lock()
    with pytest.raises(WrongChain, match="no settlement contract"):
        world.sweep(ledger=world.new_ledger(contract=world.chain.token.address))
    assert world.trade(deal) == ("Locked", None)


def test_more_than_the_whole_limit_is_refused_when_it_is_ordered(world: World, load_api: LoadApi, auth: Client) -> None:
    world.chain.settlement.transact(world.chain.owner, "setLimit", 100_000_000 * NANO)
    world.sweep()
    market, ann = load_api("market_api"), signed_in(auth)

    def place(**terms: object) -> Answer:
        return market.post("/api/v1/market/order/create", terms, token=ann.token)

    refused = place(type="buy", kwh_amount=0.501, token_price=0.2)
    assert refused.refusal == (409, "over_limit")
    assert "more than 0.1 tokens" in refused.json["error"]
    assert place(type="buy", kwh_amount=0.501, token_price=0.2, all_or_none=False).status == 409
    assert place(type="sell", kwh_amount=0.501, token_price=0.2).status == 409
    assert place(type="sell", kwh_amount=0.501, token_price=0.2, all_or_none=False).status == 201
    assert place(type="buy", kwh_amount=0.5, token_price=0.2).status == 201


def test_before_a_sweep_knows_the_limit_orders_are_taken(load_api: LoadApi, auth: Client) -> None:
    ann = signed_in(auth)
    answer = load_api("market_api").post(
        "/api/v1/market/order/create", {"type": "buy", "kwh_amount": 1000, "token_price": 1000}, token=ann.token
    )
    assert answer.status == 201


def test_a_trade_above_a_limit_that_was_lowered_fails_at_once_and_costs_the_bid(world: World) -> None:
    small, large = lock_for_hours(world), lock_for_hours(world, energy_wh=900)
    world.chain.settlement.transact(world.chain.owner, "setLimit", large.amount - 1)
    world.chain.next_period()
    world.sweep()
    assert world.trade(large) == ("Failed", "over_limit")
    assert (world.market.status_of(large.bid), world.market.status_of(large.ask)) == ("Rejected", "Created")
    assert world.statuses([small]) == ["Submitted"]


def test_a_limit_of_nothing_is_a_stop_and_nobodys_fault(world: World) -> None:
    deal = lock_for_hours(world)
    world.chain.settlement.transact(world.chain.owner, "setLimit", 0)
    world.chain.next_period()
    world.sweep()
    assert world.statuses([deal]) == ["Locked"]
