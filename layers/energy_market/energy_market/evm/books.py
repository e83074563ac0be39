"""The settlement contract as anybody can read it: every payment that it made, and each account's escrow.

Needs no key and no EVM library: events and answers are words of 32 bytes.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from energy_market.domain.settlement import Account, Allowance
from energy_market.domain.wallets import keccak256, parse_address
from energy_market.evm import node_check
from energy_market.evm.node_check import Expected, WrongChain
from energy_market.evm.rpc import Refused, Rpc, Unreachable
from energy_market.evm.values import digest, quantity, word, words

BLOCKS_PER_QUERY: Final = 10_000
"""Maximum blocks per query. Nodes limit answers by blocks, entries or bytes; a refused query is halved."""
PERIOD_S: Final = 3600
"""Seconds of the period of the contract's limit and caps (`EnergySettlement.PERIOD`)."""

Moved = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """A trade that the contract paid (its event `TradeSettled`). Amount in the token's smallest unit, energy in Wh."""

    trade_id: UUID
    buyer: str
    seller: str
    amount: int
    energy_wh: int
    transaction_hash: str
    block_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """The contract's tokens, the escrow that it states, and the escrow according to the events."""

    held: int
    stated: int
    by_events: int


def account(rpc: Rpc, *, contract: str, wallet: str, now_s: float) -> Account:
    """Ask the contract about an account, in one request. Raises WrongChain, Refused, Unreachable.

    `now_s`: Unix seconds. The remaining allowances are as of now, not of the newest block: some chains make no blocks
    while nobody sends a transaction.
    """
    hour = int(now_s) // PERIOD_S

    def allowance(limit: int, moved: int, period: int) -> Allowance:
        return Allowance(limit=limit, room=max(0, limit - (moved if period >= hour else 0)))

    asked = [_ACCOUNTS + word(int(wallet, 16)), _CAPS + word(int(wallet, 16)), _BUDGET]
    answers = rpc.call_many([("eth_call", [{"to": contract, "data": data}, "latest"]) for data in asked])
    for answer in answers:
        if isinstance(answer, Refused):
            raise answer
    try:
        (escrow, is_capped), cap, budget = map(words, answers)
        return Account(
            escrow=escrow,
            cap=allowance(*cap) if is_capped else None,
            all_trades=allowance(*budget),
            hour_ends_s=(hour + 1) * PERIOD_S,
        )
    except (TypeError, ValueError) as error:
        raise WrongChain(f"there is no settlement contract at {contract}") from error


class Books:
    """Reads the contract's events once, from the first to the newest, and keeps each account's balance.

    The chain grows during the reading; `stand` tells at the end whether everything read belongs together.
    """

    def __init__(
        self, rpc: Rpc, *, chain_id: int, contract: str, token: str, token_decimals: int, first_block: int = 0
    ) -> None:
        """Makes no request yet. `token`, `token_decimals`: expected values. `first_block`: no event is before it."""
        self._rpc = rpc
        self.chain_id = chain_id
        self.contract = parse_address(contract)
        self.token_decimals = token_decimals
        self._token = token
        self._first_block = first_block
        self._blocks_per_query = BLOCKS_PER_QUERY
        self.start_again()

    def start_again(self) -> None:
        """Forget everything that was read."""
        self.block = self._first_block - 1  # the newest block that was read
        self._moved: dict[str, int] = defaultdict(int)
        self._heads: dict[int, str] = {}

    def start_deadline(self, deadline_s: float) -> None:
        """Limit all later requests together to `deadline_s` seconds."""
        self._rpc.start_deadline(deadline_s)

    def check(self) -> list[str]:
        """Contradictions between the contract and the configuration. Raises WrongChain if there is no contract.

        Amounts are compared with the token's own decimals, whatever is configured.
        """
        facts = node_check.ask(self._rpc, chain_id=self.chain_id, contract=self.contract)
        expected = Expected(
            chain_id=self.chain_id, contract=self.contract, token=self._token, token_decimals=self.token_decimals
        )
        gaps = node_check.contradictions(replace(facts, paused=False), expected)  # a pause is no error
        self._token, self.token_decimals = facts.token, facts.decimals
        return [gap.sentence for gap in gaps]

    def read_on(self) -> Iterator[list[Paid]]:
        """The payments after the last reading up to the newest block, a page at a time, oldest first."""
        (head,) = self._rpc.call_many([("eth_getBlockByNumber", ["latest", False])], present=True)
        if isinstance(head, Refused):
            raise head
        newest = quantity(_field(head, "number"))
        self._heads.setdefault(newest, digest(_field(head, "hash")))
        while self.block < newest:
            until = min(newest, self.block + self._blocks_per_query)
            try:
                entries = self._entries(self.block + 1, until, [[*_TOPICS]])
            except Refused:
                if until == self.block + 1:
                    raise
                self._blocks_per_query = (until - self.block) // 2
                continue
            payments = [payment for entry in entries if (payment := self._take(entry)) is not None]
            self.block = until
            self._blocks_per_query = min(BLOCKS_PER_QUERY, self._blocks_per_query * 9 // 8 + 1)
            yield payments

    def again(self, payments: Collection[Paid]) -> list[Paid]:
        """The chain's current payments of these trades, in the blocks of the given payments."""
        by_block: dict[int, set[UUID]] = defaultdict(set)
        for payment in payments:
            by_block[payment.block_number].add(payment.trade_id)
        return [
            _paid(entry)
            for block, ids in sorted(by_block.items())
            for entry in self._entries(block, block, [_TRADE_SETTLED, ["0x" + word(one.int) for one in sorted(ids)]])
        ]

    def settled(self, ids: Sequence[UUID]) -> set[UUID]:
        """Those of the trades that the contract has paid by now."""
        return node_check.surely(lambda: self._settled(ids)) if ids else set()

    def _settled(self, ids: Sequence[UUID]) -> set[UUID]:
        # areSettled(bytes32[]): the offset of the list, its length, its words.
        data = _ARE_SETTLED + word(32) + word(len(ids)) + "".join(word(one.int) for one in ids)
        answers = words(self._rpc.call("eth_call", {"to": self.contract, "data": data}, "latest"))[2:]
        if len(answers) != len(ids):
            raise WrongChain(f"there is no settlement contract at {self.contract}")
        return {one for one, paid in zip(ids, answers, strict=True) if paid}

    @property
    def accounts(self) -> list[str]:
        """The accounts whose escrow has ever changed."""
        return sorted(self._moved)

    def escrow_by_events(self, account: str) -> int:
        """An account's deposits and receipts minus its withdrawals and payments, up to `block`."""
        return self._moved[account]

    def escrow(self, accounts: Sequence[str]) -> dict[str, int]:
        """Each account's escrow at `block`, as the contract states it. Ask soon: nodes drop old states."""
        answers = self._all([self._view(self.contract, _ESCROW + word(int(account, 16))) for account in accounts])
        return {account: quantity(answer) for account, answer in zip(accounts, answers, strict=True)}

    def holdings(self) -> Holdings:
        """The sums at `block`."""
        held, stated = self._all(
            [
                self._view(self._token, _BALANCE_OF + word(int(self.contract, 16))),
                self._view(self.contract, _TOTAL_ESCROW),
            ]
        )
        return Holdings(held=quantity(held), stated=quantity(stated), by_events=sum(self._moved.values()))

    def stand(self) -> bool:
        """Whether no reorganisation has touched the blocks that were read. A block's hash covers all earlier blocks."""
        blocks = self._all([("eth_getBlockByNumber", [hex(number), False]) for number in self._heads])
        return all(
            block is not None and digest(_field(block, "hash")) == known
            for block, known in zip(blocks, self._heads.values(), strict=True)
        )

    def _entries(self, oldest: int, newest: int, topics: list[object]) -> list[Mapping[str, Any]]:
        asked = {"address": self.contract, "fromBlock": hex(oldest), "toBlock": hex(newest), "topics": topics}
        entries = self._rpc.call("eth_getLogs", asked)
        if not isinstance(entries, list):
            raise Unreachable("the node sent no list of events")
        return entries

    def _take(self, entry: Mapping[str, Any]) -> Paid | None:
        topic = digest(_field(entry, "topics")[0])
        if topic == _TRADE_SETTLED:
            paid = _paid(entry)
            self._moved[paid.buyer] -= paid.amount
            self._moved[paid.seller] += paid.amount
            return paid
        if topic not in {_DEPOSITED, _WITHDRAWN}:  # some nodes send more than was requested
            return None
        try:
            account, (amount,) = _address(entry["topics"][1]), words(entry["data"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise Unreachable("the node sent a malformed event") from error
        self._moved[account] += amount if topic == _DEPOSITED else -amount
        return None

    def _view(self, contract: str, data: str) -> tuple[str, list[object]]:
        return "eth_call", [{"to": contract, "data": data}, hex(self.block)]

    def _all(self, calls: Sequence[tuple[str, list[object]]]) -> list[Any]:
        answers = self._rpc.call_many(calls)
        for answer in answers:
            if isinstance(answer, Refused):
                raise answer
        return answers


def _hash(signature: str) -> str:
    return "0x" + keccak256(signature.encode()).hex()


_TRADE_SETTLED: Final = _hash("TradeSettled(bytes32,address,address,uint256,uint256)")
_DEPOSITED: Final = _hash("Deposited(address,uint256)")
_WITHDRAWN: Final = _hash("Withdrawn(address,uint256)")
_TOPICS: Final = (_TRADE_SETTLED, _DEPOSITED, _WITHDRAWN)
_ARE_SETTLED: Final = _hash("areSettled(bytes32[])")[:10]
_ESCROW: Final = _hash("escrow(address)")[:10]
_TOTAL_ESCROW: Final = _hash("totalEscrow()")[:10]
_ACCOUNTS: Final = _hash("accounts(address)")[:10]
_CAPS: Final = _hash("caps(address)")[:10]
_BUDGET: Final = _hash("budget()")[:10]
_BALANCE_OF: Final = _hash("balanceOf(address)")[:10]


def _paid(entry: Mapping[str, Any]) -> Paid:
    try:
        _, trade, buyer, seller = entry["topics"]
        amount, energy_wh = words(entry["data"])
        return Paid(
            trade_id=UUID(int=quantity(trade)),
            buyer=_address(buyer),
            seller=_address(seller),
            amount=amount,
            energy_wh=energy_wh,
            transaction_hash=digest(entry["transactionHash"]),
            block_number=quantity(entry["blockNumber"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Unreachable("the node sent a malformed event") from error


def _address(topic: str) -> str:
    return parse_address("0x" + digest(topic)[-40:])


def _field(answer: Any, name: str) -> Any:  # noqa: ANN401 -- JSON
    try:
        return answer[name]
    except (KeyError, TypeError, IndexError) as error:
        raise Unreachable(f"the node's answer has no {name}") from error
