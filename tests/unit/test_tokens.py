"""Access tokens, held against PyJWT."""

import base64
import hmac
import inspect
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from energy_market.domain import tokens
from energy_market.domain.errors import Unauthorized

ALICE = UUID("11111111-1111-4111-8111-111111111111")
SESSION = UUID("22222222-2222-4222-8222-222222222222")
KEYS = {"new": "the secret that signs now, 32 characters", "old": "the secret that signed before this one"}
NOW = datetime(2026, 6, 21, 12, 0, 0, tzinfo=UTC)


def claims(**changes: object) -> dict[str, Any]:
    second = int(NOW.timestamp())
    good = {
        "iss": "energy-market",
        "aud": "energy-market-api",
        "sub": str(ALICE),
        "sid": str(SESSION),
        "jti": "t1",
        "iat": second,
        "nbf": second,
        "exp": second + 900,
    }
    return {name: value for name, value in (good | changes).items() if value is not ...}


def signed(
    payload: dict[str, Any], *, key: str = KEYS["new"], kid: str | None = "new", algorithm: str = "HS256"
) -> str:
    return jwt.encode(payload, key, algorithm=algorithm, headers={"kid": kid} if kid else {})


def refusal_of(token: str, *, now: datetime = NOW) -> str:
    with pytest.raises(Unauthorized) as refusal:
        tokens.verify(token, keys=KEYS, now=now)
    return refusal.value.code


def test_a_token_is_what_the_standard_says() -> None:
    token = tokens.issue(user_id=ALICE, session_id=SESSION, token_id="t1", keys=KEYS, now=NOW)
    decoded = jwt.decode(
        token,
        KEYS["new"],
        algorithms=["HS256"],
        issuer="energy-market",
        audience="energy-market-api",
        options={
            "require": ["iss", "aud", "sub", "sid", "jti", "iat", "nbf", "exp"],
            # By the clock on the wall, which is not the token's.
            "verify_exp": False,
            "verify_nbf": False,
            "verify_iat": False,
        },
    )
    assert decoded == claims()
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "kid": "new", "typ": "JWT"}


def test_a_token_of_the_standards_library_is_read() -> None:
    caller = tokens.verify(signed(claims()), keys=KEYS, now=NOW)
    assert (caller.user_id, caller.session_id, caller.token_id) == (ALICE, SESSION, "t1")


def test_a_token_of_an_older_key_is_read() -> None:
    assert tokens.verify(signed(claims(), key=KEYS["old"], kid="old"), keys=KEYS, now=NOW).user_id == ALICE


def test_a_token_lives_fifteen_minutes() -> None:
    token = tokens.issue(user_id=ALICE, session_id=SESSION, token_id="t1", keys=KEYS, now=NOW)
    assert tokens.verify(token, keys=KEYS, now=NOW + timedelta(minutes=14, seconds=59)).user_id == ALICE
    assert refusal_of(token, now=NOW + timedelta(minutes=15)) == "token_expired"


def test_a_token_is_good_at_once_for_a_clock_that_is_a_little_behind() -> None:
    token = tokens.issue(user_id=ALICE, session_id=SESSION, token_id="t1", keys=KEYS, now=NOW)
    assert tokens.verify(token, keys=KEYS, now=NOW - timedelta(seconds=4)).user_id == ALICE
    assert refusal_of(token, now=NOW - timedelta(minutes=1)) == "invalid_token"


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_another_algorithm_is_refused_though_the_key_is_right(algorithm: str) -> None:
    key = "a secret that is long enough for every one of these algorithms, 64+ characters"
    with pytest.raises(Unauthorized):
        tokens.verify(signed(claims(), key=key, algorithm=algorithm), keys={"new": key}, now=NOW)


def test_a_token_without_a_signature_is_refused() -> None:
    for header in ({"alg": "none", "kid": "new"}, {"alg": "HS256", "kid": "new"}):
        unsigned = ".".join(part(json.dumps(content).encode()) for content in (header, claims())) + "."
        assert refusal_of(unsigned) == "invalid_token"


def by_hand(header: dict[str, Any], payload: dict[str, Any], *, key: str = KEYS["new"]) -> str:
    """A token with any header, whose signature is HMAC-SHA256 whatever that says."""
    body = f"{part(json.dumps(header).encode())}.{part(json.dumps(payload).encode())}"
    return f"{body}.{part(hmac.digest(key.encode(), body.encode(), 'sha256'))}"


def test_what_is_made_by_hand_is_else_a_good_token() -> None:
    """Or the tests of bad headers below would pass for another reason."""
    assert tokens.verify(by_hand({"alg": "HS256", "kid": "new"}, claims()), keys=KEYS, now=NOW).user_id == ALICE


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", "hs256", "HS512", "RS256", "ES256", None, 5, ["HS256"]]
)
def test_the_header_does_not_choose_the_algorithm(algorithm: object) -> None:
    assert refusal_of(by_hand({"alg": algorithm, "kid": "new"}, claims())) == "invalid_token"
    assert refusal_of(by_hand({"kid": "new"}, claims())) == "invalid_token"


def test_a_token_of_somebodys_own_key_pair_is_refused() -> None:
    """With the public key in the header, as some libraries would believe it."""
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key.public_key(), as_dict=True)
    for more in ({}, {"jwk": jwk}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/cert"}):
        token = jwt.encode(claims(), rsa_key, algorithm="RS256", headers={"kid": "new", **more})
        assert refusal_of(token) == "invalid_token"
        assert refusal_of(by_hand({"alg": "HS256", "kid": "new", **more}, claims(), key="evil")) == "invalid_token"


@pytest.mark.parametrize("key", ["", "\0", "new", "null", "None"])
def test_a_key_that_can_be_guessed_is_none(key: str) -> None:
    for kid in ("new", "old", "unknown", ""):
        assert refusal_of(by_hand({"alg": "HS256", "kid": kid}, claims(), key=key)) == "invalid_token"


@pytest.mark.parametrize(
    "kid",
    ["", "../../../dev/null", "/dev/null", "' OR '1'='1", "new\0", "NEW", " new", "https://evil.example/k",
     None, 0, True, ["new"], {"new": "new"}],
)  # fmt: skip
def test_a_kid_names_one_of_our_keys_or_nothing(kid: object) -> None:
    """It is compared with the ids that we have; nothing is opened, asked for or looked up by it."""
    for key in (KEYS["new"], ""):
        assert refusal_of(by_hand({"alg": "HS256", "kid": kid}, claims(), key=key)) == "invalid_token"


def test_a_token_has_one_spelling() -> None:
    """Base64 reads on past foreign characters, padding, and the two bits that are left of the last one."""
    token = tokens.issue(user_id=ALICE, session_id=SESSION, token_id="t1", keys=KEYS, now=NOW)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twins = [token[:-1] + letters[letters.index(token[-1]) + more] for more in (1, 2, 3)]
    assert {jwt.utils.base64url_decode(twin.rpartition(".")[2]) for twin in twins} == {
        jwt.utils.base64url_decode(token.rpartition(".")[2])
    }
    for other in (
        *twins,
        token + "=",
        token + "!!!!",
        token + "\n",
        f" {token}",
        token.replace(".", "..", 1),
        token + ".",
    ):
        assert refusal_of(other) == "invalid_token"


def test_signatures_are_compared_in_the_same_time_wherever_they_differ() -> None:
    """PyJWT's doing, of which a new version might think otherwise."""
    assert "compare_digest" in inspect.getsource(jwt.algorithms.HMACAlgorithm.verify)


@pytest.mark.parametrize(
    "token",
    [
        signed(claims(), kid=None),
        signed(claims(), kid="unknown"),
        signed(claims(), key="another secret that we have never seen, 32+"),
        signed(claims(), key=KEYS["old"]),
        signed(claims(iss="somebody-else")),
        signed(claims(iss=...)),
        signed(claims(aud=...)),
        signed(claims(sid=...)),
        signed(claims(sid="not-an-id")),
        signed(claims(sid=5)),
        signed(claims(sid=None)),
        signed(claims(aud="another-api")),
        signed(claims(aud=["energy-market-api"])),
        signed(claims(sub="not-an-id")),
        signed(claims(sub=...)),
        signed(claims(jti=...)),
        signed(claims(jti="")),
        signed(claims(exp=...)),
        signed(claims(nbf=...)),
        signed(claims(exp=2**60)),
        signed(claims(exp=-1)),
        jwt.encode(claims(), KEYS["new"], headers={"kid": "new", "crit": ["b64"], "b64": True}),
    ],
)
def test_a_token_that_is_not_exactly_ours_is_refused(token: str) -> None:
    assert refusal_of(token) == "invalid_token"


@pytest.mark.parametrize("claim", ["exp", "nbf"])
@pytest.mark.parametrize("value", ["1", 1.5, True, None, [1]])
def test_a_time_is_a_whole_number(claim: str, value: object) -> None:
    assert refusal_of(by_hand({"alg": "HS256", "kid": "new"}, claims(**{claim: value}))) == "invalid_token"


@given(st.data())
def test_no_character_of_a_token_can_be_changed(data: st.DataObject) -> None:
    token = tokens.issue(user_id=ALICE, session_id=SESSION, token_id="t1", keys=KEYS, now=NOW)
    position = data.draw(st.integers(min_value=0, max_value=len(token) - 1))
    letter = data.draw(st.characters(codec="ascii").filter(lambda c: c != token[position]))
    assert refusal_of(token[:position] + letter + token[position + 1 :]) == "invalid_token"


@given(
    st.text(max_size=200)
    | st.lists(st.text(alphabet="abcXYZ019-_=", max_size=40), min_size=3, max_size=3).map(".".join)
)
def test_whatever_else_is_sent_is_refused_without_an_accident(token: str) -> None:
    assert refusal_of(token) == "invalid_token"


def test_deeply_nested_json_is_refused_without_an_accident() -> None:
    assert refusal_of(f"{part(b'[' * 1400)}.e30.e30") == "invalid_token"


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
