"""The settlement sweep, as the loop calls it."""

from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.support.api import ENVIRONMENT, FEES, load_function
from tests.support.chain.world import World, logged


class Context:
    """Time enough."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@pytest.fixture
def function(world: World, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    values = {
        **ENVIRONMENT,
        "DATABASE_URL": database_url,
        "RPC_URL": world.rpc_url,
        "SETTLEMENT_CONTRACT": world.chain.settlement.address,
        "TOKEN_CONTRACT": world.chain.token.address,
        "OPERATOR_PRIVATE_KEY": world.chain.operator.key.hex(),
        "MAX_BATCH": "50",
        "DELIVERY_WINDOW_S": "86400",
        **FEES,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    module = load_function("settlement")
    yield module
    module._ledger().close()  # noqa: SLF001 -- a sandbox keeps them; a test must not
    module._database().close()  # noqa: SLF001


def test_a_sweep_settles_what_is_locked(world: World, function: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    deal = world.lock()
    logged(capsys)
    assert function.sweep({"mark": "2026-01-01T00:00:00Z"}, Context()) == {"swept": True}
    assert logged(capsys) == ["settlement.stored", "settlement.sent", "sweep"]
    world.mine(2)
    function.sweep({}, Context())
    assert world.trade(deal) == ("Confirmed", None)


def test_a_chain_that_is_away_is_a_line_in_the_log(
    world: World, function: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RPC_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(function, "SWEEP_S", 0.2)
    deal = world.lock()
    assert function.sweep({}, Context()) == {"swept": False}
    assert "sweep.chain_away" in logged(capsys)
    assert world.trade(deal) == ("Locked", None)
