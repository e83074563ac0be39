"""Energy, prices and amounts, in integers.

Energy is in watt-hours, a price in micro-tokens per kWh, an amount in nano-tokens:
`amount_nano = energy_wh * price_micro`, exact, and within a signed 64-bit integer at both limits.
On the wire they are JSON numbers of kWh and tokens, read as decimals and never as floats.
"""

from decimal import Decimal
from typing import Final

from energy_market.domain.errors import InvalidRequest

KWH_DECIMALS: Final = 3
PRICE_DECIMALS: Final = 6
TOKEN_DECIMALS: Final = 9
MAX_ENERGY_WH: Final = 1_000_000 * 10**KWH_DECIMALS
MAX_PRICE_MICRO: Final = 1_000 * 10**PRICE_DECIMALS


def parse_kwh(value: object) -> int:
    """An order's energy in watt-hours, from a JSON number of kWh: above 0, at most 1,000,000, at most 3 decimals."""
    energy_wh = _scaled(value, decimals=KWH_DECIMALS, limit=MAX_ENERGY_WH, name="kwh_amount")
    if energy_wh == 0:
        raise InvalidRequest("invalid_kwh_amount", "kwh_amount must be greater than 0.")
    return energy_wh


def parse_price(value: object) -> int:
    """A price in micro-tokens per kWh, from a JSON number of tokens: above 0, at most 1,000, at most 6 decimals."""
    price_micro = _scaled(value, decimals=PRICE_DECIMALS, limit=MAX_PRICE_MICRO, name="token_price")
    if price_micro == 0:
        raise InvalidRequest("invalid_token_price", "token_price must be greater than 0.")
    return price_micro


def parse_price_bound(value: object) -> int:
    """A price bound in micro-tokens per kWh: as `parse_price`, but 0 is allowed."""
    return _scaled(value, decimals=PRICE_DECIMALS, limit=MAX_PRICE_MICRO, name="token_price")


def parse_reported_kwh(value: object, *, name: str) -> int:
    """A meter's or a battery's energy in watt-hours: as `parse_kwh`, but 0 is allowed."""
    return _scaled(value, decimals=KWH_DECIMALS, limit=MAX_ENERGY_WH, name=name)


def kwh(energy_wh: int) -> int | Decimal:
    """Watt-hours as a JSON number of kWh."""
    return _unscaled(energy_wh, KWH_DECIMALS)


def price(price_micro: int) -> int | Decimal:
    """Micro-tokens per kWh as a JSON number of tokens per kWh."""
    return _unscaled(price_micro, PRICE_DECIMALS)


def tokens(amount_nano: int) -> int | Decimal:
    """Nano-tokens as a JSON number of tokens."""
    return _unscaled(amount_nano, TOKEN_DECIMALS)


def _scaled(value: object, *, decimals: int, limit: int, name: str) -> int:
    """`value * 10**decimals` as an integer. Reads the digits only: `Decimal` arithmetic would round at its context."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise InvalidRequest(f"invalid_{name}", f"{name} must be a JSON number.")
    sign, digits, exponent = Decimal(value).as_tuple()
    if not isinstance(exponent, int):
        raise InvalidRequest(f"invalid_{name}", f"{name} must be a finite number.")
    significant = "".join(map(str, digits)).lstrip("0")
    shift = exponent + decimals
    if not significant:
        return 0
    if sign:
        raise InvalidRequest(f"invalid_{name}", f"{name} must not be negative.")
    if len(significant) + shift > len(str(limit)):
        raise InvalidRequest(f"invalid_{name}", f"{name} must not exceed {limit // 10**decimals}.")
    if shift < 0:
        if significant[shift:].strip("0") or len(significant) <= -shift:
            raise InvalidRequest(f"invalid_{name}", f"{name} must have at most {decimals} decimals.")
        scaled = int(significant[:shift])
    else:
        scaled = int(significant) * 10**shift
    if scaled > limit:
        raise InvalidRequest(f"invalid_{name}", f"{name} must not exceed {limit // 10**decimals}.")
    return scaled


def _unscaled(value: int, decimals: int) -> int | Decimal:
    # Exact: no value here has more than the 28 digits that `Decimal` divides without rounding.
    unit: int = 10**decimals
    return Decimal(value) / unit if value % unit else value // unit
