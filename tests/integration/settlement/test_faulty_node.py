"""A node that is away, slow, lies, or keeps its answers to itself, between the settlement and a real chain."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from energy_market.evm.ledger import Ledger
from energy_market.evm.rpc import ChainError, Rpc
from local_market.faulty_node.way import Json
from tests.support.chain.chain import trade as chain_trade
from tests.support.chain.world import FINALITY_BLOCKS, RULES, World
from tests.support.trouble.refusing_node import Lie, Node


@pytest.fixture
def node(world: World) -> Iterator[Node]:
    node = Node(world.rpc_url)
    yield node
    node.close()


@pytest.fixture
def ledger(world: World, node: Node) -> Iterator[Ledger]:
    rpc = Rpc(node.url, timeout_s=0.3)
    yield world.ledger_of(Ledger, rpc=rpc)
    rpc.close()


def disturbed_sweep(world: World, ledger: Ledger, *, deadline_s: float = 1.5) -> None:
    """A sweep that need not succeed, but may fail only as a chain that is away does."""
    try:
        world.sweep(ledger=ledger, deadline_s=deadline_s)
    except ChainError:
        assert world.sql("SELECT name FROM leases") == [], "a sweep that fails gives its lease back"


def settle_in_the_end(world: World, node: Node, ledger: Ledger) -> None:
    node.recover()
    world.sweep_until_final(ledger=ledger)
    assert world.differences() == []


def test_a_node_that_is_away_at_any_step_costs_no_trade(world: World, node: Node, ledger: Ledger) -> None:
    deal = world.lock()
    for prepare in (lambda: None, lambda: world.sweep(ledger=ledger), world.mine, lambda: world.mine(FINALITY_BLOCKS)):
        node.recover()
        prepare()
        before = world.trade(deal)
        node.is_away = True
        disturbed_sweep(world, ledger, deadline_s=0.3)
        assert world.trade(deal) == before
    settle_in_the_end(world, node, ledger)
    assert world.trade(deal) == ("Confirmed", None)
    assert (world.nonce(), len(world.forms())) == (1, 1)


def test_a_slow_node_costs_the_budget_and_no_more(world: World, node: Node, ledger: Ledger) -> None:
    deal = world.lock()
    node.delay_s = 0.5
    began = time.monotonic()
    disturbed_sweep(world, ledger, deadline_s=0.8)
    assert time.monotonic() - began < 4
    assert world.trade(deal) == ("Locked", None)
    settle_in_the_end(world, node, ledger)
    assert world.trade(deal) == ("Confirmed", None)


def test_an_answer_that_is_lost_after_every_sending_pays_once(world: World, node: Node, ledger: Ledger) -> None:
    """The node has the transaction, and nobody knows. Each sweep says it again."""
    deals = [world.lock(), world.lock(in_escrow=False)]
    world.hold()
    node.loses = {"eth_sendRawTransaction"}
    for _ in range(2):
        disturbed_sweep(world, ledger, deadline_s=1.0)
    assert node.asked.count("eth_sendRawTransaction") > 2
    assert [form[3] for form in world.forms()] == [0], "it was never known to be sent"
    world.mine()
    disturbed_sweep(world, ledger)
    world.go_on()
    settle_in_the_end(world, node, ledger)
    assert [world.trade(deal) for deal in deals] == [("Confirmed", None), ("Failed", "insufficient_escrow")]
    assert (world.nonce(), len(world.forms())) == (1, 1)
    assert world.chain.escrow(deals[0].seller) == deals[0].amount


BEFORE, AFTER, ELSEWHERE = "before it is sent", "after it is mined", "paid by another"
# Each where it is asked.
METHODS = {
    "eth_chainId": {BEFORE},
    "eth_getCode": {BEFORE},
    "eth_getBlockByNumber": {BEFORE, AFTER},
    "eth_getTransactionCount": {BEFORE, AFTER},
    "eth_getBalance": {BEFORE},
    "eth_maxPriorityFeePerGas": {BEFORE},
    "eth_estimateGas": {BEFORE},
    "eth_sendRawTransaction": {BEFORE},
    "eth_getTransactionReceipt": {AFTER, ELSEWHERE},
    "eth_call": {ELSEWHERE},
    "eth_getLogs": {ELSEWHERE},
}
EMPTY_LIST = "0x" + "20".rjust(64, "0") + "0" * 64  # as the ABI spells it
GARBAGE: list[Json] = [None, "zz", 7, {}, [], [{}], "0x0", "-0x1", "0x" + "7" * 16, "0x" + "ff" * 32, EMPTY_LIST]
ERRORS: list[Json] = [{"code": -32000, "message": "header not found"}, {"message": 7}, "no error object"]


def says(method: str, **instead: Json) -> Lie:
    def lie(asked: str, answer: Json) -> Json:
        return instead if asked == method else answer

    return lie


@pytest.mark.parametrize("method", METHODS)
def test_garbage_instead_of_any_answer_costs_no_trade(world: World, node: Node, ledger: Ledger, method: str) -> None:
    """Before a trade is sent, after it is mined, and when somebody else has paid it: every kind of garbage."""
    lies = [says(method, result=one) for one in GARBAGE] + [says(method, error=one) for one in ERRORS]

    def be_disturbed(when: str) -> None:
        for lie in lies if when in METHODS[method] else ():
            node.lie = lie
            disturbed_sweep(world, world.new_ledger(url=node.url))  # one that has not checked the chain yet
        node.recover()

    deal = world.lock()
    if ELSEWHERE in METHODS[method]:
        world.chain.settle([chain_trade(deal.buyer, deal.seller, deal.amount, id=deal.id, energy_wh=500)])
    be_disturbed(BEFORE)
    world.sweep(ledger=ledger)
    world.mine()
    be_disturbed(AFTER)
    world.mine(FINALITY_BLOCKS)
    be_disturbed(ELSEWHERE)
    settle_in_the_end(world, node, ledger)
    assert world.trade(deal) == ("Confirmed", None)
    assert world.chain.escrow(deal.seller) == deal.amount


@pytest.mark.parametrize("method", ["eth_maxPriorityFeePerGas", "eth_getBlockByNumber"])
def test_a_stuck_transaction_is_not_replaced_by_one_that_nobody_can_pay(
    world: World, node: Node, ledger: Ledger, method: str
) -> None:
    """Each replacement must pay more than the last: one absurd fee, and all after it would be absurd."""
    deal = world.lock()
    world.hold()
    world.sweep(ledger=ledger)
    absurd = hex(2**62)

    def lie(asked: str, answer: Json) -> Json:
        if asked != method:
            return answer
        result = answer["result"]
        return answer | {"result": result | {"baseFeePerGas": absurd} if isinstance(result, dict) else absurd}

    node.lie = lie
    for _ in range(2):
        world.sweep(replace(RULES, stuck_after_s=0.0), ledger=ledger)
    assert len(world.forms()) == 1
    node.recover()
    world.sweep(replace(RULES, stuck_after_s=0.0), ledger=ledger)
    assert len(world.forms()) == 2
    world.mine()
    world.go_on()
    settle_in_the_end(world, node, ledger)
    assert world.trade(deal) == ("Confirmed", None)


def test_a_node_that_lags_behind_confirms_nothing_too_early_and_fails_nothing(
    world: World, node: Node, ledger: Ledger
) -> None:
    """One of several behind an address: it knows only older blocks, and may be asked in turn with one that is ahead."""
    deal = world.lock()
    world.sweep(ledger=ledger)
    world.mine()
    world.sweep(ledger=ledger)
    assert world.trade(deal) == ("Confirmed", None)
    behind = world.chain.height() - 2

    def old_head(method: str, answer: Json) -> Json:
        if method == "eth_getBlockByNumber" and isinstance(answer.get("result"), dict):
            number = int(answer["result"]["number"], 16)
            if number > behind:
                old = world.chain.rpc.call("eth_getBlockByNumber", hex(behind), False)  # noqa: FBT003 -- JSON
                return answer | {"result": old}
        return answer

    node.lie = old_head
    for _ in range(3):
        disturbed_sweep(world, ledger)
        assert world.trade(deal)[0] in {"Confirmed", "Submitted"}
    settle_in_the_end(world, node, ledger)
    assert world.trade(deal) == ("Confirmed", None)
    assert (world.nonce(), len(world.batches())) == (1, 1)
