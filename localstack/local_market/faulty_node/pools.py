"""What a pool says of a transaction that is handed in, and what it does with it."""

from collections.abc import Callable

from eth_account import Account
from eth_utils.crypto import keccak

from local_market.faulty_node.fees import transaction
from local_market.faulty_node.way import SERVER_ERROR, Call, Json, Way, error, number, way


class _Sending(Way):
    """A hand on `eth_sendRawTransaction`."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        return self.send(call, go_on) if call.method == "eth_sendRawTransaction" else go_on(call)

    def send(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        raise NotImplementedError


def hash_of(call: Call) -> str:
    """The hash of the transaction that is handed in."""
    return "0x" + keccak(hexstr=call.params[0]).hex()


@way
class AlreadyKnown(_Sending):
    """geth: a transaction that is in the pool is an error when it is handed in again."""

    def send(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        known = self.ask("eth_getTransactionByHash", hash_of(call)).get("result")
        return go_on(call) if known is None else error(SERVER_ERROR, "already known")


@way
class KnownInOtherWords(_Sending):
    """Nethermind, Besu, Erigon and Sei in turn: the same in words of their own."""

    WORDS = (
        "AlreadyKnown",
        "Known transaction",
        "existing tx with same hash",
        "tx already in mempool",
        "ALREADY_EXISTS",
    )

    def send(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        known = self.ask("eth_getTransactionByHash", hash_of(call)).get("result")
        return go_on(call) if known is None else error(SERVER_ERROR, self.chance.choice(self.WORDS))


@way
class ResentIsUnderpriced(_Sending):
    """Relays beside a public pool: the same bytes again replace at too low a fee (cowprotocol/services, issue 204)."""

    def send(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        known = self.ask("eth_getTransactionByHash", hash_of(call)).get("result")
        if known is None:
            return go_on(call)
        return error("-32000", "replacement transaction underpriced", data="...")


@way
class NonceTooLow(_Sending):
    """geth: what is handed in again has been mined a moment before, and its nonce is too low."""

    def send(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        if self.ask("eth_getTransactionByHash", hash_of(call)).get("result") is None:
            return go_on(call)
        self.ask("evm_mine")
        nonce = transaction(call)["nonce"]
        return error(SERVER_ERROR, f"nonce too low: next nonce {nonce + 1}, tx nonce {nonce}")


@way
class AcceptsAndForgets(_Sending):
    """Load balancers whose pools do not gossip: two of three times what is accepted never reaches a block."""

    def send(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        self.remembers += 1
        return {"result": hash_of(call)} if self.remembers % 3 else go_on(call)


@way
class ForgetsThePool(Way):
    """Nodes that are restarted: at each second look at the balance the pool is empty again."""

    def call(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        if call.method == "eth_getBalance":
            self.remembers += 1
            if self.remembers % 2 == 0:
                self.ask("anvil_dropAllTransactions")
        return go_on(call)


@way
class PoolFull(_Sending):
    """Any busy chain: the pool is full, two times of three."""

    def send(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        self.remembers += 1
        return error(SERVER_ERROR, "txpool is full") if self.remembers % 3 else go_on(call)


@way
class OneOfAnAccount(_Sending):
    """geth for accounts with code (EIP-7702), and small rollups: one transaction of an account in the pool."""

    def send(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        sender = str(Account.recover_transaction(call.params[0]))
        mined = number(self.ask("eth_getTransactionCount", sender, "latest")["result"])
        if transaction(call)["nonce"] > mined:
            return error(SERVER_ERROR, "in-flight transaction limit reached for delegated accounts")
        return go_on(call)


@way
class SaysNullToSent(_Sending):
    """Relays that take a transaction and have no hash to give: the result is null."""

    def send(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        answer = go_on(call)
        return answer if "error" in answer else {"result": None}


@way
class ErrorsOnceItIsIn(_Sending):
    """Gateways that time out behind the node: the transaction is in the pool, and the answer is an error."""

    def send(self, call: Call, go_on: Callable[[Call], Json]) -> Json:
        answer = go_on(call)
        return answer if "error" in answer else error(-32603, "Internal error")
