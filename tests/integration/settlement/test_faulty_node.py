"""A node that is away, slow, lies, or keeps its answers to itself, between the settlement and a real chain."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pytest

from energy_market.evm.ledger import Ledger
from energy_market.evm.rpc import ChainError, Rpc
from tests.chain import trade as chain_trade
from tests.integration.settlement.world import FINALITY_BLOCKS, RULES, World

Json: TypeAlias = Any
Lie = Callable[[str, Json], Json]
"""(method, the node's answer to one call) -> what is said instead."""


class FaultyNode:
    """Hands requests on to a node; what comes back may be bent, late or lost."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.lie: Lie | None = None
        self.loses: set[str] = set()  # methods whose answers get lost after the node has heard them
        self.is_away = False
        self.delay_s = 0.0
        self.asked: list[str] = []
        node = self

        class Between(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body leave apart, and the body would wait for 40 ms

            def do_POST(self) -> None:
                request = self.rfile.read(int(self.headers["Content-Length"]))
                answer = node.answer(request)
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Between)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def recover(self) -> None:
        self.lie, self.loses, self.is_away, self.delay_s = None, set(), False, 0.0

    def answer(self, request: bytes) -> bytes | None:
        calls = json.loads(request)
        methods = [call["method"] for call in (calls if isinstance(calls, list) else [calls])]
        self.asked += methods
        time.sleep(self.delay_s)
        if self.is_away:
            return None
        connection = HTTPConnection(str(self._target.hostname), self._target.port)
        connection.request("POST", "/", request, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        if self.loses & set(methods):
            return None
        if self.lie is not None:
            answers = answer if isinstance(answer, list) else [answer]
            names = {call["id"]: call["method"] for call in (calls if isinstance(calls, list) else [calls])}
            bent = [self.lie(names[one["id"]], one) for one in answers]
            answer = bent if isinstance(answer, list) else bent[0]
        return json.dumps(answer).encode()


@pytest.fixture
def node(world: World) -> Iterator[FaultyNode]:
    node = FaultyNode(world.rpc_url)
    yield node
    node.stop()


@pytest.fixture
def ledger(world: World, node: FaultyNode) -> Iterator[Ledger]:
    rpc = Rpc(node.url, timeout_s=0.3)
    yield world.ledger_of(Ledger, rpc=rpc)
    rpc.close()


def disturbed_sweep(world: World, ledger: Ledger, *, budget_s: float = 1.5) -> None:
    """A sweep that need not succeed, but may fail only as a chain that is away does."""
    try:
        world.sweep(ledger=ledger, budget_s=budget_s)
    except ChainError:
        assert world.sql("SELECT name FROM leases") == [], "a sweep that fails gives its lease back"


def settle_in_the_end(world: World, node: FaultyNode, ledger: Ledger) -> None:
    node.recover()
    world.sweep_until_final(ledger=ledger)
    assert world.differences() == []


# ------------------------------------------------------------------------------------------------ away, slow, silent


def test_a_node_that_is_away_at_any_step_costs_no_trade(world: World, node: FaultyNode, ledger: Ledger) -> None:
    deal = world.lock()
    for prepare in (lambda: None, lambda: world.sweep(ledger=ledger), world.mine, lambda: world.mine(FINALITY_BLOCKS)):
        node.recover()
        prepare()
        before = world.trade(deal)
        node.is_away = True
        disturbed_sweep(world, ledger, budget_s=0.3)
        assert world.trade(deal) == before
    settle_in_the_end(world, node, ledger)
    assert world.trade(deal) == ("Confirmed", None)
    assert (world.nonce(), len(world.forms())) == (1, 1)


def test_a_slow_node_costs_the_budget_and_no_more(world: World, node: FaultyNode, ledger: Ledger) -> None:
    deal = world.lock()
    node.delay_s = 0.5
    began = time.monotonic()
    disturbed_sweep(world, ledger, budget_s=0.8)
    assert time.monotonic() - began < 4
    assert world.trade(deal) == ("Locked", None)
    settle_in_the_end(world, node, ledger)
    assert world.trade(deal) == ("Confirmed", None)


def test_an_answer_that_is_lost_after_every_sending_pays_once(world: World, node: FaultyNode, ledger: Ledger) -> None:
    """The node has the transaction, and nobody knows. Each sweep says it again."""
    deals = [world.lock(), world.lock(in_escrow=False)]
    world.hold()
    node.loses = {"eth_sendRawTransaction"}
    for _ in range(2):
        disturbed_sweep(world, ledger, budget_s=1.0)
    assert node.asked.count("eth_sendRawTransaction") > 2
    assert [form[3] for form in world.forms()] == [0], "it was never known to be sent"
    world.mine()
    disturbed_sweep(world, ledger)
    world.go_on()
    settle_in_the_end(world, node, ledger)
    assert [world.trade(deal) for deal in deals] == [("Confirmed", None), ("Failed", "insufficient_escrow")]
    assert (world.nonce(), len(world.forms())) == (1, 1)
    assert world.chain.escrow(deals[0].seller) == deals[0].amount


# ------------------------------------------------------------------------------------------------ garbage

BEFORE, AFTER, ELSEWHERE = "before it is sent", "after it is mined", "paid by another"
# Each where it is asked.
METHODS = {
    "eth_chainId": {BEFORE},
    "eth_getCode": {BEFORE},
    "eth_getBlockByNumber": {BEFORE, AFTER},
    "eth_getTransactionCount": {BEFORE, AFTER},
    "eth_getBalance": {BEFORE},
    "eth_maxPriorityFeePerGas": {BEFORE},
    "eth_estimateGas": {BEFORE},
    "eth_sendRawTransaction": {BEFORE},
    "eth_getTransactionReceipt": {AFTER, ELSEWHERE},
    "eth_call": {ELSEWHERE},
    "eth_getLogs": {ELSEWHERE},
}
EMPTY_LIST = "0x" + "20".rjust(64, "0") + "0" * 64  # as the ABI spells it
GARBAGE: list[Json] = [None, "zz", 7, {}, [], [{}], "0x0", "-0x1", "0x" + "7" * 16, "0x" + "ff" * 32, EMPTY_LIST]
ERRORS: list[Json] = [{"code": -32000, "message": "header not found"}, {"message": 7}, "no error object"]


def says(method: str, **instead: Json) -> Lie:
    def lie(asked: str, answer: Json) -> Json:
        return {"jsonrpc": "2.0", "id": answer["id"], **instead} if asked == method else answer

    return lie


@pytest.mark.parametrize("method", METHODS)
def test_garbage_instead_of_any_answer_costs_no_trade(
    world: World, node: FaultyNode, ledger: Ledger, method: str
) -> None:
    """Before a trade is sent, after it is mined, and when somebody else has paid it: every kind of garbage."""
    lies = [says(method, result=one) for one in GARBAGE] + [says(method, error=one) for one in ERRORS]

    def be_disturbed(when: str) -> None:
        for lie in lies if when in METHODS[method] else ():
            node.lie = lie
            disturbed_sweep(world, world.new_ledger(url=node.url))  # one that has not checked the chain yet
        node.recover()

    deal = world.lock()
    if ELSEWHERE in METHODS[method]:
        world.chain.settle([chain_trade(deal.buyer, deal.seller, deal.amount, id=deal.id, energy_wh=500)])
    be_disturbed(BEFORE)
    world.sweep(ledger=ledger)
    world.mine()
    be_disturbed(AFTER)
    world.mine(FINALITY_BLOCKS)
    be_disturbed(ELSEWHERE)
    settle_in_the_end(world, node, ledger)
    assert world.trade(deal) == ("Confirmed", None)
    assert world.chain.escrow(deal.seller) == deal.amount


@pytest.mark.parametrize("method", ["eth_maxPriorityFeePerGas", "eth_getBlockByNumber"])
def test_a_stuck_transaction_is_not_replaced_by_one_that_nobody_can_pay(
    world: World, node: FaultyNode, ledger: Ledger, method: str
) -> None:
    """Each replacement must pay more than the last: one absurd fee, and all after it would be absurd."""
    deal = world.lock()
    world.hold()
    world.sweep(ledger=ledger)
    absurd = hex(2**62)

    def lie(asked: str, answer: Json) -> Json:
        if asked != method:
            return answer
        result = answer["result"]
        return answer | {"result": result | {"baseFeePerGas": absurd} if isinstance(result, dict) else absurd}

    node.lie = lie
    for _ in range(2):
        world.sweep(replace(RULES, stuck_after_s=0.0), ledger=ledger)
    assert len(world.forms()) == 1
    node.recover()
    world.sweep(replace(RULES, stuck_after_s=0.0), ledger=ledger)
    assert len(world.forms()) == 2
    world.mine()
    world.go_on()
    settle_in_the_end(world, node, ledger)
    assert world.trade(deal) == ("Confirmed", None)


def test_a_node_that_lags_behind_confirms_nothing_too_early_and_fails_nothing(
    world: World, node: FaultyNode, ledger: Ledger
) -> None:
    """One of several behind an address: it knows only older blocks, and may be asked in turn with one that is ahead."""
    deal = world.lock()
    world.sweep(ledger=ledger)
    world.mine()
    world.sweep(ledger=ledger)
    assert world.trade(deal) == ("Confirmed", None)
    behind = world.chain.height() - 2

    def old_head(method: str, answer: Json) -> Json:
        if method == "eth_getBlockByNumber" and isinstance(answer.get("result"), dict):
            number = int(answer["result"]["number"], 16)
            if number > behind:
                old = world.chain.rpc.call("eth_getBlockByNumber", hex(behind), False)  # noqa: FBT003 -- JSON
                return answer | {"result": old}
        return answer

    node.lie = old_head
    for _ in range(3):
        disturbed_sweep(world, ledger)
        assert world.trade(deal)[0] in {"Confirmed", "Submitted"}
    settle_in_the_end(world, node, ledger)
    assert world.trade(deal) == ("Confirmed", None)
    assert (world.nonce(), len(world.batches())) == (1, 1)
