"""A chain and a database of its own for each test."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from local_market.parts.anvil import start_anvil
from local_market.stack.stack import remove_state
from tests.support.chain.chain import mock
from tests.support.chain.world import World

_chains = count(1)


@pytest.fixture
def own_chain(state_folder: Path) -> Iterator[str]:
    """A node of this test's own: reorganisations and clocks do not travel. It starts in 40 ms."""
    folder = state_folder / f"chain-{next(_chains)}"
    chain = start_anvil(folder, block_time_s=None)
    yield chain.rpc_url
    chain.stop()
    remove_state(folder)


@pytest.fixture
def world(database_url: str, own_chain: str) -> Iterator[World]:
    world = World(database_url, own_chain)
    yield world
    world.close()


@pytest.fixture
def forgetful(database_url: str, own_chain: str) -> Iterator[World]:
    """A world whose contract pays a trade as often as it is asked."""
    world = World(database_url, own_chain, settlement=mock("ForgetfulSettlement"))
    yield world
    world.close()
