"""What the API's answers hold, in the client's own types."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementChain:
    """Where the market settles, as `GET /api/v1/chain` tells."""

    chain_id: int
    settlement_contract: str
    token_contract: str
    token_decimals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredDevice:
    """What a device needs to connect. Its private key never left it."""

    device_id: str
    certificate_pem: str
    private_key: str
    answer: Mapping[str, Any]


def energy_wh(kwh: int | Decimal) -> int:
    """Watt-hours from the kWh of an answer, which has at most three decimals."""
    return int(Decimal(kwh) * 1000)


def nano_tokens(tokens: int | Decimal) -> int:
    """Nano-tokens from the tokens of an answer, which has at most nine decimals."""
    return int(Decimal(tokens) * 10**9)


def moment(text: str) -> dt.datetime:
    """A time from an answer (RFC 3339)."""
    return dt.datetime.fromisoformat(text)
