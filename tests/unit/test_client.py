"""The community's client against a server that answers as scripted."""

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct

from energy_market_client import transport
from energy_market_client.answers import energy_wh, nano_tokens
from energy_market_client.errors import ApiError, UnreachableError
from energy_market_client.market_client import MarketClient


@dataclass(slots=True)
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass(slots=True)
class Script:
    """The answers to give, one after the other: (status, body, headers); a status of 0 hangs up."""

    url: str = ""
    answers: deque[tuple[int, Any, dict[str, str]]] = field(default_factory=deque)
    asked: list[Asked] = field(default_factory=list)

    def then(self, status: int, body: object = None, **headers: str) -> "Script":
        self.answers.append((status, body, {name.replace("_", "-"): value for name, value in headers.items()}))
        return self


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.setattr(transport, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(transport, "LONGEST_PAUSE_S", 0.002)
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(raw) if raw else None
            script.asked.append(Asked(self.command, self.path, dict(self.headers.items()), body))
            status, answer, headers = script.answers.popleft()
            if status == 0:
                self.close_connection = True
                return
            text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _answer  # noqa: N815 - as http.server wants it

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}/stage"
    yield script
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def market(script: Script) -> Iterator[MarketClient]:
    market = MarketClient(script.url)
    yield market
    market.close()


def refusal(code: str) -> dict[str, str]:
    return {"error": "A sentence.", "code": code}


def test_numbers_keep_all_their_digits(script: Script, market: MarketClient) -> None:
    script.then(200, b'{"kwh": 0.123, "tokens": 0.000000001}')
    answer = market.get("/x")
    assert answer == {"kwh": Decimal("0.123"), "tokens": Decimal("0.000000001")}
    assert energy_wh(answer["kwh"]) == 123
    assert nano_tokens(answer["tokens"]) == 1


def test_the_path_goes_behind_the_stage_of_the_api(script: Script) -> None:
    script.then(200, [])
    market = MarketClient(script.url + "/")
    market.get("/api/v1/market/book", depth=5)
    market.close()
    assert script.asked[0].path == "/stage/api/v1/market/book?depth=5"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 0])
def test_what_may_pass_is_tried_again(script: Script, market: MarketClient, status: int) -> None:
    script.then(status, refusal("x")).then(status, refusal("x")).then(200, {"fine": True})
    assert market.get("/x") == {"fine": True}


def test_a_refusal_is_not_tried_again(script: Script, market: MarketClient) -> None:
    script.then(400, refusal("invalid_kwh_amount"))
    with pytest.raises(ApiError, match="A sentence") as caught:
        market.get("/x")
    assert (caught.value.status, caught.value.code) == (400, "invalid_kwh_amount")


def test_a_gateways_own_words_are_a_refusal_too(script: Script, market: MarketClient) -> None:
    script.then(404, b"<html>no such thing</html>")
    with pytest.raises(ApiError, match="no such thing"):
        market.get("/x")


def test_it_gives_up_in_the_end(script: Script, market: MarketClient) -> None:
    for _ in range(transport.ATTEMPTS):
        script.then(503, refusal("database_unavailable"))
    with pytest.raises(UnreachableError, match="database_unavailable"):
        market.get("/x")


def test_an_order_that_is_sent_again_has_the_same_key_and_body(script: Script, market: MarketClient) -> None:
    script.then(0).then(503, refusal("x")).then(201, {"id": "1"})
    market.place(side="sell", size_wh=250, price_micro=199_000, all_or_none=True)
    assert len({asked.headers["Idempotency-Key"] for asked in script.asked}) == 1
    assert all(asked.body == {"type": "sell", "kwh_amount": 0.25, "token_price": 0.199} for asked in script.asked)


def test_a_partial_order_says_so(script: Script, market: MarketClient) -> None:
    script.then(201, {"id": "1"})
    market.place(side="buy", size_wh=600, price_micro=1, all_or_none=False)
    assert script.asked[0].body == {"type": "buy", "kwh_amount": 0.6, "token_price": 0.000001, "all_or_none": False}


def sign_in(script: Script, market: MarketClient) -> None:
    """Register and log in, over five requests."""
    script.then(200, {"message": "sign this", "nonce": "n"}).then(201, {}).then(
        200, {"message": "and this", "nonce": "n"}
    )
    script.then(200, {"access_token": "a1", "refresh_token": "r1"}).then(200, {"id": "me"})
    market.sign_up()


def test_a_wallet_proves_itself_by_signing_the_challenge(script: Script, market: MarketClient) -> None:
    sign_in(script, market)
    assert market.user_id == "me"
    assert [asked.path.rsplit("/", 1)[-1] for asked in script.asked] == [
        *("challenge", "signup", "challenge", "login", "me")
    ]
    for asked, text in ((script.asked[1], "sign this"), (script.asked[3], "and this")):
        signer = Account.recover_message(encode_defunct(text=text), signature=asked.body["signature"])
        assert signer == market.account.address == asked.body["wallet_address"]
        assert asked.body["nonce"] == "n"
    assert script.asked[4].headers["Authorization"] == "Bearer a1"


def test_a_registered_wallet_just_logs_in(script: Script, market: MarketClient) -> None:
    script.then(200, {"message": "m", "nonce": "n"}).then(409, refusal("wallet_already_registered")).then(
        200, {"message": "m", "nonce": "n"}
    )
    script.then(200, {"access_token": "a", "refresh_token": "r"}).then(200, {"id": "me"})
    market.sign_up()
    assert market.user_id == "me"


def test_a_challenge_that_a_lost_answer_used_up_is_replaced(script: Script, market: MarketClient) -> None:
    script.then(200, {"message": "m", "nonce": "n"}).then(0).then(
        401, refusal("invalid_signature")
    )  # registered, and not heard
    script.then(200, {"message": "m", "nonce": "n"}).then(0).then(
        401, refusal("invalid_signature")
    )  # logged in, and not heard
    script.then(200, {"message": "m", "nonce": "n"}).then(200, {"access_token": "a", "refresh_token": "r"}).then(
        200, {"id": "me"}
    )
    market.sign_up()
    assert market.user_id == "me"


def test_a_server_that_says_how_long_is_given_that_long(
    script: Script, market: MarketClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LONGEST_WAIT_S", 0.1)
    script.then(503, refusal("database_unavailable"), Retry_After="2").then(200, [])
    began = time.monotonic()
    assert market.get("/x") == []
    assert time.monotonic() - began >= 0.1


def test_an_expired_token_is_refreshed_and_the_request_repeated(script: Script, market: MarketClient) -> None:
    sign_in(script, market)
    script.then(401, refusal("token_expired")).then(200, {"access_token": "a2", "refresh_token": "r2"}).then(200, [])
    assert market.my_orders() == []
    refresh, again = script.asked[-2:]
    assert refresh.body == {"refresh_token": "r1"}
    assert again.headers["Authorization"] == "Bearer a2"


def test_a_session_that_cannot_be_refreshed_begins_anew(script: Script, market: MarketClient) -> None:
    sign_in(script, market)
    script.then(401, refusal("token_expired")).then(401, refusal("session_ended")).then(
        200, {"message": "m", "nonce": "n"}
    )
    script.then(200, {"access_token": "a3", "refresh_token": "r3"}).then(200, {"id": "me"}).then(200, [])
    assert market.my_orders() == []
    assert script.asked[-1].headers["Authorization"] == "Bearer a3"


def test_a_token_that_is_refused_twice_is_a_refusal(script: Script, market: MarketClient) -> None:
    sign_in(script, market)
    script.then(401, refusal("token_expired")).then(200, {"access_token": "a2"}).then(401, refusal("invalid_token"))
    with pytest.raises(ApiError, match="invalid_token"):
        market.my_orders()


def test_a_cancel_that_comes_too_late_is_no_error(script: Script, market: MarketClient) -> None:
    script.then(409, refusal("order_not_open")).then(200, {})
    assert not market.cancel("1")
    assert market.cancel("2")


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not an address"):
        MarketClient("market")
