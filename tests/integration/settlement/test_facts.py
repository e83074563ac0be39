"""What the contract and its token know of themselves is asked: a contradiction stops payments and matching."""

import json
from typing import Any

import pytest

from energy_market.evm import node_check
from energy_market.evm.ledger import FACTS_FOR_S, Ledger
from energy_market.evm.node_check import Expected, WrongChain
from tests.support.chain.world import CHAIN_ID, NANO, World


def halts(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [line["reason"] for line in lines if line.get("event") == "settlement.halted"]


def unfit(world: World) -> str | None:
    ((sentence,),) = world.sql("SELECT unfit FROM chain_state")
    return None if sentence is None else str(sentence)


@pytest.mark.parametrize("believed", [9, 17, 21])
def test_a_parameter_that_the_token_contradicts_stops_payments_with_a_sentence(
    world: World, believed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    deal = world.lock()
    capsys.readouterr()
    ledger = world.new_ledger(token_decimals=believed)
    assert world.sweep(ledger=ledger)
    assert world.trade(deal) == ("Locked", None)
    assert world.nonce() == 0
    sentence = f"the token has 18 decimals, but TokenDecimals is {believed}"
    assert halts(capsys) == [sentence]
    assert unfit(world) == sentence
    world.market.order(deal.donor, "sell", 100, 1)
    world.market.order(deal.recipient, "buy", 100, 1)
    assert world.market.tick().trade_ids == ()
    world.sweep()  # with the parameter set right
    assert unfit(world) is None
    assert len(world.market.tick().trade_ids) == 1
    world.sweep_until_final()
    assert (world.trade(deal), world.chain.escrow(deal.seller)) == (("Confirmed", None), deal.amount)


@pytest.mark.parametrize("decimals", [8, 25])
def test_a_token_that_cannot_express_amounts_is_not_paid_with(
    world: World, decimals: int, capsys: pytest.CaptureFixture[str]
) -> None:
    deal = world.lock()
    world.give_token(decimals)
    capsys.readouterr()
    world.sweep(ledger=world.new_ledger(token_decimals=decimals))
    assert world.trade(deal) == ("Locked", None)
    assert halts(capsys) == [f"the token has {decimals} decimals, but amounts need 9 to 24"]


@pytest.mark.parametrize("decimals", [9, 21, 24])
def test_amounts_are_in_the_unit_that_the_token_says(world: World, decimals: int) -> None:
    world.give_token(decimals)
    deal = world.lock(in_escrow=False)
    amount = deal.amount // NANO * 10 ** (decimals - 9)
    world.chain.deposit(deal.buyer, amount)
    ledger = world.new_ledger(token_decimals=decimals)
    world.sweep_until_final(ledger=ledger)
    assert world.trade(deal) == ("Confirmed", None)
    assert (world.chain.escrow(deal.seller), world.chain.escrow(deal.buyer)) == (amount, 0)
    assert world.differences(token_decimals=decimals) == []


def test_the_nightly_comparison_finds_a_parameter_that_the_token_contradicts(world: World) -> None:
    world.lock()
    world.sweep_until_final()
    assert world.differences() == []
    assert world.differences(token_decimals=9) == ["the token has 18 decimals, but TokenDecimals is 9"]


def test_another_token_than_the_contracts_stops_payments(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    deal = world.lock()
    capsys.readouterr()
    operator = world.chain.operator.key.hex()
    stranger = world.chain.person().address
    ledger = Ledger(
        world.new_rpc(),
        chain_id=CHAIN_ID,
        contract=world.chain.settlement.address,
        token=stranger,
        token_decimals=18,
        operator_key=operator,
    )
    world.sweep(ledger=ledger)
    assert world.trade(deal) == ("Locked", None)
    (said,) = halts(capsys)
    assert said == f"the contract's token is {world.chain.token.address.lower()}, but TokenContract is {stranger}"


def test_a_pause_stops_payments_and_matching_until_it_is_over(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    paid, waiting = world.lock(), world.lock()
    world.sweep()
    world.chain.settlement.transact(world.chain.owner, "pause")
    world.ledger.doubt()  # the minute in which its facts are not asked again is over
    world.mine(2)
    capsys.readouterr()
    world.sweep()
    assert halts(capsys) == ["the contract is paused by its owner"]
    assert [world.trade(deal)[0] for deal in (paid, waiting)] == ["Confirmed", "Confirmed"]
    late = world.market.matched
    assert unfit(world) == "the contract is paused by its owner"
    world.chain.settlement.transact(world.chain.owner, "unpause")
    world.sweep()
    assert (halts(capsys), unfit(world)) == ([], None)
    assert late(energy_wh=100, price_micro=100)


def test_a_pause_that_comes_within_the_minute_is_noticed_by_the_next_batch(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.sweep()
    world.chain.settlement.transact(world.chain.owner, "pause")
    deal = world.lock(in_escrow=False)
    capsys.readouterr()
    world.sweep()  # believes what it knows, and learns by the batch
    assert len(halts(capsys)) == 1
    world.sweep()
    assert halts(capsys) == ["the contract is paused by its owner"]
    assert world.trade(deal) == ("Locked", None)


def test_facts_are_asked_again_after_a_minute_and_not_before(world: World) -> None:
    now_s = 0.0
    ledger = Ledger(
        world.new_rpc(),
        chain_id=CHAIN_ID,
        contract=world.chain.settlement.address,
        token=world.chain.token.address,
        token_decimals=18,
        operator_key=world.chain.operator.key.hex(),
        monotonic=lambda: now_s,
    )
    world.sweep(ledger=ledger)
    world.chain.settlement.transact(world.chain.owner, "setOperator", world.chain.owner.address)
    now_s = FACTS_FOR_S - 1
    world.sweep(ledger=ledger)
    assert ledger.gaps == []
    now_s = FACTS_FOR_S
    world.sweep(ledger=ledger)
    assert [gap.need for gap in ledger.gaps] == ["operator"]


def test_a_wrong_chain_is_written_down_for_the_ticks(world: World) -> None:
    with pytest.raises(WrongChain):
        world.sweep(ledger=world.new_ledger(chain_id=1))
    assert unfit(world) == "the node is on chain 31337, not on 1"


def test_a_real_node_lacks_nothing(world: World) -> None:
    expected = Expected(
        chain_id=CHAIN_ID,
        contract=world.chain.settlement.address,
        token=world.chain.token.address,
        token_decimals=18,
        operator=world.chain.operator.address,
    )
    assert node_check.check(world.new_rpc(), expected) == []
