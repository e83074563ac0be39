"""Fees: floors, ceilings, spikes, and chains that count otherwise."""

import random
import re
from collections.abc import Callable
from typing import ClassVar

from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from local_market.faulty_node.way import METHOD_NOT_FOUND, SERVER_ERROR, Ask, Call, Json, Way, error, number, way

GWEI = 10**9


def transaction(call: Call) -> dict[str, int]:
    """The gas and fees of a transaction that is handed in, by their names in a signed transaction of type 2."""
    fields = TypedTransaction.from_bytes(HexBytes(call.params[0])).as_dict()
    names = ("gas", "maxFeePerGas", "maxPriorityFeePerGas", "nonce")
    return {name: int.from_bytes(value, "big") if isinstance(value := fields[name], bytes) else value for name in names}


class _Pool(Way):
    """A pool that looks at what it is handed."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        if call.method == "eth_sendRawTransaction":
            refusal = self.refusal(transaction(call))
            if refusal is not None:
                return refusal
        return go_on(call)

    def refusal(self, fields: dict[str, int]) -> Json | None:
        """Why a transaction with these fields is not taken; None if it is."""
        raise NotImplementedError


class _Floor(_Pool):
    """A tip is suggested, and a higher one asked for."""

    suggested: ClassVar[int] = 1_500_000_000
    floor: ClassVar[int] = 25 * GWEI

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        if call.method == "eth_maxPriorityFeePerGas":
            return {"result": hex(self.suggested)}
        return super().call(call, go_on)

    def refusal(self, fields: dict[str, int]) -> Json | None:
        tip = fields["maxPriorityFeePerGas"]
        if tip >= self.floor:
            return None
        return error(SERVER_ERROR, f"transaction underpriced: gas tip cap {tip}, minimum needed {self.floor}")


@way
class TipFloorOf25Gwei(_Floor):
    """Polygon's bor: it suggests 1.5 gwei and takes none under 25 (0xPolygon/launch, issue 62)."""


@way
class TipFloorThatIsOver(_Floor):
    """The same until the suggestion is put right: after twelve refusals it suggests 30."""

    suggested: ClassVar[int] = 1_500_000_000
    PATIENCE = 12

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        if call.method == "eth_maxPriorityFeePerGas" and self.remembers >= self.PATIENCE:
            return {"result": hex(30 * GWEI)}
        return super().call(call, go_on)

    def refusal(self, fields: dict[str, int]) -> Json | None:
        refusal = super().refusal(fields)
        self.remembers += refusal is not None
        return refusal


@way
class TipFloorWithoutNumber(_Floor):
    """BNB's and Gnosis's nodes: a floor of one gwei, nothing suggested, and a refusal that does not name the floor."""

    suggested = 0
    floor = GWEI

    def refusal(self, fields: dict[str, int]) -> Json | None:
        return None if super().refusal(fields) is None else error(SERVER_ERROR, "transaction underpriced")


@way
class FeeCap(_Pool):
    """geth's `txfeecap`: gas times fee is bounded (1 ether there; 0.0005 here, as batches are small)."""

    trades = 6
    CAP_WEI = 5 * 10**14

    def refusal(self, fields: dict[str, int]) -> Json | None:
        fee = fields["gas"] * fields["maxFeePerGas"]
        if fee <= self.CAP_WEI:
            return None
        return error(SERVER_ERROR, f"tx fee ({fee / 10**18:.2f} ether) exceeds the configured cap (0.00 ether)")


@way
class TransactionGasCap(_Pool):
    """EIP-7825: a transaction's gas is bounded (2^24 there, 330,000 here, as batches are small); estimates are not."""

    trades = 6
    CAP = 330_000

    def refusal(self, fields: dict[str, int]) -> Json | None:
        if fields["gas"] <= self.CAP:
            return None
        return error(SERVER_ERROR, f"transaction gas limit too high (cap: {self.CAP}, tx: {fields['gas']})")


@way
class EstimatesUnderTheGasCap(Way):
    """geth before its pull request 32348: what needs more than EIP-7825 allows cannot be estimated either."""

    trades = 6

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        answer = go_on(call)
        if call.method == "eth_estimateGas" and "result" in answer:
            gas = number(answer["result"])
            if gas > TransactionGasCap.CAP // 2:
                return error(SERVER_ERROR, f"failed with {gas} gas: transaction gas limit too high")
        return answer


@way
class FeeSpike(Way):
    """Any busy chain: for the first ten looks the base fee is 900 gwei, and pools ask for it; then it is over."""

    LOOKS = 10
    BASE_FEE = 900 * GWEI

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        if self.remembers >= self.LOOKS:
            return go_on(call)
        if call.method == "eth_getBlockByNumber":
            answer = go_on(call)
            if call.params[0] == "latest" and isinstance(answer.get("result"), dict):
                self.remembers += 1
                return {"result": answer["result"] | {"baseFeePerGas": hex(self.BASE_FEE)}}
            return answer
        if call.method == "eth_gasPrice":
            return {"result": hex(self.BASE_FEE + GWEI)}
        if call.method == "eth_sendRawTransaction" and transaction(call)["maxFeePerGas"] < self.BASE_FEE:
            return error(SERVER_ERROR, "max fee per gas less than block base fee")
        return go_on(call)


class _Header(Way):
    """Blocks' headers differ."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        answer = go_on(call)
        if call.method.startswith("eth_getBlockBy") and isinstance(answer.get("result"), dict):
            return {"result": self.header(answer["result"])}
        return answer

    def header(self, header: Json) -> Json:
        raise NotImplementedError


@way
class BaseFeeNull(_Header):
    """Relays that know the field and not its value: `baseFeePerGas` is null, transactions of type 2 are taken."""

    def header(self, header: Json) -> Json:
        return header | {"baseFeePerGas": None}


@way
class LegacyChain(_Header):
    """Chains before London: no base fee, no `eth_feeHistory`, and no transaction but the old kind."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        if call.method in ("eth_maxPriorityFeePerGas", "eth_feeHistory"):
            return error(METHOD_NOT_FOUND, f"the method {call.method} does not exist/is not available")
        if call.method == "eth_sendRawTransaction" and re.match("0x0[0-9]", call.params[0]):
            return error(SERVER_ERROR, "transaction type not supported")
        return super().call(call, go_on)

    def header(self, header: Json) -> Json:
        return {name: value for name, value in header.items() if name != "baseFeePerGas"}


@way
class BaseFeeZero(Way):
    """BNB Chain and chains whose gas is free: the base fee is zero, and so is the tip suggested."""

    anytime = False
    anvil = ("--block-base-fee-per-gas", "0")

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        return {"result": "0x0"} if call.method == "eth_maxPriorityFeePerGas" else go_on(call)


@way
class ReplacementsTwiceAsDear(_Pool):
    """Pools that ask twice the fees of what is to be replaced (geth's pool of blobs, some rollups')."""

    sweeps_before = 8

    def __init__(self, ask: Ask, chance: random.Random) -> None:
        super().__init__(ask, chance)
        self._fees: dict[int, int] = {}

    def refusal(self, fields: dict[str, int]) -> Json | None:
        known = self._fees.get(fields["nonce"])
        fee = fields["maxFeePerGas"]
        if known is not None and known < fee < 2 * known:
            return error(SERVER_ERROR, "replacement transaction underpriced")
        self._fees[fields["nonce"]] = fee
        return None
