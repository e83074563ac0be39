"""Answers that are spelled otherwise."""

from collections.abc import Callable
from typing import Final

from eth_utils.address import to_checksum_address

from local_market.faulty_node.way import INVALID_PARAMS, SERVER_ERROR, Call, Json, Way, error, number, way

QUANTITIES: Final = frozenset(
    {
        "number",
        "timestamp",
        "baseFeePerGas",
        "gasLimit",
        "gasUsed",
        "blockNumber",
        "status",
        "logIndex",
        "transactionIndex",
        "cumulativeGasUsed",
        "effectiveGasPrice",
    }
)
OF_QUANTITIES: Final = frozenset(
    {
        "eth_blockNumber",
        "eth_chainId",
        "eth_estimateGas",
        "eth_gasPrice",
        "eth_getBalance",
        "eth_getTransactionCount",
        "eth_maxPriorityFeePerGas",
    }
)
REVERT_CODE: Final = 3


class _Spelled(Way):
    """Results are the same and spelled otherwise."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        answer = go_on(call)
        return {"result": self.spelled(call.method, answer["result"])} if "result" in answer else answer

    def spelled(self, method: str, result: Json) -> Json:
        raise NotImplementedError


class _Numbers(_Spelled):
    """Quantities are spelled otherwise."""

    def spelled(self, method: str, result: Json) -> Json:
        if method in OF_QUANTITIES:
            return self.quantity(number(result))
        return self._inside(result)

    def _inside(self, result: Json) -> Json:
        if isinstance(result, list):
            return [self._inside(one) for one in result]
        if not isinstance(result, dict):
            return result
        return {
            name: self.quantity(number(value)) if name in QUANTITIES and isinstance(value, str) else self._inside(value)
            for name, value in result.items()
        }

    def quantity(self, quantity: int) -> Json:
        raise NotImplementedError


@way
class NumbersWithLeadingZeros(_Numbers):
    """Small nodes that print bytes: quantities of an even number of digits, or padded to a word."""

    def quantity(self, quantity: int) -> Json:
        digits = f"{quantity:x}"
        return "0x" + (digits.zfill(64) if quantity % 2 else "0" * (len(digits) % 2) + digits)


@way
class NumbersAsNumbers(_Numbers):
    """Gateways in loosely typed languages: quantities are JSON numbers."""

    def quantity(self, quantity: int) -> Json:
        return quantity


@way
class NumbersInCapitals(_Numbers):
    """Relays that print hexadecimal digits in capitals."""

    def quantity(self, quantity: int) -> Json:
        return f"0x{quantity:X}"


@way
class HashesInCapitals(_Spelled):
    """Relays that print hashes and data in capitals."""

    def spelled(self, method: str, result: Json) -> Json:
        if isinstance(result, list):
            return [self.spelled(method, one) for one in result]
        if isinstance(result, dict):
            return {name: self.spelled(method, value) for name, value in result.items()}
        if isinstance(result, str) and result.startswith("0x") and len(result) >= 66:
            return "0x" + result[2:].upper()
        return result


@way
class AddressesWithChecksum(_Spelled):
    """ethers' and Hedera's relays: addresses with the capitals of EIP-55, where nodes print none."""

    def spelled(self, method: str, result: Json) -> Json:
        if isinstance(result, list):
            return [self.spelled(method, one) for one in result]
        if isinstance(result, dict):
            return {name: self.spelled(method, value) for name, value in result.items()}
        if isinstance(result, str) and result.startswith("0x") and len(result) == 42:
            return to_checksum_address(result)
        return result


@way
class ErrorIsNullBesides(Way):
    """Servers that always print both members: a result, and an error that is null."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        answer = go_on(call)
        return {"result": None, "error": None} | answer


class _Receipts(Way):
    """Receipts differ."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        answer = go_on(call)
        if call.method == "eth_getTransactionReceipt" and isinstance(answer.get("result"), dict):
            return {"result": self.receipt(answer["result"])}
        return answer

    def receipt(self, receipt: Json) -> Json:
        raise NotImplementedError


@way
class ReceiptsWithoutStatus(_Receipts):
    """Frontier's first versions and private chains on Homestead's rules: `root`, no `status` (frontier, issue 213)."""

    def receipt(self, receipt: Json) -> Json:
        return {name: value for name, value in receipt.items() if name != "status"} | {"root": "0x" + "0" * 64}


@way
class ReceiptsWithMore(_Receipts):
    """Rollups: fields of their own in receipts and logs, unknown types (Arbitrum, Optimism, zkSync)."""

    def receipt(self, receipt: Json) -> Json:
        logs = [one | {"l1BatchNumber": None, "logType": None} for one in receipt["logs"]]
        more = {"l1Fee": "0x1", "l1GasUsed": "0x640", "gasUsedForL1": "0x0", "timeboosted": False, "type": "0x7e"}
        return receipt | more | {"logs": logs, "root": receipt["blockHash"], "l1FeeScalar": "0.684"}


@way
class ReceiptsWithLogsOfOthers(_Receipts):
    """Polygon: a log of the chain's own, of an address and a topic that nobody knows, in each receipt."""

    def receipt(self, receipt: Json) -> Json:
        fee = {"address": "0x" + "0" * 36 + "1010", "topics": ["0x" + "4" * 64], "data": "0x", "removed": False}
        return receipt | {"logs": [*receipt["logs"], fee, fee | {"topics": []}]}


class Reverts(Way):
    """What a contract's refusal looks like."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        answer = go_on(call)
        refusal = answer.get("error")
        if refusal is not None and refusal.get("code") == REVERT_CODE:
            return self.revert(refusal)
        return answer

    def revert(self, refusal: Json) -> Json:
        raise NotImplementedError


@way
class RevertsWithoutData(Reverts):
    """Many gateways: a revert under the code of all errors, and nothing of what the contract said."""

    def revert(self, refusal: Json) -> Json:
        return error(SERVER_ERROR, "execution reverted")


@way
class RevertsOfNethermind(Reverts):
    """OpenEthereum and Nethermind: "VM execution error.", and the data after a word (nethermind, issue 6024)."""

    def revert(self, refusal: Json) -> Json:
        return error(-32015, "VM execution error.", data=f"Reverted {refusal.get('data', '0x')}")


@way
class RevertsOfBesu(Reverts):
    """Besu and Erigon: capitals, another code, the data without a word of it in the message."""

    def revert(self, refusal: Json) -> Json:
        return error(SERVER_ERROR, "Execution reverted (0x)", data=refusal.get("data", "0x"))


@way
class RevertsWithNestedData(Reverts):
    """Hardhat's heirs and some relays: the data is an object that holds the data."""

    def revert(self, refusal: Json) -> Json:
        inside = {"code": REVERT_CODE, "data": refusal.get("data", "0x"), "txHash": None}
        return error(
            -32603, "Error: VM Exception while processing transaction: reverted with a custom error", data=inside
        )


@way
class RevertsInUnknownWords(Reverts):
    """Chains of another make: a refusal without any word that others use (Klaytn, VeChain, TRON's gateways)."""

    def revert(self, refusal: Json) -> Json:
        return error(INVALID_PARAMS, "evm: execution failed")


@way
class CodesAsStrings(Way):
    """Eden and other relays: an error's code is a string (cowprotocol, issue 204)."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        answer = go_on(call)
        if "error" in answer:
            return {"error": answer["error"] | {"code": str(answer["error"]["code"])}}
        return answer
