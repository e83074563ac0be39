"""The server falls silent and nobody is told: a cable, a firewall, a failover. Nobody waits longer than they have.

Whoever can't be served is told so while there is time, drops the connection, and goes on with the next.
"""

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

import energy_market.database
from energy_market.database import UNAVAILABLE, Database, Silent, Unreachable, read_only
from energy_market_client.errors import UnreachableError
from local_market.chaos.links import Links
from tests.support.everybody import Everybody
from tests.support.loop import Loop, TwoSteps
from tests.support.market import Market
from tests.support.neighbours import Api, Ordering
from tests.support.trouble.disturbances import disturb, each_silence
from tests.support.trouble.links import at_most, port_of, through
from tests.support.trouble.postgres_proxy import Proxy

FUNCTIONS_HAVE_S = 10.0  # the shortest of those that have to do with the database
REQUESTS_HAVE_S = 15.0
STATEMENT_S = 0.5


@pytest.fixture
def links() -> Iterator[Links]:
    links = Links()
    yield links
    links.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients do not ask again by themselves."""
    monkeypatch.setattr("energy_market_client.transport.ATTEMPTS", 1)


@pytest.mark.usefixtures("impatient")
def test_while_the_server_is_silent_everybody_is_told_so_in_time_and_goes_on_after(
    api: Api, loop: Loop, market: Market, database_url: str, links: Links
) -> None:
    link = links.add(port_of(database_url))
    url = through(link, database_url)
    everybody = Everybody(api, loop, market)
    with api.on(Database(url)), loop.on(Database(url)):
        Ordering(api, market).go()  # both connections are open, and warm
        loop.tick()
        time.sleep(energy_market.database.IDLE_S + 0.1)
        # A request, a tick, its commands, and both queues, one after the other.
        with link.trouble("silent"), at_most(4 * FUNCTIONS_HAVE_S * 0.7):
            everybody.is_refused()
        with at_most(3):
            everybody.goes_on()


@pytest.mark.usefixtures("impatient")
def test_a_request_on_a_silent_connection_is_answered_well_before_its_function_ends(
    api: Api, market: Market, database_url: str, links: Links
) -> None:
    link = links.add(port_of(database_url))
    with api.on(Database(through(link, database_url))):
        ordering = Ordering(api, market)
        with link.trouble("silent"), at_most(REQUESTS_HAVE_S * 0.6), pytest.raises(UnreachableError):
            ordering.go()
        (answer,) = api.refused
        assert (answer.refusal, answer.headers["Retry-After"]) == ((503, "database_unavailable"), "2")
        with at_most(2):
            ordering.go()
        ordering.check()


def test_a_request_is_done_once_at_whichever_statement_the_server_falls_silent(
    api: Api, market: Market, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("energy_market.database.BEYOND_STATEMENT_S", 0.2)

    def refused() -> None:
        for answer in api.refused:
            assert (answer.refusal, answer.headers["Retry-After"]) == ((503, "database_unavailable"), "2")
        api.refused.clear()

    disturb(
        proxy,
        api.on,
        lambda: Ordering(api, market),
        disturbances=each_silence,
        refused=refused,
        database=lambda url: Database(url, statement_s=STATEMENT_S),
    )


def test_the_loop_and_the_queues_go_on_at_whichever_statement_the_server_falls_silent(
    loop: Loop, market: Market, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("energy_market.database.BEYOND_STATEMENT_S", 0.2)

    def refused() -> None:
        assert all(isinstance(error, UNAVAILABLE) for error in loop.failed)
        loop.failed.clear()

    disturb(
        proxy,
        loop.on,
        lambda: TwoSteps(loop, market),
        disturbances=lambda requests: each_silence(requests)[::12],
        refused=refused,
        database=lambda url: Database(url, statement_s=STATEMENT_S),
    )


def test_who_fell_silent_in_a_transaction_holds_no_row_for_long(
    market: Market, database_url: str, links: Links
) -> None:
    """The server hears no more of the client than the client of the server, and must not wait for its end."""
    link = links.add(port_of(database_url))
    user = market.user()
    renamed = "UPDATE users SET location = %s WHERE id = %s"
    with (
        closing(Database(through(link, database_url), statement_s=STATEMENT_S)) as away,
        closing(Database(database_url)) as here,
    ):
        with pytest.raises(Silent), away.transaction() as conn:  # noqa: PT012 -- what is in it is what is tried
            conn.execute(renamed, ("away", user))
            link.fail_over(port_of(database_url))
            with at_most(STATEMENT_S + 1), here.transaction() as other:
                other.execute(renamed, ("here", user))
            conn.execute("SELECT 1")
        assert market.sql("SELECT location FROM users WHERE id = %s", user) == [("here",)]


def test_nothing_is_sent_when_there_is_no_time_left(database_url: str, market: Market) -> None:
    user = market.user()
    with closing(Database(database_url)) as database:
        database.start_deadline(3.5)
        with pytest.raises(Silent, match="no time left"), database.transaction() as conn:  # noqa: PT012 -- the COMMIT raises
            conn.execute("UPDATE users SET location = 'too late' WHERE id = %s", (user,))
            database.start_deadline(0)
        with pytest.raises(Unreachable, match="no time left"), database.transaction():
            pass
        database.start_deadline(10)
        with database.transaction() as conn:
            assert conn.execute("SELECT location FROM users WHERE id = %s", (user,)).fetchone() == (None,)


@pytest.mark.parametrize("accepts", [True, False])
def test_a_server_that_never_greets_is_given_up(accepts: bool) -> None:  # noqa: FBT001
    """A port where nobody says anything, or where nobody even accepts: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=8 if accepts else 0) as silent, contextlib.ExitStack() as stack:
        if not accepts:
            for _ in range(2):
                waiting = stack.enter_context(closing(socket.socket()))
                waiting.settimeout(0)
                with contextlib.suppress(BlockingIOError):
                    waiting.connect(silent.getsockname())
        url = f"postgresql://a:b@127.0.0.1:{silent.getsockname()[1]}/c?sslmode=disable&gssencmode=disable"
        with closing(Database(url)) as database:
            with at_most(4.5), pytest.raises(Unreachable), database.transaction():
                pass
            with at_most(4.5), pytest.raises(Unreachable):
                database.statement(lambda conn: conn.execute("SELECT 1"))
        with at_most(4.5), pytest.raises(Unreachable), read_only(url, deadline_s=60):
            pass


def test_what_reads_for_long_ends_at_its_deadline(database_url: str, links: Links) -> None:
    link = links.add(port_of(database_url))
    with read_only(through(link, database_url), deadline_s=4.5) as conn, link.trouble("silent"):
        with at_most(5), pytest.raises(Silent), conn.transaction():
            conn.execute("SELECT count(*) FROM users")
        assert conn.closed
