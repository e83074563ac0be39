"""A failover: the server's name leads to another one, and the first is gone without a word, or only reads from now on.

Who was connected to the first goes on with the second, and nobody writes anything twice.
"""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from client import UnreachableError
from postgres_server import _postgres_binaries, home_of_postgres, postgres_user
from processes import Started, plain_environment, start, stop
from proxy import Links
from services import Database as Server
from services import remove_state, start_postgres

from energy_market.database import IDLE_S, Database
from tests.integration.everybody import Everybody
from tests.integration.loop import Loop
from tests.integration.market import Market
from tests.integration.neighbours import Api, Ordering
from tests.integration.test_server_killed import OwnServer
from tests.integration.test_silent_database import at_most, port_of, through


class TwoServers:
    """A primary, and at a failover a second one with what the first had; the first may stay, and only read.

    `name` is the link that clients use.
    """

    def __init__(self, folder: Path) -> None:
        self._links = Links()
        self._folder = folder
        self.first = OwnServer(folder / "first")
        self.name = self._links.add(port_of(self.first.url))
        self.second: Server | None = None
        self._demoted: Started | None = None

    def fail_over(self, *, demoted: bool) -> Server:
        """The first is stopped, the second has all that was committed there."""
        self.first.server.stop()
        old, new = home_of_postgres(self.first.folder), home_of_postgres(self._folder / "second")
        shutil.copytree(old, new, symlinks=True)
        user = postgres_user()
        if user is not None:
            for path in (new, *new.rglob("*")):
                os.chown(path, *user, follow_symlinks=False)
        if demoted:
            (old / "data" / "standby.signal").touch()
            self._demoted = start(
                "postgres",
                [
                    _postgres_binaries(old, user) / "postgres", "-D", old / "data", f"--port={self.first.port}",
                    # A standby must allow for as many as its primary had.
                    "--max_connections=200",
                    "--listen_addresses=127.0.0.1", "--unix_socket_directories=",
                ],
                log=self.first.folder / "logs" / "demoted.log",
                environment=plain_environment(),
                working_folder=old,
                user=user,
                stop_signal=signal.SIGINT,
            )  # fmt: skip
        self.second = start_postgres(self._folder / "second")
        if demoted:
            until = time.monotonic() + 20
            while True:
                with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.first.server.url) as conn:
                    assert conn.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
                    break
                assert time.monotonic() < until
                time.sleep(0.05)
        return self.second

    def close(self) -> None:
        self._links.close()
        if self._demoted is not None:
            stop(self._demoted)
        if self.second is not None:
            self.second.stop()
            remove_state(self._folder / "second")
        self.first.close()


@pytest.fixture
def servers(state_folder: Path) -> Iterator[TwoServers]:
    servers = TwoServers(state_folder / "two")
    yield servers
    servers.close()


@pytest.fixture
def database_url(servers: TwoServers) -> str:
    return through(servers.name, servers.first.url)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients do not ask again by themselves."""
    monkeypatch.setattr("client.ATTEMPTS", 1)


def test_whoever_was_connected_to_a_server_that_is_gone_is_served_by_the_other(
    api: Api, loop: Loop, market: Market, servers: TwoServers, database_url: str
) -> None:
    everybody = Everybody(api, loop, market)
    with api.on(Database(database_url)), loop.on(Database(database_url)):
        Ordering(api, market).go()
        loop.tick()
        servers.name.fail_over(9)  # nobody is told, and for the moment the name leads nowhere
        servers.name.fail_over(port_of(servers.fail_over(demoted=False).url))
        time.sleep(IDLE_S)  # of a connection that was used within that second a whole statement's time is waited for
        with at_most(12):  # three connections, each silent for two seconds
            everybody.goes_on()
        assert api.refused == []


def test_a_server_that_only_reads_now_is_left_as_soon_as_the_name_leads_elsewhere(
    api: Api, loop: Loop, market: Market, servers: TwoServers, database_url: str
) -> None:
    everybody = Everybody(api, loop, market)
    with api.on(Database(database_url)), loop.on(Database(database_url)):
        ordering = Ordering(api, market)
        second = servers.fail_over(demoted=True)
        everybody.is_refused()
        reading = ordering.neighbour
        with pytest.raises(UnreachableError, match="database_unavailable"):
            reading.get("/api/v1/market/price")  # what the former primary reads may be old
        api.refused.clear()
        servers.name.fail_over(port_of(second.url))
        everybody.goes_on()
        assert api.refused == []
