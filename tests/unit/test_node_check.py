"""The questions to a node, its chain and the contract, and the sentence of each gap."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_utils.crypto import keccak

from energy_market.evm import ledger, node_check
from energy_market.evm.node_check import NEEDS, Expected, Facts, Gap, check, contradictions
from energy_market.evm.rpc import Refused, Rpc, Unreachable

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
CONTRACT, TOKEN, OPERATOR = "0x" + "ab" * 20, "0x" + "cd" * 20, "0x" + "0e" * 20
EXPECTED = Expected(chain_id=31337, contract=CONTRACT, token=TOKEN, token_decimals=18, operator=OPERATOR)
FACTS = Facts(token=TOKEN, decimals=18, operator=OPERATOR, paused=False, limit=10**24)
NOW_S = 1_700_000_000
BLOCK = {"number": "0x10", "hash": "0x1", "timestamp": hex(NOW_S), "gasLimit": hex(30_000_000), "baseFeePerGas": "0x7"}
HISTORY = {"baseFeePerGas": ["0x7", "0x8"], "reward": [["0x2"]]}
NO_METHOD = Refused(-32601, "the method does not exist/is not available")
Answer = object


def word(value: int) -> str:
    return f"{value:064x}"


class Node(Rpc):
    """A node that answers as it is told, by method, or by method and selector."""

    def __init__(self, **answers: Answer) -> None:
        super().__init__("http://127.0.0.1:1")
        self.answers: dict[str, Answer] = {
            "eth_chainId": hex(31337),
            node_check.TOKEN: "0x" + word(int(TOKEN, 16)),
            node_check.OPERATOR: "0x" + word(int(OPERATOR, 16)),
            node_check.PAUSED: "0x" + word(0),
            node_check.BUDGET: "0x" + word(5) + word(0) + word(0),
            node_check.DECIMALS: "0x" + word(18),
            "eth_getBlockByNumber": BLOCK,
            "eth_getTransactionCount": "0x1",
            "eth_getBalance": "0x1",
            "eth_estimateGas": "0x5208",
            "eth_getTransactionReceipt": None,
            "eth_sendRawTransaction": Refused(-32000, "rlp: too few elements"),
            "eth_call": "0x" + word(1),
            "eth_syncing": False,
            "eth_maxPriorityFeePerGas": "0x1",
            "eth_feeHistory": HISTORY,
            "eth_gasPrice": "0x9",
            "eth_getLogs": [],
            **answers,
        }

    def call_many(self, calls: Sequence[tuple[str, list[object]]], *, present: bool = False) -> list[Any]:  # noqa: ARG002
        return [self._says(method, params) for method, params in calls]

    def _says(self, method: str, params: list[Any]) -> Answer:
        selector = params[0].get("data") if method == "eth_call" else None
        answer = self.answers.get(selector, self.answers[method]) if selector else self.answers[method]
        if isinstance(answer, Unreachable):
            raise answer
        return answer


def needs_of(gaps: list[Gap]) -> list[str]:
    return [gap.need for gap in gaps]


def test_a_chain_that_has_all_lacks_nothing() -> None:
    assert check(Node(), EXPECTED, now_s=NOW_S) == []
    assert check(Node(), replace(EXPECTED, operator=None), now_s=NOW_S) == []


@pytest.mark.parametrize(
    ("answers", "need", "sentence"),
    [
        ({"eth_chainId": "0x1"}, "chain_id", "the node is on chain 1, not on 31337"),
        ({"eth_chainId": Unreachable("refused")}, "node", "the node cannot be asked"),
        ({"eth_chainId": NO_METHOD}, "node", "the node refuses calls to the contract"),
        ({node_check.TOKEN: "0x"}, "contract", f"there is no settlement contract at {CONTRACT}"),
        ({node_check.TOKEN: Refused(3, "execution reverted")}, "contract", "there is no settlement contract at"),
        ({node_check.TOKEN: "0x" + word(2**200)}, "contract", "there is no settlement contract at"),
        ({node_check.BUDGET: "0x"}, "contract", "there is no settlement contract with a limit at"),
        ({node_check.TOKEN: "0x" + word(7)}, "token", "the contract's token is 0x00"),
        ({node_check.DECIMALS: "0x" + word(9)}, "decimals", "the token has 9 decimals, but TokenDecimals is 18"),
        ({node_check.DECIMALS: "0x" + word(8)}, "decimals", "the token has 8 decimals, but amounts need 9 to 24"),
        ({node_check.DECIMALS: "0x" + word(25)}, "decimals", "the token has 25 decimals, but amounts need 9 to 24"),
        ({node_check.OPERATOR: "0x" + word(7)}, "operator", "the contract's operator is 0x00"),
        ({node_check.PAUSED: "0x" + word(1)}, "paused", "the contract is paused by its owner"),
        ({"eth_getBlockByNumber": None}, "blocks", "the node gives a malformed answer to eth_getBlockByNumber"),
        ({"eth_getBlockByNumber": NO_METHOD}, "blocks", "the node refuses eth_getBlockByNumber"),
        ({"eth_getBlockByNumber": BLOCK | {"gasLimit": "0x1000"}}, "gas_limit", "a block has room for 4096 gas"),
        ({"eth_getBlockByNumber": BLOCK | {"timestamp": hex(NOW_S + 700)}}, "clock", "700 seconds ahead"),
        ({"eth_call": Refused(-32000, "invalid opcode: TSTORE")}, "opcodes", "the opcodes of Cancun"),
        ({"eth_call": Refused(-32603, "EVM error NotActivated")}, "opcodes", "the opcodes of Cancun"),
        ({"eth_syncing": {"currentBlock": "0x1", "highestBlock": "0x100"}}, "synced", "still catching up"),
        ({"eth_getTransactionCount": NO_METHOD}, "nonce", "the node refuses eth_getTransactionCount"),
        ({"eth_getBalance": NO_METHOD}, "balance", "the node refuses eth_getBalance"),
        ({"eth_estimateGas": NO_METHOD}, "estimate", "the node refuses eth_estimateGas"),
        ({"eth_getTransactionReceipt": NO_METHOD}, "receipts", "the node refuses eth_getTransactionReceipt"),
        ({"eth_sendRawTransaction": NO_METHOD}, "send", "the node refuses eth_sendRawTransaction"),
        ({"eth_getLogs": NO_METHOD}, "logs", "the node refuses eth_getLogs"),
        ({"eth_getLogs": Unreachable("gone")}, "node", "the node does not answer in time"),
        (
            {"eth_maxPriorityFeePerGas": NO_METHOD, "eth_feeHistory": NO_METHOD, "eth_gasPrice": NO_METHOD},
            "tip",
            "the node answers none of eth_maxPriorityFeePerGas",
        ),
        (
            {"eth_getBlockByNumber": BLOCK | {"baseFeePerGas": None}, "eth_feeHistory": NO_METHOD},
            "base_fee",
            "the chain's blocks have no base fee",
        ),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(answers: dict[str, Answer], need: str, sentence: str) -> None:
    (gap,) = check(Node(**answers), EXPECTED, now_s=NOW_S)
    assert gap.need == need
    assert sentence in gap.sentence


@pytest.mark.parametrize(
    "answers",
    [
        {"eth_maxPriorityFeePerGas": NO_METHOD},
        {"eth_maxPriorityFeePerGas": NO_METHOD, "eth_feeHistory": NO_METHOD},
        {"eth_getBlockByNumber": BLOCK | {"baseFeePerGas": None}},
        {"eth_estimateGas": Refused(3, "execution reverted")},
        {"eth_call": Refused(-32000, "contract creation is not supported in eth_call")},
        {"eth_syncing": NO_METHOD},
        {"eth_syncing": {"currentBlock": "0x100", "highestBlock": "0x100"}},
        {"eth_getTransactionReceipt": Refused(-32000, "transaction not found")},
        {"eth_sendRawTransaction": Refused(-32602, "Invalid transaction type")},
    ],
)
def test_what_can_be_had_another_way_or_says_nothing_is_no_gap(answers: dict[str, Answer]) -> None:
    assert check(Node(**answers), EXPECTED, now_s=NOW_S) == []


def test_the_sentence_has_none_of_the_nodes_words_which_are_kept_beside_it() -> None:
    (gap,) = check(Node(eth_getLogs=Refused(-32000, "your key 1234 may not " + "x" * 1000)), EXPECTED, now_s=NOW_S)
    assert "1234" not in gap.sentence
    assert gap.words.startswith("your key 1234")
    assert len(gap.words) == node_check.WORDS_KEPT


def test_several_contradictions_are_all_said() -> None:
    facts = replace(FACTS, token=CONTRACT, decimals=21, operator=TOKEN, paused=True)
    assert needs_of(contradictions(facts, EXPECTED)) == ["token", "decimals", "operator", "paused"]
    assert contradictions(FACTS, replace(EXPECTED, token=TOKEN.upper().replace("0X", "0x"))) == []


@pytest.mark.parametrize(
    ("selector", "signature"),
    [
        (node_check.TOKEN, "TOKEN()"),
        (node_check.OPERATOR, "operator()"),
        (node_check.PAUSED, "paused()"),
        (node_check.BUDGET, ledger.BUDGET),
        (node_check.DECIMALS, "decimals()"),
        (node_check.SETTLE, ledger.SETTLE),
    ],
)
def test_the_selectors_are_those_of_the_contract(selector: str, signature: str) -> None:
    assert selector == "0x" + keccak(text=signature)[:4].hex()


def test_a_block_has_room_for_what_one_trade_is_given() -> None:
    assert node_check.GAS_FOR_ONE_TRADE == ledger.GAS_PER_BATCH + ledger.GAS_PER_TRADE


def page_of_needs() -> str:
    return OPERATIONS.partition("## What a chain, a node, a database and a pooler must be able to do")[2].partition(
        "\n## "
    )[0]


def test_each_need_has_its_row_and_each_row_is_checked() -> None:
    table = page_of_needs().partition("### Chain, node and contract")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE)
    assert dict(rows) == NEEDS


def test_each_need_is_one_that_a_test_has_seen_missing() -> None:
    (mark,) = test_what_is_missing_is_said_in_a_sentence.pytestmark  # type: ignore[attr-defined]
    seen = {need for _, need, _ in mark.args[1]}
    assert seen == NEEDS.keys()
