"""Types of JSON fields and query parameters that need more than a JSON type: each parses itself.

A `parse` takes the value from the JSON or the query string; `edge.py` calls it while decoding. It raises
`InvalidRequest`, or ValueError if `EXPECTED` explains enough: `refusals.py` then makes a sentence that names the field.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, ClassVar, Final, Self

from msgspec import Meta

from energy_market.domain.errors import InvalidRequest
from energy_market.domain.quantities import parse_kwh, parse_price, parse_price_bound

MAX_PAGE: Final = 500

VISIBLE: Final = r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*\Z"
"""Pattern of a text with at least one visible character, and no control characters."""
# A place, as a text.
Location = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=VISIBLE,
        description="a text of 1 to 200 characters, not blank and without control characters",
    ),
]
# A time in a query.
Instant = Annotated[datetime, Meta(tz=True)]
_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", re.ASCII)
_PLAIN_INTEGER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR: Final = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)


class EnergyWh(int):
    """Watt-hours, from a JSON number of kWh."""

    EXPECTED: ClassVar[str] = "a JSON number of kWh above 0, at most 1000000, with at most 3 decimals"
    CODE: ClassVar[str] = "invalid_kwh_amount"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parse a number above 0, at most 1,000,000 kWh, with at most 3 decimals."""
        return cls(parse_kwh(value))


class PriceMicro(int):
    """Micro-tokens per kWh, from a JSON number of tokens per kWh."""

    EXPECTED: ClassVar[str] = "a JSON number of tokens per kWh above 0, at most 1000, with at most 6 decimals"
    CODE: ClassVar[str] = "invalid_token_price"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parse a number above 0, at most 1,000 tokens, with at most 6 decimals."""
        return cls(parse_price(value))


class PriceParameter(int):
    """Micro-tokens per kWh to compare orders' prices with, from a query parameter in tokens per kWh."""

    EXPECTED: ClassVar[str] = "a number of tokens per kWh from 0 to 1000, with at most 6 decimals and no sign"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parse 0 or a valid price of an order, without a sign. Raises ValueError."""
        if not isinstance(value, str) or not _NUMBER.fullmatch(value):
            raise ValueError(cls.EXPECTED)
        try:
            return cls(parse_price_bound(Decimal(value)))
        except InvalidRequest:
            raise ValueError(cls.EXPECTED) from None


class WalletAddress(str):
    """An address in its EIP-55 spelling."""

    __slots__ = ()
    EXPECTED: ClassVar[str] = "0x and 40 hexadecimal digits"
    CODE: ClassVar[str] = "invalid_wallet_address"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parse an address in any accepted spelling."""
        from energy_market.domain.wallets import parse_address  # noqa: PLC0415 -- slow, and few functions need it

        return cls(parse_address(value))


class PageLimit(int):
    """Maximum rows of a page, from a query parameter."""

    EXPECTED: ClassVar[str] = f"a whole number from 1 to {MAX_PAGE}"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parse a number from 1 to 500. Raises ValueError."""
        if not isinstance(value, str) or not _PLAIN_INTEGER.fullmatch(value) or not 1 <= int(value) <= MAX_PAGE:
            raise ValueError(cls.EXPECTED)
        return cls(int(value))


class Cursor(str):
    """The beginning of the next page: an opaque word that only its own route can read."""

    __slots__ = ()
    EXPECTED: ClassVar[str] = "one that a Link header of this route gave"
    CODE: ClassVar[str] = "invalid_cursor"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parse a cursor. Raises `InvalidRequest` for a text that `spell` cannot have written."""
        if not isinstance(value, str) or not _CURSOR.fullmatch(value):
            raise cls.refusal()
        try:
            return cls(urlsafe_b64decode(value + "=" * (-len(value) % 4)).decode("ascii"))
        except ValueError:
            raise cls.refusal() from None

    @staticmethod
    def spell(position: str) -> str:
        """The opaque word for a position."""
        return urlsafe_b64encode(position.encode("ascii")).rstrip(b"=").decode()

    def integers(self, count: int) -> tuple[int, ...]:
        """The position as `count` non-negative integers, which `spell` was given joined by commas."""
        parts = self.split(",")
        if len(parts) != count or not all(part.isdecimal() and len(part) < 19 for part in parts):  # noqa: PLR2004
            raise self.refusal()
        return tuple(map(int, parts))

    @classmethod
    def spell_moment(cls, moment: datetime, seq: int) -> str:
        """The opaque word for a position among rows ordered by time, and by `seq` at equal times."""
        return cls.spell(f"{(moment - _EPOCH) // timedelta(microseconds=1)},{seq}")

    def moment(self) -> tuple[datetime, int]:
        """The exact arguments of `spell_moment`."""
        microseconds, seq = self.integers(2)
        try:
            return _EPOCH + timedelta(microseconds=microseconds), seq
        except OverflowError:
            raise self.refusal() from None

    @staticmethod
    def refusal() -> InvalidRequest:
        """The answer to a cursor that is not ours."""
        return InvalidRequest(Cursor.CODE, f"cursor must be {Cursor.EXPECTED}.")
