"""Nodes that lack a method or old states, and chains that make no empty blocks: what can be had another way, is."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from energy_market.evm.ledger import Ledger
from energy_market.evm.node_check import WrongChain
from energy_market.evm.rpc import Refused, Rpc
from tests.support.chain.world import FINALITY_BLOCKS, RULES, World, logged

Way = Callable[[str, list[Any], Any], Any]
"""(method, its parameters, the node's answer) -> what this node says."""
NO_METHOD = Refused(-32601, "the method does not exist/is not available")
PRUNED = Refused(-32000, "missing trie node 3a1f (path ) state 0x3a1f is not available")


class OtherNode(Rpc):
    """A node with a way of its own."""

    way: Way

    def call_many(self, calls: Sequence[tuple[str, list[object]]], *, present: bool = False) -> list[Any]:
        answers = super().call_many(calls, present=present)
        return [self.way(method, params, answer) for (method, params), answer in zip(calls, answers, strict=True)]


def without(*methods: str) -> Way:
    return lambda method, _, answer: NO_METHOD if method in methods else answer


def no_pending(_: str, params: list[Any], answer: Any) -> Any:  # noqa: ANN401 -- JSON
    return Refused(-32602, "pending is not supported") if "pending" in params else answer


def no_base_fee_in_blocks(method: str, _: list[Any], answer: Any) -> Any:  # noqa: ANN401 -- JSON
    return answer | {"baseFeePerGas": None} if method == "eth_getBlockByNumber" and answer else answer


def other(world: World, way: Way) -> Ledger:
    rpc = OtherNode(world.rpc_url)
    rpc.way = way
    world._rpcs.append(rpc)  # noqa: SLF001 -- it closes them
    return world.ledger_of(Ledger, rpc=rpc)


@pytest.mark.parametrize(
    "way",
    [
        without("eth_maxPriorityFeePerGas"),
        without("eth_maxPriorityFeePerGas", "eth_feeHistory"),
        no_pending,
        no_base_fee_in_blocks,
    ],
    ids=["no tip", "no tip and no history", "no pending", "no base fee in blocks"],
)
def test_trades_are_paid_through_a_node_that_lacks_something(world: World, way: Way) -> None:
    deals = [world.lock() for _ in range(3)]
    ledger = other(world, way)
    world.sweep_until_final(ledger=ledger)
    assert world.statuses(deals) == ["Confirmed"] * 3
    assert world.differences() == []


def test_a_chain_without_base_fees_is_said_to_be_unfit(world: World) -> None:
    deal = world.lock()

    def legacy(method: str, params: list[Any], answer: Any) -> Any:  # noqa: ANN401 -- JSON
        return NO_METHOD if method == "eth_feeHistory" else no_base_fee_in_blocks(method, params, answer)

    with pytest.raises(WrongChain, match="no base fee"):
        world.sweep(ledger=other(world, legacy))
    assert world.trade(deal) == ("Locked", None)
    assert "no base fee" in world.sql("SELECT unfit FROM chain_state")[0][0]


def test_finality_deeper_than_the_states_that_a_node_keeps_costs_patience_only(world: World) -> None:
    """The node keeps the newest state, and no other; blocks, receipts and events it keeps all."""

    def forgets(method: str, params: list[Any], answer: Any) -> Any:  # noqa: ANN401 -- JSON
        at = params[1] if method in {"eth_getTransactionCount", "eth_call", "eth_getBalance"} else "latest"
        is_old = str(at).startswith("0x") and int(at, 16) < world.chain.height()
        return PRUNED if is_old else answer

    rules = replace(RULES, finality_blocks=129)
    ledger = other(world, forgets)
    paid, poor = world.lock(), world.lock(in_escrow=False)
    world.sweep(rules, ledger=ledger)
    world.mine(2)
    world.sweep(rules, ledger=ledger)
    assert world.statuses([paid, poor]) == ["Confirmed", "Submitted"]
    world.mine(125)
    world.sweep(rules, ledger=ledger)
    assert world.trade(poor) == ("Submitted", None)
    world.mine(1)
    world.sweep(rules, ledger=ledger)
    assert world.trade(poor) == ("Failed", "insufficient_escrow")
    assert [status for _, status, _ in world.batches()] == ["Final"]


def test_a_used_nonce_whose_depth_no_state_tells_ends_with_the_trades_time(world: World) -> None:
    def forgets(method: str, params: list[Any], answer: Any) -> Any:  # noqa: ANN401 -- JSON
        is_old = method == "eth_getTransactionCount" and str(params[1]).startswith("0x")
        return PRUNED if is_old and int(params[1], 16) < world.chain.height() else answer

    ledger = other(world, forgets)
    world.hold()
    deal = world.lock(in_escrow=False)
    world.sweep(ledger=ledger)
    world.drop_pool()
    world.use_key(0)
    world.go_on()
    world.mine(FINALITY_BLOCKS)
    world.sweep(ledger=ledger)
    assert world.trade(deal) == ("Submitted", None)  # nobody can say how deep the stranger's transaction is
    world.let_expire(deal)
    world.mine_at(world.chain.time() + 3600)
    world.mine(FINALITY_BLOCKS)
    world.sweep(ledger=ledger)
    assert world.trade(deal) == ("Failed", "settlement_expired")


QUIET = replace(RULES, quiet_after_s=0.0)


def test_on_a_chain_without_empty_blocks_a_payment_gets_deep_enough_by_empty_batches(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody mines but who sends something."""
    deal = world.lock()
    world.sweep(QUIET)  # pays; its own block is the newest
    assert world.trade(deal) == ("Submitted", None)
    logged(capsys)
    for _ in range(3):
        world.sweep(QUIET)
    assert world.trade(deal) == ("Confirmed", None)
    assert logged(capsys).count("settlement.chain_is_quiet") == RULES.confirmations - 1
    assert world.nonce() == RULES.confirmations  # the payment, and what made it deep
    world.sweep(QUIET)
    assert world.nonce() == RULES.confirmations  # nobody waits any more


def test_what_fails_on_a_chain_without_empty_blocks_fails_after_as_many_empty_batches_as_finality_takes(
    world: World,
) -> None:
    deal = world.lock(in_escrow=False)
    for _ in range(FINALITY_BLOCKS + 2):
        world.sweep(QUIET)
    assert world.trade(deal) == ("Failed", "insufficient_escrow")
    assert world.nonce() <= FINALITY_BLOCKS


def test_what_runs_out_on_a_chain_without_empty_blocks_runs_out(world: World) -> None:
    deal = world.lock()
    world.leave_room(deal.amount)
    world.hold()
    world.sweep()
    world.leave_room(1)  # so that the contract skips it, and it is Locked again
    world.mine(RULES.confirmations)
    world.sweep()
    assert world.trade(deal) == ("Locked", None)
    world.let_expire(deal)
    world.go_on()
    for _ in range(FINALITY_BLOCKS + 2):
        world.sweep(QUIET)
    assert world.trade(deal) == ("Failed", "settlement_expired")


def test_a_chain_that_makes_blocks_gets_no_empty_batch(world: World) -> None:
    world.lock()
    world.sweep(replace(RULES, quiet_after_s=3600.0))
    for _ in range(3):
        world.sweep(replace(RULES, quiet_after_s=3600.0))
    assert world.nonce() == 1


def test_one_empty_batch_at_a_time(world: World) -> None:
    world.lock()
    world.sweep(QUIET)
    world.hold()
    for _ in range(4):
        world.sweep(QUIET)
    assert [size for _, _, size in world.batches()] == [1, 0]
