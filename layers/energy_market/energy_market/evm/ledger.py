"""The settlement contract as the operator uses it: build, sign, send, and see what became of it.

Nothing here remembers anything: what was signed is the caller's to store, before it is sent.
"""

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, IntEnum
from typing import Any, Final, Self
from uuid import UUID

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from energy_market.evm import node_check
from energy_market.evm.node_check import AMOUNT_DECIMALS, Expected, Gap, WrongChain
from energy_market.evm.rpc import Behind, ChainError, Refused, Rpc, TooMuch, Unreachable, is_revert
from energy_market.evm.values import digest, quantity

SETTLE: Final = "settle((bytes32,address,address,uint256,uint256,uint64)[])"
ARE_SETTLED: Final = "areSettled(bytes32[])"
BUDGET: Final = "budget()"
TRADE_SETTLED: Final = "TradeSettled(bytes32,address,address,uint256,uint256)"
TRADE_SKIPPED: Final = "TradeSkipped(bytes32,uint8)"

PERIOD_S: Final = 3600  # what the contract's limit is for
# An upper bound of what a trade can cost: three storage slots, its event and its call data. Measured: 56,000 when both
# the id's and the seller's slots are new. The estimate alone would not do: it is taken before the trades under way are
# paid, and a trade that is skipped in the estimate may be paid in the block.
GAS_PER_BATCH: Final = 60_000
GAS_PER_TRADE: Final = 75_000
# A replacement must pay at least a tenth more, both fees (the rule of the common nodes); we pay an eighth more.
REPLACEMENT_NUMERATOR, REPLACEMENT_DENOMINATOR = 9, 8
LOG_BLOCKS_PER_QUERY: Final = 1000
FACTS_FOR_S: Final = 60.0  # for so long the contract's facts (token, operator, paused) are not asked again
SEARCH_S: Final = 2.0
"""Seconds of a sweep for the search of one payment in the chain's events; the next sweep goes on from there."""
LEARNT_S: Final = 600.0
"""Seconds for which it is remembered what a node has refused: a tip below its floor, events of many blocks."""
LOWER: Final = (0, 1, 2, 4)
"""Blocks below the newest at which to look, one after the other, while the node that answers does not know it."""
CLOCK_SKEW_S: Final = 600  # between the database's clock and the chain's
# What a count or a fee (in wei for each gas), a time, and anything else can be at most: they go into bigint columns and
# timestamps.
COUNT_BITS: Final = 63
NONCE_BITS: Final = 32  # nobody has sent so much: a batch under a nonce that is made up would wait for ever
TIME_BITS: Final = 37


class NotYet(ChainError):
    """The search for a payment takes longer than this sweep has for it; it is gone on with."""


class Reverts(ChainError):
    """The contract would undo this batch. `data` is what it said, as 0x-hex."""

    def __init__(self, message: str, data: str | None) -> None:
        super().__init__(message)
        self.data = data


class Skip(IntEnum):
    """Why the contract did not pay a trade (`EnergySettlement.sol`)."""

    ALREADY_SETTLED = 1
    INSUFFICIENT_ESCROW = 2
    EXPIRED = 3
    OVER_CAP = 4
    OVER_LIMIT = 5


class Sent(Enum):
    """What the node said to a transaction. Only the chain says whether it is mined."""

    ACCEPTED = "accepted"  # in its pool, now or before
    NONCE_USED = "nonce_used"  # a transaction with this nonce is mined: this one, or another
    NOT_NOW = "not_now"  # the pool is full, or waits for nonces before this one
    UNDERPRICED = "underpriced"  # fees below what the pool or the next block asks
    OUTBID = "outbid"  # the pool holds another with this nonce, which this one does not pay enough more than
    TOO_MUCH = "too_much"  # gas, bytes or costs beyond what the node takes of one transaction
    NO_FUNDS = "no_funds"  # the operator cannot pay the gas
    REFUSED = "refused"

    @property
    def is_refusal(self) -> bool:
        """Whether the node does not hold it."""
        return self not in {Sent.ACCEPTED, Sent.NONCE_USED, Sent.NOT_NOW}


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A trade as the contract is asked to pay it. Amount in nano-tokens, energy in Wh."""

    id: UUID
    buyer: str
    seller: str
    amount_nano: int
    energy_wh: int
    valid_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """In wei for each gas."""

    max_fee_per_gas: int
    max_priority_fee_per_gas: int

    def replacing(self, old: "Fees") -> "Fees":
        """These fees, or as much as it takes for the pool to drop a transaction with the old ones for this."""
        return Fees(
            max_fee_per_gas=max(self.max_fee_per_gas, _raised(old.max_fee_per_gas)),
            max_priority_fee_per_gas=max(self.max_priority_fee_per_gas, _raised(old.max_priority_fee_per_gas)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A signed transaction."""

    hash: str
    raw: bytes
    nonce: int
    fees: Fees
    cost_wei: int  # at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block's header, as far as it concerns us. `time_s`: Unix seconds."""

    number: int
    hash: str
    time_s: int
    base_fee: int  # in wei for each gas; 0 where the node leaves it out
    gas_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The chain at one moment.

    A nonce is how many transactions of the operator's were mined, so it is also the next one to be. `nonce_pending`
    adds those that wait in the node's pool without a gap.
    """

    head: Block
    final: Block | None  # the newest block that is deep enough to stay; None while the chain is young
    nonce: int
    nonce_pending: int
    balance_wei: int
    fees: Fees


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A mined transaction and what it did with each trade."""

    hash: str
    block_number: int
    block_hash: str
    succeeded: bool
    gas_used: int
    paid: frozenset[UUID]
    skipped: Mapping[UUID, int]


class Ledger:
    """The settlement contract on one node, and the operator's key."""

    def __init__(
        self,
        rpc: Rpc,
        *,
        chain_id: int,
        contract: str,
        token: str,
        token_decimals: int,
        operator_key: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Asks nothing yet. `token` and `token_decimals` are what is expected: amounts go by what the token says."""
        self._rpc = rpc
        self.chain_id = chain_id
        self.contract = to_checksum_address(contract)
        self._key: LocalAccount | None = Account.from_key(operator_key)
        self.operator: str = self._key.address
        self._token, self._token_decimals = token, token_decimals
        self._monotonic = monotonic
        self._checked_at: float | None = None
        self._unit: int | None = None
        self.gaps: list[Gap] = []
        self.limit_nano = 0  # of what all trades move in an hour, once `look` has asked
        self._by_hash = True  # whether the node takes a block's hash for its state (EIP-1898)
        self._log_blocks, self._log_blocks_until = LOG_BLOCKS_PER_QUERY, 0.0  # as many as the node answers for
        self._least_tip_wei, self._learnt_until = 0, 0.0
        self.most_trades: int | None = None  # of a batch, since nodes refused more
        self._searched: dict[tuple[str, UUID], int] = {}  # where the search for a payment goes on, downwards

    def elsewhere(self, *, contract: str, operator: str) -> Self:
        """The same node, asked about another contract or another operator's transactions. It cannot sign."""
        other = copy(self)
        other.contract, other.operator = to_checksum_address(contract), to_checksum_address(operator)
        other._key, other._checked_at, other.gaps = None, None, []  # noqa: SLF001 -- its own kind
        return other

    def learn_tip(self, tip_wei: int) -> None:
        """For a while no less is suggested: the pool took no less, whatever the node says."""
        self._least_tip_wei, self._learnt_until = tip_wei, time.monotonic() + LEARNT_S

    @property
    def expected(self) -> Expected:
        """What the configuration says of the chain."""
        return Expected(
            chain_id=self.chain_id,
            contract=self.contract,
            token=self._token,
            token_decimals=self._token_decimals,
            operator=self.operator,
        )

    def doubt(self) -> None:
        """Ask the contract for its facts anew at the next look."""
        self._checked_at = None

    @property
    def signs(self) -> bool:
        """Whether it has the operator's key."""
        return self._key is not None

    def start_budget(self, budget_s: float) -> None:
        """From now on, all questions together may take this long."""
        self._rpc.start_budget(budget_s)

    def remaining_s(self) -> float:
        """What is left of the budget, in seconds."""
        return self._rpc.remaining_s()

    def close(self) -> None:
        """Drop the kept connection; the next question opens another."""
        self._rpc.close()

    # ------------------------------------------------------------------------------------------------ what is

    def look(self, *, finality_blocks: int) -> View:
        """The chain now, or a few blocks ago if the newest is not known to every node behind the address.

        The state of no other block is asked for: many nodes keep that of the latest 128 only. Raises WrongChain,
        Refused, Unreachable.
        """
        self._check()
        newest = self._head()
        for lower in LOWER:
            head = newest if lower == 0 else self._block_at(hex(max(0, newest.number - lower)))
            try:
                return self._view(replace(head, base_fee=newest.base_fee), finality_blocks=finality_blocks)
            except Behind as refusal:
                behind = refusal
        raise behind

    def _head(self) -> Block:
        """The newest block; its base fee by the fees' history where the node leaves it out."""
        (answer,) = self._rpc.call_many([("eth_getBlockByNumber", ["latest", False])], present=True)
        head = _block(_given(answer))
        return head if answer.get("baseFeePerGas") is not None else replace(head, base_fee=self._base_fee_by_history())

    def _view(self, head: Block, *, finality_blocks: int) -> View:
        final = head.number - finality_blocks + 1
        nonce_then, balance = self._at(
            head,
            lambda at: [("eth_getTransactionCount", [self.operator, at]), ("eth_getBalance", [self.operator, at])],
        )
        pending, final_block = self._rpc.call_many(
            [
                ("eth_getTransactionCount", [self.operator, "pending"]),
                ("eth_getBlockByNumber", [hex(max(0, final)), False]),
            ],
        )
        nonce = quantity(_given(nonce_then), bits=NONCE_BITS)
        # Without the pool's word, what is stored says which nonces are taken.
        has_no_word = pending is None or isinstance(pending, Refused)
        nonce_pending = nonce if has_no_word else quantity(pending, bits=NONCE_BITS)
        return View(
            head=head,
            final=_block(_given(final_block)) if final >= 0 else None,
            nonce=nonce,
            nonce_pending=max(nonce, nonce_pending),
            balance_wei=quantity(_given(balance)),
            fees=self._fees(head),
        )

    def _fees(self, head: Block) -> Fees:
        """What a transaction pays now: the tip that the node suggests.

        Without one, it is the median of the newest block, or what the gas price has beyond the base fee. Raises
        Refused, Unreachable.
        """
        # Asked by itself: a gateway that does not allow the method may refuse all that is asked with it.
        (tip,) = self._rpc.call_many([("eth_maxPriorityFeePerGas", [])])
        if tip is None or isinstance(tip, Refused):
            (history,) = self._rpc.call_many([_FEE_HISTORY])
            median = node_check.tip_of(history)
            if median is None:
                gas_price = quantity(self._rpc.call("eth_gasPrice"), bits=COUNT_BITS)
                median = max(0, gas_price - head.base_fee)
            tip_wei = median
        else:
            tip_wei = quantity(tip, bits=COUNT_BITS)
        if time.monotonic() < self._learnt_until:
            tip_wei = max(tip_wei, self._least_tip_wei)
        # Twice the base fee lasts for six full blocks in a row.
        return Fees(max_fee_per_gas=2 * head.base_fee + tip_wei, max_priority_fee_per_gas=tip_wei)

    def _base_fee_by_history(self) -> int:
        """What a node leaves out of its blocks. Raises WrongChain where there is none: the chain is before EIP-1559."""
        base_fee = node_check.base_fee_of(self._rpc.call_many([_FEE_HISTORY])[0])
        if base_fee is None:
            raise WrongChain("the chain's blocks have no base fee, so it takes no transactions of EIP-1559")
        return base_fee

    def nonce_at(self, block_number: int) -> int:
        """How many transactions of the operator's were mined up to that block, at least.

        0 where that is not known: the chain is younger, or the node no longer has the block's state. Raises
        Unreachable.
        """
        if block_number < 0:
            return 0
        (answer,) = self._rpc.call_many([("eth_getTransactionCount", [self.operator, hex(block_number)])])
        return 0 if answer is None or isinstance(answer, Refused) else quantity(answer, bits=COUNT_BITS)

    def block_hashes(self, numbers: Sequence[int]) -> list[str | None]:
        """The hash of the block that now has each number; None where the node that was asked knows none."""
        answers = self._rpc.call_many([("eth_getBlockByNumber", [hex(number), False]) for number in numbers])
        return [None if one is None or isinstance(one, Refused) else _block(one).hash for one in answers]

    def receipts(self, hashes: Sequence[str]) -> dict[str, Receipt | None]:
        """The receipt of each transaction, None if it is not mined; what the node can't say now is absent.

        None comes from a node that is behind as well: it is no proof.
        """
        answers = self._rpc.call_many([("eth_getTransactionReceipt", [one]) for one in hashes])
        receipts: dict[str, Receipt | None] = {}
        for one, answer in zip(hashes, answers, strict=True):
            if answer is None:
                receipts[one] = None
            elif not isinstance(answer, Refused):
                try:
                    receipts[one] = self._receipt(answer)
                except Unreachable:
                    continue
        return receipts

    def paid(self, ids: Collection[UUID], *, at: Block) -> set[UUID]:
        """Those of the trades that were paid, by whatever transaction, up to that block."""
        asked = list(ids)
        if not asked:
            return set()
        data = _selector(ARE_SETTLED) + encode(["bytes32[]"], [[_word(one) for one in asked]])
        answer = self._call(data, at)
        try:
            (paid,) = decode(["bool[]"], bytes.fromhex(str(answer).removeprefix("0x")))
            return {one for one, is_paid in zip(asked, paid, strict=True) if is_paid}
        except (DecodingError, ValueError, OverflowError) as error:
            raise WrongChain(f"there is no settlement contract at {self.contract}") from error

    def movable_nano(self, *, at: Block, now_s: float) -> int:
        """What the contract lets trades move, in nano-tokens, after that block and as of now (Unix seconds).

        By the later of the two clocks: some chains make no block while nobody sends anything.
        """
        no_contract = f"there is no settlement contract with a limit at {self.contract}"
        try:
            answer = self._call(_selector(BUDGET), at)
            limit, moved, period = decode(["uint112", "uint112", "uint32"], bytes.fromhex(answer.removeprefix("0x")))
        except (DecodingError, ValueError, OverflowError) as error:
            raise WrongChain(no_contract) from error
        except Refused as error:
            if is_revert(error):
                raise WrongChain(no_contract) from error
            raise
        is_over = max(at.time_s, int(now_s)) // PERIOD_S > period
        return int(max(0, limit - (0 if is_over else moved)) // self._units_of_a_nano())

    def payment_of(self, trade: UUID, *, since: datetime, head: Block) -> tuple[str, int] | None:
        """(hash, block number) of the transaction that paid a trade after `since`; None if none did.

        Walks back from the head in steps that the node answers for. Raises NotYet when that takes longer than a sweep
        has for one trade.
        """
        since_s = int(since.timestamp()) - CLOCK_SKEW_S
        newest = self._searched.pop((self.contract, trade), head.number)
        began_with_s = self.remaining_s()
        if time.monotonic() > self._log_blocks_until:
            self._log_blocks = LOG_BLOCKS_PER_QUERY
        while newest >= 0:
            if began_with_s - self.remaining_s() > SEARCH_S:
                self._searched[self.contract, trade] = newest
                raise NotYet(f"the payment is not in the blocks from {newest + 1} on")
            oldest = max(0, newest - self._log_blocks + 1)
            asked = {
                "address": self.contract,
                "fromBlock": hex(oldest),
                "toBlock": hex(newest),
                "topics": [_topic(TRADE_SETTLED), "0x" + _word(trade).hex()],
            }
            logs, block = self._rpc.call_many(
                [("eth_getLogs", [asked]), ("eth_getBlockByNumber", [hex(oldest), False])]
            )
            if isinstance(logs, Refused):
                if oldest == newest:
                    raise logs
                self._log_blocks, self._log_blocks_until = (newest - oldest + 1) // 2, time.monotonic() + LEARNT_S
                continue
            if not isinstance(logs, list):
                raise Unreachable("the node's answer is no list of events")
            if logs:
                return _place(logs)
            if isinstance(block, Refused):
                raise block
            if _block(block).time_s < since_s:
                return None
            newest = oldest - 1
        return None

    # ------------------------------------------------------------------------------------------------ what is to be

    def gas_for(self, payments: Sequence[Payment]) -> int:
        """The gas limit for a batch, after trying it on the latest state. Raises Reverts, Refused, Unreachable."""
        call = {"from": self.operator, "to": self.contract, "data": "0x" + self._settle(payments).hex()}
        try:
            estimate = quantity(self._rpc.call("eth_estimateGas", call))
        except Refused as error:
            if is_revert(error):
                raise Reverts(error.message, error.data) from error
            raise
        return max(estimate * 5 // 4, GAS_PER_BATCH + GAS_PER_TRADE * len(payments))

    def reverts(self, payments: Sequence[Payment], *, at: Block) -> bool:
        """Whether the contract would undo this batch after that very block. Raises Refused, Unreachable."""
        try:
            self._call(self._settle(payments), at)
        except Refused as error:
            if is_revert(error):
                return True
            raise
        return False

    def sign(self, payments: Sequence[Payment], *, nonce: int, gas: int, fees: Fees) -> Signed:
        """A batch under a nonce."""
        return self._sign({"to": self.contract, "data": self._settle(payments), "gas": gas}, nonce, fees)

    def sign_again(self, raw: bytes, fees: Fees) -> Signed:
        """The same call under the same nonce, with other fees."""
        old = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        return self._sign(
            {"to": to_checksum_address(old["to"]), "data": old["data"], "gas": old["gas"]}, old["nonce"], fees
        )

    def carried(self, raw: bytes) -> list[Payment]:
        """The payments of a signed batch, in their order."""
        data = bytes(TypedTransaction.from_bytes(HexBytes(raw)).as_dict()["data"])
        (trades,) = decode(["(bytes32,address,address,uint256,uint256,uint64)[]"], data[4:])
        unit = self._units_of_a_nano()
        return [
            Payment(
                id=UUID(bytes=id_[16:]),
                buyer=to_checksum_address(buyer),
                seller=to_checksum_address(seller),
                amount_nano=amount // unit,
                energy_wh=energy_wh,
                valid_until=datetime.fromtimestamp(valid_until, UTC),
            )
            for id_, buyer, seller, amount, energy_wh, valid_until in trades
        ]

    def send(self, raw: bytes) -> tuple[Sent, str]:
        """Hand a signed transaction to the node; what it said, and in its own words. Raises Unreachable."""
        try:
            self._rpc.call("eth_sendRawTransaction", "0x" + raw.hex())
        except TooMuch as error:
            return Sent.TOO_MUCH, error.message
        except Refused as error:
            return _verdict(error.message), error.message
        return Sent.ACCEPTED, ""

    # ------------------------------------------------------------------------------------------------ inside

    def _check(self) -> None:
        """Ask whether it is the right chain; of the contract in use its facts as well. Both again after `FACTS_FOR_S`.

        What contradicts the configuration is in `gaps`: then nothing must be signed.
        """
        now_s = self._monotonic()
        if self._checked_at is not None and not self.gaps and now_s - self._checked_at < FACTS_FOR_S:
            return
        if self.signs:
            facts = node_check.ask(self._rpc, chain_id=self.chain_id, contract=self.contract)
            self.gaps = node_check.contradictions(facts, self.expected)
            self._unit = 10 ** max(0, facts.decimals - AMOUNT_DECIMALS)
            self.limit_nano = min((facts.limit or 0) // self._unit, 2**COUNT_BITS - 1)
        else:
            chain, code = self._all([("eth_chainId", []), ("eth_getCode", [self.contract, "latest"])])
            if quantity(chain) != self.chain_id:
                raise WrongChain(f"the node is on chain {quantity(chain)}, not on {self.chain_id}")
            if code == "0x":
                raise WrongChain(f"there is no settlement contract at {self.contract}")
        self._checked_at = now_s

    def _units_of_a_nano(self) -> int:
        """The token's smallest units in a nano-token, by the token's own decimals."""
        if self._unit is None:
            self._check()
        assert self._unit is not None  # a ledger that signs has asked, and no other needs it
        return self._unit

    def _block_at(self, tag: str) -> Block:
        (answer,) = self._rpc.call_many([("eth_getBlockByNumber", [tag, False])], present=True)
        if isinstance(answer, Refused):
            raise answer
        return _block(answer)

    def _call(self, data: bytes, at: Block) -> str:
        """What the contract answers to the operator after that block."""
        call = {"from": self.operator, "to": self.contract, "data": "0x" + data.hex()}
        (answer,) = self._at(at, lambda state: [("eth_call", [call, state])])
        return str(answer)

    def _at(self, block: Block, calls: Callable[[object], Sequence[tuple[str, list[object]]]]) -> list[Any]:
        """The answers to calls about the state after a block, named by its hash: no other node takes another for it.

        A node that does not know EIP-1898 is asked by the block's number.
        """
        if self._by_hash:
            try:
                return self._all(calls({"blockHash": block.hash}))
            except Behind:
                raise
            except Refused as refusal:
                if is_revert(refusal):
                    raise
                answers = self._all(calls(hex(block.number)))
                self._by_hash = False
                return answers
        return self._all(calls(hex(block.number)))

    def _all(self, calls: Sequence[tuple[str, list[object]]]) -> list[Any]:
        answers = self._rpc.call_many(calls)
        for answer in answers:
            if isinstance(answer, Refused):
                raise answer
        return answers

    def _settle(self, payments: Sequence[Payment]) -> bytes:
        unit = self._units_of_a_nano()
        trades = [
            (_word(p.id), p.buyer, p.seller, p.amount_nano * unit, p.energy_wh, int(p.valid_until.timestamp()))
            for p in payments
        ]
        return _selector(SETTLE) + encode(["(bytes32,address,address,uint256,uint256,uint64)[]"], [trades])

    def _sign(self, fields: dict[str, Any], nonce: int, fees: Fees) -> Signed:
        if self._key is None:
            raise RuntimeError("only the operator in use signs")
        signed = self._key.sign_transaction(
            {
                "type": 2,
                "chainId": self.chain_id,
                "nonce": nonce,
                "value": 0,
                "maxFeePerGas": fees.max_fee_per_gas,
                "maxPriorityFeePerGas": fees.max_priority_fee_per_gas,
                **fields,
            }
        )
        return Signed(
            hash="0x" + signed.hash.hex(),
            raw=bytes(signed.raw_transaction),
            nonce=nonce,
            fees=fees,
            cost_wei=fields["gas"] * fees.max_fee_per_gas,
        )

    def _receipt(self, answer: Any) -> Receipt:  # noqa: ANN401 -- JSON
        try:
            paid, skipped = set(), {}
            for entry in answer["logs"]:
                if not entry["topics"] or to_checksum_address(entry["address"]) != self.contract:
                    continue
                trade = UUID(int=quantity(entry["topics"][1])) if len(entry["topics"]) > 1 else None
                event = digest(entry["topics"][0])
                if event == _topic(TRADE_SETTLED) and trade is not None:
                    paid.add(trade)
                elif event == _topic(TRADE_SKIPPED) and trade is not None:
                    skipped[trade] = quantity(entry["data"])
            status = answer.get("status")
            return Receipt(
                hash=digest(answer["transactionHash"]),
                block_number=quantity(answer["blockNumber"], bits=COUNT_BITS),
                block_hash=digest(answer["blockHash"]),
                # Chains by older rules than Byzantium's have no status. What is undone leaves no event, and the
                # contract emits one for each trade.
                succeeded=bool(paid or skipped) if status is None else quantity(status) == 1,
                gas_used=quantity(answer["gasUsed"]),
                paid=frozenset(paid),
                skipped=skipped,
            )
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise Unreachable("the node's receipt is not one") from error


def _verdict(message: str) -> Sent:
    """Nodes agree on no codes here, only roughly on words (geth, Erigon, Nethermind, Besu, Anvil)."""
    words = message.lower()
    if any(part in words for part in ("already known", "already imported", "known transaction", "already in mempool")):
        return Sent.ACCEPTED
    if any(part in words for part in ("nonce too low", "nonce is too low", "oldnonce", "nonce already used")):
        return Sent.NONCE_USED
    for verdict, spelling in _SPELLINGS:
        if spelling.search(words):
            return verdict
    return Sent.REFUSED


_FEE_HISTORY: Final[tuple[str, list[object]]] = ("eth_feeHistory", ["0x1", "latest", [50]])
_SPELLINGS: Final = (
    (Sent.OUTBID, re.compile(r"replac|outbid|already pending")),
    (Sent.NO_FUNDS, re.compile(r"insufficient (funds|balance)|upfront cost|overshot|not enough (funds|balance)")),
    (Sent.NOT_NOW, re.compile(r"pool is full|pool full|nonce too high|nonce gap|account limit|too many pending|queue")),
    (
        Sent.TOO_MUCH,
        re.compile(
            r"(configured|fee) cap|exceeds.*\bcap\b|(block|transaction|tx|max\w*) gas limit"
            r"|gas limit (is )?(too|exce|reach)|exceeds.*gas|gas.*exceed|gaslimit|oversized|too (large|big|long)|size"
        ),
    ),
    (
        Sent.UNDERPRICED,
        re.compile(
            r"underpriced|base ?fee|(fee|price|tip)\b.*(low|below|less than|minimum|needed|insufficient)|feetoolow"
        ),
    ),
)
"""The other verdicts, in this order: "replacement transaction underpriced" is not "underpriced"."""


def _raised(fee: int) -> int:
    return -(-fee * REPLACEMENT_NUMERATOR // REPLACEMENT_DENOMINATOR) + 1


def _word(trade: UUID) -> bytes:
    return trade.int.to_bytes(32, "big")


def _selector(signature: str) -> bytes:
    return keccak(text=signature)[:4]


def _topic(event: str) -> str:
    return "0x" + keccak(text=event).hex()


def _place(logs: Any) -> tuple[str, int]:  # noqa: ANN401 -- JSON
    """(transaction's hash, block's number) of the first of some log entries."""
    try:
        return digest(logs[0]["transactionHash"]), quantity(logs[0]["blockNumber"], bits=COUNT_BITS)
    except (KeyError, IndexError, TypeError) as error:
        raise Unreachable("the node's log is none") from error


def _given(answer: Any) -> Any:  # noqa: ANN401 -- JSON
    """An answer without which nothing can be done. Raises Refused."""
    if isinstance(answer, Refused):
        raise answer
    return answer


def _block(answer: Any) -> Block:  # noqa: ANN401 -- JSON
    try:
        return Block(
            number=quantity(answer["number"], bits=COUNT_BITS),
            hash=digest(answer["hash"]),
            time_s=quantity(answer["timestamp"], bits=TIME_BITS),
            base_fee=quantity(answer.get("baseFeePerGas") or "0x0", bits=COUNT_BITS),
            gas_limit=quantity(answer["gasLimit"], bits=COUNT_BITS),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise Unreachable("the node's answer is no block") from error
