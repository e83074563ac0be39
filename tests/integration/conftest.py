"""Fixtures of the tests that need the real database: a market, and the API's functions, on a database a test."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from moto import mock_aws

from energy_market_client import transport
from tests.support.api import ENVIRONMENT, FUNCTIONS, Client, load_function
from tests.support.fixtures import LoadApi, MakePooler
from tests.support.loop import Loop
from tests.support.market import Market
from tests.support.neighbours import Api
from tests.support.trouble.pooler import Mode, Pooler
from tests.support.trouble.postgres_proxy import DOOM, Proxy

if TYPE_CHECKING:
    from types_boto3_iot import IoTClient


@pytest.fixture
def load_api(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoadApi]:
    """Loads a function as a new sandbox would, with the environment of that moment."""
    for name, value in {**ENVIRONMENT, "DATABASE_URL": database_url}.items():
        monkeypatch.setenv(name, value)
    clients: list[Client] = []

    def load(name: str) -> Client:
        clients.append(Client(load_function(name)))
        return clients[-1]

    yield load
    for loaded in clients:
        loaded.module.database.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the build puts beside the function that serves the API's contract."""
    folder: Path = tmp_path_factory.mktemp("packed") / "analytics_api"
    pack = FUNCTIONS.parent / "infra" / "pack.py"
    subprocess.run([sys.executable, str(pack), "function", "analytics_api", str(folder)], check=True)
    return folder


@pytest.fixture
def auth(load_api: LoadApi) -> Client:
    return load_api("auth_api")


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    """One for all: to make one takes longer than most of what is tried with it."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def iot(rsa_key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch) -> Iterator["IoTClient"]:
    """AWS IoT, as moto plays it, with the policy of devices. All keys are one, the certificates differ."""
    monkeypatch.setattr(rsa, "generate_private_key", lambda **_: rsa_key)
    with mock_aws():
        client = boto3.client("iot")
        client.create_policy(policyName="energy-market-device", policyDocument="{}")
        yield client


@pytest.fixture
def market(database_url: str) -> Iterator[Market]:
    """A market of its own."""
    market = Market(database_url)
    yield market
    market.close()


@pytest.fixture
def api(database_url: str, load_api: LoadApi, iot: "IoTClient", monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The functions behind the API, whose clients ask again at once; AWS IoT is moto's."""
    monkeypatch.setattr(transport, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(transport, "LONGEST_WAIT_S", 0.0)
    names = ("auth", "market", "iot", "network", "admin")
    api = Api(database_url, {name: load_api(f"{name}_api") for name in names}, load_function("device_tidying"), iot)
    yield api
    api.close()


@pytest.fixture
def loop(database_url: str, market: Market, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """The functions of the loop and of the queues."""
    for name, value in {**ENVIRONMENT, "DATABASE_URL": database_url, "SETTLE_FUNCTION": "settle"}.items():
        monkeypatch.setenv(name, value)
    loop = Loop(database_url, market)
    yield loop
    loop.close()


@pytest.fixture
def proxy(database_url: str, owner_url: str) -> Iterator[Proxy]:
    """A wire to this test's database that can be disturbed."""
    with psycopg.connect(owner_url, autocommit=True) as conn:
        conn.execute(DOOM)
    proxy = Proxy(database_url)
    yield proxy
    proxy.close()


@pytest.fixture
def pooler_of(database_url: str) -> Iterator[MakePooler]:
    """Starts a PgBouncer in front of this test's database, in a mode and with settings of its own."""
    poolers: list[Pooler] = []

    def make(mode: Mode, **settings: str | int) -> Pooler:
        poolers.append(Pooler(database_url, mode, **settings))
        return poolers[-1]

    yield make
    for pooler in poolers:
        pooler.close()
