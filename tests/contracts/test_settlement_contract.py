"""The settlement contract and its token, on a real EVM."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest
from eth_account.signers.local import LocalAccount
from eth_utils.abi import function_abi_to_4byte_selector
from eth_utils.crypto import keccak

from energy_market.evm import ledger
from energy_market.evm.contract import deploy
from energy_market.evm.rpc import Refused
from tests.chain import (
    ALREADY_SETTLED,
    CHECKOUT,
    EXPIRED,
    FOR_EVER,
    INSUFFICIENT_ESCROW,
    ONE,
    SETTLEMENT,
    TOKEN,
    Chain,
    events,
    mock,
    trade,
    word,
)
from tests.contracts.conftest import ChainWith


def refusal(error: str) -> str:
    """The first four bytes of a custom error: what a revert's data begins with."""
    return "0x" + keccak(text=error)[:4].hex()


def said(caught: pytest.ExceptionInfo[Refused]) -> str:
    return str(caught.value.data)[:10]


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


# ---------------------------------------------------------------------------------------------------- who may


@pytest.mark.parametrize("who", ["owner", "somebody"])
def test_only_the_operator_settles(chain: Chain, who: str) -> None:
    with pytest.raises(Refused) as caught:
        chain.settle([], by=chain.owner if who == "owner" else chain.person())
    assert said(caught) == refusal("NotOperator(address)")


@pytest.mark.parametrize(
    ("function", "arguments"), [("pause", 0), ("unpause", 0), ("setOperator", 1), ("transferOwnership", 1)]
)
def test_only_the_owner_governs(chain: Chain, function: str, arguments: int) -> None:
    for stranger in (chain.operator, chain.person()):
        with pytest.raises(Refused) as caught:
            chain.settlement.transact(stranger, function, *[stranger.address] * arguments)
        assert said(caught) == refusal("OwnableUnauthorizedAccount(address)")


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
    heir = chain.person()
    chain.settlement.transact(chain.owner, "transferOwnership", heir.address)
    assert chain.settlement.read("owner") == chain.owner.address.lower()
    chain.settlement.transact(heir, "acceptOwnership")
    assert chain.settlement.read("owner") == heir.address.lower()
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


# ---------------------------------------------------------------------------------------------------- deploying


@pytest.mark.parametrize("decimals", [0, 6, 8])
def test_a_token_that_cannot_express_a_nano_token_is_refused(chain: Chain, decimals: int) -> None:
    token = deploy(chain.rpc, chain.owner, mock("PlainToken"), decimals)
    with pytest.raises(Refused) as caught:
        chain.deploy_settlement(token)
    assert said(caught) == refusal("TooFewDecimals(uint8)")


@pytest.mark.parametrize("decimals", [9, 18, 36])
def test_a_token_of_nine_decimals_or_more_will_do(chain: Chain, decimals: int) -> None:
    token = deploy(chain.rpc, chain.owner, mock("PlainToken"), decimals)
    assert chain.deploy_settlement(token).read("TOKEN") == token.address.lower()


def test_something_that_is_no_token_is_refused(chain: Chain) -> None:
    with pytest.raises(Refused):
        deploy(chain.rpc, chain.owner, SETTLEMENT, chain.owner.address, chain.owner.address, chain.operator.address)


def test_only_the_tokens_owner_mints(chain: Chain) -> None:
    assert (chain.token.read("symbol"), chain.token.read("decimals")) == ("ENRG", 18)
    with pytest.raises(Refused):
        chain.token.transact(chain.operator, "mint", chain.operator.address, ONE)


# ---------------------------------------------------------------------------------------------------- artifacts


def test_the_ledger_speaks_of_the_contract_as_it_is() -> None:
    functions = {"0x" + function_abi_to_4byte_selector(e).hex() for e in SETTLEMENT.abi if e["type"] == "function"}
    for signature in (ledger.SETTLE, ledger.ARE_SETTLED):
        assert "0x" + keccak(text=signature)[:4].hex() in functions
    signatures = {
        f"{e['name']}({','.join(i['type'] for i in e['inputs'])})" for e in SETTLEMENT.abi if e["type"] == "event"
    }
    assert {ledger.TRADE_SETTLED, ledger.TRADE_SKIPPED} <= signatures
    assert (ledger.Skip.ALREADY_SETTLED, ledger.Skip.INSUFFICIENT_ESCROW, ledger.Skip.EXPIRED) == (1, 2, 3)
    assert FOR_EVER == 2**64 - 1


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
