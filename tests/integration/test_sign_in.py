"""Sign-in attacked: what a stranger, or somebody who has seen a signature, makes of challenges, logins and sign-ups."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from eth_account.signers.local import LocalAccount

from tests.support.api import Answer, Client, challenged, new_wallet, proxy_event, sign, signed_in
from tests.support.fixtures import LoadApi
from tests.support.market import Market

CHALLENGE, SIGN_UP, LOG_IN = "/api/v1/auth/challenge", "/api/v1/auth/signup", "/api/v1/auth/login"


@pytest.fixture
def wallet() -> LocalAccount:
    return new_wallet()


def signed(wallet: LocalAccount, message: str, **more: str) -> dict[str, str]:
    return {"wallet_address": wallet.address, "signature": sign(wallet, message), **more}


# ------------------------------------------------------------------------------------------------ EIP-4361

CHANGES = {
    "domain": (r"^energy\.example ", "evil.example "),
    "address": (r"\n0x\w{40}\n", "\n0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed\n"),
    "statement": (r"moves nothing", "moves everything"),
    "URI": (r"URI: https://energy\.example", "URI: https://evil.example"),
    "version": (r"Version: 1", "Version: 2"),
    "chain id": (r"Chain ID: 31337", "Chain ID: 1"),
    "nonce": (r"Nonce: \w+", "Nonce: 0123456789abcdef0123456789abcdef"),
    "issued at": (r"Issued At: \d{4}", "Issued At: 2020"),
    "expiry": (r"Expiration Time: \d{4}", "Expiration Time: 2999"),
    "a line more": (r"$", "\nResources:\n- https://evil.example"),
    "a line break": (r"$", "\n"),
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_text_that_differs_in_one_field_signs_nobody_in(auth: Client, wallet: LocalAccount, field: str) -> None:
    opened = auth.post(CHALLENGE, {"wallet_address": wallet.address}).json
    pattern, changed = CHANGES[field]
    forged = re.sub(pattern, changed, opened["message"], count=1)
    assert forged != opened["message"]
    for path in (SIGN_UP, LOG_IN):
        for nonce in ({}, {"nonce": opened["nonce"]}):
            assert auth.post(path, signed(wallet, forged, **nonce)).refusal == (401, "invalid_signature")
    assert auth.post(SIGN_UP, signed(wallet, opened["message"])).status == 201


@pytest.mark.parametrize(
    "setting",
    [("SIGN_IN_DOMAIN", "evil.example"), ("SIGN_IN_URI", "https://evil.example"), ("CHAIN_ID", "1")],
)
def test_a_challenge_of_another_service_is_none_here(
    load_api: LoadApi, auth: Client, wallet: LocalAccount, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str]
) -> None:
    """Though it lies in the same database, as one does whose domain or chain was changed a moment ago."""
    monkeypatch.setenv(*setting)
    other = load_api("auth_api")
    body = challenged(other, wallet)
    assert auth.post(SIGN_UP, body).refusal == (401, "invalid_signature")
    assert other.post(SIGN_UP, body).status == 201


def test_a_challenge_counts_by_the_databases_clock(auth: Client, wallet: LocalAccount, market: Market) -> None:
    body = challenged(auth, wallet)
    market.sql("UPDATE challenges SET expires_at = now() - interval '1 microsecond'")
    assert auth.post(SIGN_UP, body).refusal == (401, "invalid_signature")
    market.sql("UPDATE challenges SET expires_at = now() + interval '1 minute'")
    assert auth.post(SIGN_UP, body).status == 201


def test_a_signature_that_signed_up_does_not_log_in(auth: Client, wallet: LocalAccount) -> None:
    body = challenged(auth, wallet)
    assert auth.post(SIGN_UP, body).status == 201
    assert auth.post(LOG_IN, body).refusal == (401, "invalid_signature")


# ------------------------------------------------------------------------------------------------ locking others out


def test_challenges_that_strangers_ask_for_lock_nobody_out(auth: Client, wallet: LocalAccount) -> None:
    """Not even whoever knows only the specification's body, which names no nonce."""

    def flood() -> None:
        for number in range(30):
            assert auth.post(CHALLENGE, {"wallet_address": wallet.address}, ip=f"198.51.100.{number}").status == 200

    flood()
    message = auth.post(CHALLENGE, {"wallet_address": wallet.address}).json["message"]
    flood()
    assert auth.post(SIGN_UP, signed(wallet, message)).status == 201


def test_from_another_address_the_nonce_says_which(auth: Client, wallet: LocalAccount) -> None:
    """As of a telephone that has left the house between the two requests."""
    opened = auth.post(CHALLENGE, {"wallet_address": wallet.address}).json
    for number in range(30):
        auth.post(CHALLENGE, {"wallet_address": wallet.address}, ip=f"198.51.100.{number}")
    body = signed(wallet, opened["message"], nonce=opened["nonce"])
    assert auth.post(SIGN_UP, body, ip="192.0.2.77").status == 201


# ------------------------------------------------------------------------------------------------ who is a user

ROUNDS = 150


@contextmanager
def listening(auth: Client) -> Iterator[list[str]]:
    """The statements that the function's connection says within the block."""
    said: list[str] = []

    class Recording(psycopg.Cursor[Any]):
        def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 -- as psycopg has it
            said.append(str(query))
            return super().execute(query, *arguments, **options)

    connection = auth.module.database.statement(lambda conn: conn)
    connection.cursor_factory = Recording
    yield said
    connection.cursor_factory = psycopg.Cursor


@pytest.fixture
def two_wallets(auth: Client) -> tuple[LocalAccount, LocalAccount]:
    """One that is registered, and one that is not."""
    return signed_in(auth).wallet, new_wallet()


def guesses(wallet: LocalAccount, message: str) -> dict[str, tuple[str, dict[str, str]]]:
    """What a stranger can send of a wallet whose key he has not."""
    mallory = new_wallet()
    forged = {"wallet_address": wallet.address, "signature": sign(mallory, message)}
    return {
        "a challenge": (CHALLENGE, {"wallet_address": wallet.address}),
        "a login": (LOG_IN, forged),
        "a sign-up": (SIGN_UP, forged),
    }


@pytest.mark.parametrize("what", ["a challenge", "a login", "a sign-up"])
def test_of_a_wallet_that_is_a_user_and_one_that_is_none_the_same_is_asked_and_answered(
    auth: Client, two_wallets: tuple[LocalAccount, LocalAccount], what: str
) -> None:
    answers, statements = [], []
    for wallet in two_wallets:
        message = auth.post(CHALLENGE, {"wallet_address": wallet.address}).json["message"]
        path, body = guesses(wallet, message)[what]
        with listening(auth) as asked:
            answer = auth.post(path, body)
        statements.append(asked)
        answers.append((answer.status, set(answer.headers), answer.text if answer.status != 200 else set(answer.json)))
    assert statements[0] == statements[1]
    assert len(statements[0]) >= 1
    assert answers[0] == answers[1]


@pytest.mark.parametrize("what", ["a challenge", "a login", "a sign-up"])
def test_time_does_not_tell_who_is_a_user(
    auth: Client, two_wallets: tuple[LocalAccount, LocalAccount], what: str
) -> None:
    """Asked in turn, which of the two takes longer is a coin's toss; a query more would make it nearly certain."""
    requests: list[Callable[[], float]] = []
    for wallet in two_wallets:
        message = auth.post(CHALLENGE, {"wallet_address": wallet.address}).json["message"]
        path, body = guesses(wallet, message)[what]
        requests.append(timed(auth, path, body))
    slower = [0.0, 0.0]
    for number in range(-20, ROUNDS):
        order = (0, 1) if number % 2 else (1, 0)
        took = {which: requests[which]() for which in order}
        if number >= 0:
            slower[0 if took[0] > took[1] else 1] += 1
    # 150 tosses: further from the middle than this once in 100,000 times.
    assert 0.32 < slower[0] / ROUNDS < 0.68, slower


def timed(auth: Client, path: str, body: dict[str, str]) -> Callable[[], float]:
    event = proxy_event(
        method="POST",
        path=path,
        resource_paths=auth.module.app.routes,
        headers={"Content-Type": "application/json"},
        query={},
        body=json.dumps(body),
        base64=False,
        ip="203.0.113.7",
    )

    def send() -> float:
        began = time.perf_counter()
        auth.module.app(event, None)
        return time.perf_counter() - began

    return send


def test_only_the_owner_of_a_wallet_is_told_that_it_is_registered(auth: Client) -> None:
    owner = signed_in(auth).wallet
    assert auth.post(SIGN_UP, challenged(auth, owner)).refusal == (409, "wallet_already_registered")
    forged = challenged(auth, owner) | {"signature": sign(new_wallet(), "anything")}
    assert auth.post(SIGN_UP, forged).refusal == (401, "invalid_signature")


def test_a_login_of_somebody_unknown_leaves_his_challenge_for_a_sign_up(auth: Client, wallet: LocalAccount) -> None:
    body = challenged(auth, wallet)
    assert [auth.post(LOG_IN, body).refusal for _ in range(2)] == [(401, "invalid_signature")] * 2
    assert auth.post(SIGN_UP, body).status == 201


# ------------------------------------------------------------------------------------------------ sessions' ends


def me(auth: Client, token: str) -> Answer:
    return auth.get("/api/v1/auth/me", token=token)


def test_an_access_token_ends_with_its_session_in_every_function(load_api: LoadApi, auth: Client) -> None:
    person = signed_in(auth)
    other = auth.post(LOG_IN, challenged(auth, person.wallet)).json
    market = load_api("market_api")

    def ask(token: str) -> list[Answer]:
        return [me(auth, token), market.get("/api/v1/market/price", token=token)]

    assert [answer.status for answer in ask(person.token)] == [200, 200]
    auth.post("/api/v1/auth/logout", {"refresh_token": person.refresh_token})
    assert [answer.refusal for answer in ask(person.token)] == [(401, "session_ended")] * 2
    assert [answer.status for answer in ask(other["access_token"])] == [200, 200]


def test_a_stolen_refresh_token_that_is_noticed_ends_the_access_tokens_too(auth: Client, market: Market) -> None:
    person = signed_in(auth)
    thief = auth.post("/api/v1/auth/refresh", {"refresh_token": person.refresh_token}).json
    assert [me(auth, token).status for token in (person.token, thief["access_token"])] == [200, 200]
    market.sql("UPDATE refresh_tokens SET rotated_at = now() - interval '11 minutes'")
    assert auth.post("/api/v1/auth/refresh", {"refresh_token": person.refresh_token}).status == 401
    for token in (person.token, thief["access_token"]):
        assert me(auth, token).refusal == (401, "session_ended")


def test_a_refreshed_session_keeps_its_earlier_access_token_until_that_expires(auth: Client) -> None:
    person = signed_in(auth)
    auth.post("/api/v1/auth/refresh", {"refresh_token": person.refresh_token})
    assert me(auth, person.token).status == 200


def test_the_oldest_of_too_many_sessions_ends_with_its_access_token(auth: Client, market: Market) -> None:
    person = signed_in(auth)
    market.sql(
        "INSERT INTO refresh_tokens (user_id, token_hash, created_at, expires_at)"
        " SELECT user_id, '', created_at + interval '1 second', expires_at FROM refresh_tokens, generate_series(1, 49)"
    )
    assert me(auth, person.token).status == 200
    assert auth.post(LOG_IN, challenged(auth, person.wallet)).status == 200
    assert me(auth, person.token).refusal == (401, "session_ended")


def test_a_removed_users_tokens_are_of_no_use(auth: Client, market: Market) -> None:
    person = signed_in(auth)
    market.sql("DELETE FROM refresh_tokens")
    market.sql("DELETE FROM users")
    assert me(auth, person.token).refusal == (401, "session_ended")
    body = {"refresh_token": person.refresh_token}
    assert auth.post("/api/v1/auth/refresh", body).refusal == (401, "invalid_refresh_token")
    assert auth.post(LOG_IN, challenged(auth, person.wallet)).refusal == (401, "invalid_signature")
