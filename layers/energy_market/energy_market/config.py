"""Configuration: the one place that reads the environment. A required variable has no default.

No error message quotes a variable's value, and fields that hold a secret are left out of `repr`: both end in logs.
"""

import json
import os
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from energy_market.domain.errors import InvalidRequest
from energy_market.domain.settings import (
    ChainSettings,
    DeadLetterQueue,
    DeviceSettings,
    HttpSettings,
    OperatorSettings,
    SettlementSettings,
    SignInSettings,
)

MIN_KEY_CHARACTERS: Final = 32
"""Minimum length of an access token's key: if random, it has as many bits as the hash (RFC 7518, section 3.2)."""

GWEI_PLACES: Final = 9
"""Decimals of a gwei: 1 gwei is 10**9 wei."""


class ConfigurationError(Exception):
    """A required variable is missing or invalid."""


def database_url() -> str:
    """The libpq connection string. A malformed one is refused here, because libpq's error would quote the password."""
    url = _text("DATABASE_URL")
    if not _is_connection_string(url):
        raise ConfigurationError(
            "DATABASE_URL must be a connection string of PostgreSQL, with special characters of a password as %XX."
        )
    return url


def settle_function() -> str:
    """The name of the function that settles, for the functions that start it."""
    return _text("SETTLE_FUNCTION")


def http_settings() -> HttpSettings:
    """Settings of the HTTP edge."""
    return HttpSettings(
        rate_limit_per_minute=_number("RATE_LIMIT_PER_MINUTE"),
        user_limit_per_minute=_number("USER_LIMIT_PER_MINUTE"),
        allowed_origins=tuple(filter(None, _text("ALLOWED_ORIGINS").split(","))),
        jwt_keys=_jwt_keys(),
    )


def sign_in_settings() -> SignInSettings:
    """Settings of the sign-in message."""
    return SignInSettings(
        domain=_text("SIGN_IN_DOMAIN"),
        uri=_text("SIGN_IN_URI"),
        chain_id=_number("CHAIN_ID"),
        limit_per_minute=_number("SIGN_IN_LIMIT_PER_MINUTE"),
    )


def chain_settings() -> ChainSettings:
    """Settings of the chain."""
    return ChainSettings(
        chain_id=_number("CHAIN_ID"),
        rpc_url=_text("RPC_URL"),
        settlement_contract=_text("SETTLEMENT_CONTRACT"),
        token_contract=_text("TOKEN_CONTRACT"),
        token_decimals=_number("TOKEN_DECIMALS"),
    )


def confirmations() -> int:
    """Blocks, the settlement's own included, after which its trades are confirmed."""
    return _number("CONFIRMATIONS")


def settlement_block() -> int:
    """The block in which the settlement contract was deployed, or one before it."""
    return _number("SETTLEMENT_BLOCK")


def operator_settings() -> OperatorSettings:
    """Settings of the operator."""
    return OperatorSettings(private_key=_text("OPERATOR_PRIVATE_KEY"))


def settlement_settings() -> SettlementSettings:
    """Settings of the settlement."""
    return SettlementSettings(
        max_batch=_number("MAX_BATCH"),
        confirmations=confirmations(),
        finality_blocks=_number("FINALITY_BLOCKS"),
        delivery_window_s=_number("DELIVERY_WINDOW_S"),
        min_priority_fee_wei=_gwei("MIN_PRIORITY_FEE_GWEI"),
        max_fee_wei=_gwei("MAX_FEE_GWEI"),
    )


def lock_timeout_s() -> int:
    """Seconds that a device has for its answer to a lock."""
    return _number("LOCK_TIMEOUT_S")


def settlement_window_s() -> int:
    """Seconds from a trade's lock until the contract refuses to settle it."""
    return _number("SETTLEMENT_WINDOW_S")


def device_online_s() -> int:
    """Seconds after its last message for which a device counts as online."""
    return _number("DEVICE_ONLINE_S")


def device_policy() -> str:
    """The name of the IoT policy of every device's certificate."""
    return _text("DEVICE_POLICY")


def verified_only() -> bool:
    """Whether only users whose identity is verified may trade."""
    word = _text("KYC_REQUIRED")
    if word not in {"none", "verified"}:
        raise ConfigurationError("KYC_REQUIRED must be none or verified.")
    return word == "verified"


def operator_wallets() -> frozenset[str]:
    """The wallets of the market's operators (EIP-55 spelling). Nothing else makes a user an operator."""
    from energy_market.domain.wallets import parse_address  # noqa: PLC0415 -- few functions need it, and it is slow

    text = _text("OPERATOR_WALLETS")
    try:
        return frozenset() if text == "none" else frozenset(parse_address(word.strip()) for word in text.split(","))
    except InvalidRequest as refusal:
        raise ConfigurationError(f"OPERATOR_WALLETS must be none, or addresses: {refusal}") from None


def dead_letter_queues() -> dict[str, DeadLetterQueue]:
    """The queues of device messages that failed for good, by kind of message."""
    return {
        "lock-responses": DeadLetterQueue(
            url=_text("LOCK_RESPONSES_DEAD_LETTERS"), source_url=_text("LOCK_RESPONSES_QUEUE")
        ),
        "telemetry": DeadLetterQueue(url=_text("TELEMETRY_DEAD_LETTERS"), source_url=_text("TELEMETRY_QUEUE")),
    }


def device_settings() -> DeviceSettings:
    """Settings of device registration."""
    return DeviceSettings(policy=_text("DEVICE_POLICY"), broker=_text("DEVICE_BROKER"), ca_url=_text("DEVICE_CA_URL"))


def _is_connection_string(url: str) -> bool:
    """Whether libpq can read it, without taking a part of the password for the server's name."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return False
    ports = str(parts.get("port", "5432")).split(",")
    return all(port.isdecimal() for port in ports) and not any(
        "@" in str(parts.get(name, "")) for name in ("host", "dbname")
    )


def _jwt_keys() -> dict[str, str]:
    """Each secret by its key id, in the configured order. Error messages never quote a secret."""
    try:
        pairs = json.loads(_text("JWT_KEYS"), object_pairs_hook=list)
    except ValueError:
        pairs = None
    if not (
        isinstance(pairs, list)
        and pairs
        and all(isinstance(pair, tuple) and pair[0] and isinstance(pair[1], str) for pair in pairs)
        and all(len(secret) >= MIN_KEY_CHARACTERS for _, secret in pairs)
        and len(dict(pairs)) == len(pairs)
    ):
        raise ConfigurationError("JWT_KEYS must be a JSON object of key ids, each once, and secrets of 32 characters.")
    return dict(pairs)


def _text(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ConfigurationError(f"{name} must be set.")
    return value


def _gwei(name: str) -> int:
    """A decimal number of gwei, in wei."""
    text = _text(name)
    whole, _, part = text.partition(".")
    if not (whole.isdecimal() and (part or "0").isdecimal() and len(part) <= GWEI_PLACES):
        raise ConfigurationError(f"{name} must be a number of gwei with at most {GWEI_PLACES} decimals.")
    return int(whole + part.ljust(GWEI_PLACES, "0"))


def _number(name: str) -> int:
    text = _text(name)
    if not text.isdecimal():
        raise ConfigurationError(f"{name} must be a whole number.")
    return int(text)
