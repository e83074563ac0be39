"""One chain for the session; each test finds the contracts fresh and leaves no trace."""

from collections.abc import Callable, Iterator

import pytest

from tests.chain import Chain, mock

ChainWith = Callable[[str], Chain]


@pytest.fixture(scope="session")
def _deployed(anvil: str) -> Iterator[Chain]:
    chain = Chain(anvil)
    yield chain
    chain.rpc.close()


@pytest.fixture
def chain(_deployed: Chain) -> Iterator[Chain]:
    """The token and the settlement contract, nothing deposited."""
    _deployed.rpc.start_budget(30)
    before = _deployed.rpc.call("evm_snapshot")
    yield _deployed
    _deployed.rpc.start_budget(30)
    assert _deployed.rpc.call("evm_revert", before)


@pytest.fixture
def chain_with(anvil: str) -> Iterator[ChainWith]:
    """Makes a chain whose token is one of the mocks."""
    made: list[Chain] = []

    def make(token: str) -> Chain:
        made.append(Chain(anvil, token=mock(token)))
        return made[-1]

    yield make
    for chain in made:
        chain.rpc.close()
