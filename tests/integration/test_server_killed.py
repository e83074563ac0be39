"""The database server is killed (-9) under everybody, and started again.

What was answered stays, what was not is done again.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from energy_market.database import UNAVAILABLE, Database, Unreachable
from energy_market.domain.settlement import SettlementRules
from energy_market.evm.ledger import Ledger
from energy_market.evm.rpc import Rpc
from energy_market.usecases.settling.settle import settle_trades
from tests.support.everybody import Everybody
from tests.support.loop import Loop, TwoSteps
from tests.support.market import Market
from tests.support.neighbours import Api, Ordering, Registering
from tests.support.trouble.crashes import Scenario
from tests.support.trouble.own_server import OwnServer
from tests.support.trouble.postgres_proxy import Proxy


@pytest.fixture(scope="module")
def own_server(state_folder: Path) -> Iterator[OwnServer]:
    own = OwnServer(state_folder / "killed")
    yield own
    own.close()


@pytest.fixture
def database_url(own_server: OwnServer) -> str:
    return own_server.url


def test_while_the_server_is_gone_everybody_is_refused_and_keeps_what_he_holds(
    api: Api, loop: Loop, market: Market, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("energy_market_client.transport.ATTEMPTS", 1)
    everybody = Everybody(api, loop, market)
    nowhere = Rpc("http://127.0.0.1:9")
    ledger = Ledger(
        nowhere,
        chain_id=1,
        contract="0x" + "1" * 40,
        token="0x" + "2" * 40,
        token_decimals=18,
        operator_key="0x" + "1" * 64,
    )
    rules = SettlementRules(max_batch=1, confirmations=1, finality_blocks=1)
    sandbox = Database(own_server.url)
    with sandbox.transaction():
        pass
    with api.on(Database(own_server.url)), loop.on(Database(own_server.url)):
        own_server.kill()
        everybody.is_refused()
        with pytest.raises(Unreachable):
            settle_trades(sandbox, ledger, rules=rules, deadline_s=1.0)
        own_server.start_again()
        everybody.goes_on()
    with sandbox.transaction() as conn:
        assert conn.execute("SELECT count(*) FROM leases").fetchone() == (0,)
    sandbox.close()


def killed_at_a_commit(
    own_server: OwnServer, proxy: Proxy, stage: Callable[[], Scenario], choose: Callable[[list[int]], list[int]]
) -> None:
    """Play the scenario, the server being killed before and after each of the commits that are chosen."""
    scenario = stage()
    proxy.disturb(None, 0)
    scenario.go()
    commits = [number for number, request in enumerate(proxy.requests) if request.text == "COMMIT"]
    scenario.run_on()
    scenario.check()
    proxy.meanwhile = own_server.is_killed_and_started_again
    for at in choose(commits):
        for kind in ("cut before", "cut after"):
            scenario = stage()
            proxy.disturb(kind, at)
            scenario.go()
            assert any(request.disturbed for request in proxy.requests)
            proxy.disturb(None, 0)
            scenario.run_on()
            scenario.check()


@pytest.mark.parametrize("stage", [Ordering, Registering])
def test_a_server_that_is_killed_at_a_commit_has_done_all_of_it_or_nothing(
    api: Api, market: Market, own_server: OwnServer, proxy: Proxy, stage: type[Ordering | Registering]
) -> None:
    with api.on(Database(proxy.url)):
        killed_at_a_commit(own_server, proxy, lambda: stage(api, market), lambda commits: commits[-1:])


def test_a_server_that_is_killed_under_the_loop_costs_a_step(
    loop: Loop, market: Market, own_server: OwnServer, proxy: Proxy
) -> None:
    with loop.on(Database(proxy.url)):
        killed_at_a_commit(own_server, proxy, lambda: TwoSteps(loop, market), lambda commits: commits[2:5])
    assert all(isinstance(error, UNAVAILABLE) for error in loop.failed)
