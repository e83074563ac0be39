"""Types of JSON fields and query parameters that need more than a JSON type: each knows how to parse itself.

A `parse` takes what the JSON (or the query string) held and raises `InvalidRequest`; `http.py` calls it while decoding.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Final, Self

from msgspec import Meta

from energy_market.domain.errors import InvalidRequest
from energy_market.domain.quantities import parse_kwh, parse_price

MAX_PAGE: Final = 500

VISIBLE: Final = r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*\Z"
"""Words: something visible in them, and no control characters."""
# A place in words.
Location = Annotated[str, Meta(min_length=1, max_length=200, pattern=VISIBLE)]
_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", re.ASCII)
_PLAIN_INTEGER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR: Final = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)


class EnergyWh(int):
    """Watt-hours, from a JSON number of kWh."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Above 0, at most 1,000,000 kWh, at most 3 decimals."""
        return cls(parse_kwh(value))


class PriceMicro(int):
    """Micro-tokens per kWh, from a JSON number of tokens per kWh."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Above 0, at most 1,000 tokens, at most 6 decimals."""
        return cls(parse_price(value))


class PriceParameter(int):
    """Micro-tokens per kWh, from a query parameter in tokens per kWh."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """The same limits as in a body, and no sign."""
        if not isinstance(value, str) or not _NUMBER.fullmatch(value):
            raise InvalidRequest("invalid_query", "A price in the query must be a decimal number.")
        return cls(parse_price(Decimal(value)))


class WalletAddress(str):
    """An address in its EIP-55 spelling."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Any accepted spelling."""
        from energy_market.domain.wallets import parse_address  # noqa: PLC0415 -- slow, and most functions need it not

        return cls(parse_address(value))


class PageLimit(int):
    """How many rows a page may have, from a query parameter."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """1 to 500."""
        if not isinstance(value, str) or not _PLAIN_INTEGER.fullmatch(value) or not 1 <= int(value) <= MAX_PAGE:
            raise InvalidRequest("invalid_query", f"limit and depth must be whole numbers from 1 to {MAX_PAGE}.")
        return cls(int(value))


class Cursor(str):
    """Where the next page begins: an opaque word that only its own route can read."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises `InvalidRequest` for what no `spell` has written."""
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
        """The position as that many non-negative integers, which `spell` was given joined by commas."""
        parts = self.split(",")
        if len(parts) != count or not all(part.isdecimal() and len(part) < 19 for part in parts):  # noqa: PLR2004
            raise self.refusal()
        return tuple(map(int, parts))

    @classmethod
    def spell_moment(cls, moment: datetime, seq: int) -> str:
        """The opaque word for a place among rows in the order of time, and of `seq` where they have the same."""
        return cls.spell(f"{(moment - _EPOCH) // timedelta(microseconds=1)},{seq}")

    def moment(self) -> tuple[datetime, int]:
        """What `spell_moment` was given, exactly."""
        microseconds, seq = self.integers(2)
        try:
            return _EPOCH + timedelta(microseconds=microseconds), seq
        except OverflowError:
            raise self.refusal() from None

    @staticmethod
    def refusal() -> InvalidRequest:
        """The answer to a cursor that is not ours."""
        return InvalidRequest("invalid_cursor", "cursor must be one that a Link header of this route gave.")
