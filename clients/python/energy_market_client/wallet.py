"""A wallet's dealings with the chain: tokens, and escrow with the settlement contract. Plain JSON-RPC, signed here."""

import time
from typing import Any, Final

from eth_abi.abi import decode, encode
from eth_account.signers.local import LocalAccount
from eth_utils.abi import function_signature_to_4byte_selector
from hexbytes import HexBytes

from energy_market.evm.rpc import Rpc

RECEIPT_TIMEOUT_S: Final = 60.0
RECEIPT_PAUSE_S: Final = 0.25
TIP_WEI: Final = 10**9


class TransactionFailedError(Exception):
    """A transaction was reverted, or was not mined in time."""


def call_data(signature: str, *arguments: object) -> str:
    """The data of a contract call: `call_data("approve(address,uint256)", spender, amount)`."""
    types = [kind for kind in signature[signature.index("(") + 1 : -1].split(",") if kind]
    return "0x" + (function_signature_to_4byte_selector(signature) + encode(types, list(arguments))).hex()


def read_uint(rpc: Rpc, contract: str, signature: str, *arguments: object) -> int:
    """What a view of a contract answers, as one number, at the latest block."""
    answer = rpc.call("eth_call", {"to": contract, "data": call_data(signature, *arguments)}, "latest")
    (number,) = decode(["uint256"], bytes.fromhex(answer.removeprefix("0x")))
    return int(number)


class Wallet:
    """An account that signs its own transactions, one after the other. Not for sharing between threads."""

    def __init__(
        self, account: LocalAccount, *, rpc_url: str, chain_id: int, patience_s: float = RECEIPT_TIMEOUT_S
    ) -> None:
        """`account` pays the gas; `patience_s` is how long a transaction may take to be sent, and to be mined."""
        self.account = account
        self.rpc = Rpc(rpc_url, deadline_s=patience_s)
        self._patience_s = patience_s
        self._chain_id = chain_id

    def send(self, to: str, *, data: str = "0x", value_wei: int = 0) -> str:
        """Sign and send a transaction, without waiting for it; its hash."""
        self.rpc.start_deadline(self._patience_s)
        base_fee = int(self.rpc.call("eth_getBlockByNumber", "latest", False)["baseFeePerGas"], 16)  # noqa: FBT003
        asked: dict[str, Any] = {"from": self.account.address, "to": to, "data": data, "value": hex(value_wei)}
        gas = int(self.rpc.call("eth_estimateGas", asked), 16)
        nonce = int(self.rpc.call("eth_getTransactionCount", self.account.address, "pending"), 16)
        signed = self.account.sign_transaction(
            {
                "type": 2,
                "chainId": self._chain_id,
                "nonce": nonce,
                "to": HexBytes(to),
                "value": value_wei,
                "data": HexBytes(data),
                "gas": gas * 5 // 4,  # the state may have changed between the estimate and the block
                "maxFeePerGas": 2 * base_fee + TIP_WEI,
                "maxPriorityFeePerGas": TIP_WEI,
            }
        )
        return str(self.rpc.call("eth_sendRawTransaction", "0x" + bytes(signed.raw_transaction).hex()))

    def wait(self, transaction_hash: str) -> None:
        """Wait until the transaction is mined. Raises TransactionFailedError."""
        until = time.monotonic() + self._patience_s
        self.rpc.start_deadline(self._patience_s)
        while time.monotonic() < until:
            receipt = self.rpc.call("eth_getTransactionReceipt", transaction_hash)
            if receipt is not None:
                if int(receipt["status"], 16) != 1:
                    raise TransactionFailedError(f"transaction {transaction_hash} was reverted")
                return
            time.sleep(RECEIPT_PAUSE_S)
        raise TransactionFailedError(f"transaction {transaction_hash} was not mined in {self._patience_s:.0f} s")

    def deposit(self, *, token: str, contract: str, amount: int) -> None:
        """Put tokens (in their smallest unit) into escrow: approve, then deposit."""
        self.wait(self.send(token, data=call_data("approve(address,uint256)", contract, amount)))
        self.wait(self.send(contract, data=call_data("deposit(uint256)", amount)))

    def close(self) -> None:
        """Drop the connection to the node."""
        self.rpc.close()
