"""Sign-in, sessions and the profile, over the API's edge and on a real database."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import psycopg
import pytest

from energy_market.config import ConfigurationError
from energy_market.domain import tokens
from tests.support.api import ENVIRONMENT, Answer, Client, challenged, new_wallet, sign, signed_in

KEYS: dict[str, str] = json.loads(ENVIRONMENT["JWT_KEYS"])


@pytest.fixture
def rows(database_url: str) -> Iterator[Callable[[str], list[tuple[object, ...]]]]:
    """Look at the database, or push its clock, from outside."""
    with psycopg.connect(database_url, autocommit=True) as conn:

        def run(statement: str) -> list[tuple[object, ...]]:
            cursor = conn.execute(statement)
            return cursor.fetchall() if cursor.description else []

        yield run


Rows = Callable[[str], list[tuple[object, ...]]]


def test_a_challenge_is_a_text_for_this_wallet_and_this_service(auth: Client) -> None:
    wallet = new_wallet()
    answer = auth.post("/api/v1/auth/challenge", {"wallet_address": wallet.address.lower()})
    assert answer.status == 200
    assert set(answer.json) == {"message", "nonce", "expires_at"}
    lines = answer.json["message"].split("\n")
    assert lines[0] == "energy.example wants you to sign in with your Ethereum account:"
    assert lines[1] == wallet.address
    assert "URI: https://energy.example" in lines
    assert "Chain ID: 31337" in lines
    assert f"Nonce: {answer.json['nonce']}" in lines
    life = datetime.fromisoformat(answer.json["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=4, seconds=50) < life <= timedelta(minutes=5, seconds=1)


def test_signing_up_answers_with_the_user(auth: Client) -> None:
    wallet = new_wallet()
    answer = auth.post("/api/v1/auth/signup", challenged(auth, wallet))
    assert answer.status == 201
    user = answer.json
    assert set(user) == {"id", "wallet_address", "role", "roles", "zone", "location", "kyc_status", "created_at"}
    assert user["wallet_address"] == wallet.address
    assert (user["role"], user["roles"], user["zone"], user["location"]) == (
        "Recipient",
        ["Recipient"],
        "default",
        None,
    )
    assert user["kyc_status"] == "Unverified"


def test_signing_up_twice_is_a_conflict(auth: Client) -> None:
    wallet = new_wallet()
    assert auth.post("/api/v1/auth/signup", challenged(auth, wallet)).status == 201
    again = auth.post("/api/v1/auth/signup", challenged(auth, wallet))
    assert again.refusal == (409, "wallet_already_registered")


def test_a_signature_signs_in_once(auth: Client) -> None:
    signed = signed_in(auth)
    body = challenged(auth, signed.wallet)
    assert auth.post("/api/v1/auth/login", body).status == 200
    assert auth.post("/api/v1/auth/login", body).refusal == (401, "invalid_signature")


def test_of_two_logins_at_once_with_one_signature_one_succeeds(auth: Client, load_api: Callable[[str], Client]) -> None:
    signed = signed_in(auth)
    body = challenged(auth, signed.wallet)
    sandboxes = [load_api("auth_api") for _ in range(2)]
    answers = at_once([partial(sandbox.post, "/api/v1/auth/login", body) for sandbox in sandboxes])
    assert sorted(answer.status for answer in answers) == [200, 401]


def test_an_unknown_wallet_is_answered_like_a_bad_signature(auth: Client) -> None:
    stranger = auth.post("/api/v1/auth/login", challenged(auth, new_wallet()))
    signed = signed_in(auth)
    forged = challenged(auth, signed.wallet) | {"signature": sign(new_wallet(), "something else")}
    bad = auth.post("/api/v1/auth/login", forged)
    assert (stranger.status, stranger.json) == (bad.status, bad.json)
    assert bad.refusal == (401, "invalid_signature")


def test_a_signature_of_another_message_does_not_sign_in(auth: Client) -> None:
    wallet = new_wallet()
    opened = auth.post("/api/v1/auth/challenge", {"wallet_address": wallet.address}).json
    signature = sign(wallet, opened["message"].replace("energy.example", "evil.example"))
    answer = auth.post("/api/v1/auth/signup", {"wallet_address": wallet.address, "signature": signature})
    assert answer.refusal == (401, "invalid_signature")


def test_the_signature_of_one_wallet_does_not_sign_in_another(auth: Client) -> None:
    mallory, alice = new_wallet(), new_wallet()
    opened = auth.post("/api/v1/auth/challenge", {"wallet_address": alice.address}).json
    body = {"wallet_address": alice.address, "signature": sign(mallory, opened["message"])}
    assert auth.post("/api/v1/auth/signup", body).refusal == (401, "invalid_signature")


def test_somebody_elses_challenges_do_not_lock_out_who_names_his_own(auth: Client) -> None:
    wallet = new_wallet()
    mine = auth.post("/api/v1/auth/challenge", {"wallet_address": wallet.address}).json
    for _ in range(6):
        auth.post("/api/v1/auth/challenge", {"wallet_address": wallet.address})
    body = {"wallet_address": wallet.address, "signature": sign(wallet, mine["message"])}
    assert auth.post("/api/v1/auth/signup", body).refusal == (401, "invalid_signature")
    assert auth.post("/api/v1/auth/signup", body | {"nonce": mine["nonce"]}).status == 201


def test_without_a_nonce_any_of_the_newest_five_challenges_may_be_signed(auth: Client) -> None:
    wallet = new_wallet()
    mine = auth.post("/api/v1/auth/challenge", {"wallet_address": wallet.address}).json
    for _ in range(4):
        auth.post("/api/v1/auth/challenge", {"wallet_address": wallet.address})
    body = {"wallet_address": wallet.address, "signature": sign(wallet, mine["message"])}
    assert auth.post("/api/v1/auth/signup", body).status == 201


def test_a_challenge_expires_and_is_swept_away(auth: Client, rows: Rows) -> None:
    wallet = new_wallet()
    body = challenged(auth, wallet)
    rows("UPDATE challenges SET expires_at = now()")
    assert auth.post("/api/v1/auth/signup", body).refusal == (401, "invalid_signature")
    auth.post("/api/v1/auth/challenge", {"wallet_address": wallet.address})
    assert rows("SELECT count(*) FROM challenges") == [(1,)]


def test_an_address_with_a_wrong_checksum_is_refused(auth: Client) -> None:
    answer = auth.post(
        "/api/v1/auth/challenge", {"wallet_address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD".swapcase()}
    )
    assert answer.refusal == (400, "invalid_wallet_address")
    mistyped = auth.post("/api/v1/auth/challenge", {"wallet_address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeE"})
    assert mistyped.refusal == (400, "invalid_wallet_address")


def test_an_access_token_opens_ones_profile(auth: Client) -> None:
    signed = signed_in(auth)
    answer = auth.get("/api/v1/auth/me", token=signed.token)
    assert answer.status == 200
    assert answer.json["id"] == signed.user_id


def test_a_location_can_be_set_and_removed(auth: Client) -> None:
    signed = signed_in(auth)
    moved = auth.call("PATCH", "/api/v1/auth/me", body={"location": "Musterstraße 5, Köln"}, token=signed.token)
    assert (moved.status, moved.json["location"]) == (200, "Musterstraße 5, Köln")
    removed = auth.call("PATCH", "/api/v1/auth/me", body={"location": None}, token=signed.token)
    assert (removed.status, removed.json["location"]) == (200, None)


def test_a_location_must_be_a_line_of_text(auth: Client) -> None:
    signed = signed_in(auth)
    for location in ["", "   ", "a\nb", "x" * 201, 5, True, ["a"], "a\u0000b"]:
        answer = auth.call("PATCH", "/api/v1/auth/me", body={"location": location}, token=signed.token)
        assert answer.refusal == (400, "invalid_body"), location
    assert auth.get("/api/v1/auth/me", token=signed.token).json["location"] is None


def test_a_refresh_token_gives_the_next_pair(auth: Client) -> None:
    signed = signed_in(auth)
    answer = auth.post("/api/v1/auth/refresh", {"refresh_token": signed.refresh_token})
    assert answer.status == 200
    assert set(answer.json) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert answer.json["refresh_token"] != signed.refresh_token
    assert auth.get("/api/v1/auth/me", token=answer.json["access_token"]).status == 200


def test_an_old_refresh_token_ends_the_session_for_whoever_holds_it(auth: Client, rows: Rows) -> None:
    signed = signed_in(auth)
    successor = auth.post("/api/v1/auth/refresh", {"refresh_token": signed.refresh_token}).json["refresh_token"]
    rows("UPDATE refresh_tokens SET rotated_at = now() - interval '601 seconds'")
    reused = auth.post("/api/v1/auth/refresh", {"refresh_token": signed.refresh_token})
    assert reused.refusal == (401, "refresh_token_reused")
    assert auth.post("/api/v1/auth/refresh", {"refresh_token": successor}).refusal == (401, "invalid_refresh_token")


def test_whoever_lost_the_answer_to_a_refresh_has_the_successor_again_for_ten_minutes(auth: Client, rows: Rows) -> None:
    signed = signed_in(auth)
    lost = auth.post("/api/v1/auth/refresh", {"refresh_token": signed.refresh_token}).json
    rows("UPDATE refresh_tokens SET rotated_at = now() - interval '590 seconds'")
    again = auth.post("/api/v1/auth/refresh", {"refresh_token": signed.refresh_token})
    assert again.status == 200
    assert again.json["refresh_token"] == lost["refresh_token"]
    assert auth.get("/api/v1/auth/me", token=again.json["access_token"]).status == 200
    assert auth.post("/api/v1/auth/refresh", {"refresh_token": lost["refresh_token"]}).status == 200


def test_having_a_successor_again_does_not_prolong_the_time_for_it(auth: Client, rows: Rows) -> None:
    signed = signed_in(auth)
    auth.post("/api/v1/auth/refresh", {"refresh_token": signed.refresh_token})
    (before,) = rows("SELECT rotated_at, expires_at, token_hash, previous_hash FROM refresh_tokens")
    auth.post("/api/v1/auth/refresh", {"refresh_token": signed.refresh_token})
    assert rows("SELECT rotated_at, expires_at, token_hash, previous_hash FROM refresh_tokens") == [before]


def test_a_successor_can_be_had_again_while_the_key_is_rotated(
    load_api: Callable[[str], Client], auth: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = signed_in(auth)
    lost = auth.post("/api/v1/auth/refresh", {"refresh_token": signed.refresh_token}).json
    monkeypatch.setenv("JWT_KEYS", json.dumps({"new": "n" * 32, **KEYS}))
    rotated = load_api("auth_api").post("/api/v1/auth/refresh", {"refresh_token": signed.refresh_token})
    assert rotated.json["refresh_token"] == lost["refresh_token"]
    monkeypatch.setenv("JWT_KEYS", json.dumps({"new": "n" * 32}))
    removed = load_api("auth_api")
    gone = removed.post("/api/v1/auth/refresh", {"refresh_token": signed.refresh_token})
    assert gone.refusal == (401, "invalid_refresh_token")
    assert removed.post("/api/v1/auth/refresh", {"refresh_token": lost["refresh_token"]}).status == 200


def test_a_token_from_two_rotations_ago_ends_the_session_even_at_once(auth: Client) -> None:
    signed = signed_in(auth)
    second = auth.post("/api/v1/auth/refresh", {"refresh_token": signed.refresh_token}).json["refresh_token"]
    third = auth.post("/api/v1/auth/refresh", {"refresh_token": second}).json["refresh_token"]
    first_again = auth.post("/api/v1/auth/refresh", {"refresh_token": signed.refresh_token})
    assert first_again.refusal == (401, "refresh_token_reused")
    assert auth.post("/api/v1/auth/refresh", {"refresh_token": third}).status == 401


def test_simultaneous_refreshes_get_the_same_successor_and_none_ends_the_session(
    auth: Client, load_api: Callable[[str], Client]
) -> None:
    signed = signed_in(auth)
    body = {"refresh_token": signed.refresh_token}
    tabs = [load_api("auth_api") for _ in range(4)]
    answers = at_once([partial(tab.post, "/api/v1/auth/refresh", body) for tab in tabs])
    assert [answer.status for answer in answers] == [200] * 4
    (successor,) = {answer.json["refresh_token"] for answer in answers}
    assert auth.post("/api/v1/auth/refresh", {"refresh_token": successor}).status == 200


def test_a_session_ends_seven_days_after_its_last_use(auth: Client, rows: Rows) -> None:
    signed = signed_in(auth)
    assert rows("SELECT expires_at - rotated_at FROM refresh_tokens") == [(timedelta(days=7),)]
    rows("UPDATE refresh_tokens SET expires_at = now()")
    refused = auth.post("/api/v1/auth/refresh", {"refresh_token": signed.refresh_token})
    assert refused.refusal == (401, "invalid_refresh_token")


def test_the_database_does_not_hold_what_a_client_holds(auth: Client, rows: Rows) -> None:
    signed = signed_in(auth)
    secret = signed.refresh_token.partition(".")[2]
    ((kept,),) = rows("SELECT refresh_tokens::text FROM refresh_tokens")
    assert secret not in str(kept)
    assert secret.encode().hex() not in str(kept)


def test_a_made_up_refresh_token_is_refused(auth: Client) -> None:
    for token in ["", "x", "00000000-0000-4000-8000-000000000000." + "A" * 43, "." * 100, "é" * 43]:
        answer = auth.post("/api/v1/auth/refresh", {"refresh_token": token})
        assert answer.refusal == (401, "invalid_refresh_token"), token


def test_logging_out_ends_the_session_and_may_be_repeated(auth: Client) -> None:
    signed = signed_in(auth)
    body = {"refresh_token": signed.refresh_token}
    for _ in range(2):
        answer = auth.post("/api/v1/auth/logout", body)
        assert (answer.status, answer.text) == (204, "")
    assert auth.post("/api/v1/auth/refresh", body).refusal == (401, "invalid_refresh_token")


def test_logging_out_of_one_session_leaves_the_others(auth: Client) -> None:
    signed = signed_in(auth)
    other = auth.post("/api/v1/auth/login", challenged(auth, signed.wallet)).json
    auth.post("/api/v1/auth/logout", {"refresh_token": signed.refresh_token})
    assert auth.post("/api/v1/auth/refresh", {"refresh_token": other["refresh_token"]}).status == 200


BAD_AUTHORIZATIONS = [
    (None, "missing_token"),
    ("Bearer", "invalid_token"),
    ("Bearer ", "invalid_token"),
    ("Basic dXNlcjpwYXNz", "invalid_token"),
    ("Bearer not.a.token", "invalid_token"),
    ("Bearer " + "a" * 5000, "invalid_token"),
    ("Bearer é.é.é", "invalid_token"),
]


def test_without_a_good_token_nothing_private_is_told(auth: Client) -> None:
    for header, code in BAD_AUTHORIZATIONS:
        answer = auth.get("/api/v1/auth/me", headers={"Authorization": header} if header else {})
        assert answer.refusal == (401, code), header
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_an_expired_access_token_says_so(auth: Client) -> None:
    signed = signed_in(auth)
    old = tokens.issue(
        user_id=UUID(signed.user_id),
        session_id=signed.session_id,
        token_id="t",
        keys=KEYS,
        now=datetime.now(UTC) - timedelta(minutes=16),
    )
    assert auth.get("/api/v1/auth/me", token=old).refusal == (401, "token_expired")


def test_a_token_of_the_former_key_is_still_good(auth: Client) -> None:
    signed = signed_in(auth)
    former = tokens.issue(
        user_id=UUID(signed.user_id),
        session_id=signed.session_id,
        token_id="t",
        keys={"k1": KEYS["k1"]},
        now=datetime.now(UTC),
    )
    assert auth.get("/api/v1/auth/me", token=former).status == 200


OLD, NEW = {"2026-01": "the key that has signed until today, 32+"}, {"2026-02": "the key that will sign from now on"}


@pytest.mark.parametrize(
    ("steps", "everybody_stays"),
    [
        ([OLD, OLD | NEW, NEW | OLD, NEW], True),  # as docs/operations.md has it
        ([OLD, NEW | OLD, NEW], False),  # functions that are not deployed yet do not know the new key
        ([OLD, OLD | NEW, NEW], False),  # what was signed a moment ago is of a key that is gone
    ],
)
def test_a_new_key_logs_nobody_out_if_it_comes_second_then_first_then_alone(
    load_api: Callable[[str], Client],
    monkeypatch: pytest.MonkeyPatch,
    steps: list[dict[str, str]],
    everybody_stays: bool,  # noqa: FBT001
) -> None:
    """Within a deploy each function may be of the version before or of the new one, whichever has issued a token."""
    functions: list[Client] = []
    for keys in steps:
        monkeypatch.setenv("JWT_KEYS", json.dumps(keys))
        functions.append(load_api("auth_api"))
    person = signed_in(functions[0])
    body = challenged(functions[0], person.wallet)
    refused = []
    token, refresh = person.token, {"refresh_token": person.refresh_token}
    for before, after in itertools.pairwise(functions):
        for issuer in (before, after):
            # A quarter of an hour lies between two deploys, so every token is of one of these two.
            answer = issuer.post("/api/v1/auth/refresh", refresh)
            assert answer.status == 200  # sessions do not hang on the key
            token, refresh = answer.json["access_token"], {"refresh_token": answer.json["refresh_token"]}
            refused += [one for one in (before, after) if one.get("/api/v1/auth/me", token=token).status != 200]
    assert (not refused) == everybody_stays
    assert functions[-1].post("/api/v1/auth/login", body).status == 200


SECRET = "a secret that is long enough for a key"


@pytest.mark.parametrize(
    "keys",
    [
        *("{}", "[]", "{", "1", f'[["k", "{SECRET}"]]'),
        *('{"k": ""}', '{"k": "short"}', '{"k": null}', f'{{"k": ["{SECRET}"]}}', f'{{"": "{SECRET}"}}'),
        f'{{"k": "{SECRET}", "k": "{SECRET}, too"}}',
    ],
)
def test_keys_that_could_be_guessed_or_confused_are_no_configuration(
    load_api: Callable[[str], Client], monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    load_api("auth_api")  # with good ones it starts
    monkeypatch.setenv("JWT_KEYS", keys)
    with pytest.raises(ConfigurationError, match="JWT_KEYS"):
        load_api("auth_api")


GOOD = {"wallet_address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "signature": "0x" + "11" * 64 + "1b"}


BAD_SIGN_UPS: list[tuple[object, tuple[int, str]]] = [
    ({}, (400, "invalid_body")),
    ([], (400, "invalid_body")),
    ("text", (400, "invalid_body")),
    (None, (400, "invalid_json")),
    (GOOD | {"role": "Donor"}, (400, "invalid_body")),
    (GOOD | {"nonce": 5}, (400, "invalid_body")),
    (GOOD | {"nonce": "no blanks"}, (400, "invalid_body")),
    (GOOD | {"wallet_address": 5}, (400, "invalid_wallet_address")),
    (GOOD | {"wallet_address": True}, (400, "invalid_wallet_address")),
    (GOOD | {"wallet_address": "0x"}, (400, "invalid_wallet_address")),
    (GOOD | {"wallet_address": GOOD["wallet_address"][2:]}, (400, "invalid_wallet_address")),
    (GOOD | {"wallet_address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD"}, (400, "invalid_wallet_address")),
    (GOOD | {"signature": None}, (400, "malformed_signature")),
    (GOOD | {"signature": "0x1234"}, (400, "malformed_signature")),
    (GOOD | {"signature": "11" * 65}, (400, "malformed_signature")),
    (GOOD | {"signature": "0x" + "11" * 64 + "1d"}, (400, "malformed_signature")),
    (GOOD | {"signature": "0x" + "11" * 32 + "ff" * 32 + "1b"}, (400, "malformed_signature")),
    (GOOD | {"signature": "0x" + "00" * 64 + "1b"}, (401, "invalid_signature")),
    (GOOD, (401, "invalid_signature")),
]


def test_a_bad_sign_up_is_refused_and_changes_nothing(auth: Client, rows: Rows) -> None:
    auth.post("/api/v1/auth/challenge", {"wallet_address": GOOD["wallet_address"]})
    refusals = [
        (body, auth.post("/api/v1/auth/signup", body, headers={"Content-Type": "application/json"}).refusal)
        for body, _ in BAD_SIGN_UPS
    ]
    assert refusals == BAD_SIGN_UPS
    assert rows("SELECT count(*) FROM users") == [(0,)]
    assert rows("SELECT count(*) FROM challenges") == [(1,)]


def at_once(calls: list[Callable[[], Answer]]) -> list[Answer]:
    """Make calls in threads that start together."""
    start = threading.Barrier(len(calls))
    answers: list[Answer] = []

    def run(call: Callable[[], Answer]) -> None:
        start.wait()
        answers.append(call())

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(calls)
    return answers
