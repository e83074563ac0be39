"""Whatever is wrong with a secret, nobody reads it in an error, an answer or a log."""

import json
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from energy_market import config
from energy_market.aws.registry import Credentials
from energy_market.database import Database
from energy_market.evm.ledger import Ledger
from energy_market.evm.node_check import Expected, check
from energy_market.evm.rpc import Rpc
from energy_market.usecases.log_in import Session
from tests.support.api import FEES, load_function
from tests.support.fixtures import LoadApi

SECRET = "hunter2"
# What people make of a password with a special character, and of a URL that was copied in a hurry.
DATABASE_URLS = [
    f"postgresql://market:{SECRET}%zz@127.0.0.1:1/market",
    f"postgresql//market:{SECRET}@127.0.0.1:1/market",
    f"postgresql://market:pass@{SECRET}@127.0.0.1:1/market",
    f"postgresql://market:{SECRET}/pass@127.0.0.1:1/market",
    f"postgresql://market:pass/{SECRET}@127.0.0.1:1/market",
    f"postgresql://market:{SECRET}#pass@127.0.0.1:1/market",
    f"postgresql://market:{SECRET}?pass@127.0.0.1:1/market",
    f"postgresql://market:pass?{SECRET}@127.0.0.1:1/market",
    f"postgresql://market:[{SECRET}@127.0.0.1:1/market",
    f"postgresql://market:{SECRET}@127.0.0.1:1/market?sslmode=sometimes",
    f"host=127.0.0.1 port=1 password={SECRET} pass",
    f"host=127.0.0.1 port=1 password='{SECRET}",
    f'"{SECRET}"',
    f"postgresql://market:{SECRET}@127.0.0.1:1/market",  # nothing is wrong with it but that nobody answers
]
RPC_URLS = [
    f"https://127.0.0.1:1/v2/{SECRET} ",
    f"https://127.0.0.1:1/v2/{SECRET}\n",
    f"https://127.0.0.1:1/v2/é{SECRET}",
    f"https://127.0.0.1:{SECRET}/v2",
    f"https://127.0.0.1:1:{SECRET}",
    f"https://[127.0.0.1/{SECRET}",
    f"127.0.0.1:1/v2/{SECRET}",
    f"http://127.0.0.1:1/v2/{SECRET}",
    f"http://user:{SECRET}@127.0.0.1:1/v2",
]
OPERATOR_KEYS = [
    f"0x{SECRET}",
    f"{SECRET:0>64}",
    "0x" + "ab" * 31 + f"{SECRET}",
    f" 0x{'c0ffee' * 11}",
    f"0x{'c0ffee' * 11}",
    "0x" + "f" * 64,
    f'{{"key": "{SECRET}"}}',
]
JWT_KEYS = [SECRET, f'"{SECRET}"', f'{{"k1": "{SECRET}"}}', f'{{"k1": "{SECRET}', f'["{SECRET}"]', f'{{"{SECRET}": 1}}']


def words_of(act: Callable[[], object]) -> str:
    """All that is said when it fails, as Lambda would log it; nothing if it does not fail."""
    try:
        act()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return "".join(traceback.format_exception(error))
    return ""


@pytest.mark.parametrize("url", DATABASE_URLS)
def test_no_error_names_the_databases_password(
    url: str, load_api: LoadApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_api("market_api")  # sets the environment
    monkeypatch.setenv("DATABASE_URL", url)
    said = words_of(lambda: load_api("market_api").get("/api/v1/market/book").text)
    said += words_of(lambda: migrations_answer(monkeypatch))
    captured = capsys.readouterr()
    assert SECRET not in said + captured.out + captured.err


def migrations_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CloudFormation is told, and so whoever may describe the stack."""
    module = load_function("migrations")
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "respond", lambda _url, answer: told.append(answer))
    event = {"RequestType": "Create", "StackId": "s", "RequestId": "r", "ResponseURL": "http://127.0.0.1:1"}
    module.handle(event, None)
    assert told[0]["Status"] == "FAILED"
    raise LookupError(json.dumps(told))


@pytest.mark.parametrize("url", RPC_URLS)
def test_no_error_names_the_key_of_the_chains_node(url: str) -> None:
    def ask() -> None:
        Rpc(url, timeout_s=0.2, deadline_s=0.2).call("eth_chainId")

    def look() -> None:
        expected = Expected(chain_id=1, contract="0x0", token="0x0", token_decimals=18)
        raise LookupError(check(Rpc(url, timeout_s=0.2, deadline_s=0.2), expected))

    said = words_of(ask) + words_of(look)
    assert said
    assert SECRET not in said


@pytest.mark.parametrize("key", OPERATOR_KEYS)
def test_no_error_names_the_operators_key(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPERATOR_PRIVATE_KEY", key)

    def begin() -> None:
        Ledger(
            Rpc("http://127.0.0.1:1"),
            chain_id=1,
            contract="0x5FbDB2315678afecb367f032d93F642f64180aa3",
            token="0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512",
            token_decimals=18,
            operator_key=config.operator_settings().private_key,
        )

    said = words_of(begin)
    assert said
    assert SECRET not in said
    assert "c0ffee" not in said.lower()


LIMITS = {"RATE_LIMIT_PER_MINUTE": "100", "USER_LIMIT_PER_MINUTE": "200"}


@pytest.mark.parametrize("keys", JWT_KEYS)
def test_no_error_names_a_key_of_access_tokens(keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JWT_KEYS": keys, **LIMITS, "ALLOWED_ORIGINS": "*"}.items():
        monkeypatch.setenv(name, value)
    said = words_of(config.http_settings)
    assert "ConfigurationError" in said
    assert SECRET not in said


def test_what_holds_a_secret_does_not_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "0x" + "ab" * 32
    environment = {
        "JWT_KEYS": json.dumps({"k1": f"{SECRET} and thirty-two characters or more"}),
        **LIMITS,
        "ALLOWED_ORIGINS": "*",
        "OPERATOR_PRIVATE_KEY": key,
        "MAX_BATCH": "50",
        "DELIVERY_WINDOW_S": "60",
        **FEES,
        "CHAIN_ID": "1",
        "RPC_URL": f"https://node.example/{SECRET}",
        "SETTLEMENT_CONTRACT": "0x0",
        "TOKEN_CONTRACT": "0x0",
        "TOKEN_DECIMALS": "18",
        "CONFIRMATIONS": "1",
        "FINALITY_BLOCKS": "1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    holders: list[object] = [
        config.http_settings(),
        config.operator_settings(),
        config.settlement_settings(),
        config.chain_settings(),
        Database(f"postgresql://market:{SECRET}@127.0.0.1/market"),
        Credentials(certificate_arn="a", certificate_id="i", certificate_pem="p", private_key=SECRET),
        Session(user_id=None, access_token=SECRET, refresh_token=SECRET),  # type: ignore[arg-type]
    ]
    for holder in holders:
        assert SECRET not in repr(holder)
        assert key[2:] not in repr(holder)
