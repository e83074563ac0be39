"""The database goes away, or refuses, in the middle of whatever is done: nothing is half done, and it goes on.

Each caller keeps its warm connection, is disturbed once at the k-th request that it sends to the server, for every k,
and goes on as its own caller makes it: a client asks again, a queue delivers again, the loop takes its next step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from energy_market.database import UNAVAILABLE, Database
from tests.support.loop import Loop, TwoSteps
from tests.support.market import Market
from tests.support.migrating import Migrating, first_migrations
from tests.support.neighbours import (
    Api,
    BuildingANode,
    Cancelling,
    LoggingOut,
    MovingHouse,
    Ordering,
    Refreshing,
    Registering,
    SignedUp,
    SigningUp,
)
from tests.support.owner import as_owner
from tests.support.trouble.disturbances import Disturbance, disturb, each_in_each_way, each_once
from tests.support.trouble.postgres_proxy import DOOM, Proxy

TELLING = ("disturbed", "doomed", "psycopg", "connection", "PL/pgSQL", "127.0.0.1")


@pytest.mark.parametrize(
    ("stage", "disturbances"),
    [
        (Ordering, each_in_each_way),
        *(
            (stage, each_once)
            for stage in (Cancelling, SigningUp, Refreshing, LoggingOut, MovingHouse, BuildingANode, Registering)
        ),
    ],
)
def test_a_request_is_refused_for_now_and_done_once_when_it_is_sent_again(
    api: Api,
    market: Market,
    proxy: Proxy,
    stage: type[SignedUp],
    disturbances: Callable[[list[str]], list[Disturbance]],
) -> None:
    def refused() -> None:
        for answer in api.refused:
            assert answer.refusal == (503, "database_unavailable")
            assert answer.headers["Retry-After"] == "2"
            assert not any(word in answer.text for word in TELLING)
        api.refused.clear()

    disturb(proxy, api.on, lambda: stage(api, market), disturbances=disturbances, refused=refused)


def test_the_loop_takes_its_next_step_and_the_queues_deliver_again(loop: Loop, market: Market, proxy: Proxy) -> None:
    def refused() -> None:
        assert all(isinstance(error, UNAVAILABLE) for error in loop.failed)
        loop.failed.clear()

    disturb(proxy, loop.on, lambda: TwoSteps(loop, market), refused=refused)


def test_a_deploy_that_fails_for_the_database_is_done_by_the_next(
    owner_url: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[Migrating] = []
    migrations = first_migrations(tmp_path / "migrations")

    @contextmanager
    def on(_: Database) -> Iterator[None]:
        monkeypatch.setenv("DATABASE_URL", as_owner(proxy.url))
        yield

    def stage() -> Migrating:
        stages.append(Migrating(owner_url, migrations))
        with psycopg.connect(owner_url, autocommit=True) as conn:
            conn.execute(DOOM)
        return stages[-1]

    def refused() -> None:
        (answer,) = stages[-1].answers
        assert answer["Status"] in {"SUCCESS", "FAILED"}

    disturb(proxy, on, stage, refused=refused)
