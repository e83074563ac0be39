"""One chain for the session; each test finds the contracts fresh and leaves no trace."""

from collections.abc import Iterator

import pytest

from tests.support.chain.chain import LIMIT, Chain, ChainWith, mock


@pytest.fixture(scope="session")
def _deployed(anvil: str) -> Iterator[Chain]:
    chain = Chain(anvil)
    yield chain
    chain.rpc.close()


@pytest.fixture
def chain(_deployed: Chain) -> Iterator[Chain]:
    """The token and the settlement contract, nothing deposited."""
    _deployed.rpc.start_deadline(30)
    before = _deployed.rpc.call("evm_snapshot")
    yield _deployed
    _deployed.rpc.start_deadline(30)
    assert _deployed.rpc.call("evm_revert", before)


@pytest.fixture
def chain_with(anvil: str) -> Iterator[ChainWith]:
    made: list[Chain] = []

    def make(token: str, *arguments: object, limit: int = LIMIT) -> Chain:
        made.append(Chain(anvil, token=mock(token), arguments=arguments, limit=limit))
        return made[-1]

    yield make
    for chain in made:
        chain.rpc.close()
