"""The JSON-RPC client against a node that misbehaves."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import pytest

from energy_market.evm.rpc import MAX_BACKOFF_S, Refused, Rpc, Unreachable

Json: TypeAlias = Any
Reply = tuple[int, bytes]
Handler = Callable[[Json], Reply]


def result(value: object) -> Handler:
    def reply(request: Json) -> Reply:
        one = {"jsonrpc": "2.0", "result": value}
        several = [one | {"id": r["id"]} for r in request] if isinstance(request, list) else None
        answer = one | {"id": request["id"]} if several is None else several
        return 200, json.dumps(answer).encode()

    return reply


def raw(status: int, body: bytes) -> Handler:
    return lambda _: (status, body)


class Node:
    """Answers each request with the next of its replies, and the last one from then on."""

    def __init__(self) -> None:
        self.replies: list[Handler] = [result("0x1")]
        self.requests: list[Any] = []
        node = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                node.requests.append(request)
                reply = node.replies.pop(0) if len(node.replies) > 1 else node.replies[0]
                status, body = reply(request)
                if status == 0:  # hang up without an answer
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.stop()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def rpc(node: Node, pauses: list[float]) -> Iterator[Rpc]:
    """Sleeps in no time, and as long as the backoff allows."""
    rpc = Rpc(node.url, timeout_s=1.0, sleep=pauses.append, chance=lambda: 1.0)
    yield rpc
    rpc.close()


def test_a_call_gives_its_result(node: Node, rpc: Rpc) -> None:
    node.replies = [result({"number": "0x7"})]
    assert rpc.call("eth_getBlockByNumber", "latest") == {"number": "0x7"}
    assert node.requests[0]["method"] == "eth_getBlockByNumber"
    assert node.requests[0]["params"] == ["latest"]


def test_many_calls_go_in_one_request_and_answers_are_matched_by_id(node: Node, rpc: Rpc) -> None:
    def echo_backwards(request: Json) -> Reply:
        answers = [{"jsonrpc": "2.0", "id": r["id"], "result": r["params"][0]} for r in reversed(request)]
        return 200, json.dumps(answers).encode()

    node.replies = [echo_backwards]
    assert rpc.call_many([("echo", [n]) for n in range(120)]) == list(range(120))
    assert [len(request) for request in node.requests] == [50, 50, 20]


def test_what_the_node_refuses_is_not_asked_again(node: Node, rpc: Rpc) -> None:
    def refuse(request: Json) -> Reply:
        error = {"code": 3, "message": "execution reverted", "data": "0xdeadbeef"}
        return 200, json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}).encode()

    node.replies = [refuse]
    with pytest.raises(Refused) as caught:
        rpc.call("eth_call")
    assert (caught.value.code, caught.value.message, caught.value.data) == (3, "execution reverted", "0xdeadbeef")
    assert len(node.requests) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        raw(0, b""),
        raw(500, b"oops"),
        raw(503, b"{}"),
        raw(429, b"slow down"),
        raw(200, b"<html>"),
        raw(200, b"[]"),
        raw(200, b"7"),
        raw(200, b'{"id": [1], "result": 1}'),
        raw(200, b'{"id": 999, "result": 1}'),
        lambda request: (200, json.dumps({"id": request["id"]}).encode()),
        raw(404, b"not here"),
    ],
    ids=["hangs up", "500", "503", "429", "html", "empty list", "number", "list id", "other id", "no result", "404"],
)
def test_what_did_not_get_through_is_asked_again(node: Node, rpc: Rpc, trouble: Handler) -> None:
    node.replies = [trouble, trouble, result("0x2a")]
    assert rpc.call("eth_chainId") == "0x2a"
    assert len(node.requests) == 3


def test_pauses_grow_to_a_cap_and_end_with_the_budget(node: Node, pauses: list[float]) -> None:
    node.replies = [raw(500, b"")]
    now = [0.0]

    def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        now[0] += pause_s

    rpc = Rpc(node.url, deadline_s=10.0, monotonic=lambda: now[0], sleep=sleep, chance=lambda: 1.0)
    with pytest.raises(Unreachable, match="HTTP status 500"):
        rpc.call("eth_chainId")
    rpc.close()
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert max(pauses) == MAX_BACKOFF_S
    assert now[0] < 10


def test_pauses_have_full_jitter(node: Node, pauses: list[float]) -> None:
    node.replies = [raw(500, b""), raw(500, b""), raw(500, b""), result(1)]
    chances = iter([0.0, 0.5, 0.25])
    rpc = Rpc(node.url, sleep=pauses.append, chance=lambda: next(chances))
    assert rpc.call("eth_chainId") == 1
    rpc.close()
    assert pauses == [0.0, 0.1, 0.1]


def test_a_node_that_does_not_answer_costs_the_timeout_and_no_more(node: Node) -> None:
    over = threading.Event()

    def silent(request: Json) -> Reply:
        over.wait(20)
        return raw(0, b"")(request)

    node.replies = [silent]
    rpc = Rpc(node.url, timeout_s=0.1, deadline_s=0.3)
    began = time.monotonic()
    with pytest.raises(Unreachable):
        rpc.call("eth_chainId")
    took_s = time.monotonic() - began
    over.set()
    rpc.close()
    assert took_s < 5


def test_nothing_is_asked_when_the_budget_is_spent(node: Node) -> None:
    rpc = Rpc(node.url, deadline_s=0.0)
    with pytest.raises(Unreachable, match="used up"):
        rpc.call("eth_chainId")
    assert node.requests == []


@pytest.mark.parametrize("url", ["ftp://host", "file:///etc/passwd", "localhost:8545", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="begins with http"):
        Rpc(url)


def test_asking_whether_the_chain_is_there_takes_no_evm_library() -> None:
    code = "import sys, energy_market.evm.node_check; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, check=True
    )
    assert {b"eth_account", b"eth_abi", b"eth_utils", b"psycopg", b"Crypto"} & set(loaded.stdout.split()) == set()
