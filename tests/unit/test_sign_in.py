"""The sign-in message, against the text format of EIP-4361."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from energy_market.domain.sign_in import CHALLENGE_LIFE, STATEMENT, Challenge

NOON = datetime(2026, 6, 21, 12, 0, 0, 123456, tzinfo=UTC)


def challenge(
    *,
    wallet_address: str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    domain: str = "energy.example",
    uri: str = "https://energy.example/",
    nonce: str = "0123456789abcdef",
    issued_at: datetime = NOON,
) -> Challenge:
    return Challenge(
        wallet_address=wallet_address, domain=domain, uri=uri, chain_id=31337, nonce=nonce, issued_at=issued_at
    )


def test_the_message_is_laid_out_as_eip_4361_says() -> None:
    assert challenge().message == (
        "energy.example wants you to sign in with your Ethereum account:\n"
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed\n"
        "\n"
        "Sign in to the energy market. This costs nothing and moves nothing.\n"
        "\n"
        "URI: https://energy.example/\n"
        "Version: 1\n"
        "Chain ID: 31337\n"
        "Nonce: 0123456789abcdef\n"
        "Issued At: 2026-06-21T12:00:00.123Z\n"
        "Expiration Time: 2026-06-21T12:05:00.123Z"
    )


# The grammar of EIP-4361 (its ABNF), as far as it goes without optional fields that we do not write.
URI = r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+"
AUTHORITY = r"(?:[A-Za-z0-9._~!$&'()*+,;=:%-]+@)?(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]*)?"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)"
GRAMMAR = re.compile(
    rf"(?P<domain>{AUTHORITY}) wants you to sign in with your Ethereum account:\n"
    r"(?P<address>0x[0-9A-Fa-f]{40})\n"
    r"\n"
    r"(?:(?P<statement>[A-Za-z0-9 ._~:/?#\[\]@!$&'()*+,;=-]+)\n)?"
    r"\n"
    rf"URI: (?P<uri>{URI})\n"
    r"Version: 1\n"
    r"Chain ID: (?P<chain_id>[0-9]+)\n"
    r"Nonce: (?P<nonce>[A-Za-z0-9]{8,})\n"
    rf"Issued At: (?P<issued>{TIME})\n"
    rf"Expiration Time: (?P<expires>{TIME})"
)


@pytest.mark.parametrize(
    ("domain", "uri"),
    [
        ("energy.example", "https://energy.example/"),
        ("localhost:3000", "http://localhost:3000/sign-in?from=app#here"),
        ("[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ],
)
def test_the_message_is_of_the_grammar_of_eip_4361(domain: str, uri: str) -> None:
    found = GRAMMAR.fullmatch(challenge(domain=domain, uri=uri).message)
    assert found is not None
    assert (found["domain"], found["uri"], found["statement"]) == (domain, uri, STATEMENT)
    issued, expires = (datetime.fromisoformat(found[name]) for name in ("issued", "expires"))
    assert expires - issued == CHALLENGE_LIFE


def test_a_challenge_lives_five_minutes() -> None:
    assert challenge().expires_at - NOON == timedelta(minutes=5)


def test_times_are_in_utc_whatever_the_zone_they_were_taken_in() -> None:
    berlin = timezone(timedelta(hours=2))
    assert challenge(issued_at=NOON.astimezone(berlin)).message == challenge().message


@pytest.mark.parametrize("field", ["domain", "uri", "wallet_address"])
@pytest.mark.parametrize("text", ["a\nNonce: 1", "a b", "a\r", "a\x7f", "b\u00fccher.example", "a\u2028b"])
def test_no_field_can_forge_another(field: str, text: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        challenge(**{field: text})  # type: ignore[arg-type]


@pytest.mark.parametrize("nonce", ["", "short", "0123456789abcde ", "0123456789abcdé0"])
def test_a_nonce_is_long_and_of_letters_and_digits(nonce: str) -> None:
    with pytest.raises(ValueError, match="nonce"):
        challenge(nonce=nonce)


def test_a_time_without_its_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        challenge(issued_at=datetime(2026, 6, 21, 12, 0))  # noqa: DTZ001
