"""The settlement function, as the loop and the queue call it."""

import base64
import json
from collections.abc import Iterator
from types import ModuleType
from uuid import UUID, uuid4

import pytest

from energy_market.evm.rpc import Unreachable
from tests.api import ENVIRONMENT, load_function
from tests.integration.market import Market
from tests.integration.settlement.world import World, logged


class Context:
    """Time enough."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@pytest.fixture
def function(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for name, value in {**ENVIRONMENT, "DATABASE_URL": database_url}.items():
        monkeypatch.setenv(name, value)
    module = load_function("settlement")
    yield module
    module._database().close()  # noqa: SLF001 -- a sandbox keeps it; a test must not


def answer(device: UUID, order: UUID, status: str, trade: UUID) -> dict[str, str]:
    """An answer to a lock, as the rule queues it."""
    payload = json.dumps({"order_id": str(order), "status": status, "transaction_id": str(trade)}).encode()
    body = {
        "topic": f"energy/donor/{device}/lock/response",
        "client_id": str(device),
        "payload": base64.b64encode(payload).decode(),
        "received_at_ms": 1,
    }
    return {"messageId": str(uuid4()), "body": json.dumps(body)}


def test_a_sweep_settles_what_is_locked(
    world: World, function: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RPC_URL", world.rpc_url)
    monkeypatch.setenv("SETTLEMENT_CONTRACT", world.chain.settlement.address)
    monkeypatch.setenv("OPERATOR_PRIVATE_KEY", world.chain.operator.key.hex())
    monkeypatch.setenv("MAX_BATCH", "50")
    deal = world.lock()
    logged(capsys)
    assert function.sweep({"mark": "2026-01-01T00:00:00Z"}, Context()) == {"ran": True}
    assert logged(capsys) == ["settlement.stored", "settlement.sent", "sweep"]
    world.mine(2)
    function.sweep({}, Context())
    assert world.trade(deal) == ("Confirmed", None)
    function._ledger().close()  # noqa: SLF001


def test_a_chain_that_is_away_is_an_error_of_the_sweep(
    world: World, function: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPERATOR_PRIVATE_KEY", world.chain.operator.key.hex())
    monkeypatch.setenv("MAX_BATCH", "50")
    monkeypatch.setattr(function, "SWEEP_S", 0.2)
    deal = world.lock()
    with pytest.raises(Unreachable):
        function.sweep({}, Context())
    assert "sweep.failed" in logged(capsys)
    assert world.trade(deal) == ("Locked", None)


def test_answers_are_taken_one_by_one(function: ModuleType, market: Market, capsys: pytest.CaptureFixture[str]) -> None:
    first, _, ask, _, trade = market.matched()
    second, _, other_ask, other_bid, other_trade = market.matched()
    records = [
        {"messageId": "0", "body": "no message of a device"},
        answer(second.device, ask, "locked", trade.id),  # not its trade
        answer(first.device, ask, "locked", trade.id),
        answer(second.device, other_ask, "rejected", other_trade.id),
    ]
    logged(capsys)
    assert function.lock_responses({"Records": records}, None) == {"batchItemFailures": []}
    assert logged(capsys) == ["device.message.dropped", "device.message.dropped", "lock.answered", "lock.answered"]
    assert market.sql("SELECT status, reason FROM transactions ORDER BY seq") == [
        ("Locked", None),
        ("Failed", "lock_rejected"),
    ]
    assert market.status_of(other_bid) == "Created"


def test_answers_come_again_when_the_database_is_away(
    function: ModuleType, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _, ask, _, trade = market.matched()
    record = answer(home.device, ask, "locked", trade.id)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    assert function.lock_responses({"Records": [record]}, None) == {
        "batchItemFailures": [{"itemIdentifier": record["messageId"]}]
    }
