"""The settlement contract as the operator uses it: build, sign, send, and learn the outcome.

Nothing is stored here: the caller stores what was signed, before it is sent.
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

PERIOD_S: Final = 3600  # the period of the contract's limit
# Upper bound of a trade's cost: three storage slots, its event and its call data. Measured: 56,000 if both the id's and
# the seller's slots are new. The estimate alone is not enough: it is made before the trades under way are paid, and a
# trade that is skipped in the estimate may be paid in the block.
GAS_PER_BATCH: Final = 60_000
GAS_PER_TRADE: Final = 75_000
# A replacement must raise both fees by at least a tenth (the rule of the common nodes); we raise them by an eighth.
REPLACEMENT_NUMERATOR, REPLACEMENT_DENOMINATOR = 9, 8
LOG_BLOCKS_PER_QUERY: Final = 1000
FACTS_FOR_S: Final = 60.0  # before the contract's facts (token, operator, paused) are read again
SEARCH_S: Final = 2.0
"""Seconds of a sweep for the search of one payment in the chain's events; the next sweep continues there."""
LEARNT_S: Final = 600.0
"""Seconds for which a node's limits are remembered: a tip below its minimum, events of too many blocks."""
LOWER: Final = (0, 1, 2, 4)
"""Blocks below the newest to look at, in this order, while the node that answers does not know the block."""
CLOCK_SKEW_S: Final = 600  # between the database's clock and the chain's
# Maximum bits of a count or a fee (in wei per unit of gas), of a nonce, and of a time. They go into bigint columns and
# timestamps.
COUNT_BITS: Final = 63
NONCE_BITS: Final = 32  # no account has sent more: a batch under an invented nonce would wait for ever
TIME_BITS: Final = 37


class NotYet(ChainError):
    """The search for a payment takes longer than this sweep has for it; the next sweep continues."""


class Reverts(ChainError):
    """The contract would revert this batch. `data`: its answer, as 0x-hex."""

    def __init__(self, message: str, data: str | None) -> None:
        super().__init__(message)
        self.data = data


class Skip(IntEnum):
    """The reason why the contract did not pay a trade (`EnergySettlement.sol`)."""

    ALREADY_SETTLED = 1
    INSUFFICIENT_ESCROW = 2
    EXPIRED = 3
    OVER_CAP = 4
    OVER_LIMIT = 5


class Sent(Enum):
    """The node's answer to a transaction. Only the chain decides whether it is mined."""

    ACCEPTED = "accepted"  # in its pool, now or before
    NONCE_USED = "nonce_used"  # a transaction with this nonce is mined: this one, or another
    NOT_NOW = "not_now"  # the pool is full, or waits for earlier nonces
    UNDERPRICED = "underpriced"  # fees below the minimum of the pool or the next block
    OUTBID = "outbid"  # the pool holds another with this nonce, whose fees are not raised enough
    TOO_MUCH = "too_much"  # gas, bytes or costs beyond the node's limits for one transaction
    NO_FUNDS = "no_funds"  # the operator cannot pay the gas
    REFUSED = "refused"

    @property
    def is_refusal(self) -> bool:
        """Whether the node does not hold the transaction."""
        return self not in {Sent.ACCEPTED, Sent.NONCE_USED, Sent.NOT_NOW}


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment of a trade, as the contract is asked for it. Amount in nano-tokens, energy in Wh."""

    id: UUID
    buyer: str
    seller: str
    amount_nano: int
    energy_wh: int
    valid_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """Fees in wei per unit of gas."""

    max_fee_per_gas: int
    max_priority_fee_per_gas: int

    def replacing(self, old: "Fees") -> "Fees":
        """These fees, raised if necessary so that the pool replaces a transaction with the old fees by this one."""
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
    """The relevant fields of a block's header. `time_s`: Unix seconds."""

    number: int
    hash: str
    time_s: int
    base_fee: int  # in wei per unit of gas; 0 if the node leaves it out
    gas_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The chain at one moment.

    `nonce` is the number of the operator's mined transactions, and so the next nonce to be mined. `nonce_pending` also
    counts those that wait in the node's pool without a gap.
    """

    head: Block
    final: Block | None  # the newest block that is deep enough to stay; None while the chain is young
    nonce: int
    nonce_pending: int
    balance_wei: int
    fees: Fees


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A mined transaction, and its effect on each trade."""

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
        """Makes no request yet. `token`, `token_decimals`: expected values; amounts use the token's own decimals."""
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
        self.limit_nano = 0  # for all trades in an hour; known after the first `look`
        self._by_hash = True  # whether the node accepts a block's hash to name a state (EIP-1898)
        self._log_blocks, self._log_blocks_until = LOG_BLOCKS_PER_QUERY, 0.0  # blocks that the node answers for at once
        self._least_tip_wei, self._learnt_until = 0, 0.0
        self.most_trades: int | None = None  # maximum of a batch, after nodes refused more
        self._searched: dict[tuple[str, UUID], int] = {}  # block where the search for a payment continues, downwards

    def elsewhere(self, *, contract: str, operator: str) -> Self:
        """The same node, asked about another contract or another operator's transactions. It cannot sign."""
        other = copy(self)
        other.contract, other.operator = to_checksum_address(contract), to_checksum_address(operator)
        other._key, other._checked_at, other.gaps = None, None, []  # noqa: SLF001 -- its own kind
        return other

    def learn_tip(self, tip_wei: int) -> None:
        """Suggest no lower tip for `LEARNT_S`: the pool accepted nothing lower, whatever the node says."""
        self._least_tip_wei, self._learnt_until = tip_wei, time.monotonic() + LEARNT_S

    @property
    def expected(self) -> Expected:
        """The configured values of the chain."""
        return Expected(
            chain_id=self.chain_id,
            contract=self.contract,
            token=self._token,
            token_decimals=self._token_decimals,
            operator=self.operator,
        )

    def doubt(self) -> None:
        """Read the contract's facts again at the next look."""
        self._checked_at = None

    @property
    def signs(self) -> bool:
        """Whether it has the operator's key."""
        return self._key is not None

    def start_deadline(self, deadline_s: float) -> None:
        """Limit all later requests together to `deadline_s` seconds."""
        self._rpc.start_deadline(deadline_s)

    def remaining_s(self) -> float:
        """Seconds that are left of the budget."""
        return self._rpc.remaining_s()

    def close(self) -> None:
        """Drop the kept connection; the next request opens another."""
        self._rpc.close()

    # ------------------------------------------------------------------------------------------------ reading

    def look(self, *, finality_blocks: int) -> View:
        """The chain now, or a few blocks ago if not every node behind the address knows the newest block.

        Only the state of recent blocks is read, because many nodes keep that of the latest 128 only. Raises WrongChain,
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
        """The newest block; its base fee comes from `eth_feeHistory` if the node leaves it out."""
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
        # Without the pool's count, the stored batches tell which nonces are taken.
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
        """The fees of a transaction now, with the tip that the node suggests.

        If it suggests none, the tip is the median of the newest block, or the gas price minus the base fee. Raises
        Refused, Unreachable.
        """
        # Sent alone: a gateway that does not allow the method may refuse the whole list that contains it.
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
        """The base fee that a node leaves out of its blocks. Raises WrongChain if the chain is older than EIP-1559."""
        base_fee = node_check.base_fee_of(self._rpc.call_many([_FEE_HISTORY])[0])
        if base_fee is None:
            raise WrongChain("the chain's blocks have no base fee, so it takes no transactions of EIP-1559")
        return base_fee

    def nonce_at(self, block_number: int) -> int:
        """A lower bound of the number of the operator's transactions that were mined up to that block.

        0 if it is unknown: the chain is younger, or the node no longer has the block's state. Raises Unreachable.
        """
        if block_number < 0:
            return 0
        (answer,) = self._rpc.call_many([("eth_getTransactionCount", [self.operator, hex(block_number)])])
        return 0 if answer is None or isinstance(answer, Refused) else quantity(answer, bits=COUNT_BITS)

    def block_hashes(self, numbers: Sequence[int]) -> list[str | None]:
        """The hash of the block that has each number now; None if the node knows no such block."""
        answers = self._rpc.call_many([("eth_getBlockByNumber", [hex(number), False]) for number in numbers])
        return [None if one is None or isinstance(one, Refused) else _block(one).hash for one in answers]

    def receipts(self, hashes: Sequence[str]) -> dict[str, Receipt | None]:
        """The receipt of each transaction; None if it is not mined. Transactions without a usable answer are left out.

        A node that is behind also answers None, so None proves nothing.
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
        """Those of the trades that any transaction has paid up to that block."""
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
        """The amount in nano-tokens that the contract lets trades move, after that block and now (Unix seconds).

        The later of the two clocks decides, because some chains make no block while nobody sends a transaction.
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
        """(Hash, block number) of the transaction that paid a trade after `since`; None if none did.

        Searches backwards from the head, in steps that the node answers. Raises NotYet if that takes longer than
        `SEARCH_S`.
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
                raise Unreachable("the node sent no list of events")
            if logs:
                return _place(logs)
            if isinstance(block, Refused):
                raise block
            if _block(block).time_s < since_s:
                return None
            newest = oldest - 1
        return None

    # ------------------------------------------------------------------------------------------------ writing

    def gas_for(self, payments: Sequence[Payment]) -> int:
        """The gas limit for a batch, after an estimate on the latest state. Raises Reverts, Refused, Unreachable."""
        call = {"from": self.operator, "to": self.contract, "data": "0x" + self._settle(payments).hex()}
        try:
            estimate = quantity(self._rpc.call("eth_estimateGas", call))
        except Refused as error:
            if is_revert(error):
                raise Reverts(error.message, error.data) from error
            raise
        return max(estimate * 5 // 4, GAS_PER_BATCH + GAS_PER_TRADE * len(payments))

    def reverts(self, payments: Sequence[Payment], *, at: Block) -> bool:
        """Whether the contract would revert this batch after exactly that block. Raises Refused, Unreachable."""
        try:
            self._call(self._settle(payments), at)
        except Refused as error:
            if is_revert(error):
                return True
            raise
        return False

    def sign(self, payments: Sequence[Payment], *, nonce: int, gas: int, fees: Fees) -> Signed:
        """Sign a batch under a nonce."""
        return self._sign({"to": self.contract, "data": self._settle(payments), "gas": gas}, nonce, fees)

    def sign_again(self, raw: bytes, fees: Fees) -> Signed:
        """Sign the same call under the same nonce, with other fees."""
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
        """Hand a signed transaction to the node. Returns its verdict, and its own words. Raises Unreachable."""
        try:
            self._rpc.call("eth_sendRawTransaction", "0x" + raw.hex())
        except TooMuch as error:
            return Sent.TOO_MUCH, error.message
        except Refused as error:
            return _verdict(error.message), error.message
        return Sent.ACCEPTED, ""

    # ------------------------------------------------------------------------------------------------ inside

    def _check(self) -> None:
        """Check that it is the right chain, and read the facts of the contract in use; again after `FACTS_FOR_S`.

        Contradictions to the configuration are in `gaps`; while there are any, nothing may be signed.
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
        assert self._unit is not None  # only a ledger that signs needs it, and its check has set it
        return self._unit

    def _block_at(self, tag: str) -> Block:
        (answer,) = self._rpc.call_many([("eth_getBlockByNumber", [tag, False])], present=True)
        if isinstance(answer, Refused):
            raise answer
        return _block(answer)

    def _call(self, data: bytes, at: Block) -> str:
        """The contract's answer to a call by the operator after that block."""
        call = {"from": self.operator, "to": self.contract, "data": "0x" + data.hex()}
        (answer,) = self._at(at, lambda state: [("eth_call", [call, state])])
        return str(answer)

    def _at(self, block: Block, calls: Callable[[object], Sequence[tuple[str, list[object]]]]) -> list[Any]:
        """The answers to calls on the state after a block. The block is named by its hash, so no node can mistake it.

        A node that does not support EIP-1898 is asked by the block's number.
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
                # Chains with rules older than Byzantium's have no status. A reverted transaction leaves no event, while
                # the contract emits one for each trade.
                succeeded=bool(paid or skipped) if status is None else quantity(status) == 1,
                gas_used=quantity(answer["gasUsed"]),
                paid=frozenset(paid),
                skipped=skipped,
            )
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise Unreachable("the node sent a malformed receipt") from error


def _verdict(message: str) -> Sent:
    """The verdict in a node's words. Nodes agree on no codes here (geth, Erigon, Nethermind, Besu, Anvil)."""
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
"""Patterns of the other verdicts, in this order: "replacement transaction underpriced" is not "underpriced"."""


def _raised(fee: int) -> int:
    return -(-fee * REPLACEMENT_NUMERATOR // REPLACEMENT_DENOMINATOR) + 1


def _word(trade: UUID) -> bytes:
    return trade.int.to_bytes(32, "big")


def _selector(signature: str) -> bytes:
    return keccak(text=signature)[:4]


def _topic(event: str) -> str:
    return "0x" + keccak(text=event).hex()


def _place(logs: Any) -> tuple[str, int]:  # noqa: ANN401 -- JSON
    """(Transaction hash, block number) of the first log entry."""
    try:
        return digest(logs[0]["transactionHash"]), quantity(logs[0]["blockNumber"], bits=COUNT_BITS)
    except (KeyError, IndexError, TypeError) as error:
        raise Unreachable("the node sent a malformed log") from error


def _given(answer: Any) -> Any:  # noqa: ANN401 -- JSON
    """An answer that is indispensable. Raises Refused."""
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
        raise Unreachable("the node sent a malformed block") from error
