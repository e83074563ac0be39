"""The contracts on a test's chain, and people with wallets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID, uuid4

from eth_abi.abi import decode
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from energy_market.evm.contract import Artifact, Contract, deploy
from energy_market.evm.rpc import Rpc
from tests.support.places import CHECKOUT

CONTRACTS = CHECKOUT / "infra" / "contracts" / "artifacts"
MOCKS = CHECKOUT / "tests" / "contracts" / "mocks" / "artifacts"
SETTLEMENT = Artifact.load(CONTRACTS / "EnergySettlement.json")
TOKEN = Artifact.load(CONTRACTS / "EnergyToken.json")
ONE = 10**18  # a token, in its smallest unit
FOR_EVER = 2**64 - 1
PERIOD_S = 3600
LIMIT = 10**9 * ONE  # what trades may move in a period, where a test says nothing of it
ALREADY_SETTLED, INSUFFICIENT_ESCROW, EXPIRED, OVER_CAP, OVER_LIMIT = 1, 2, 3, 4, 5

ChainTrade = tuple[bytes, str, str, int, int, int]


def mock(name: str) -> Artifact:
    return Artifact.load(MOCKS / f"{name}.json")


def mock_code(name: str) -> str:
    """The code of a deployed mock, as 0x-hex, to be put at some address."""
    return str(json.loads((MOCKS / f"{name}.json").read_text())["deployedBytecode"])


def word(trade: UUID) -> bytes:
    return trade.int.to_bytes(32, "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A log entry: its signature, its indexed values (as words), its other values."""

    name: str
    indexed: tuple[str, ...]
    data: tuple[Any, ...]


class Chain:
    """A chain with a token and the settlement contract; a block for each transaction unless told otherwise."""

    def __init__(
        self,
        rpc_url: str,
        *,
        token: Artifact = TOKEN,
        arguments: Sequence[object] = (),
        settlement: Artifact = SETTLEMENT,
        limit: int = LIMIT,
    ) -> None:
        """`arguments`: of a token that is not the market's own. `limit`: what trades may move in a period."""
        self.rpc = Rpc(rpc_url)
        self.owner = self.person()
        self.operator = self.person()
        self.token = deploy(self.rpc, self.owner, token, *([self.owner.address] if token is TOKEN else arguments))
        self.settlement = self.deploy_settlement(self.token, settlement, limit=limit)

    def person(self) -> LocalAccount:
        """Somebody with a wallet, gas money and no tokens."""
        account: LocalAccount = Account.create()
        self.rpc.call("anvil_setBalance", account.address, hex(100 * ONE))
        return account

    def deploy_settlement(self, token: Contract, settlement: Artifact = SETTLEMENT, *, limit: int = LIMIT) -> Contract:
        people = self.owner.address, self.operator.address
        return deploy(self.rpc, self.owner, settlement, token.address, *people, limit)

    def buyer(self, tokens: int) -> LocalAccount:
        """Somebody with so many tokens (in the smallest unit) in escrow."""
        account = self.person()
        self.deposit(account, tokens)
        return account

    def deposit(self, account: LocalAccount, tokens: int) -> dict[str, Any]:
        self.token.transact(self.owner, "mint", account.address, tokens)
        self.token.transact(account, "approve", self.settlement.address, tokens)
        return self.settlement.transact(account, "deposit", tokens)

    def settle(self, trades: Sequence[ChainTrade], *, by: LocalAccount | None = None) -> dict[str, Any]:
        return self.settlement.transact(by or self.operator, "settle", list(trades))

    def escrow(self, account: LocalAccount) -> int:
        return int(self.settlement.read("escrow", account.address))

    def balance(self, account: LocalAccount) -> int:
        return int(self.token.read("balanceOf", account.address))

    def mine(self, blocks: int = 1) -> None:
        self.rpc.call("anvil_mine", hex(blocks))

    def time(self) -> int:
        """The newest block's time, in Unix seconds."""
        block = self.rpc.call_many([("eth_getBlockByNumber", ["latest", False])])[0]
        return int(block["timestamp"], 16)

    def next_period(self) -> None:
        """Have the next hour begin, in which nothing was moved yet."""
        self.rpc.call("evm_setNextBlockTimestamp", (self.time() // PERIOD_S + 1) * PERIOD_S)
        self.mine()

    def height(self) -> int:
        return int(self.rpc.call("eth_blockNumber"), 16)


def trade(
    buyer: LocalAccount,
    seller: LocalAccount,
    amount: int,
    *,
    id: UUID | None = None,  # noqa: A002
    energy_wh: int = 1000,
    valid_until: int = FOR_EVER,
) -> ChainTrade:
    return (word(id or uuid4()), buyer.address, seller.address, amount, energy_wh, valid_until)


def events(receipt: dict[str, Any], contract: Contract) -> list[Event]:
    """The events that this contract emitted in a transaction."""
    known = {}
    for entry in contract.artifact.abi:
        if entry["type"] == "event":
            known["0x" + keccak(text=f"{entry['name']}({','.join(i['type'] for i in entry['inputs'])})").hex()] = entry
    found = []
    for log in receipt["logs"]:
        if log["address"].lower() == contract.address.lower():
            entry = known[log["topics"][0]]
            types = [i["type"] for i in entry["inputs"] if not i["indexed"]]
            found.append(
                Event(
                    name=entry["name"],
                    indexed=tuple(log["topics"][1:]),
                    data=decode(types, bytes.fromhex(log["data"].removeprefix("0x"))),
                )
            )
    return found


class ChainWith(Protocol):
    """Makes a chain whose token is one of the mocks, made with these arguments."""

    def __call__(self, token: str, *arguments: object, limit: int = LIMIT) -> Chain: ...
