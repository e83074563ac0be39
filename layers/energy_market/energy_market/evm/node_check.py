"""The settlement's needs of a node, its chain, the contract and the token, each checked by a request.

The deploy checks all of them and fails with a sentence for each unmet need; `GET /api/v1/health` checks the same.
The sweep and the nightly comparison only check the facts of the contract (`ask`, `contradictions`).
Imports only `rpc`, `values` and the standard library: the health route uses it without the EVM libraries.
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from energy_market.evm.rpc import ChainError, Refused, Rpc, Unreachable, is_revert
from energy_market.evm.values import is_quantity, quantity, word, words

AMOUNT_DECIMALS: Final = 9
"""Decimals of the market's amounts, which are nano-tokens. A token needs at least as many."""
MOST_DECIMALS: Final = 24
"""Maximum decimals of a token: with more, amounts do not fit the contract (`EnergySettlement.sol`)."""
GAS_FOR_ONE_TRADE: Final = 135_000
"""Minimum gas of a block: a batch of one trade (`ledger.GAS_PER_BATCH`, `GAS_PER_TRADE`)."""
CLOCK_AHEAD_S: Final = 600
"""Seconds that the chain's clock may be ahead of ours; trades expire by the chain's clock."""
BLOCKS_BEHIND: Final = 10
"""Blocks that a node may lag behind the highest block it knows, before it counts as catching up."""
LOOKS_FOR_CONTRACT: Final = 3
WORDS_KEPT: Final = 200
"""Maximum characters of a node's own words that are repeated."""

NEEDS: Final[dict[str, str]] = {
    "node": "JSON-RPC by HTTP is answered in time",
    "chain_id": "the chain's id is `ChainId`",
    "contract": "the settlement contract of this version stands at `SettlementContract`",
    "token": "the contract's token is `TokenContract`",
    "decimals": "the token has 9 to 24 decimals, and as many as `TokenDecimals` says",
    "operator": "the contract's operator is the account of the operator's key",
    "paused": "the contract is not paused",
    "blocks": "`eth_getBlockByNumber` returns blocks with number, hash, time and gas limit",
    "base_fee": "blocks have a base fee (EIP-1559), in the block or in `eth_feeHistory`",
    "tip": "`eth_maxPriorityFeePerGas`, `eth_feeHistory` or `eth_gasPrice` is answered",
    "gas_limit": "a block has room for a batch of one trade (135,000 gas)",
    "opcodes": "the chain runs the opcodes of Cancun, for which the contract is compiled",
    "clock": "the chain's clock is not more than ten minutes ahead",
    "synced": "the node is not catching up with its chain",
    "nonce": "`eth_getTransactionCount` is answered for the newest block",
    "balance": "`eth_getBalance` is answered for the newest block",
    "estimate": "`eth_estimateGas` is answered",
    "receipts": "`eth_getTransactionReceipt` is answered",
    "logs": "`eth_getLogs` is answered for one block",
    "send": "`eth_sendRawTransaction` is answered",
}
"""Needs by name: the rows of the table of needs in `docs/operations.md`."""

# Selectors, written out because Keccak is not in the standard library (tests/unit/test_node_check.py).
TOKEN: Final = "0x82bfefc8"  # noqa: S105 -- TOKEN()
OPERATOR: Final = "0x570ca735"  # operator()
PAUSED: Final = "0x5c975abb"  # paused()
BUDGET: Final = "0xed01bf29"  # budget()
DECIMALS: Final = "0x313ce567"  # decimals()
SETTLE: Final = "0xb31e1962"  # settle((bytes32,address,address,uint256,uint256,uint64)[])

_ADDRESSES: Final = 2**160
_EMPTY_LIST: Final = word(32) + word(0)
# TSTORE, TLOAD, MCOPY and PUSH0: stores 1, loads it, copies it, returns the copy.
_CANCUN: Final = "0x60015f5d5f5c5f5260205f60205e60206020f3"
_NO_SUCH_OPCODE: Final = re.compile(r"opcode|invalid instruction|not ?activated|undefined instruction|bad instruction")
_NO_SUCH_METHOD: Final = re.compile(r"method .*\bnot\b|(unsupported|unknown|unavailable) method|not whitelisted")
_METHOD_NOT_FOUND: Final = -32601
_NOTHING: Final = "0x" + 32 * "00"
_NO_TRANSACTION: Final = "0xc0"  # every node rejects it, so nothing is sent


T = TypeVar("T")


class WrongChain(ChainError):
    """The node is on another chain, or the settlement contract is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The configured values. Addresses in any spelling; `operator` is None if the key is not known."""

    chain_id: int
    contract: str
    token: str
    token_decimals: int
    operator: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The contract's and its token's own values. Addresses in lower case."""

    token: str
    decimals: int
    operator: str
    paused: bool
    limit: int | None  # per hour, in the token's smallest unit; None for a contract without a limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """An unmet need (a name in `NEEDS`): a sentence, and the node's own words if it refused something."""

    need: str
    sentence: str
    words: str = ""


def surely(ask: Callable[[], T]) -> T:
    """The answer to a question; if the contract seems to be absent, the question is asked three times.

    One of several nodes behind an address may lag by hours, and not know the contract yet.
    """
    for _ in range(LOOKS_FOR_CONTRACT - 1):
        with suppress(WrongChain):
            return ask()
    return ask()


def ask(rpc: Rpc, *, chain_id: int, contract: str) -> Facts:
    """The facts of the settlement contract. Raises WrongChain, Refused, Unreachable."""
    return surely(lambda: _facts(rpc, chain_id=chain_id, contract=contract))


def _facts(rpc: Rpc, *, chain_id: int, contract: str) -> Facts:
    chain, *answers = rpc.call_many(
        [("eth_chainId", []), *(_view(contract, one) for one in (TOKEN, OPERATOR, PAUSED, BUDGET))]
    )
    if isinstance(chain, Refused):
        raise chain
    if (found := quantity(chain)) != chain_id:
        raise WrongChain(f"the node is on chain {found}, not on {chain_id}")
    absent = WrongChain(f"there is no settlement contract at {contract}")
    token, operator, paused = (_words_of(answer, 1, absent)[0] for answer in answers[:3])
    if token >= _ADDRESSES or operator >= _ADDRESSES:
        raise absent
    token_address = _address(token)
    (decimals,) = _words_of(
        rpc.call_many([_view(token_address, DECIMALS)])[0],
        1,
        WrongChain(f"the contract's token at {token_address} has no decimals"),
    )
    try:
        limit: int | None = _words_of(answers[3], 3, absent)[0]
    except WrongChain:
        limit = None
    return Facts(token=token_address, decimals=decimals, operator=_address(operator), paused=bool(paused), limit=limit)


def contradictions(facts: Facts, expected: Expected) -> list[Gap]:
    """Properties of the contract that prevent payments or contradict the configuration."""
    gaps = []
    if facts.limit is None:
        gaps.append(
            Gap(
                need="contract",
                sentence=f"there is no settlement contract with a limit at {expected.contract}:"
                " it is an earlier version's",
            )
        )
    if facts.token != expected.token.lower():
        gaps.append(
            Gap(need="token", sentence=f"the contract's token is {facts.token}, but TokenContract is {expected.token}")
        )
    if not AMOUNT_DECIMALS <= facts.decimals <= MOST_DECIMALS:
        gaps.append(
            Gap(
                need="decimals",
                sentence=f"the token has {facts.decimals} decimals, but amounts need"
                f" {AMOUNT_DECIMALS} to {MOST_DECIMALS}",
            )
        )
    elif facts.decimals != expected.token_decimals:
        gaps.append(
            Gap(
                need="decimals",
                sentence=f"the token has {facts.decimals} decimals, but TokenDecimals is {expected.token_decimals}",
            )
        )
    if expected.operator is not None and facts.operator != expected.operator.lower():
        gaps.append(
            Gap(
                need="operator",
                sentence=f"the contract's operator is {facts.operator}, but the operator's key is of"
                f" {expected.operator.lower()}",
            )
        )
    if facts.paused:
        gaps.append(Gap(need="paused", sentence="the contract is paused by its owner"))
    return gaps


def check(rpc: Rpc, expected: Expected, *, now_s: float | None = None) -> list[Gap]:
    """Every unmet need; an empty list if trades can be settled. Takes at most the budget of `rpc`."""
    try:
        facts = ask(rpc, chain_id=expected.chain_id, contract=expected.contract)
    except WrongChain as error:
        return [Gap(need="chain_id" if "on chain" in str(error) else "contract", sentence=str(error))]
    except Refused as error:
        return [Gap(need="node", sentence="the node refuses calls to the contract", words=_said(error))]
    except Unreachable as error:
        return [Gap(need="node", sentence="the node cannot be asked", words=str(error)[:WORDS_KEPT])]
    try:
        found = _gaps_of_node(rpc, expected.contract, facts.operator, time.time() if now_s is None else now_s)
    except ChainError as error:
        found = [Gap(need="node", sentence="the node does not answer in time", words=str(error)[:WORDS_KEPT])]
    return [*contradictions(facts, expected), *found]


def _gaps_of_node(rpc: Rpc, contract: str, operator: str, now_s: float) -> list[Gap]:
    head, nonce, balance, estimate, receipt = rpc.call_many(
        [
            ("eth_getBlockByNumber", ["latest", False]),
            ("eth_getTransactionCount", [operator, "latest"]),
            ("eth_getBalance", [operator, "latest"]),
            ("eth_estimateGas", [{"from": operator, "to": contract, "data": SETTLE + _EMPTY_LIST}]),
            ("eth_getTransactionReceipt", [_NOTHING]),
        ]
    )
    # One at a time: a gateway that does not allow a method may refuse the whole list that contains it.
    optional: list[tuple[str, list[object]]] = [
        ("eth_sendRawTransaction", [_NO_TRANSACTION]),
        ("eth_call", [{"data": _CANCUN}, "latest"]),
        ("eth_syncing", []),
        ("eth_maxPriorityFeePerGas", []),
        ("eth_feeHistory", ["0x1", "latest", [50]]),
        ("eth_gasPrice", []),
    ]
    sent, opcodes, syncing, *fees = (rpc.call_many([call])[0] for call in optional)
    gaps = _gaps_of_block(head, fees[1], now_s)
    if not is_quantity(nonce):
        gaps.append(_unanswered("nonce", "eth_getTransactionCount", nonce))
    if not is_quantity(balance):
        gaps.append(_unanswered("balance", "eth_getBalance", balance))
    if not (is_quantity(estimate) or (isinstance(estimate, Refused) and is_revert(estimate))):
        gaps.append(_unanswered("estimate", "eth_estimateGas", estimate))
    if _is_missing_method(receipt):
        gaps.append(_unanswered("receipts", "eth_getTransactionReceipt", receipt))
    if _is_missing_method(sent):
        gaps.append(_unanswered("send", "eth_sendRawTransaction", sent))
    if _lacks_cancun(opcodes):
        sentence = "the chain does not run the opcodes of Cancun, for which the contract is compiled"
        gaps.append(Gap(need="opcodes", sentence=sentence, words=_said(opcodes)))
    if _is_catching_up(syncing):
        gaps.append(Gap(need="synced", sentence="the node is still catching up with its chain"))
    if not any((is_quantity(fees[0]), tip_of(fees[1]) is not None, is_quantity(fees[2]))):
        sentence = "the node answers none of eth_maxPriorityFeePerGas, eth_feeHistory and eth_gasPrice"
        gaps.append(Gap(need="tip", sentence=sentence, words=_said(fees[0])))
    return gaps + _gaps_of_logs(rpc, contract, head)


def _gaps_of_logs(rpc: Rpc, contract: str, head: Any) -> list[Gap]:  # noqa: ANN401 -- JSON
    if not (isinstance(head, dict) and is_quantity(head.get("number"))):
        return []  # the missing block is a gap of its own
    asked = {"address": contract, "fromBlock": head["number"], "toBlock": head["number"]}
    (logs,) = rpc.call_many([("eth_getLogs", [asked])])
    return [] if isinstance(logs, list) else [_unanswered("logs", "eth_getLogs", logs)]


def _gaps_of_block(head: Any, history: Any, now_s: float) -> list[Gap]:  # noqa: ANN401 -- JSON
    fields = ("number", "timestamp", "gasLimit")
    is_block = isinstance(head, dict) and isinstance(head.get("hash"), str)
    if not (is_block and all(is_quantity(head.get(field)) for field in fields)):
        return [_unanswered("blocks", "eth_getBlockByNumber", head)]
    gaps = []
    if not is_quantity(head.get("baseFeePerGas")) and base_fee_of(history) is None:
        gaps.append(
            Gap(
                need="base_fee", sentence="the chain's blocks have no base fee, so it takes no transactions of EIP-1559"
            )
        )
    if (gas_limit := quantity(head["gasLimit"])) < GAS_FOR_ONE_TRADE:
        gaps.append(
            Gap(
                need="gas_limit",
                sentence=f"a block has room for {gas_limit} gas, but one trade needs {GAS_FOR_ONE_TRADE}",
            )
        )
    if (ahead_s := quantity(head["timestamp"]) - now_s) > CLOCK_AHEAD_S:
        gaps.append(Gap(need="clock", sentence=f"the chain's clock is {ahead_s:.0f} seconds ahead of ours"))
    return gaps


def base_fee_of(history: Any) -> int | None:  # noqa: ANN401 -- JSON
    """The next block's base fee in an answer to `eth_feeHistory`, in wei per unit of gas; None if it has none."""
    try:
        return quantity(history["baseFeePerGas"][-1])
    except (KeyError, IndexError, TypeError, Unreachable):
        return None


def tip_of(history: Any) -> int | None:  # noqa: ANN401 -- JSON
    """The newest block's median tip in an answer to `eth_feeHistory`, in wei per unit of gas; None if it has none."""
    try:
        return quantity(history["reward"][-1][0])
    except (KeyError, IndexError, TypeError, Unreachable):
        return None


def _is_missing_method(answer: object) -> bool:
    return isinstance(answer, Refused) and (
        answer.code == _METHOD_NOT_FOUND or _NO_SUCH_METHOD.search(answer.message.lower()) is not None
    )


def _lacks_cancun(answer: object) -> bool:
    """Whether the chain evidently lacks them; a node that refuses to run code says nothing about opcodes."""
    if isinstance(answer, Refused):
        return _NO_SUCH_OPCODE.search(answer.message.lower()) is not None
    return is_quantity(answer) and quantity(answer) != 1


def _is_catching_up(answer: object) -> bool:
    if not isinstance(answer, dict):
        return False
    current, highest = answer.get("currentBlock"), answer.get("highestBlock")
    if not (is_quantity(current) and is_quantity(highest)):
        return False
    return quantity(highest) - quantity(current) > BLOCKS_BEHIND


def _unanswered(need: str, method: str, answer: object) -> Gap:
    how = "refuses" if isinstance(answer, Refused) else "gives a malformed answer to"
    return Gap(need=need, sentence=f"the node {how} {method}", words=_said(answer))


def _said(answer: object) -> str:
    return str(answer)[:WORDS_KEPT] if isinstance(answer, Refused) else ""


def _view(contract: str, selector: str) -> tuple[str, list[object]]:
    return "eth_call", [{"to": contract, "data": selector}, "latest"]


def _words_of(answer: object, count: int, absent: WrongChain) -> list[int]:
    """The words of a view's answer. Raises `absent` if nothing there answers like that; also Refused, Unreachable."""
    if isinstance(answer, Refused):
        raise absent if is_revert(answer) else answer
    found = words(answer)
    if len(found) != count:
        raise absent
    return found


def _address(word: int) -> str:
    return f"0x{word:040x}"
