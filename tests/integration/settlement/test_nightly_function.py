"""The nightly comparison, as its schedule calls it."""

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import psycopg
import pytest

from energy_market.evm.rpc import Unreachable
from tests.support.api import ENVIRONMENT, load_function
from tests.support.chain.world import World
from tests.support.owner import as_owner


class Context:
    """As much time as is said."""

    def __init__(self, remaining_ms: int = 900_000) -> None:
        self._remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        return self._remaining_ms


@pytest.fixture
def function(world: World, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    values = {
        **ENVIRONMENT,
        "DATABASE_URL": database_url,
        "RPC_URL": world.rpc_url,
        "SETTLEMENT_CONTRACT": world.chain.settlement.address,
        "SETTLEMENT_BLOCK": "1",
        "TOKEN_CONTRACT": world.chain.token.address,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    module = load_function("reconciliation")
    monkeypatch.setattr(module, "RECHECK_S", 0.0)
    return module


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def metrics(lines: list[dict[str, Any]]) -> dict[str, float]:
    named = [(metric["Name"], line) for line in lines if "_aws" in line
             for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]]  # fmt: skip
    return {name: line[name] for name, line in named}


def test_a_market_whose_books_agree_is_reported_in_one_line(
    world: World, function: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    world.lock()
    world.sweep()
    world.mine()
    world.sweep()
    logged(capsys)
    assert function.reconcile({}, Context()) == {"differences": 0}
    lines = logged(capsys)
    (summary,) = (line for line in lines if "event" in line)
    assert summary["event"] == "reconciliation"
    assert (summary["level"], summary["payments"], summary["accounts"]) == ("info", 1, 2)
    assert metrics(lines) == {"ReconciliationDifferences": 0, "ReconciliationRuns": 1}


def test_each_difference_is_a_line_and_all_are_counted(
    world: World, function: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deal = world.lock()
    world.sweep()
    world.sql("UPDATE settlement_batches SET status = 'Final'")
    with psycopg.connect(as_owner(world.database_url)) as conn:
        conn.execute("SET LOCAL session_replication_role = replica")  # behind the triggers' back
        conn.execute("DELETE FROM events WHERE entity_id = %s AND to_status = 'Submitted'", (deal.id,))
    monkeypatch.setattr(function, "MAX_LINES", 1)
    logged(capsys)
    assert function.reconcile({}, Context()) == {"differences": 2}
    lines = logged(capsys)
    assert [line["event"] for line in lines if "event" in line] == ["reconciliation.difference", "reconciliation"]
    assert lines[0]["difference"] == f"trade {deal.id} is Submitted in a batch that is Final"
    assert lines[1]["level"] == "error"
    assert metrics(lines) == {"ReconciliationDifferences": 2, "ReconciliationRuns": 1}


def test_a_comparison_that_could_not_be_made_is_no_run(
    function: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(psycopg.OperationalError, match="no time left"):
        function.reconcile({}, Context(30_000))
    monkeypatch.setenv("RPC_URL", "http://127.0.0.1:9")
    with pytest.raises(Unreachable):
        function.reconcile({}, Context(34_000))
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    with pytest.raises(psycopg.OperationalError):
        function.reconcile({}, Context())
    lines = logged(capsys)
    assert [(line["event"], line["error"]) for line in lines] == [
        ("reconciliation.failed", "Unreachable"),  # the database, in no time
        ("reconciliation.failed", "Unreachable"),  # the chain
        ("reconciliation.failed", "Unreachable"),  # another database
    ]


def test_it_can_write_nothing(function: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(conn: psycopg.Connection, **_: object) -> None:
        with conn.transaction():
            conn.execute("DELETE FROM leases")

    monkeypatch.setattr(function, "compare", write)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        function.reconcile({}, Context())
