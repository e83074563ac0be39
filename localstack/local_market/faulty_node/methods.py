"""Methods, block tags and ranges that a node does not serve."""

import json
from collections.abc import Callable
from typing import ClassVar

from local_market.faulty_node.way import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    SERVER_ERROR,
    Call,
    Json,
    Reply,
    Request,
    Way,
    error,
    number,
    page,
    said,
    way,
)

TAG_AT: dict[str, int] = {
    "eth_getBlockByNumber": 0,
    "eth_call": 1,
    "eth_estimateGas": 1,
    "eth_getBalance": 1,
    "eth_getCode": 1,
    "eth_getTransactionCount": 1,
    "eth_feeHistory": 1,
    "eth_getStorageAt": 2,
}
"""Where a method names its block."""
OF_STATE = TAG_AT.keys() - {"eth_getBlockByNumber", "eth_feeHistory"}
"""Methods that need the state of a block, not only the block."""


def tag_of(call: Call) -> Json:
    """The block that a call names; None for a method, or a call, that names none."""
    at = TAG_AT.get(call.method)
    return None if at is None or at >= len(call.params) else call.params[at]


def named_number(tag: Json) -> int | None:
    """The number of a block that is named by its number."""
    return number(tag) if isinstance(tag, str) and tag.startswith("0x") else None


class _Without(Way):
    """Some methods are unknown."""

    unknown: ClassVar[frozenset[str]]

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        if call.method in self.unknown:
            return error(METHOD_NOT_FOUND, f"the method {call.method} does not exist/is not available")
        return go_on(call)


@way
class NoTipSuggested(_Without):
    """Chains and gateways without `eth_maxPriorityFeePerGas`, which the execution API does not require."""

    unknown = frozenset({"eth_maxPriorityFeePerGas"})


@way
class NoTipNorHistory(_Without):
    """Neither `eth_maxPriorityFeePerGas` nor `eth_feeHistory`: `eth_gasPrice` is all that is left."""

    unknown = frozenset({"eth_maxPriorityFeePerGas", "eth_feeHistory"})


@way
class TipForbidden(Way):
    """Gateways with a list of allowed methods: HTTP status 403 for any other (Chainstack's and Cloudflare's plans)."""

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        if b"eth_maxPriorityFeePerGas" in request.body:
            return said({"jsonrpc": "2.0", "id": None, **error(-32601, "method is not allowed")}, status=403)
        return go_on(request)


@way
class TipSaysNull(Way):
    """Relays that know the method and have no answer: its result is null."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        return {"result": None} if call.method == "eth_maxPriorityFeePerGas" else go_on(call)


@way
class PendingRefused(Way):
    """RSK, Nimbus, Polygon Edge: the tag `pending` is an error (rskj, issue 1578; nimbus-eth1, pull request 4687)."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        if tag_of(call) == "pending":
            return error(-32201, "This method doesn't support 'pending' as a parameter")
        return go_on(call)


@way
class PendingIsLatest(Way):
    """Nodes that do not look into their pool: `pending` is answered as `latest`."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        if tag_of(call) != "pending":
            return go_on(call)
        return go_on(Call(method=call.method, params=["latest" if one == "pending" else one for one in call.params]))


@way
class PendingSaysNull(Way):
    """Old gateways: what is asked of `pending` is null (web3-provider-engine, issue 11)."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        return {"result": None} if tag_of(call) == "pending" else go_on(call)


@way
class BlocksByNumberOnly(Way):
    """Nodes without EIP-1898: a block that is named by its hash is an invalid argument."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        if isinstance(tag_of(call), dict):
            words = "invalid argument 1: json: cannot unmarshal object into Go value of type string"
            return error(INVALID_PARAMS, words)
        return go_on(call)


@way
class NoSafeNorFinalized(Way):
    """RSK and chains without a beacon: the tags `safe` and `finalized` are unknown (execution-apis, pull 879)."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        return error(-39001, "Unknown block") if tag_of(call) in ("safe", "finalized") else go_on(call)


class _Logs(Way):
    """`eth_getLogs` is limited."""

    blocks_before = 60

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        return self.logs(call, go_on) if call.method == "eth_getLogs" else go_on(call)

    def logs(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        raise NotImplementedError

    def blocks(self, call: Call) -> int:
        """How many blocks are asked for."""
        (query,) = call.params
        newest = number(self.ask("eth_blockNumber")["result"])
        ends = [named_number(query.get(end, "latest")) for end in ("fromBlock", "toBlock")]
        first, last = (newest if end is None else end for end in ends)
        return last - first + 1


@way
class LogsOfTenBlocks(_Logs):
    """Alchemy's free tier: ten blocks a question; its refusal names a range that would do."""

    MOST_BLOCKS = 10

    def logs(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        if self.blocks(call) <= self.MOST_BLOCKS:
            return go_on(call)
        return error(
            -32600,
            "Under the Free tier plan, you can make eth_getLogs requests with up to a 10 block range. "
            "Based on your parameters, this block range should work: [0x0, 0x9]. Upgrade to PAYG.",
        )


@way
class LogsOfFiveBlocks(_Logs):
    """QuickNode's trial: five blocks a question, refused with HTTP status 413 (cartesi/rollups-node, pull 655)."""

    MOST_BLOCKS = 5

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        reply = go_on(request)
        if reply is None or b"is limited to a 5 range" not in reply.body:
            return reply
        return Reply(status=413, headers=reply.headers, body=reply.body)

    def logs(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        return error(-32615, "eth_getLogs is limited to a 5 range") if self.blocks(call) > 5 else go_on(call)


@way
class LogsByResults(_Logs):
    """Infura: a question with more results than the limit is refused (10,000 there, one here), by the code -32005."""

    MOST_RESULTS = 1

    def logs(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        answer = go_on(call)
        if self.blocks(call) > 1 and len(answer.get("result") or []) >= self.MOST_RESULTS:
            return error(-32005, "query returned more than 10000 results")
        return answer


@way
class LogsOverTime(_Logs):
    """Erigon and archive gateways: a long question is given up after its time, in an error of the server's."""

    def logs(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        return error(SERVER_ERROR, "query timeout exceeded") if self.blocks(call) > 20 else go_on(call)


@way
class LogsTooLong(Way):
    """nginx before a node: a question for many blocks is cut off with HTTP status 504 and a page."""

    blocks_before = 60

    def exchange(self, request: Request, go_on: Callable[[Request], Reply | None]) -> Reply | None:
        if b"eth_getLogs" in request.body:
            message = json.loads(request.body)
            for one in message if isinstance(message, list) else [message]:
                call = Call(method=one["method"], params=one["params"])
                if call.method == "eth_getLogs" and _Logs(self.ask, self.chance).blocks(call) > 50:
                    return page(504, "Gateway Time-out")
        return go_on(request)


class _States(Way):
    """States are kept for 128 blocks."""

    anytime = False
    finality_blocks = 129
    KEPT = 128

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        asked = named_number(tag_of(call)) if call.method in OF_STATE else None
        if asked is None or asked > number(self.ask("eth_blockNumber")["result"]) - self.KEPT:
            return go_on(call)
        return self.pruned(call, asked)

    def pruned(self, call: Call, asked: int) -> Json:
        raise NotImplementedError


@way
class StatesOf128Blocks(_States):
    """geth: older states are pruned (go-ethereum, issue 20874)."""

    def pruned(self, call: Call, asked: int) -> Json:
        node = "ef7df5d88cb1614dc3f143879a653cd90717ee42e967c5fabbcd7505a968f314"
        return error(SERVER_ERROR, f"missing trie node {node} (path ) state 0x{node} is not available")


@way
class StatesPrunedAsReverts(_States):
    """Erigon: a call of a pruned state is a plain revert, a balance or a count is zero (erigon, issues 3152, 6391)."""

    def pruned(self, call: Call, asked: int) -> Json:
        if call.method in ("eth_call", "eth_estimateGas"):
            return error(SERVER_ERROR, "execution reverted")
        return {"result": "0x" if call.method == "eth_getCode" else "0x0"}
