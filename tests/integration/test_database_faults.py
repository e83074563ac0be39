"""The database goes away, or refuses, in the middle of whatever is done: nothing is half done, and it goes on.

Each caller keeps its warm connection, is disturbed once at the k-th request that it sends to the server, for every k,
and goes on as its own caller makes it: a client asks again, a queue delivers again, the loop takes its next step.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import psycopg
import pytest

from energy_market.database import UNAVAILABLE, Database
from tests.integration.crashes import Scenario
from tests.integration.loop import Loop, TwoSteps
from tests.integration.market import Market
from tests.integration.neighbours import (
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
from tests.integration.postgres_proxy import DOOM, KINDS, Kind, Proxy

TELLING = ("disturbed", "doomed", "psycopg", "connection", "PL/pgSQL", "127.0.0.1")

Disturbance = tuple[Kind, int]


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(DOOM)
    proxy = Proxy(database_url)
    yield proxy
    proxy.close()


def each_in_each_way(requests: list[str]) -> list[Disturbance]:
    return [(kind, k) for kind in KINDS for k in range(len(requests))]


def each_once(requests: list[str]) -> list[Disturbance]:
    """Each request in one way, the ways taking turns; of each COMMIT the answer is lost as well."""
    return [(KINDS[k % len(KINDS)], k) for k in range(len(requests))] + [
        ("cut after", k) for k, request in enumerate(requests) if request == "COMMIT"
    ]


def disturb(
    proxy: Proxy,
    on: Callable[[Database], AbstractContextManager[None]],
    stage: Callable[[], Scenario],
    *,
    disturbances: Callable[[list[str]], list[Disturbance]] = each_once,
    refused: Callable[[], None],
) -> None:
    """Play the scenario undisturbed, then once for each disturbance of what it sends to the server.

    `refused` looks at how those failed who could not go on.
    """
    with on(Database(proxy.url)):
        for _ in range(2):  # the first time the connection is opened
            scenario = stage()
            proxy.disturb(None, 0)
            scenario.go()
            requests = [request.text for request in proxy.requests]
            scenario.run_on()
            scenario.check()
        assert {"BEGIN", "COMMIT"} <= set(requests)
        for kind, k in disturbances(requests):
            scenario = stage()
            proxy.disturb(kind, k)
            scenario.go()
            assert any(one.disturbed for one in proxy.requests), f"only {len(proxy.requests)} were sent"
            proxy.disturb(None, 0)
            try:
                refused()
                scenario.run_on()
                scenario.check()
            except BaseException as error:
                error.add_note(f"{kind} at request {k}: {requests[k]}")
                raise
    print(f"{len(requests)} requests, {len(disturbances(requests))} disturbances")


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
