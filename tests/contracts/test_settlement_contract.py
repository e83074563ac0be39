"""The settlement contract and its token, on a real EVM."""

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from eth_account.signers.local import LocalAccount
from eth_utils.abi import function_abi_to_4byte_selector
from eth_utils.crypto import keccak

from energy_market.evm import ledger
from energy_market.evm.contract import deploy
from energy_market.evm.rpc import Refused
from tests.support.chain.chain import (
    ALREADY_SETTLED,
    EXPIRED,
    FOR_EVER,
    INSUFFICIENT_ESCROW,
    LIMIT,
    ONE,
    OVER_CAP,
    OVER_LIMIT,
    PERIOD_S,
    SETTLEMENT,
    TOKEN,
    Chain,
    ChainWith,
    events,
    mock,
    trade,
    word,
)
from tests.support.places import CHECKOUT

DAY_S: Final = 86_400


def refusal(error: str) -> str:
    """The first four bytes of a custom error: what a revert's data begins with."""
    return "0x" + keccak(text=error)[:4].hex()


def said(caught: pytest.ExceptionInfo[Refused]) -> str:
    return str(caught.value.data)[:10]


def receipt_time(chain: Chain, receipt: dict[str, Any]) -> int:
    """When its block was made, in Unix seconds."""
    return int(chain.rpc.call("eth_getBlockByHash", receipt["blockHash"], False)["timestamp"], 16)  # noqa: FBT003


def skipped(receipt: dict[str, object], chain: Chain) -> list[int]:
    return [e.data[0] for e in events(receipt, chain.settlement) if e.name == "TradeSkipped"]


# ---------------------------------------------------------------------------------------------------- escrow


def test_a_deposit_is_credited_and_can_be_withdrawn(chain: Chain) -> None:
    anna = chain.person()
    receipt = chain.deposit(anna, 5 * ONE)
    assert [(e.name, e.data) for e in events(receipt, chain.settlement)] == [("Deposited", (5 * ONE,))]
    assert (chain.escrow(anna), chain.balance(anna)) == (5 * ONE, 0)

    receipt = chain.settlement.transact(anna, "withdraw", 2 * ONE)
    assert [(e.name, e.data) for e in events(receipt, chain.settlement)] == [("Withdrawn", (2 * ONE,))]
    assert (chain.escrow(anna), chain.balance(anna)) == (3 * ONE, 2 * ONE)
    assert chain.settlement.read("totalEscrow") == 3 * ONE


def test_nobody_withdraws_more_than_is_theirs(chain: Chain) -> None:
    anna, _ = chain.buyer(5 * ONE), chain.buyer(5 * ONE)
    with pytest.raises(Refused) as caught:
        chain.settlement.transact(anna, "withdraw", 5 * ONE + 1)
    assert said(caught) == refusal("EscrowTooLow(uint256,uint256)")


def test_nothing_is_neither_deposited_nor_withdrawn(chain: Chain) -> None:
    anna = chain.buyer(ONE)
    for function in ("deposit", "withdraw"):
        with pytest.raises(Refused) as caught:
            chain.settlement.transact(anna, function, 0)
        assert said(caught) == refusal("ZeroAmount()")


def test_a_deposit_needs_an_approval(chain: Chain) -> None:
    anna = chain.person()
    chain.token.transact(chain.owner, "mint", anna.address, ONE)
    with pytest.raises(Refused):
        chain.settlement.transact(anna, "deposit", ONE)
    assert chain.escrow(anna) == 0


def test_of_a_token_that_takes_a_fee_what_arrived_is_credited(chain_with: ChainWith) -> None:
    chain = chain_with("FeeToken")
    anna = chain.buyer(100 * ONE)
    assert chain.escrow(anna) == 99 * ONE
    assert chain.settlement.read("totalEscrow") == chain.token.read("balanceOf", chain.settlement.address)


def test_a_token_that_answers_false_is_not_believed(chain_with: ChainWith) -> None:
    chain = chain_with("SilentToken")
    anna = chain.person()
    with pytest.raises(Refused):
        chain.deposit(anna, ONE)
    assert chain.escrow(anna) == 0


def test_a_token_that_answers_nothing_is_taken_as_it_is(chain_with: ChainWith) -> None:
    chain = chain_with("WordlessToken")
    anna = chain.buyer(5 * ONE)
    chain.settlement.transact(anna, "withdraw", 2 * ONE)
    assert (chain.escrow(anna), chain.balance(anna)) == (3 * ONE, 2 * ONE)


def test_a_token_that_lies_credits_nothing_and_takes_nothing(chain_with: ChainWith) -> None:
    chain = chain_with("LyingToken")
    anna = chain.buyer(5 * ONE)
    chain.token.transact(chain.owner, "lie")
    with pytest.raises(Refused) as caught:
        chain.deposit(anna, ONE)
    assert said(caught) == refusal("ZeroAmount()")
    with pytest.raises(Refused) as caught:
        chain.settlement.transact(anna, "withdraw", ONE)
    assert said(caught) == refusal("NotTransferred(uint256,uint256)")
    assert chain.escrow(anna) == 5 * ONE


def test_of_a_token_that_takes_a_fee_on_top_whoever_withdraws_bears_it(chain_with: ChainWith) -> None:
    chain = chain_with("GreedyToken")
    anna, ben = chain.person(), chain.person()
    for person in (anna, ben):
        chain.token.transact(chain.owner, "mint", person.address, ONE)  # for the fee of the deposit
        chain.deposit(person, 100 * ONE)

    receipt = chain.settlement.transact(anna, "withdraw", 50 * ONE)

    taken = [e.data[0] for e in events(receipt, chain.settlement) if e.name == "Withdrawn"]
    assert taken == [50 * ONE, ONE // 2]
    assert (chain.escrow(anna), chain.escrow(ben)) == (50 * ONE - ONE // 2, 100 * ONE)
    assert chain.settlement.read("totalEscrow") == chain.token.read("balanceOf", chain.settlement.address)
    with pytest.raises(Refused) as caught:  # nothing is left of hers to pay the fee with
        chain.settlement.transact(anna, "withdraw", chain.escrow(anna))
    assert said(caught) == refusal("EscrowTooLow(uint256,uint256)")


def test_whom_the_token_refuses_keeps_his_escrow_and_holds_nobody_up(chain_with: ChainWith) -> None:
    chain = chain_with("PickyToken")
    anna, carl = chain.buyer(5 * ONE), chain.buyer(5 * ONE)
    chain.token.transact(chain.owner, "refuse", anna.address)
    with pytest.raises(Refused) as caught:
        chain.settlement.transact(anna, "withdraw", ONE)
    assert said(caught) == refusal("Refused(address)")
    assert skipped(chain.settle([trade(carl, anna, ONE), trade(anna, carl, 6 * ONE)]), chain) == []
    chain.settlement.transact(carl, "withdraw", 10 * ONE)
    assert (chain.escrow(anna), chain.balance(carl)) == (0, 10 * ONE)


@pytest.mark.parametrize("attack", ["withdraw", "deposit"])
@pytest.mark.parametrize("during", ["withdraw", "deposit"])
def test_a_token_that_calls_back_gets_nothing(chain_with: ChainWith, attack: str, during: str) -> None:
    chain = chain_with("ReentrantToken")
    anna = chain.buyer(10 * ONE)
    chain.token.transact(chain.owner, "mint", anna.address, ONE)
    chain.token.transact(anna, "approve", chain.settlement.address, ONE)
    chain.token.transact(anna, "arm", chain.settlement.address, SETTLEMENT.call(attack, 1))

    chain.settlement.transact(anna, during, ONE)

    assert "0x" + chain.token.read("refusal").hex() == refusal("ReentrancyGuardReentrantCall()")
    assert chain.escrow(anna) == (11 * ONE if during == "deposit" else 9 * ONE)
    assert chain.settlement.read("totalEscrow") == chain.token.read("balanceOf", chain.settlement.address)


# ---------------------------------------------------------------------------------------------------- settling


def test_a_batch_moves_escrow_from_buyers_to_sellers(chain: Chain) -> None:
    anna, ben, carl = chain.buyer(10 * ONE), chain.buyer(4 * ONE), chain.person()
    first, second = uuid4(), uuid4()

    receipt = chain.settle([trade(anna, carl, 3 * ONE, id=first, energy_wh=1500), trade(ben, anna, 4 * ONE, id=second)])

    settled, _ = events(receipt, chain.settlement)
    assert settled.name == "TradeSettled"
    assert settled.indexed == tuple(
        "0x" + part.hex() for part in (word(first), *(bytes(12) + bytes.fromhex(a.address[2:]) for a in (anna, carl)))
    )
    assert settled.data == (3 * ONE, 1500)
    assert [chain.escrow(one) for one in (anna, ben, carl)] == [11 * ONE, 0, 3 * ONE]
    assert chain.settlement.read("areSettled", [word(first), word(uuid4()), word(second)]) == (True, False, True)
    assert chain.settlement.read("totalEscrow") == 14 * ONE
    chain.settlement.transact(carl, "withdraw", 3 * ONE)
    assert chain.balance(carl) == 3 * ONE


def test_a_trade_is_paid_once_whatever_it_says_the_second_time(chain: Chain) -> None:
    anna, carl = chain.buyer(10 * ONE), chain.person()
    one = uuid4()
    chain.settle([trade(anna, carl, ONE, id=one)])

    receipt = chain.settle([trade(anna, carl, 2 * ONE, id=one), trade(carl, anna, 1, id=one)])

    assert skipped(receipt, chain) == [ALREADY_SETTLED, ALREADY_SETTLED]
    assert chain.escrow(carl) == ONE


def test_the_same_trade_twice_in_a_batch_is_paid_once(chain: Chain) -> None:
    anna, carl = chain.buyer(10 * ONE), chain.person()
    one = trade(anna, carl, ONE)
    assert skipped(chain.settle([one, one]), chain) == [ALREADY_SETTLED]
    assert chain.escrow(carl) == ONE


def test_a_trade_without_escrow_is_skipped_and_does_not_undo_the_others(chain: Chain) -> None:
    anna, ben, carl = chain.buyer(ONE), chain.person(), chain.person()

    receipt = chain.settle([trade(ben, carl, 1), trade(anna, carl, ONE), trade(anna, carl, 1)])

    assert [e.name for e in events(receipt, chain.settlement)] == ["TradeSkipped", "TradeSettled", "TradeSkipped"]
    assert skipped(receipt, chain) == [INSUFFICIENT_ESCROW, INSUFFICIENT_ESCROW]
    assert chain.escrow(carl) == ONE


def test_a_skipped_trade_may_be_settled_later(chain: Chain) -> None:
    anna, carl = chain.person(), chain.person()
    one = trade(anna, carl, ONE)
    assert skipped(chain.settle([one]), chain) == [INSUFFICIENT_ESCROW]
    chain.deposit(anna, ONE)
    assert skipped(chain.settle([one]), chain) == []


def test_a_trade_is_paid_up_to_its_last_second(chain: Chain) -> None:
    anna, carl = chain.buyer(10 * ONE), chain.person()
    now = chain.time()
    in_time, late = trade(anna, carl, ONE, valid_until=now + 5), trade(anna, carl, ONE, valid_until=now + 4)
    chain.rpc.call("evm_setNextBlockTimestamp", now + 5)
    assert skipped(chain.settle([in_time, late]), chain) == [EXPIRED]


def test_no_amount_overflows(chain: Chain) -> None:
    anna, carl = chain.buyer(ONE), chain.person()
    receipt = chain.settle([trade(anna, carl, 2**256 - 1), trade(anna, anna, ONE)])
    assert skipped(receipt, chain) == [INSUFFICIENT_ESCROW]
    assert chain.escrow(anna) == ONE


def test_all_escrow_together_has_a_bound_up_to_which_sums_are_exact(chain_with: ChainWith) -> None:
    chain = chain_with("PlainToken", 18, limit=2**112 - 1)
    most = 2**128 - 1
    anna, carl = chain.buyer(most), chain.person()
    with pytest.raises(Refused) as caught:
        chain.deposit(carl, 1)
    assert said(caught) == refusal("EscrowTooHigh(uint256)")
    chain.next_period()
    receipt = chain.settle([trade(anna, carl, amount) for amount in (2**256 - 1, 2**128, most, 2**112, 2**112 - 1, 1)])
    assert skipped(receipt, chain) == [INSUFFICIENT_ESCROW] * 2 + [OVER_LIMIT] * 3
    assert (chain.escrow(anna), chain.escrow(carl)) == (most - 2**112 + 1, 2**112 - 1)
    chain.settlement.transact(anna, "withdraw", chain.escrow(anna))
    chain.settlement.transact(carl, "withdraw", chain.escrow(carl))
    assert chain.settlement.read("totalEscrow") == 0


def test_a_batch_of_nothing_is_allowed(chain: Chain) -> None:
    assert chain.settle([])["logs"] == []


def test_a_batch_is_bounded(chain: Chain) -> None:
    anna, carl = chain.buyer(ONE), chain.person()
    chain.settle([trade(anna, carl, 1) for _ in range(200)])
    with pytest.raises(Refused) as caught:
        chain.settle([trade(anna, carl, 1) for _ in range(201)])
    assert said(caught) == refusal("TooManyTrades(uint256)")


@pytest.mark.parametrize("trades", [1, 20, 50])
def test_a_batch_of_new_people_stays_within_the_gas_that_the_ledger_allows(chain: Chain, trades: int) -> None:
    people = [(chain.buyer(ONE), chain.person()) for _ in range(trades)]
    receipt = chain.settle([trade(buyer, seller, 10**17) for buyer, seller in people])
    used = int(receipt["gasUsed"], 16)
    print(f"{trades} trades: {used} gas")
    assert used < ledger.GAS_PER_BATCH + ledger.GAS_PER_TRADE * trades


def test_a_batch_of_buyers_with_caps_stays_within_that_gas_too(chain: Chain) -> None:
    people = [(chain.buyer(ONE), chain.person()) for _ in range(10)]
    for buyer, _ in people:
        chain.settlement.transact(buyer, "setCap", ONE)
    receipt = chain.settle([trade(buyer, seller, 10**17) for buyer, seller in people])
    assert skipped(receipt, chain) == []
    assert int(receipt["gasUsed"], 16) < ledger.GAS_PER_BATCH + ledger.GAS_PER_TRADE * 10


# ---------------------------------------------------------------------------------------------------- how much


def test_in_a_period_no_more_is_moved_than_the_limit_and_what_fits_is(chain: Chain) -> None:
    chain.settlement.transact(chain.owner, "setLimit", 5 * ONE)
    anna, carl = chain.buyer(100 * ONE), chain.person()
    chain.next_period()
    assert chain.settlement.read("movable") == 5 * ONE

    too_much = trade(anna, carl, 3 * ONE)
    receipt = chain.settle([trade(anna, carl, 3 * ONE), too_much, trade(anna, carl, ONE)])
    assert skipped(receipt, chain) == [OVER_LIMIT]
    assert (chain.escrow(carl), chain.settlement.read("movable")) == (4 * ONE, ONE)
    assert skipped(chain.settle([too_much, trade(anna, carl, ONE + 1), trade(anna, carl, ONE)]), chain) == [
        OVER_LIMIT,
        OVER_LIMIT,
    ]
    assert (chain.escrow(carl), chain.settlement.read("movable")) == (5 * ONE, 0)

    chain.next_period()
    assert chain.settlement.read("movable") == 5 * ONE
    assert skipped(chain.settle([too_much]), chain) == []
    assert (chain.escrow(carl), chain.settlement.read("movable")) == (8 * ONE, 2 * ONE)


def test_what_was_not_paid_does_not_count(chain: Chain) -> None:
    anna, carl = chain.buyer(ONE), chain.person()
    chain.settlement.transact(chain.owner, "setLimit", 5 * ONE)
    chain.next_period()
    once = trade(anna, carl, ONE)
    receipt = chain.settle([once, once, trade(anna, carl, 2 * ONE), trade(carl, anna, ONE, valid_until=1)])
    assert skipped(receipt, chain) == [ALREADY_SETTLED, INSUFFICIENT_ESCROW, EXPIRED]
    assert chain.settlement.read("movable") == 4 * ONE


def test_a_thief_with_the_operators_key_moves_the_limit_and_no_more(chain: Chain) -> None:
    victims, thief = [chain.buyer(10 * ONE) for _ in range(3)], chain.person()
    chain.settlement.transact(chain.owner, "setLimit", 4 * ONE)
    chain.next_period()
    for amount in (10 * ONE, 3 * ONE, ONE, ONE // 2):
        for _ in range(3):
            chain.settle([trade(victim, thief, amount) for victim in victims])
    assert chain.escrow(thief) == 4 * ONE
    chain.settlement.transact(chain.owner, "pause")
    chain.next_period()
    with pytest.raises(Refused):
        chain.settle([trade(victims[0], thief, ONE)])
    for victim in victims:
        chain.settlement.transact(victim, "withdraw", chain.escrow(victim))
    assert sum(chain.balance(victim) for victim in victims) == 26 * ONE


def test_a_limit_below_what_was_moved_lets_nothing_through(chain: Chain) -> None:
    anna, carl = chain.buyer(100 * ONE), chain.person()
    chain.next_period()
    chain.settle([trade(anna, carl, 5 * ONE)])
    receipt = chain.settlement.transact(chain.owner, "setLimit", 2 * ONE)
    assert [(e.name, e.data) for e in events(receipt, chain.settlement)] == [("LimitChanged", (LIMIT, 2 * ONE))]
    assert chain.settlement.read("movable") == 0
    assert skipped(chain.settle([trade(anna, carl, 1)]), chain) == [OVER_LIMIT]


def test_a_higher_limit_is_announced_two_days_before_it_holds(chain: Chain) -> None:
    receipt = chain.settlement.transact(chain.owner, "setLimit", 2 * LIMIT)
    due = int(receipt_time(chain, receipt)) + 2 * DAY_S
    assert [(e.name, e.data) for e in events(receipt, chain.settlement)] == [("RaiseAnnounced", (2 * LIMIT, due))]
    assert chain.settlement.read("budget")[0] == LIMIT
    for early in (chain.time() + 1, due - 60):  # the chain's clock goes on meanwhile
        chain.rpc.call("evm_setNextBlockTimestamp", early)
        chain.mine()
        with pytest.raises(Refused) as caught:
            chain.settlement.transact(chain.owner, "raiseLimit")
        assert said(caught) == refusal("RaiseNotDue(uint256,uint256)")
    chain.rpc.call("evm_setNextBlockTimestamp", due)
    chain.mine()
    receipt = chain.settlement.transact(chain.owner, "raiseLimit")
    assert [(e.name, e.data) for e in events(receipt, chain.settlement)] == [("LimitChanged", (LIMIT, 2 * LIMIT))]
    with pytest.raises(Refused):  # once
        chain.settlement.transact(chain.owner, "raiseLimit")


def test_a_limit_announced_long_ago_surprises_nobody(chain: Chain) -> None:
    chain.settlement.transact(chain.owner, "setLimit", 2 * LIMIT)
    chain.rpc.call("evm_setNextBlockTimestamp", chain.time() + 9 * DAY_S + 1)
    chain.mine()
    with pytest.raises(Refused) as caught:
        chain.settlement.transact(chain.owner, "raiseLimit")
    assert said(caught) == refusal("RaiseNotDue(uint256,uint256)")


def test_a_lower_limit_takes_back_what_was_announced(chain: Chain) -> None:
    chain.settlement.transact(chain.owner, "setLimit", 2 * LIMIT)
    chain.settlement.transact(chain.owner, "setLimit", LIMIT)
    chain.rpc.call("evm_setNextBlockTimestamp", chain.time() + 3 * DAY_S)
    chain.mine()
    with pytest.raises(Refused):
        chain.settlement.transact(chain.owner, "raiseLimit")
    assert (chain.settlement.read("budget")[0], chain.settlement.read("announced")) == (LIMIT, (0, 0))


def test_out_of_an_account_no_more_is_moved_than_its_owner_lets(chain: Chain) -> None:
    anna, ben, carl = chain.buyer(10 * ONE), chain.buyer(10 * ONE), chain.person()
    receipt = chain.settlement.transact(anna, "setCap", 2 * ONE)
    assert [(e.name, e.data) for e in events(receipt, chain.settlement)] == [("CapSet", (2 * ONE,))]
    chain.next_period()

    receipt = chain.settle([trade(anna, carl, ONE), trade(anna, carl, ONE + 1), trade(ben, carl, 5 * ONE)])
    assert skipped(receipt, chain) == [OVER_CAP]
    assert skipped(chain.settle([trade(anna, carl, ONE), trade(anna, carl, 1)]), chain) == [OVER_CAP]
    assert (chain.escrow(anna), chain.escrow(carl)) == (8 * ONE, 7 * ONE)

    chain.settlement.transact(anna, "withdraw", ONE)  # it is hers
    chain.next_period()
    assert skipped(chain.settle([trade(anna, carl, 2 * ONE), trade(anna, carl, 1)]), chain) == [OVER_CAP]
    chain.settlement.transact(anna, "removeCap")
    assert skipped(chain.settle([trade(anna, carl, 5 * ONE)]), chain) == []
    assert (chain.escrow(anna), chain.escrow(carl)) == (0, 14 * ONE)


def test_a_cap_set_anew_does_not_forget_what_was_moved(chain: Chain) -> None:
    anna, carl = chain.buyer(10 * ONE), chain.person()
    chain.settlement.transact(anna, "setCap", 2 * ONE)
    chain.next_period()
    chain.settle([trade(anna, carl, 2 * ONE)])
    chain.settlement.transact(anna, "removeCap")
    chain.settlement.transact(anna, "setCap", 3 * ONE)
    assert skipped(chain.settle([trade(anna, carl, ONE + 1), trade(anna, carl, ONE)]), chain) == [OVER_CAP]


def test_who_only_sells_can_keep_the_operator_from_all_he_has(chain: Chain) -> None:
    carl = chain.buyer(10 * ONE)
    chain.settlement.transact(carl, "setCap", 0)
    assert skipped(chain.settle([trade(carl, chain.operator, 1)]), chain) == [OVER_CAP]
    chain.settle([trade(chain.buyer(ONE), carl, ONE)])
    assert chain.escrow(carl) == 11 * ONE


# ---------------------------------------------------------------------------------------------------- who may


@pytest.mark.parametrize("who", ["owner", "somebody"])
def test_only_the_operator_settles(chain: Chain, who: str) -> None:
    with pytest.raises(Refused) as caught:
        chain.settle([], by=chain.owner if who == "owner" else chain.person())
    assert said(caught) == refusal("NotOperator(address)")


# Whose each function is that changes something; a new one belongs here.
WHO_MAY = {
    "owner": {"pause", "unpause", "setOperator", "setLimit", "raiseLimit", "transferOwnership"},
    "operator": {"settle"},
    "whoever was named by the owner": {"acceptOwnership"},
    "everybody, of what is his": {"deposit", "withdraw", "setCap", "removeCap"},
}


def test_it_is_known_of_every_function_whose_it_is() -> None:
    known = [function for functions in WHO_MAY.values() for function in functions]
    assert sorted(known) == sorted(e["name"] for e in changing())


@pytest.mark.parametrize("function", sorted(WHO_MAY["owner"]))
def test_only_the_owner_governs(chain: Chain, function: str) -> None:
    (entry,) = (e for e in changing() if e["name"] == function)
    for stranger in (chain.operator, chain.person()):
        with pytest.raises(Refused) as caught:
            chain.settlement.transact(stranger, function, *arguments(entry, stranger))
        assert said(caught) == refusal("OwnableUnauthorizedAccount(address)")


def test_neither_owner_nor_operator_gets_a_deposit_by_any_function(chain: Chain) -> None:
    """Except by a trade, which the limits above bound."""
    anna = chain.buyer(10 * ONE)
    done = []
    for entry in (*changing(), *reversed(changing())):
        for person in (chain.owner, chain.operator):
            try:
                chain.settlement.transact(person, entry["name"], *arguments(entry, person))
                done.append(entry["name"])
            except Refused:
                pass  # as it should be, of most
            held = chain.balance(person), chain.escrow(person), chain.escrow(anna)
            assert held == (0, 0, 10 * ONE), entry["name"]
    assert {"pause", "setOperator", "setLimit", "transferOwnership", "setCap"} <= set(done)


def changing() -> list[dict[str, Any]]:
    """The functions that change something."""
    return [e for e in SETTLEMENT.abi if e["type"] == "function" and e["stateMutability"] not in ("view", "pure")]


def arguments(entry: dict[str, Any], person: LocalAccount) -> list[object]:
    """Something for each of a function's arguments, in favour of the person."""
    values = {"address": person.address, "uint256": ONE, "uint112": ONE, "tuple[]": []}
    return [values[one["type"]] for one in entry["inputs"]]


def test_the_owner_names_another_operator(chain: Chain) -> None:
    other = chain.person()
    chain.settlement.transact(chain.owner, "setOperator", other.address)
    chain.settle([], by=other)
    with pytest.raises(Refused):
        chain.settle([])
    with pytest.raises(Refused) as caught:
        chain.settlement.transact(chain.owner, "setOperator", "0x" + "00" * 20)
    assert said(caught) == refusal("ZeroAddress()")


def test_ownership_passes_in_two_steps_and_is_never_given_up(chain: Chain) -> None:
    heir, other = chain.person(), chain.person()
    chain.settlement.transact(chain.owner, "transferOwnership", heir.address)
    assert chain.settlement.read("owner") == chain.owner.address.lower()
    chain.settlement.transact(chain.owner, "transferOwnership", other.address)  # the first was a slip
    for nobody in (heir, chain.operator, chain.owner):
        with pytest.raises(Refused) as caught:
            chain.settlement.transact(nobody, "acceptOwnership")
        assert said(caught) == refusal("OwnableUnauthorizedAccount(address)")
    chain.settlement.transact(chain.owner, "transferOwnership", heir.address)
    chain.settlement.transact(heir, "acceptOwnership")
    assert chain.settlement.read("owner") == heir.address.lower()
    with pytest.raises(Refused):
        chain.settlement.transact(chain.owner, "pause")
    with pytest.raises(Refused) as caught:
        chain.settlement.transact(heir, "renounceOwnership")
    assert said(caught) == refusal("OwnerRequired()")


def test_a_pause_stops_deposits_and_settlement_but_holds_nobodys_money(chain: Chain) -> None:
    anna = chain.buyer(2 * ONE)
    chain.token.transact(chain.owner, "mint", anna.address, ONE)
    chain.token.transact(anna, "approve", chain.settlement.address, ONE)
    chain.settlement.transact(chain.owner, "pause")
    attempts: list[tuple[LocalAccount, str, object]] = [(chain.operator, "settle", []), (anna, "deposit", ONE)]
    for account, function, argument in attempts:
        with pytest.raises(Refused) as caught:
            chain.settlement.transact(account, function, argument)
        assert said(caught) == refusal("EnforcedPause()")
    chain.settlement.transact(anna, "withdraw", 2 * ONE)
    chain.settlement.transact(chain.owner, "unpause")
    chain.settlement.transact(anna, "deposit", ONE)
    assert chain.escrow(anna) == ONE


# ---------------------------------------------------------------------------------------------------- replaying


def test_a_signed_batch_is_of_one_chain_and_one_contract(chain: Chain) -> None:
    """The same bytes on a chain with another id (EIP-155), and what they do to another contract on this one."""
    anna, carl = chain.buyer(ONE), chain.person()
    twin = chain.deploy_settlement(chain.token)
    chain.token.transact(chain.owner, "mint", anna.address, ONE)
    chain.token.transact(anna, "approve", twin.address, ONE)
    twin.transact(anna, "deposit", ONE)
    operator = ledger.Ledger(
        chain.rpc,
        chain_id=31337,
        contract=chain.settlement.address,
        token=chain.token.address,
        token_decimals=18,
        operator_key=chain.operator.key.hex(),
    )
    payment = ledger.Payment(
        id=uuid4(),
        buyer=anna.address,
        seller=carl.address,
        amount_nano=ONE // 10**9,
        energy_wh=1,
        valid_until=datetime.now(UTC) + timedelta(days=1),
    )
    view = operator.look(finality_blocks=1)
    signed = operator.sign([payment], nonce=view.nonce, gas=200_000, fees=view.fees)

    chain.rpc.call("anvil_setChainId", 31338)
    try:
        assert operator.send(signed.raw)[0] is ledger.Sent.REFUSED
    finally:
        chain.rpc.call("anvil_setChainId", 31337)
    assert operator.send(signed.raw) == (ledger.Sent.ACCEPTED, "")
    assert operator.send(signed.raw)[0] in (ledger.Sent.NONCE_USED, ledger.Sent.ACCEPTED)
    chain.mine()

    assert chain.escrow(carl) == ONE
    assert (twin.read("escrow", anna.address), twin.read("escrow", carl.address)) == (ONE, 0)
    assert twin.read("areSettled", [word(payment.id)]) == (False,)


# ---------------------------------------------------------------------------------------------------- deploying


@pytest.mark.parametrize("decimals", [0, 6, 8, 25, 36])
def test_a_token_that_cannot_express_the_markets_amounts_is_refused(chain: Chain, decimals: int) -> None:
    token = deploy(chain.rpc, chain.owner, mock("PlainToken"), decimals)
    with pytest.raises(Refused) as caught:
        chain.deploy_settlement(token)
    assert said(caught) == refusal("WrongDecimals(uint8)")


@pytest.mark.parametrize("decimals", [9, 18, 24])
def test_a_token_of_nine_to_twenty_four_decimals_will_do(chain: Chain, decimals: int) -> None:
    token = deploy(chain.rpc, chain.owner, mock("PlainToken"), decimals)
    assert chain.deploy_settlement(token).read("TOKEN") == token.address.lower()


def test_something_that_is_no_token_is_refused(chain: Chain) -> None:
    people = chain.owner.address, chain.operator.address
    with pytest.raises(Refused):
        deploy(chain.rpc, chain.owner, SETTLEMENT, chain.owner.address, *people, LIMIT)


def test_a_contract_without_owner_operator_or_limit_is_refused(chain: Chain) -> None:
    owner, operator, nobody = chain.owner.address, chain.operator.address, "0x" + "00" * 20
    for people, limit, error in (
        ((nobody, operator), LIMIT, "OwnableInvalidOwner(address)"),
        ((owner, nobody), LIMIT, "ZeroAddress()"),
        ((owner, operator), 0, "ZeroAmount()"),
    ):
        with pytest.raises(Refused) as caught:
            deploy(chain.rpc, chain.owner, SETTLEMENT, chain.token.address, *people, limit)
        assert said(caught) == refusal(error)


def test_only_the_tokens_owner_mints(chain: Chain) -> None:
    assert (chain.token.read("symbol"), chain.token.read("decimals")) == ("ENRG", 18)
    with pytest.raises(Refused):
        chain.token.transact(chain.operator, "mint", chain.operator.address, ONE)


# ---------------------------------------------------------------------------------------------------- artifacts


def test_the_ledger_speaks_of_the_contract_as_it_is() -> None:
    functions = {"0x" + function_abi_to_4byte_selector(e).hex() for e in SETTLEMENT.abi if e["type"] == "function"}
    for signature in (ledger.SETTLE, ledger.ARE_SETTLED, ledger.BUDGET):
        assert "0x" + keccak(text=signature)[:4].hex() in functions
    signatures = {
        f"{e['name']}({','.join(i['type'] for i in e['inputs'])})" for e in SETTLEMENT.abi if e["type"] == "event"
    }
    assert {ledger.TRADE_SETTLED, ledger.TRADE_SKIPPED} <= signatures
    reasons = [e["name"] for e in SETTLEMENT.abi if e["type"] == "function" and e["name"] in ledger.Skip.__members__]
    assert sorted(reasons) == sorted(ledger.Skip.__members__)
    assert FOR_EVER == 2**64 - 1


def test_the_ledger_counts_by_the_contracts_periods(chain: Chain) -> None:
    assert chain.settlement.read("PERIOD") == ledger.PERIOD_S == PERIOD_S


def test_a_changed_contract_is_told_from_its_artifact(tmp_path: Path) -> None:
    for folder in ("infra/contracts", "tests/contracts/mocks"):
        copy = tmp_path / folder
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(CHECKOUT / folder, copy)
    source = tmp_path / "infra" / "contracts" / "EnergySettlement.sol"
    source.write_text(source.read_text().replace("MAX_TRADES = 200", "MAX_TRADES = 201"))
    changed = subprocess.run(
        ["node", str(tmp_path / "infra" / "contracts" / "compile.mjs"), "--check"],
        env={**os.environ, "NODE_MODULES": str(CHECKOUT / "node_modules")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert changed.returncode == 1
    assert changed.stderr == (
        "These artifacts do not match the contracts' sources: infra/contracts/artifacts/EnergySettlement.json; "
        'run "node infra/contracts/compile.mjs" and commit.\n'
    )


def test_artifacts_name_the_compiler() -> None:
    for name in (SETTLEMENT.name, TOKEN.name):
        artifact = json.loads((CHECKOUT / "infra" / "contracts" / "artifacts" / f"{name}.json").read_text())
        assert artifact["solc"].startswith("0.8.37+")
