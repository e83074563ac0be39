"""Contracts by their artifacts: deploy, read, transact. For the launcher, the clients and the tests."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eth_abi.abi import decode, encode
from eth_account.signers.local import LocalAccount
from eth_utils.abi import function_abi_to_4byte_selector
from eth_utils.address import to_checksum_address

from energy_market.evm.rpc import ChainError, Rpc

FIRST_PAUSE_S: Final = 0.005
LONGEST_PAUSE_S: Final = 0.5


class Reverted(ChainError):
    """A transaction was mined, and reverted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The compiler's output for a contract."""

    name: str
    abi: list[Any]
    bytecode: bytes

    @classmethod
    def load(cls, path: Path) -> "Artifact":
        """Read an artifact that `infra/contracts/compile.mjs` wrote."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            name=fields["contractName"],
            abi=fields["abi"],
            bytecode=bytes.fromhex(fields["bytecode"].removeprefix("0x")),
        )

    def creation(self, *arguments: object) -> bytes:
        """The code that creates the contract with these constructor arguments."""
        inputs: list[Any] = next((entry["inputs"] for entry in self.abi if entry["type"] == "constructor"), [])
        return self.bytecode + encode(_types(inputs), arguments)

    def call(self, function: str, *arguments: object) -> bytes:
        """The call data of one function."""
        entry = self._function(function)
        return function_abi_to_4byte_selector(entry) + encode(_types(entry["inputs"]), arguments)

    def answer(self, function: str, data: bytes) -> Any:  # noqa: ANN401 -- what the ABI says
        """The decoded result of a function: its value, or a tuple of several."""
        values = decode(_types(self._function(function)["outputs"]), data)
        return values[0] if len(values) == 1 else values

    def _function(self, name: str) -> Any:  # noqa: ANN401 -- JSON
        return next(entry for entry in self.abi if entry["type"] == "function" and entry["name"] == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A contract at its address."""

    rpc: Rpc
    artifact: Artifact
    address: str

    def read(self, function: str, *arguments: object) -> Any:  # noqa: ANN401 -- what the ABI says
        """The result of a view function at the latest block."""
        call = {"to": self.address, "data": "0x" + self.artifact.call(function, *arguments).hex()}
        return self.artifact.answer(function, bytes.fromhex(self.rpc.call("eth_call", call, "latest")[2:]))

    def transact(self, account: LocalAccount, function: str, *arguments: object) -> dict[str, Any]:
        """Call a function in a transaction and wait for its receipt. Raises Reverted, and `rpc`'s errors."""
        return transact(self.rpc, account, to=self.address, data=self.artifact.call(function, *arguments))


def deploy(rpc: Rpc, account: LocalAccount, artifact: Artifact, *arguments: object) -> Contract:
    """Create a contract and wait until it exists. Raises Reverted, and `rpc`'s errors."""
    receipt = transact(rpc, account, to=None, data=artifact.creation(*arguments))
    return Contract(rpc=rpc, artifact=artifact, address=to_checksum_address(receipt["contractAddress"]))


def transact(
    rpc: Rpc,
    account: LocalAccount,
    *,
    to: str | None,
    data: bytes = b"",
    value: int = 0,
    wait_s: float = 30.0,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Sign, send, and wait for the receipt. Only one at a time for each account.

    Raises Reverted if the transaction was mined and reverted, Refused if the node rejects it, and Unreachable if it was
    not mined in `wait_s` seconds. For the operator's settlements use the ledger, which survives a crash; this does not.
    """
    rpc.start_deadline(wait_s)
    call = {"from": account.address, "data": "0x" + data.hex(), "value": hex(value)} | ({"to": to} if to else {})
    gas = int(rpc.call("eth_estimateGas", call), 16)
    block = rpc.call("eth_getBlockByNumber", "latest", False)  # noqa: FBT003 -- JSON
    tip = int(rpc.call("eth_maxPriorityFeePerGas"), 16)
    fields: dict[str, Any] = {
        "type": 2,
        "chainId": int(rpc.call("eth_chainId"), 16),
        "nonce": int(rpc.call("eth_getTransactionCount", account.address, "pending"), 16),
        "gas": gas * 5 // 4,
        "maxFeePerGas": 2 * int(block["baseFeePerGas"], 16) + tip,
        "maxPriorityFeePerGas": tip,
        "value": value,
        "data": data,
    }
    if to is not None:
        fields["to"] = to
    signed = account.sign_transaction(fields)
    transaction_hash = rpc.call("eth_sendRawTransaction", "0x" + signed.raw_transaction.hex())
    pause_s = FIRST_PAUSE_S
    while (receipt := rpc.call("eth_getTransactionReceipt", transaction_hash)) is None:
        sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    if int(receipt["status"], 16) != 1:
        raise Reverted(f"the transaction {transaction_hash} was reverted")
    return dict(receipt)


def _types(parameters: list[Any]) -> list[str]:
    """ABI types in eth-abi's spelling, with the components of tuples."""
    return [
        f"({','.join(_types(p['components']))}){p['type'].removeprefix('tuple')}"
        if p["type"].startswith("tuple")
        else p["type"]
        for p in parameters
    ]
