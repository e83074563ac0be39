"""Whoever uses the database is disturbed once at each request that he sends to it, and then goes on."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from energy_market.database import Database
from tests.support.trouble.crashes import Scenario
from tests.support.trouble.postgres_proxy import KINDS, SILENCES, Kind, Proxy

Disturbance = tuple[Kind, int]


def each_in_each_way(requests: list[str]) -> list[Disturbance]:
    return [(kind, k) for kind in KINDS for k in range(len(requests))]


def each_once(requests: list[str]) -> list[Disturbance]:
    """Each request in one way, the ways taking turns; of each COMMIT the answer is lost as well."""
    return [(KINDS[k % len(KINDS)], k) for k in range(len(requests))] + [
        ("cut after", k) for k, request in enumerate(requests) if request == "COMMIT"
    ]


def each_silence(requests: list[str]) -> list[Disturbance]:
    """The wire falls silent at each request, before or after the server acted, in turn; at each COMMIT in both ways."""
    return [(SILENCES[k % 2], k) for k in range(len(requests))] + [
        (SILENCES[1 - k % 2], k) for k, request in enumerate(requests) if request == "COMMIT"
    ]


def disturb(
    proxy: Proxy,
    on: Callable[[Database], AbstractContextManager[None]],
    stage: Callable[[], Scenario],
    *,
    disturbances: Callable[[list[str]], list[Disturbance]] = each_once,
    refused: Callable[[], None],
    database: Callable[[str], Database] = Database,
) -> None:
    """Play the scenario undisturbed, then once for each disturbance of what it sends to the server.

    `refused` looks at how those failed who could not go on.
    """
    with on(database(proxy.url)):
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
