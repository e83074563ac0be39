"""The whole system on this machine, once for all end-to-end tests: deployed by SAM, with real devices.

On MiniStack, or with LOCAL_AWS=localstack on LocalStack's core (`make localstack-test`), which borrows MiniStack's IoT.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from local_market.emulators.localstack_core import start_localstack
from local_market.emulators.ministack import start_ministack
from local_market.stack.market import RATE_LIMITS, Addresses, LocalMarket, start_market
from local_market.stack.stack import Stack, remove_state
from tests.support.neighbourhood import NODE_KEY, ON_LOCALSTACK, OPERATOR, Neighbourhood

_with_iot = pytest.StashKey[list[str]]()
_without_iot = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def stack_folder(state_folder: Path) -> Path:
    return state_folder / "stack"


def _with_a_key(stack: Stack) -> Addresses:
    addresses = Addresses.of(stack)
    return replace(addresses, rpc_url=f"{addresses.rpc_url}/?key={NODE_KEY}")


@pytest.fixture(scope="session")
def running_market(stack_folder: Path) -> Iterator[LocalMarket]:
    """The system, as `make run` starts it."""
    market = start_market(
        stack_folder,
        parameters={**RATE_LIMITS, "OperatorWallets": OPERATOR.address},
        addresses_of=_with_a_key,
        start_aws=start_localstack if ON_LOCALSTACK else start_ministack,
    )
    try:
        yield market
    finally:
        market.stack.stop()
        remove_state(stack_folder)


@pytest.fixture(scope="session")
def neighbourhood(running_market: LocalMarket, stack_folder: Path) -> Iterator[Neighbourhood]:
    neighbourhood = Neighbourhood(running_market, stack_folder)
    yield neighbourhood
    neighbourhood.close()


@pytest.fixture(autouse=True)
def _what_it_runs_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remember whether a test on LocalStack made a device, and so had to do with the IoT that MiniStack lends."""
    if not ON_LOCALSTACK or "neighbourhood" not in request.fixturenames:
        yield
        return
    url = request.getfixturevalue("neighbourhood").market.stack.database.url
    with psycopg.connect(url, autocommit=True) as conn:
        count = "SELECT count(*) FROM iot_devices"
        before = conn.execute(count).fetchone()
        yield
        made = conn.execute(count).fetchone() != before
    request.config.stash.setdefault(_with_iot if made else _without_iot, []).append(request.node.name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what ran on what."""
    for key, where in (
        (_without_iot, "on LocalStack's core alone"),
        (_with_iot, "on LocalStack's core, with devices on MiniStack's IoT"),
    ):
        if names := config.stash.get(key, []):
            terminalreporter.section(f"{len(names)} {where}")
            terminalreporter.write_line("\n".join(names))
