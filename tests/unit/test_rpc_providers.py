"""The JSON-RPC client against the ways of providers: lists, limits inside HTTP 200, words, credentials, proxies."""

import base64
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import pytest

from energy_market.evm.rpc import Behind, Refused, Rpc, TooMuch, Unreachable

Json: TypeAlias = Any
Reply = tuple[int, dict[str, str], bytes]
RATE_LIMIT = {"code": -32005, "message": "exceeded project rate limit"}
KEY = "b1946ac92492d2347c6235b4d2611184"


class Provider:
    """Echoes the first parameter of each call, as far as its ways allow."""

    def __init__(self) -> None:
        self.ways: Callable[[Json], Reply | None] = lambda _: None
        self.sizes: list[int] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        provider = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                provider.connections += 1
                super().setup()

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                provider.sizes.append(len(request) if isinstance(request, list) else 1)
                provider.headers.append(dict(self.headers))
                status, headers, body = provider.ways(request) or answer(request)
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def reply(answers: Json, status: int = 200) -> Reply:
    return status, {}, json.dumps(answers).encode()


def echo(call: Json) -> Json:
    return {"jsonrpc": "2.0", "id": call["id"], "result": call["params"][0]}


def answer(request: Json) -> Reply:
    return reply([echo(one) for one in request] if isinstance(request, list) else echo(request))


def error(id_: Json, code: int, message: str, data: Json = None) -> Json:
    return {"jsonrpc": "2.0", "id": id_, "error": {"code": code, "message": message, "data": data}}


def without_waiting(url: str) -> Rpc:
    """Only its pauses take of its time: with little of that left the last answer would come too late."""
    slept: list[float] = []
    return Rpc(url, budget_s=3.0, monotonic=lambda: sum(slept), sleep=slept.append)


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.stop()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def rpc(provider: Provider, pauses: list[float]) -> Iterator[Rpc]:
    """Sleeps in no time, and as long as the backoff allows."""
    rpc = Rpc(f"http://{provider.address}/v3/{KEY}", timeout_s=1.0, sleep=pauses.append, chance=lambda: 1.0)
    yield rpc
    rpc.close()


def calls(number: int) -> list[tuple[str, list[object]]]:
    return [("echo", [n]) for n in range(number)]


# ------------------------------------------------------------------------------------------------ lists of calls


def not_more_than(most: int, refusal: Callable[[Json], Reply]) -> Callable[[Json], Reply | None]:
    return lambda request: refusal(request) if isinstance(request, list) and len(request) > most else None


LIST_REFUSALS: dict[str, Callable[[Json], Reply]] = {
    "one error with id null": lambda _: reply(error(None, -32600, "batch of more than allowed calls")),
    "one error without an id": lambda _: reply({"error": {"code": -32014, "message": "Batch size too large"}}),
    "an unknown word": lambda _: reply(error(None, -1, "nope")),
    "HTTP 413": lambda _: (413, {}, b"Request Entity Too Large"),
    "HTTP 400": lambda _: (400, {}, b"batching is for paying customers"),
    "HTTP 403": lambda _: (403, {}, b"<html>Forbidden</html>"),
    "an error each": lambda request: reply([error(one["id"], -32000, "batch limit 3") for one in request]),
    "an error for the first call, as geth": lambda request: reply([error(request[0]["id"], -32600, "batch too large")]),
    "an error for what is over the size, as geth": lambda request: reply(
        [echo(one) for one in request[:3]] + [error(one["id"], -32003, "response too large") for one in request[3:]]
    ),
    "the connection ends, as Erigon": lambda _: (0, {}, b""),
    "an empty list": lambda _: reply([]),
    "an answer shorter than asked": lambda request: reply([echo(one) for one in request[:3]]),
    "only the first call is read": lambda request: reply(echo(request[0])),
    "HTTP 500": lambda _: (500, {}, b"oops"),
    "an HTML page": lambda _: (200, {}, b"<html>sorry</html>"),
}


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("way", LIST_REFUSALS)
def test_lists_are_made_as_short_as_the_provider_wants_them_and_stay_so(
    provider: Provider, rpc: Rpc, way: str, most: int
) -> None:
    provider.ways = not_more_than(most, LIST_REFUSALS[way])
    assert rpc.call_many(calls(7)) == list(range(7))
    provider.sizes.clear()
    assert rpc.call_many(calls(7)) == list(range(7))
    answers_three = "shorter" in way or "over the size" in way
    assert max(provider.sizes) <= (3 if answers_three else most), "it remembers"


def test_longer_lists_are_tried_again_after_a_while(provider: Provider) -> None:
    now = [0.0]
    rpc = Rpc(f"http://{provider.address}", monotonic=lambda: now[0], sleep=lambda _: None, budget_s=10_000)
    provider.ways = not_more_than(3, LIST_REFUSALS["HTTP 413"])
    rpc.call_many(calls(7))
    provider.ways = lambda _: None
    now[0] = 700.0
    provider.sizes.clear()
    assert rpc.call_many(calls(7)) == list(range(7))
    assert provider.sizes == [7]
    rpc.close()


def test_a_dead_part_of_a_list_costs_only_that_part(provider: Provider, rpc: Rpc) -> None:
    def ways(request: Json) -> Reply:
        def one(call: Json) -> Json:
            return error(call["id"], -32601, "the method does not exist") if call["params"][0] == 2 else echo(call)

        return reply([one(call) for call in request] if isinstance(request, list) else one(request))

    provider.ways = ways
    answers = rpc.call_many(calls(5))
    assert [one for one in answers if not isinstance(one, Refused)] == [0, 1, 3, 4]
    assert isinstance(answers[2], Refused)
    assert answers[2].message == "the method does not exist"


def test_ids_that_come_back_as_text_or_with_a_point_are_the_same_ids(provider: Provider, rpc: Rpc) -> None:
    for change in (str, float):
        provider.ways = lambda request, change=change: reply(  # type: ignore[misc]
            [echo(one) | {"id": change(one["id"])} for one in reversed(request)]
            if isinstance(request, list)
            else echo(request) | {"id": change(request["id"])}
        )
        assert rpc.call_many(calls(3)) == [0, 1, 2]
        assert rpc.call("echo", 7) == 7


# ------------------------------------------------------------------------------------------------ "later"


@pytest.mark.parametrize(
    "refusal",
    [
        RATE_LIMIT,
        {"code": 429, "message": "Your app has exceeded its compute units per second capacity"},
        {"code": -32029, "message": "too many requests"},
        {"code": -32007, "message": "15/second request limit reached - reduce calls per second"},
        {"code": -32016, "message": "over rate limit"},
        {"code": -32000, "message": "daily request count exceeded, request rate limited"},
        {"code": -32005, "message": "limit exceeded"},
        {"code": -32603, "message": "Internal error"},
        {"code": -32000, "message": "Server is busy"},
        {"code": -32000, "message": "request timed out"},
    ],
)
def test_a_refusal_that_means_later_is_asked_again(provider: Provider, rpc: Rpc, refusal: Json) -> None:
    times = iter(range(100))

    def ways(request: Json) -> Reply | None:
        if next(times) >= 3:
            return None
        return reply(error(request["id"], refusal["code"], refusal["message"]))

    provider.ways = ways
    assert rpc.call("echo", 7) == 7


def test_some_of_a_list_that_are_refused_for_now_are_asked_again_and_the_others_are_not(
    provider: Provider, rpc: Rpc, pauses: list[float]
) -> None:
    def ways(request: Json) -> Reply | None:
        if not isinstance(request, list):
            return None
        return reply(
            [error(one["id"], -32005, "rate limited") if n % 2 else echo(one) for n, one in enumerate(request)]
        )

    provider.ways = ways
    assert rpc.call_many(calls(4)) == [0, 1, 2, 3]
    assert provider.sizes == [4, 2, 1]
    assert pauses == [0.1, 0.2]


def test_a_limit_that_stays_ends_with_the_budget_and_in_the_providers_own_words(provider: Provider) -> None:
    now = [0.0]
    rpc = Rpc(
        f"http://{provider.address}",
        budget_s=5.0,
        monotonic=lambda: now[0],
        sleep=lambda s: now.__setitem__(0, now[0] + s),
        chance=lambda: 1.0,
    )
    provider.ways = lambda request: reply(error(request["id"], **RATE_LIMIT))  # type: ignore[arg-type]
    with pytest.raises(Unreachable, match="exceeded project rate limit"):
        rpc.call("echo", 7)
    assert now[0] < 5
    rpc.close()


@pytest.mark.parametrize("status", [429, 503])
def test_as_long_is_waited_as_the_provider_asks_for(
    provider: Provider, rpc: Rpc, pauses: list[float], status: int
) -> None:
    replies: list[Reply | None] = [(status, {"Retry-After": "3"}, b"slow down"), None]
    provider.ways = lambda _: replies.pop(0)
    assert rpc.call("echo", 7) == 7
    assert pauses == [3.0]


def test_a_wait_beyond_the_budget_is_not_begun(provider: Provider, rpc: Rpc, pauses: list[float]) -> None:
    provider.ways = lambda _: (429, {"Retry-After": "3600"}, b"come back in an hour")
    with pytest.raises(Unreachable, match="come back in an hour"):
        rpc.call("echo", 7)
    assert pauses == []


@pytest.mark.parametrize(
    ("code", "message", "data"),
    [
        (-32005, "query returned more than 10000 results", None),
        (-32602, "range 1000000 exceeds limit of 10000", None),
        (-32602, "invalid params", {"payload": "range 9009594 is bigger than range limit 2000"}),
        (-32000, "Log response size exceeded. Please retry with a smaller block range", None),
        (-32003, "out of gas: gas required exceeds allowance: 550000000", None),
        (-32005, "Transaction gas limit exceeds block gas limit", None),
        (3, "execution reverted: rate limit, try again later", "0x08c379a0"),
        (-32000, "Execution reverted", None),
    ],
)
def test_a_refusal_that_the_same_question_would_meet_again_is_believed_at_once(
    provider: Provider, rpc: Rpc, code: int, message: str, data: Json
) -> None:
    provider.ways = lambda request: reply(error(request["id"], code, message, data))
    with pytest.raises(Refused, match=message.split(maxsplit=1)[0]) as caught:
        rpc.call("echo", 7)
    assert caught.value.code == code
    assert provider.sizes == [1]
    if isinstance(data, dict):
        assert "range limit 2000" in caught.value.message, "some put what they mean into data"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-32000, "header not found"),
        (-32000, "header for hash not found"),
        (-32001, "Unknown block number"),
        (-39001, "Unknown block"),
        (-32000, "block #12345678 not found"),
        (-32602, "block range extends beyond current head block"),
    ],
)
def test_a_block_that_one_node_does_not_know_yet_is_asked_for_again(
    provider: Provider, rpc: Rpc, code: int, message: str
) -> None:
    times = iter(range(100))
    provider.ways = lambda request: None if next(times) == 3 else reply(error(request["id"], code, message))
    assert rpc.call("echo", 7) == 7
    with pytest.raises(Behind):
        rpc.call("echo", 7)


def test_null_for_what_is_known_to_exist_is_asked_for_again(provider: Provider, rpc: Rpc) -> None:
    times = iter(range(100))

    def ways(request: Json) -> Reply | None:
        return reply([one | {"result": None} for one in request]) if next(times) < 2 else None

    provider.ways = ways
    assert rpc.call_many(calls(2), present=True) == [0, 1]
    assert rpc.call_many([("echo", [None])]) == [None]


# ------------------------------------------------------------------------------------------------ words, HTTP


def test_the_other_sides_words_are_in_the_error_and_nothing_that_the_address_hides(provider: Provider) -> None:
    address = f"http://somebody:pass%21word@{provider.address}/v3/{KEY}/x?token=sesame42"
    rpc = without_waiting(address)
    told = f"who is somebody with pass!word (pass%21word) at /v3/{KEY.upper()}/x?token=sesame42? " + "long " * 1000
    provider.ways = lambda _: (404, {}, told.encode())
    with pytest.raises(Unreachable) as caught:
        rpc.call("echo", 7)
    said = str(caught.value)
    assert "HTTP status 404 (there is no node at this path): who is *** with ***" in said
    assert not any(secret in said.lower() for secret in ("somebody", "pass!word", "pass%21", KEY, "sesame42"))
    assert len(said) < 500
    provider.ways = lambda request: reply(error(request["id"], -32000, f"the key {KEY} may not do this"))
    with pytest.raises(Refused, match=r"the key \*\*\* may not do this"):
        rpc.call("echo", 7)
    rpc.close()


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (401, b"", r"HTTP status 401 \(it wants other credentials than RpcUrl has\), without a word"),
        (403, b"<html><style>p{}</style><p>Access denied</p></html>", r"HTTP status 403 .*: Access denied"),
        (404, b"not here", r"HTTP status 404 \(there is no node at this path\): not here"),
        (502, b"<h1>Bad Gateway</h1>", "HTTP status 502: Bad Gateway"),
        (200, b"<html>Sign in</html>", "no JSON: Sign in"),
        (200, b"", "no JSON, without a word"),
        (200, b'"hello"', 'not to what was asked: "hello"'),
        (400, b"bad request", "HTTP status 400: bad request"),
        (413, b"too large", "HTTP status 413: too large"),
    ],
)
def test_every_answer_that_is_none_is_a_sentence(provider: Provider, status: int, body: bytes, sentence: str) -> None:
    rpc = without_waiting(f"http://{provider.address}")
    provider.ways = lambda _: (status, {}, body)
    with pytest.raises((Unreachable, Refused), match=sentence):
        rpc.call("echo", 7)
    rpc.close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_names_the_host_alone(provider: Provider, status: int) -> None:
    rpc = without_waiting(f"http://{provider.address}/v3/{KEY}")
    provider.ways = lambda _: (status, {"Location": f"https://other.example/v3/{KEY}"}, b"")
    with pytest.raises(Unreachable, match=rf"redirects \(HTTP status {status}\) to https://other\.example: ") as caught:
        rpc.call("echo", 7)
    assert KEY not in str(caught.value)
    rpc.close()


def test_user_and_password_of_the_address_are_sent_and_so_is_a_user_agent(provider: Provider) -> None:
    rpc = Rpc(f"http://some%40body:pass%3Aword@{provider.address}")
    assert rpc.call("echo", 7) == 7
    ((headers),) = provider.headers
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"some@body:pass:word").decode()
    assert headers["User-Agent"] == "energy-market"
    rpc.close()


def test_an_answer_that_is_packed_though_nobody_asked_is_read(provider: Provider, rpc: Rpc) -> None:
    provider.ways = lambda request: (200, {"Content-Encoding": "gzip"}, gzip.compress(answer(request)[2]))
    assert rpc.call("echo", 7) == 7
    provider.ways = lambda request: (200, {"Content-Encoding": "br"}, answer(request)[2])
    rpc.start_budget(0.2)
    with pytest.raises(Unreachable, match="packed as br"):
        rpc.call("echo", 7)


def test_a_connection_is_kept_and_one_that_the_proxy_ended_meanwhile_costs_no_pause(
    provider: Provider, rpc: Rpc, pauses: list[float]
) -> None:
    assert [rpc.call("echo", n) for n in range(3)] == [0, 1, 2]
    assert provider.connections == 1
    times = iter(range(100))
    provider.ways = lambda _: (0, {}, b"") if next(times) == 0 else None
    assert rpc.call("echo", 7) == 7
    assert (provider.connections, pauses) == (2, [])


def test_what_is_too_large_for_one_call_is_a_refusal_of_that_call(provider: Provider, rpc: Rpc) -> None:
    provider.ways = lambda _: (413, {}, b"request too large")
    with pytest.raises(TooMuch, match="request too large"):
        rpc.call("echo", 7)
    assert provider.sizes == [1]
