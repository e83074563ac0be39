"""Every parser of what strangers send: it gives what it promises, or the refusal it promises, and nothing else."""

import base64
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from energy_market.api.fields import MAX_PAGE, Cursor, EnergyWh, Location, PageLimit, PriceMicro, PriceParameter
from energy_market.aws.registry import MAX_CSR_CHARACTERS, check_csr
from energy_market.domain import sessions
from energy_market.domain.errors import InvalidRequest, Unauthorized
from energy_market.domain.quantities import MAX_ENERGY_WH, MAX_PRICE_MICRO
from energy_market.domain.wallets import parse_address, parse_signature

# Texts of every kind of character, those that look like numbers in other alphabets, and such as nearly are something.
TEXTS = (
    st.text(max_size=60)
    | st.text("0123456789.eE+-_ \n\x00\u0663\u00b2\uff11", max_size=30)
    | st.text("0xabcdefABCDEF0123456789", max_size=140)
    | st.sampled_from(["9" * 5_000, "1e999999999", "-0", "0x" + "0" * 40, "0x" + "f" * 130, "NaN", "sNaN", "Infinity"])
)
ANYTHING: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | TEXTS
    | st.lists(TEXTS, max_size=2)
    | st.dictionaries(TEXTS, st.integers(), max_size=2)
)


def cursor_of_two(value: object) -> tuple[int, ...]:
    return Cursor.parse(value).integers(2)


@pytest.mark.parametrize(
    ("parse", "holds"),
    [
        (EnergyWh.parse, lambda wh: 0 < wh <= MAX_ENERGY_WH),
        (PriceMicro.parse, lambda micro: 0 < micro <= MAX_PRICE_MICRO),
        (PriceParameter.parse, lambda micro: 0 <= micro <= MAX_PRICE_MICRO),
        (PageLimit.parse, lambda limit: 1 <= limit <= MAX_PAGE),
        (Cursor.parse, lambda cursor: cursor.isascii() and len(cursor) <= 150),
        (cursor_of_two, lambda position: all(0 <= part < 2**63 for part in position)),
        (parse_address, lambda address: len(address) == 42 and parse_address(address) == address),
        (parse_signature, lambda signature: len(signature) == 65),
    ],
    ids=lambda part: getattr(part, "__qualname__", None),
)
@given(value=ANYTHING)
def test_a_parser_gives_what_it_promises_or_refuses(
    parse: Callable[[object], Any], holds: Callable[[Any], bool], value: object
) -> None:
    expected = getattr(getattr(parse, "__self__", None), "EXPECTED", None)
    try:
        parsed = parse(value)
    except InvalidRequest:
        return
    except ValueError as refusal:
        if str(refusal) != expected:  # else its sentence is made where the field's name is known
            raise
        return
    assert holds(parsed)


@given(st.lists(st.integers(0, 10**18 - 1), min_size=1, max_size=3))
def test_a_cursor_that_we_spelt_is_read(position: list[int]) -> None:
    spelt = Cursor.spell(",".join(map(str, position)))
    assert Cursor.parse(spelt).integers(len(position)) == tuple(position)


@given(st.binary(max_size=120))
def test_a_cursor_of_any_bytes_is_read_or_refused(position: bytes) -> None:
    try:
        Cursor.parse(base64.urlsafe_b64encode(position).rstrip(b"=").decode()).integers(1)
    except InvalidRequest:
        return
    assert position.isdigit()


@given(st.decimals("0.000001", "1000", places=6))
def test_a_price_means_the_same_in_a_query_however_it_is_spelt(price: Decimal) -> None:
    spellings = {f"{price:f}", f"{price:e}", f"{price:E}", str(price.normalize()).replace("E+", "e")}
    assert {PriceParameter.parse(spelt) for spelt in spellings} == {int(price * 10**6)}


@given(ANYTHING)
def test_a_location_is_a_line_with_something_to_see(value: object) -> None:
    try:
        place = msgspec.convert(value, Location)
    except (msgspec.ValidationError, UnicodeError):
        return
    assert place.strip()
    assert len(place) <= 200
    assert not any(character < " " or character == "\x7f" for character in place)


@given(TEXTS | st.uuids().map(str).flatmap(lambda id_: TEXTS.map(lambda secret: f"{id_}.{secret}")))
def test_a_refresh_token_is_read_or_refused(token: str) -> None:
    try:
        parsed = sessions.parse(token)
    except Unauthorized:
        return
    assert token.startswith(f"{parsed.session_id}.")
    assert len(token) == 36 + 1 + 43


PEM = "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n"


@given(
    TEXTS
    | TEXTS.map(PEM.format)
    | st.binary(max_size=200).map(lambda der: PEM.format(base64.b64encode(der).decode()))
    | st.binary(max_size=100).map(lambda der: PEM.format(base64.b64encode(b"\x30" + der).decode()))
    | st.integers(1, 40_000).map(lambda size: PEM.format("A" * size))
)
def test_a_certificate_signing_request_is_one_or_is_refused(csr: str) -> None:
    try:
        check_csr(csr)
    except InvalidRequest:
        return
    der = base64.b64decode("".join(csr.split("-----")[2].split()))
    assert der[0] == 0x30
    assert len(csr) <= MAX_CSR_CHARACTERS
