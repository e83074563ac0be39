"""The server of a faulty node: HTTP and JSON-RPC around the ways that are playing."""

import contextlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, TypeVar
from urllib.parse import urlsplit

from local_market.faulty_node.way import Call, Json, Reply, Request, Way, error, said

TIMEOUT_S: Final = 30.0
PARSE_ERROR: Final = -32700
A = TypeVar("A")
B = TypeVar("B")


class Away(Exception):
    """The real node does not answer."""


class FaultyNode:
    """Hands requests on to a real node, and plays ways meanwhile. For many threads and processes at once.

    `rpc_url` may change while it serves: the node may be started again elsewhere.
    """

    def __init__(self, rpc_url: str, *, seed: int = 0, port: int = 0) -> None:
        """Serves from now on, without a fault."""
        self.rpc_url = rpc_url
        self.asked: list[str] = []
        """Methods that were asked for, in order, while a way was playing."""
        self.met: set[str] = set()
        """Names of the ways that changed something that was asked or answered."""
        self._chance = random.Random(seed)
        self._ways: tuple[Way, ...] = ()
        self._guard = threading.RLock()
        self._here = threading.local()
        node = self

        class Handler(_Handler):
            def answer(self, request: Request) -> Reply | None:
                return node.reply(request)

            def finish(self) -> None:
                try:
                    super().finish()
                finally:
                    node.let_go()

        self._server = _Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def play(self, *ways: type[Way]) -> None:
        """From now on it has these ways, the first outermost; without any it is without a fault."""
        with self._guard:
            chance = random.Random(self._chance.random())
            self._ways = tuple(one(self.ask, chance) for one in ways)

    @contextlib.contextmanager
    def playing(self, *ways: type[Way]) -> Iterator[None]:
        """It has these ways for the length of a block."""
        self.play(*ways)
        try:
            yield
        finally:
            self.play()

    def ask(self, method: str, *params: object) -> Json:
        """Ask the real node: an object with `result` or `error`. Raises Away."""
        question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = json.loads(self._hand_on(json.dumps(question).encode()).body)
        return {key: answer[key] for key in ("result", "error") if key in answer}

    def reply(self, request: Request) -> Reply | None:
        """The answer to a request; None drops the connection."""
        ways = self._ways
        if not ways:
            with contextlib.suppress(Away):
                return self._hand_on(request.body)
            return None
        with self._guard:  # ways remember what they said; one request at a time is what they understand
            try:
                return self._around(ways, "exchange", partial(self._spoken, ways))(request)
            except Away:
                return None

    def let_go(self) -> None:
        """Close this thread's connection to the real node."""
        kept: tuple[str, HTTPConnection] | None = getattr(self._here, "kept", None)
        if kept is not None:
            kept[1].close()
            self._here.kept = None

    def _spoken(self, ways: tuple[Way, ...], request: Request) -> Reply:
        try:
            message = json.loads(request.body)
        except ValueError:
            return said({"jsonrpc": "2.0", "id": None, **error(PARSE_ERROR, "parse error")})
        return said(self._around(ways, "message", partial(self._answered, ways))(message))

    def _answered(self, ways: tuple[Way, ...], message: Json) -> Json:
        if isinstance(message, list):
            return [self._answered(ways, one) for one in message]
        call = Call(method=message["method"], params=message.get("params", []))
        self.asked.append(call.method)
        answer = self._around(ways, "call", self._asked)(call)
        return {"jsonrpc": "2.0", "id": message.get("id"), **answer}

    def _asked(self, call: Call) -> Json:
        return self.ask(call.method, *call.params)

    def _around(self, ways: tuple[Way, ...], layer: str, inmost: Callable[[A], B]) -> Callable[[A], B]:
        """The ways' hands in one layer of an exchange, around what is inside of them all."""
        for one in reversed(ways):
            inmost = partial(self._watched, one, getattr(one, layer), inmost)
        return inmost

    def _watched(self, way: Way, hand: Callable[..., B], inside: Callable[[A], B], asked: A) -> B:
        """Let a way answer, and note whether it did anything."""
        within: list[tuple[A, str]] = []

        def go_on(one: A) -> B:
            answer = inside(one)
            within.append((one, repr(answer)))
            return answer

        answer = hand(asked, go_on)
        if within != [(asked, repr(answer))]:
            self.met.add(way.name)
        return answer

    def _hand_on(self, body: bytes) -> Reply:
        """Ask the real node over this thread's connection, which is opened again once if it was closed meanwhile."""
        for is_last in (False, True):
            where = urlsplit(self.rpc_url)
            kept: tuple[str, HTTPConnection] | None = getattr(self._here, "kept", None)
            if kept is None or kept[0] != self.rpc_url:
                self.let_go()
                kept = self.rpc_url, HTTPConnection(str(where.hostname), where.port, timeout=TIMEOUT_S)
                self._here.kept = kept
            try:
                kept[1].request("POST", "/", body, {"Content-Type": "application/json"})
                response = kept[1].getresponse()
                return Reply(
                    status=response.status,
                    headers={"Content-Type": response.headers.get("Content-Type", "application/json")},
                    body=response.read(),
                )
            except (OSError, HTTPException) as trouble:
                self.let_go()
                if is_last:
                    raise Away from trouble
        raise AssertionError("the loop returns or raises")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is nobody's fault; anything else is a fault of a way's, and is shown."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body leave apart, and the body would wait for 40 ms

    def answer(self, request: Request) -> Reply | None:
        raise NotImplementedError

    def do_POST(self) -> None:
        try:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        except (TypeError, ValueError):
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.answer(Request(path=self.path, headers=headers, body=body))
        if reply is None:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.ends == "length":
            self.send_header("Content-Length", str(len(reply.body)))
        elif reply.ends == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(_in_chunks(reply.body) if reply.ends == "chunks" else reply.body)
        if reply.closes or reply.ends == "close":
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _in_chunks(body: bytes, size: int = 100) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
