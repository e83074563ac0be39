"""Where the chain ends, for those who ask: nodes apart, and nodes that are behind."""

from collections.abc import Callable

from local_market.faulty_node.methods import OF_STATE, TAG_AT, named_number, tag_of
from local_market.faulty_node.way import SERVER_ERROR, Call, Json, Way, error, number, way


class _Behind(Way):
    """A node that knows the chain up to a block below its head."""

    def lag(self) -> int:
        """How many blocks it is behind, for this call."""
        raise NotImplementedError

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        lag = self.lag()
        return go_on(call) if lag == 0 else self._as_of_old(call, go_on, lag)

    def _as_of_old(self, call: Call, go_on: Callable[[Call], Json], lag: int) -> Json:
        head = max(0, number(self.ask("eth_blockNumber")["result"]) - lag)
        if call.method == "eth_blockNumber":
            return {"result": hex(head)}
        if call.method == "eth_getTransactionReceipt":
            answer = go_on(call)
            receipt = answer.get("result")
            return {"result": None} if receipt is not None and number(receipt["blockNumber"]) > head else answer
        if call.method == "eth_getTransactionByHash":
            return self._transaction(go_on(call), head)
        if call.method == "eth_getLogs":
            return self._logs(call, go_on, head)
        if call.method in TAG_AT:
            return self._at(call, go_on, head)
        return go_on(call)

    def _transaction(self, answer: Json, head: int) -> Json:
        found = answer.get("result")
        if found is None or found["blockNumber"] is None or number(found["blockNumber"]) <= head:
            return answer
        return {"result": found | {"blockNumber": None, "blockHash": None, "transactionIndex": None}}

    def _logs(self, call: Call, go_on: Callable[[Call], Json], head: int) -> Json:
        """Of blocks that it does not know it has no logs, and says so by an empty list."""
        (query,) = call.params
        first, last = (named_number(query.get(end, "latest")) for end in ("fromBlock", "toBlock"))
        first, last = (head if end is None else end for end in (first, last))
        if first > head:
            return {"result": []}
        return go_on(
            Call(method=call.method, params=[query | {"fromBlock": hex(first), "toBlock": hex(min(last, head))}])
        )

    def _at(self, call: Call, go_on: Callable[[Call], Json], head: int) -> Json:
        tag = tag_of(call)
        asked = named_number(tag)
        if isinstance(tag, dict) and "blockHash" in tag:
            block = self.ask("eth_getBlockByHash", tag["blockHash"], False).get("result")  # noqa: FBT003 -- JSON
            if block is None or number(block["number"]) <= head:
                return go_on(call)
            asked = number(block["number"])
        if asked is None:
            # An estimate without a tag is of the newest block; the pool is the node's own, and as old.
            at = TAG_AT[call.method]
            tags = {None, "latest", "pending"} if call.method in OF_STATE else {"latest", "pending"}
            if tag not in tags:
                return go_on(call)
            return go_on(Call(method=call.method, params=[*call.params[:at], hex(head), *call.params[at + 1 :]]))
        if asked <= head:
            return go_on(call)
        if call.method == "eth_getBlockByNumber":
            return {"result": None}
        return error(SERVER_ERROR, "header not found")


@way
class NodesBlocksApart(_Behind):
    """Infura, Ankr and public addresses: each call goes to one of several nodes, 0 to 4 blocks behind one another."""

    def lag(self) -> int:
        return self.chance.randint(0, 4)


@way
class NodeBehind(_Behind):
    """A node that is catching up: six blocks behind for its first forty calls, then not at all."""

    def lag(self) -> int:
        self.remembers += 1
        return 6 if self.remembers <= 40 else 0


@way
class OneNodeFarBehind(_Behind):
    """A pool of nodes of which one hangs hours behind (bor, issue 142): one call of ten goes to it."""

    def lag(self) -> int:
        return 1000 if self.chance.random() < 0.1 else 0


@way
class HeadUnknownAtTimes(Way):
    """Load balancers between two blocks: a tenth of the questions for a block is answered by null."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        if call.method == "eth_getBlockByNumber" and self.chance.random() < 0.1:
            return {"result": None}
        return go_on(call)


@way
class ReceiptsLate(Way):
    """geth 1.14 and later: a receipt of the newest two blocks is an error while it is indexed (issue 29956)."""

    DEPTH = 2

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        answer = go_on(call)
        if call.method == "eth_getTransactionReceipt" and answer.get("result") is not None:
            newest = number(self.ask("eth_blockNumber")["result"])
            if number(answer["result"]["blockNumber"]) > newest - self.DEPTH:
                return error(
                    SERVER_ERROR, "transaction indexing is in progress", data="transaction indexing is in progress"
                )
        return answer


@way
class ReceiptsOfTheUnmined(Way):
    """Parity and its heirs: a transaction in the pool has a receipt without a block (parity-ethereum, issue 11109)."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        answer = go_on(call)
        if call.method == "eth_getTransactionReceipt" and answer.get("result", ...) is None:
            waiting = self.ask("eth_getTransactionByHash", call.params[0]).get("result")
            if waiting is not None and waiting["blockNumber"] is None:
                empty: Json = {
                    "blockHash": None,
                    "blockNumber": None,
                    "transactionIndex": None,
                    "logs": [],
                    "status": None,
                }
                return {"result": empty | {"transactionHash": call.params[0], "gasUsed": "0x5208"}}
        return answer


@way
class BlockOfAnotherBranch(Way):
    """Nodes on two branches for a moment: one look of eight at a young block shows another block of that number."""

    DEPTH = 2

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        answer = go_on(call)
        if call.method == "eth_getBlockByNumber" and isinstance(answer.get("result"), dict):
            newest = number(self.ask("eth_blockNumber")["result"])
            is_young = number(answer["result"]["number"]) > newest - self.DEPTH
            if is_young and self.chance.random() < 1 / 8:
                return {"result": answer["result"] | {"hash": "0x" + "d" * 64}}
        return answer
