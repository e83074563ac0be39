"""What a node or its provider refuses belongs to one call, one trade or one batch: the others go on."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from energy_market.domain.settlement import GWEI
from energy_market.evm.ledger import Ledger
from energy_market.evm.rpc import Refused, Rpc
from tests.support.chain.chain import Chain
from tests.support.chain.chain import trade as chain_trade
from tests.support.chain.world import FINALITY_BLOCKS, RULES, Deal, World, logged
from tests.support.trouble.refusing_node import Node, Refusal

Json: TypeAlias = Any


@pytest.fixture
def node(world: World) -> Iterator[Node]:
    node = Node(world.rpc_url)
    yield node
    node.close()


@pytest.fixture
def ledger(world: World, node: Node) -> Iterator[Ledger]:
    rpc = Rpc(node.url, timeout_s=1.0, sleep=lambda _: None)
    yield world.ledger_of(Ledger, rpc=rpc)
    rpc.close()


def refused(method: str, message: str, *, code: int = -32000, when: Callable[[Json], bool] = lambda _: True) -> Refusal:
    """Refuse a method's calls, those whose first parameter is so."""

    def refuse(call: Json) -> Json:
        return {"code": code, "message": message} if call["method"] == method and when(call["params"]) else None

    return refuse


def trades_in(call_data: str) -> int:
    """How many trades a call of `settle` carries: the second word after the selector."""
    return int(call_data[10 + 64 : 10 + 128], 16)


def paid_by_a_stranger(world: World) -> Deal:
    """A trade whose batch was signed and never mined: somebody with the operator's key paid it under that nonce."""
    deal = world.lock()
    world.hold()
    world.sweep()
    world.drop_pool()
    world.go_on()
    world.chain.settle([chain_trade(deal.buyer, deal.seller, deal.amount, id=deal.id, energy_wh=500)])
    return deal


# ------------------------------------------------------------------------------------------------ too big, in any words


def test_what_is_too_big_for_a_block_and_cannot_even_be_estimated_is_halved(world: World) -> None:
    """Plain Anvil: it estimates nothing beyond its block's gas."""
    deals = [world.lock() for _ in range(12)]
    world.chain.rpc.call("evm_setBlockGasLimit", hex(500_000))
    world.mine()
    world.sweep_until_final()
    assert world.statuses(deals) == ["Confirmed"] * 12
    assert all(world.chain.escrow(deal.seller) == deal.amount for deal in deals)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-32000, "gas required exceeds allowance (30000000)"),
        (-32003, "out of gas: gas required exceeds allowance: 550000000"),
        (-32000, "Block gas limit exceeded"),
        (-32602, "transaction gas limit exceeds 2^24"),
        (-32000, "an unheard-of word"),
        (-32603, "Internal error"),
    ],
)
def test_an_estimate_that_is_refused_in_any_words_is_asked_for_less(
    world: World, node: Node, ledger: Ledger, code: int, message: str
) -> None:
    deals = [world.lock() for _ in range(4)]
    node.refuse = refused("eth_estimateGas", message, code=code, when=lambda params: trades_in(params[0]["data"]) > 1)
    world.sweep_until_final(ledger=ledger)
    assert world.statuses(deals) == ["Confirmed"] * 4


def test_one_trade_that_cannot_be_estimated_waits_with_a_word_and_the_others_are_paid(
    world: World, node: Node, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    deals = [world.lock() for _ in range(4)]
    odd = deals[1].id.hex
    node.refuse = refused("eth_estimateGas", "no, not this one", when=lambda params: odd in params[0]["data"])
    world.sweep(ledger=ledger)
    world.mine(FINALITY_BLOCKS)
    world.sweep(ledger=ledger)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    words = [line for line in lines if line.get("event") == "settlement.not_estimated"]
    assert {line["transaction_id"] for line in words} == {str(deals[1].id)}
    assert "no, not this one" in words[0]["detail"]
    assert world.statuses(deals) == ["Confirmed", "Locked", "Confirmed", "Confirmed"]
    node.recover()
    world.sweep_until_final(ledger=ledger)
    assert world.trade(deals[1]) == ("Confirmed", None)


def test_a_node_that_estimates_nothing_at_all_is_no_trades_trouble(world: World, node: Node, ledger: Ledger) -> None:
    deals = [world.lock() for _ in range(8)]
    node.refuse = refused("eth_estimateGas", "the method eth_estimateGas does not exist", code=-32601)
    with pytest.raises(Refused, match="does not exist"):
        world.sweep(ledger=ledger)
    assert node.asked.count("eth_estimateGas") < 8, "a trade is not asked for after the other"
    assert world.statuses(deals) == ["Locked"] * 8


def test_a_revert_that_only_one_node_sees_fails_no_trade(world: World, node: Node, ledger: Ledger) -> None:
    """A node that is behind tries the batch on an older state than the one that was looked at."""
    deals = [world.lock() for _ in range(2)]
    node.refuse = refused(
        "eth_estimateGas", "execution reverted", code=3, when=lambda params: trades_in(params[0]["data"]) > 0
    )
    world.sweep(ledger=ledger)
    assert world.statuses(deals) == ["Locked", "Locked"]
    node.recover()
    world.sweep_until_final(ledger=ledger)
    assert world.statuses(deals) == ["Confirmed", "Confirmed"]


# ------------------------------------------------------------------------------------------------ events by the piece


def too_wide(most: int) -> Callable[[Json], bool]:
    return lambda params: int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) >= most


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-32600, "You can make eth_getLogs requests with up to a 10 block range"),
        (-32005, "query returned more than 10000 results"),
        (-32602, "range 1000 exceeds limit of 10"),
        (-32000, "an unheard-of word"),
        (35, "ranges over 10 blocks are not supported on freetier"),
    ],
)
def test_events_are_asked_for_in_as_few_blocks_as_the_provider_answers_for(
    world: World, node: Node, ledger: Ledger, code: int, message: str
) -> None:
    """One trade was paid by a stranger's transaction; the others are paid as ever."""
    deals = [paid_by_a_stranger(world), *(world.lock() for _ in range(3))]
    world.mine(60)
    node.refuse = refused("eth_getLogs", message, code=code, when=too_wide(10))
    world.sweep_until_final(ledger=ledger)
    assert world.statuses(deals) == ["Confirmed"] * 4
    node.asked.clear()
    other = paid_by_a_stranger(world)
    world.mine(FINALITY_BLOCKS)
    world.sweep(ledger=ledger)
    assert world.trade(other) == ("Confirmed", None)
    assert node.asked.count("eth_getLogs") < 4, "what was accepted is remembered"


def test_a_search_that_takes_longer_than_a_sweep_has_for_it_is_gone_on_with_by_the_next(
    world: World, node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    deals = [paid_by_a_stranger(world), *(world.lock() for _ in range(2))]
    world.mine(60)
    now = [0.0]
    rpc = Rpc(node.url, monotonic=lambda: now[0], sleep=lambda _: None)
    ledger = world.ledger_of(Ledger, rpc=rpc)

    def slow(call: Json) -> Json:
        now[0] += 0.3 if call["method"] == "eth_getLogs" else 0.0
        return refused("eth_getLogs", "at most 5 blocks", when=too_wide(5))(call)

    node.refuse = slow
    logged(capsys)
    world.sweep(ledger=ledger)
    assert "settlement.payment_searched" in logged(capsys)
    assert world.trade(deals[0])[0] == "Submitted"
    assert world.statuses(deals[1:]) == ["Submitted", "Submitted"], "one trade's search does not eat the sweep"
    sweeps = 1
    while world.trade(deals[0])[0] == "Submitted":
        world.sweep(ledger=ledger)
        sweeps += 1
        assert sweeps < 8, "each sweep goes on from where the last one stopped"
    assert world.trade(deals[0]) == ("Confirmed", None)
    rpc.close()


def test_a_provider_without_events_costs_the_trade_that_needs_them_and_no_other(
    world: World, node: Node, ledger: Ledger
) -> None:
    deals = [paid_by_a_stranger(world), *(world.lock() for _ in range(2))]
    world.mine(FINALITY_BLOCKS)
    node.refuse = refused("eth_getLogs", "eth_getLogs is disabled here", code=-32601)
    world.sweep(ledger=ledger)
    world.mine(2)
    world.sweep(ledger=ledger)
    assert world.statuses(deals) == ["Submitted", "Confirmed", "Confirmed"]


def test_what_our_own_bytes_paid_is_found_without_events(world: World, node: Node, ledger: Ledger) -> None:
    """Its batch was given up, and was mined all the same."""
    deal = world.lock()
    world.sweep(ledger=ledger)
    world.sql("UPDATE settlement_batches SET status = 'Replaced'")
    world.sql("UPDATE transactions SET status = 'Locked'")
    world.mine(FINALITY_BLOCKS)
    node.refuse = refused("eth_getLogs", "no events here")
    world.sweep(ledger=ledger)
    assert world.trade(deal) == ("Confirmed", None)


# ------------------------------------------------------------------------------------------------ nodes behind others


class Behind:
    """Every so many requests are answered by a node that is some blocks behind: it knows no newer block or receipt."""

    def __init__(self, chain: Chain, *, blocks: int, every: int) -> None:
        self._chain, self._blocks, self._every = chain, blocks, every
        self._asked = 0
        self.turns: set[int] = set()

    def _is_behind(self) -> bool:
        self._asked += 1
        return self._asked % self._every == 0

    def __call__(self, call: Json) -> Json:
        """The error of the node that is behind, or None: of what it answers otherwise, see `lie`."""
        method, params = call["method"], call["params"]
        if method not in {"eth_getTransactionCount", "eth_getBalance", "eth_call"} or not self._is_behind():
            return None
        head = self._chain.height() - self._blocks
        at = params[1]
        if isinstance(at, dict):
            block = self._chain.rpc.call("eth_getBlockByHash", at["blockHash"], False)  # noqa: FBT003 -- JSON
            return {"code": -32000, "message": "header not found"} if int(block["number"], 16) > head else None
        if at.startswith("0x") and int(at, 16) > head:
            return {"code": -32000, "message": "header not found"}
        return None

    def lie(self, method: str, answer: Json) -> Json:
        head = self._chain.height() - self._blocks
        result = answer.get("result")
        if not isinstance(result, dict) or method not in {"eth_getBlockByNumber", "eth_getTransactionReceipt"}:
            return answer
        number = int(result["number"] if method == "eth_getBlockByNumber" else result["blockNumber"], 16)
        return answer | {"result": None} if number > head and self._is_behind() else answer


@pytest.mark.parametrize("apart", [(1, 2), (1, 3), (3, 2), (3, 3)], ids=str)
def test_nodes_some_blocks_apart_behind_one_address_settle_and_nothing_is_taken_back(
    world: World, node: Node, ledger: Ledger, capsys: pytest.CaptureFixture[str], apart: tuple[int, int]
) -> None:
    world.mine(5)
    deals = [world.lock(), world.lock(in_escrow=False), world.lock()]
    behind = Behind(world.chain, blocks=apart[0], every=apart[1])
    node.refuse, node.lie = behind, behind.lie
    logged(capsys)
    world.sweep_until_final(ledger=ledger)
    assert [world.trade(deal) for deal in deals] == [
        ("Confirmed", None),
        ("Failed", "insufficient_escrow"),
        ("Confirmed", None),
    ]
    assert "settlement.reorganised" not in logged(capsys)
    assert (world.nonce(), len(world.forms())) == (1, 1)


def test_a_node_that_fell_behind_takes_nothing_back(
    world: World, node: Node, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    """The only node left is older than what was seen: nonces and receipts of its time prove nothing."""
    deal = world.lock()
    world.sweep(ledger=ledger)
    world.mine()
    world.sweep(ledger=ledger)
    assert world.trade(deal) == ("Confirmed", None)
    behind = world.chain.height() - 2
    block = world.chain.rpc.call("eth_getBlockByNumber", hex(behind), False)  # noqa: FBT003 -- JSON

    def lie(method: str, answer: Json) -> Json:
        result = answer.get("result")
        if method == "eth_getTransactionCount":
            return answer | {"result": "0x0"}
        if method == "eth_getTransactionReceipt":
            return answer | {"result": None}
        if method == "eth_getBlockByNumber" and isinstance(result, dict):
            is_latest = int(result["number"], 16) == world.chain.height()
            return answer | {"result": block if is_latest else result if int(result["number"], 16) <= behind else None}
        return answer

    node.lie = lie
    logged(capsys)
    for _ in range(3):
        world.sweep(replace(RULES, stuck_after_s=0.0), ledger=ledger)
    assert "settlement.reorganised" not in logged(capsys)
    assert world.trade(deal) == ("Confirmed", None)
    node.recover()
    world.sweep_until_final(ledger=ledger)
    assert (world.nonce(), len(world.forms())) == (1, 1)


def test_a_node_that_knows_no_receipt_yet_does_not_make_a_strangers_nonce_of_ours(
    world: World, node: Node, ledger: Ledger
) -> None:
    deal = world.lock()
    world.sweep(ledger=ledger)
    world.mine(3)
    nulls = iter([True, False, True, False])

    def lie(method: str, answer: Json) -> Json:
        is_receipt = method == "eth_getTransactionReceipt"
        return answer | {"result": None} if is_receipt and next(nulls, False) else answer

    node.lie = lie
    world.sweep(ledger=ledger)
    assert [status for _, status, _ in world.batches()] != ["Replaced"]
    node.recover()
    world.sweep_until_final(ledger=ledger)
    assert [status for _, status, _ in world.batches()] == ["Final"]
    assert world.trade(deal) == ("Confirmed", None)


def test_a_node_without_state_by_hash_is_asked_by_number(world: World, node: Node, ledger: Ledger) -> None:
    deal = world.lock()

    def by_hash(call: Json) -> Json:
        named = any(isinstance(one, dict) and "blockHash" in one for one in call["params"])
        return {"code": -32602, "message": "invalid argument 1: hex string without 0x prefix"} if named else None

    node.refuse = by_hash
    world.sweep_until_final(ledger=ledger)
    assert world.trade(deal) == ("Confirmed", None)


def test_a_receipt_that_cannot_be_had_holds_up_its_own_batch_alone(world: World, node: Node, ledger: Ledger) -> None:
    deals = [world.lock(), world.lock()]
    world.sweep(replace(RULES, max_batch=1), ledger=ledger)
    first = world.forms()[0][0]
    world.mine()
    node.refuse = refused(
        "eth_getTransactionReceipt", "transaction indexing is in progress", when=lambda params: params[0] == first
    )
    world.sweep(ledger=ledger)
    assert world.statuses(deals) == ["Submitted", "Confirmed"]
    node.recover()
    world.sweep_until_final(ledger=ledger)
    assert world.statuses(deals) == ["Confirmed", "Confirmed"]


# ------------------------------------------------------------------------------------------------ refused forms


def signed(raw: Json) -> Json:
    """The fields of a signed transaction."""
    return TypedTransaction.from_bytes(HexBytes(raw)).as_dict()


def sendings(message: str, *, when: Callable[[Json], bool]) -> Refusal:
    """Refuse transactions whose fields are so."""
    return refused("eth_sendRawTransaction", message, when=lambda params: when(signed(params[0])))


@pytest.mark.parametrize(
    "message",
    [
        "transaction underpriced: gas tip cap 1000000000, minimum needed 25000000000",
        "transaction gas price below minimum",
        "FeeTooLow, MaxPriorityFeePerGas too low",
    ],
)
def test_a_floor_of_tips_that_no_node_suggests_is_found(world: World, node: Node, ledger: Ledger, message: str) -> None:
    deals = [world.lock() for _ in range(2)]
    node.refuse = sendings(message, when=lambda fields: fields["maxPriorityFeePerGas"] < 25 * GWEI)
    world.sweep_until_final(ledger=ledger)
    assert world.statuses(deals) == ["Confirmed", "Confirmed"]
    forms = len(world.forms())
    assert world.forms()[-1][2] < 50 * GWEI + 1
    other = world.lock()
    world.sweep_until_final(ledger=ledger)
    assert world.trade(other) == ("Confirmed", None)
    assert len(world.forms()) == forms + 1, "the floor is remembered"


def test_a_floor_of_tips_is_found_while_the_base_fee_falls(world: World, node: Node, ledger: Ledger) -> None:
    """Three blocks between two sweeps may take a third of it: that does not begin the search anew."""
    deal, base_fee = world.lock(), 100 * GWEI
    node.refuse = sendings("transaction underpriced", when=lambda fields: fields["maxPriorityFeePerGas"] < GWEI)
    node.lie = lambda method, answer: answer | {"result": "0x0"} if method == "eth_maxPriorityFeePerGas" else answer
    for _ in range(16):
        base_fee = base_fee * 2 // 3
        world.chain.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(base_fee))
        world.mine()
        world.sweep(ledger=ledger)
    assert world.trade(deal) == ("Confirmed", None)
    assert len(world.forms()) < 14


def test_the_operators_floor_of_tips_is_paid_from_the_start(world: World, node: Node, ledger: Ledger) -> None:
    deal = world.lock()
    node.refuse = sendings("transaction underpriced", when=lambda fields: fields["maxPriorityFeePerGas"] < 25 * GWEI)
    world.sweep(replace(RULES, min_priority_fee_wei=25 * GWEI), ledger=ledger)
    assert [(tip, sends) for _, _, tip, sends in world.forms()] == [(25 * GWEI, 1)]
    world.mine()
    world.sweep(ledger=ledger)
    assert world.trade(deal) == ("Confirmed", None)


def test_a_refusal_that_stays_is_tried_anew_when_the_chain_asks_for_something_else(
    world: World, node: Node, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    """The floor is beyond what was tried; then the node suggests what it takes."""
    rules = replace(RULES, max_forms=3)
    deal = world.lock()
    node.refuse = sendings("transaction underpriced", when=lambda fields: fields["maxPriorityFeePerGas"] < 200 * GWEI)
    for _ in range(6):
        world.sweep(rules, ledger=ledger)
    assert "settlement.stuck" in logged(capsys)
    assert len(world.forms()) == 3
    node.lie = lambda method, answer: (
        answer | {"result": hex(200 * GWEI)} if method == "eth_maxPriorityFeePerGas" else answer
    )
    world.sweep(rules, ledger=ledger)
    world.mine()
    world.sweep(rules, ledger=ledger)
    assert world.trade(deal) == ("Confirmed", None)


def test_above_the_ceiling_nothing_is_signed_and_a_spike_that_is_over_leaves_nothing_behind(
    world: World, node: Node, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = replace(RULES, max_fee_wei=50 * GWEI)
    first = world.lock()
    node.refuse = sendings("max fee per gas less than block base fee", when=lambda _: True)
    world.sweep(rules, ledger=ledger)  # signed before the spike, and refused in it
    second = world.lock()

    def dear(method: str, answer: Json) -> Json:
        result = answer.get("result")
        is_block = method == "eth_getBlockByNumber" and isinstance(result, dict)
        return answer | {"result": result | {"baseFeePerGas": hex(60 * GWEI)}} if is_block else answer

    node.lie = dear
    logged(capsys)
    world.sweep(rules, ledger=ledger)
    assert "settlement.fees_too_high" in logged(capsys)
    assert len(world.forms()) == 1
    assert world.trade(second) == ("Locked", None)
    node.recover()
    world.sweep(rules, ledger=ledger)
    world.mine()
    world.sweep(rules, ledger=ledger)
    world.mine()
    world.sweep(rules, ledger=ledger)
    assert world.statuses([first, second]) == ["Confirmed", "Confirmed"]
    assert max(fee for _, fee, _, _ in world.forms()) < 10 * GWEI


@pytest.mark.parametrize(
    "message",
    [
        "tx fee (1.10 ether) exceeds the configured cap (1.00 ether)",
        "exceeds block gas limit",
        "transaction gas limit too high (cap: 16777216, tx: 17000000)",
        "oversized data: transaction size 180186, limit 131072",
        "an unheard-of word",
    ],
)
def test_a_batch_that_is_refused_for_its_size_goes_in_parts_under_the_same_nonce(
    world: World, node: Node, ledger: Ledger, message: str
) -> None:
    deals = [world.lock() for _ in range(5)]
    node.refuse = sendings(message, when=lambda fields: trades_in("0x" + fields["data"].hex().removeprefix("0x")) > 2)
    impatient = replace(RULES, stuck_after_s=0.0)
    for _ in range(20):
        world.sweep(impatient, ledger=ledger)
        world.mine()
        if world.statuses(deals) == ["Confirmed"] * 5:
            break
    assert world.statuses(deals) == ["Confirmed"] * 5
    assert all(world.chain.escrow(deal.seller) == deal.amount for deal in deals)
    assert world.batches()[0][0] == 0
    assert [nonce for nonce, _, _ in world.batches()] == list(range(world.nonce())), "no nonce is left out"
    world.sweep_until_final(ledger=ledger)
    assert world.differences() == []


def test_a_trade_whose_bytes_no_node_takes_gives_its_nonce_to_nothing_and_waits(
    world: World, node: Node, ledger: Ledger
) -> None:
    odd = world.lock()
    node.refuse = sendings("no, not this one", when=lambda fields: odd.id.hex in fields["data"].hex())
    impatient = replace(RULES, stuck_after_s=0.0)
    world.sweep(impatient, ledger=ledger)
    other = world.lock()
    for _ in range(6):
        world.sweep(impatient, ledger=ledger)
        world.mine()
    assert world.trade(other)[0] in {"Submitted", "Confirmed", "Locked"}
    assert world.nonce() >= 1, "nothing waits behind a nonce that nobody fills"
    node.recover()
    world.sweep_until_final(ledger=ledger)
    assert world.statuses([odd, other]) == ["Confirmed", "Confirmed"]
    assert world.differences() == []


def test_bytes_that_were_refused_and_mined_all_the_same_pay_once(world: World, node: Node, ledger: Ledger) -> None:
    """A node refused the whole batch, another one mined it, while a smaller form was signed and sent."""
    deals = [world.lock() for _ in range(4)]
    world.hold()
    node.refuse = sendings(
        "oversized data", when=lambda fields: trades_in("0x" + fields["data"].hex().removeprefix("0x")) > 2
    )
    world.sweep(ledger=ledger)
    ((raw,),) = world.sql("SELECT raw FROM signed_transactions")
    world.sweep(ledger=ledger)
    assert len(world.forms()) == 2
    world.drop_pool()
    world.chain.rpc.call("eth_sendRawTransaction", "0x" + raw.hex())
    world.mine()
    world.go_on()
    node.recover()
    world.sweep_until_final(ledger=ledger)
    assert world.statuses(deals) == ["Confirmed"] * 4
    assert all(world.chain.escrow(deal.seller) == deal.amount for deal in deals)
    assert (world.nonce(), world.differences()) == (1, [])
