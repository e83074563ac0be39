"""Fixtures of the tests that need the real database: a market, and the API's functions, on a database a test."""

from collections.abc import Callable, Iterator

import pytest

from tests.api import ENVIRONMENT, Client, load_function
from tests.integration.market import Market

LoadApi = Callable[[str], Client]


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
    for client in clients:
        client.module.database.close()


@pytest.fixture
def auth(load_api: LoadApi) -> Client:
    return load_api("auth_api")


@pytest.fixture
def market(database_url: str) -> Iterator[Market]:
    """A market of its own."""
    market = Market(database_url)
    yield market
    market.close()
