"""Through a real PgBouncer, in both of its modes: whatever session it gives us each time, it is as good as ours.

The pool has fewer sessions than there are clients, so they really are shared, and nobody leaves anything in one.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from energy_market.database import UNAVAILABLE, Database, connect, read_only
from energy_market.postgres import reconciliation
from energy_market.postgres.dashboard import dashboard
from energy_market.postgres.migrations import migrate
from energy_market.usecases.run_tick import run_tick
from energy_market_client.errors import UnreachableError
from tests.support.api import Client, SignedIn, signed_in
from tests.support.everybody import Everybody
from tests.support.fixtures import LoadApi, MakePooler
from tests.support.loop import Loop
from tests.support.market import SETTINGS, Market
from tests.support.neighbours import Api, Ordering
from tests.support.owner import as_owner
from tests.support.places import CHECKOUT
from tests.support.trouble.alongside import all_at_once
from tests.support.trouble.crashes import occupy
from tests.support.trouble.pooler import MODES, Mode

SANDBOXES = 6
ROUNDS = 12  # psycopg prepares what it has seen five times
MIGRATIONS = CHECKOUT / "infra" / "migrations"


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    mode: Mode = request.param
    return mode


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients do not ask again by themselves."""
    monkeypatch.setattr("energy_market_client.transport.ATTEMPTS", 1)


# ---------------------------------------------------------------------------------------- requests, ticks, messages

GETS = (
    ("market", "/api/v1/market/orders"),
    ("market", "/api/v1/market/book"),
    ("market", "/api/v1/market/price"),
    ("market", "/api/v1/market/trades"),
    ("market", "/api/v1/market/orders/mine"),
    ("analytics", "/api/v1/analytics/dashboard"),
    ("analytics", "/api/v1/analytics/transactions"),
    ("iot", "/api/v1/iot/devices"),
    ("auth", "/api/v1/auth/me"),
)
CREATE, CANCEL = "/api/v1/market/order/create", "/api/v1/market/order/cancel"


class Sandboxes:
    """The functions of the API, each with its own connection, serving one user who asks in an order of their own."""

    def __init__(self, load_api: LoadApi, user: SignedIn, number: int) -> None:
        self.user, self.number = user, number
        self.functions = {name: load_api(f"{name}_api") for name in ("auth", "market", "analytics", "iot")}
        self.wrong: list[str] = []
        self.kwh = Decimal(number + 1)

    def connect(self, new: Callable[[], Database]) -> None:
        for function in self.functions.values():
            occupy(function.module, new())

    def ask(self) -> None:
        """All routes, again and again, beginning elsewhere than the others; orders that only this user places."""
        for turn in range(ROUNDS):
            start = (self.number * 2 + turn) % len(GETS)
            for name, path in (*GETS[start:], *GETS[:start]):
                answer = self.functions[name].get(path, token=self.user.token)
                if answer.status != 200 or not self._is_mine(path, answer.json):
                    self.wrong.append(f"{path}: {answer.status} {answer.text[:300]}")
            bid = {"type": "buy", "kwh_amount": int(self.kwh), "token_price": 0.001}
            placed = self.functions["market"].post(CREATE, bid, token=self.user.token)
            if placed.status != 201 or (placed.json["user_id"], placed.json["kwh_amount"]) != (
                self.user.user_id,
                self.kwh,
            ):
                self.wrong.append(f"{CREATE}: {placed.status} {placed.text[:300]}")
            elif turn % 2:
                taken = self.functions["market"].post(CANCEL, {"order_id": placed.json["id"]}, token=self.user.token)
                if (taken.status, taken.json["id"]) != (200, placed.json["id"]):
                    self.wrong.append(f"{CANCEL}: {taken.status} {taken.text[:300]}")
        for function in self.functions.values():
            function.module.database.close()

    def _is_mine(self, path: str, said: Any) -> bool:  # noqa: ANN401 -- JSON
        if path == "/api/v1/auth/me":
            return bool(said["id"] == self.user.user_id)
        if path == "/api/v1/market/orders/mine":
            return all((one["user_id"], one["kwh_amount"]) == (self.user.user_id, self.kwh) for one in said)
        return True


def test_sandboxes_that_share_sessions_get_their_own_answers(
    load_api: LoadApi, auth: Client, market: Market, pooler_of: MakePooler, mode: Mode
) -> None:
    functions = 4 * SANDBOXES
    pooler = pooler_of(mode, default_pool_size=functions + 1 if mode == "session" else 2)
    users = [signed_in(auth) for _ in range(SANDBOXES)]
    sandboxes = [Sandboxes(load_api, user, number) for number, user in enumerate(users)]
    for one in sandboxes:
        one.connect(lambda: Database(pooler.url))

    def ticks() -> None:
        with closing(Database(pooler.url)) as database:
            for _ in range(2 * ROUNDS):
                run_tick(database, zone="default", device_online_s=SETTINGS.device_online_s)

    all_at_once([*(one.ask for one in sandboxes), ticks])
    assert [one.wrong for one in sandboxes] == [[]] * SANDBOXES
    assert market.sql("SELECT count(*) FROM energy_orders") == [(SANDBOXES * ROUNDS,)]
    market.is_sound()


def test_in_session_mode_a_session_is_anothers_when_its_client_has_left(
    load_api: LoadApi, auth: Client, pooler_of: MakePooler
) -> None:
    pooler = pooler_of("session")
    for number in range(3):
        sandboxes = Sandboxes(load_api, signed_in(auth), number)
        database = Database(pooler.url)
        sandboxes.connect(lambda database=database: database)  # type: ignore[misc]
        sandboxes.ask()
        assert sandboxes.wrong == []


def test_a_market_trades_through_it(api: Api, loop: Loop, market: Market, pooler_of: MakePooler, mode: Mode) -> None:
    """The client, the tick, commands, both queues: their sandboxes share two sessions with each other."""
    pooler = pooler_of(mode)
    with api.on(Database(pooler.url)), loop.on(Database(pooler.url)):
        for _ in range(6):
            Everybody(api, loop, market).goes_on()
    market.is_sound()


# ------------------------------------------------------------------------------------------------- nothing is left


def settings_of(url: str) -> list[tuple[object, ...] | None]:
    """What each of the pooler's sessions says of itself: two clients that are in a transaction at once have both."""
    found: list[tuple[object, ...] | None] = []
    with psycopg.connect(url, prepare_threshold=None) as one, psycopg.connect(url, prepare_threshold=None) as other:
        for conn in (one, other):
            found.append(tuple(conn.execute("SELECT current_setting(%s)", (name,)).fetchone() for name in LEFT))
            found.append(
                conn.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%users%'").fetchone()
            )
    return found


LEFT = (
    "statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout", "default_transaction_read_only",
    "default_transaction_isolation", "transaction_isolation", "TimeZone",
)  # fmt: skip


def test_nobody_leaves_a_setting_or_a_statement_in_a_session(
    api: Api, loop: Loop, market: Market, pooler_of: MakePooler
) -> None:
    pooler = pooler_of("transaction")
    before = settings_of(pooler.url)
    with api.on(Database(pooler.url)), loop.on(Database(pooler.url)):
        for _ in range(6):
            Everybody(api, loop, market).goes_on()
    with read_only(as_owner(pooler.url), deadline_s=60) as conn:
        for _ in range(6):
            assert not list(differences(conn))
    assert settings_of(pooler.url) == before


def differences(conn: psycopg.Connection) -> Iterator[str]:
    """The comparison of every night, without a chain."""
    with conn.transaction():
        reconciliation.hold_still(conn)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), conn.transaction():
            conn.execute("DELETE FROM leases")
        yield from reconciliation.database_differences(conn, at_rest=False, allowed_s=lambda: 30.0).lines


def test_a_transaction_has_its_limits_and_times_in_utc_whosever_the_session_is(
    database_url: str, owner_url: str, pooler_of: MakePooler, mode: Mode
) -> None:
    with psycopg.connect(owner_url, autocommit=True) as conn:
        name = sql.Identifier(conn.info.dbname)
        conn.execute(sql.SQL("ALTER DATABASE {} SET timezone = 'Asia/Kathmandu'").format(name))
    pooler = pooler_of(mode)
    for url in (database_url, pooler.url):
        with closing(Database(url)) as database:
            ask = "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"
            for _ in range(3):
                with database.transaction() as conn:
                    assert conn.execute(ask).fetchone() == ("5s", "5s")
            ((now,),) = database.statement(lambda conn: conn.execute("SELECT now()").fetchall())
            assert now.utcoffset() == timedelta(0)


def test_days_are_those_of_utc_whatever_the_sessions_time_zone(market: Market, database_url: str) -> None:
    home, _, trade = market.sold()
    market.sql("UPDATE transactions SET confirmed_at = '2026-01-02 23:30Z' WHERE id = %s", trade.id)
    with closing(connect(database_url)) as conn:
        for zone in ("UTC", "Pacific/Auckland", "America/Los_Angeles"):
            conn.execute(sql.SQL("SET timezone = {}").format(sql.Literal(zone)))
            today = datetime.now(UTC).date()
            assert [day.day for day in dashboard(conn, home.user).days] == [
                today - timedelta(n) for n in range(29, -1, -1)
            ]


# --------------------------------------------------------------------------------------- migrations and settlement


def test_several_deploys_migrate_through_it_at_once(owner_url: str, pooler_of: MakePooler, mode: Mode) -> None:
    with psycopg.connect(owner_url, autocommit=True) as conn:
        conn.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    url = as_owner(pooler_of(mode, default_pool_size=3 if mode == "session" else 2).url)
    applied: list[list[int]] = []

    def deploy() -> None:
        with closing(connect(url, statement_s=None)) as conn:
            applied.append(migrate(conn, MIGRATIONS))

    all_at_once([deploy] * 3)
    files = len(list(MIGRATIONS.glob("*.sql")))
    assert sorted(version for versions in applied for version in versions) == list(range(1, files + 1))


# ------------------------------------------------------------------------------------------- what a pooler refuses


def is_told_to_come_again(api: Api, ordering: Ordering) -> float:
    """How many seconds that took."""
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="database_unavailable"):
        ordering.go()
    took_s = time.monotonic() - began
    assert api.refused
    for answer in api.refused:
        assert (answer.refusal, answer.headers["Retry-After"]) == ((503, "database_unavailable"), "2")
    api.refused.clear()
    return took_s


@pytest.mark.usefixtures("impatient")
def test_a_pooler_that_is_started_again_costs_nobody_an_answer(
    api: Api, loop: Loop, market: Market, pooler_of: MakePooler, mode: Mode
) -> None:
    pooler = pooler_of(mode)
    with api.on(Database(pooler.url)), loop.on(Database(pooler.url)):
        everybody = Everybody(api, loop, market)
        pooler.stop()
        everybody.is_refused()
        pooler.start()
        everybody.goes_on()
        everybody = Everybody(api, loop, market)
        pooler.stop()
        pooler.start()
        everybody.goes_on()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("settings", [{"client_idle_timeout": 1}, {"server_idle_timeout": 1, "server_lifetime": 1}])
def test_what_a_pooler_ends_for_being_idle_is_begun_anew(
    api: Api, market: Market, pooler_of: MakePooler, mode: Mode, settings: dict[str, int]
) -> None:
    pooler = pooler_of(mode, **settings)
    with api.on(Database(pooler.url)):
        ordering = Ordering(api, market)
        time.sleep(2.5)
        ordering.go()
        ordering.check()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("session", {}),
        ("transaction", {}),
        ("transaction", {"query_wait_timeout": 1}),
        ("transaction", {"max_client_conn": 3}),
    ],
)
def test_without_a_free_session_a_client_is_told_to_come_again_while_there_is_time(
    api: Api, market: Market, pooler_of: MakePooler, mode: Mode, settings: dict[str, int]
) -> None:
    pooler = pooler_of(mode, **settings)
    ordering = Ordering(api, market)
    with api.on(Database(pooler.url)):
        with pooler.sessions_taken(2):
            if "max_client_conn" in settings:
                with psycopg.connect(pooler.url):
                    took_s = is_told_to_come_again(api, ordering)
            else:
                took_s = is_told_to_come_again(api, ordering)
        assert took_s < 6
        ordering.go()
        ordering.check()


def test_a_pooler_that_hides_costs_a_retry(database_url: str) -> None:
    """One that tells us its session's own process: the first statement that is not there gives it away."""
    with closing(Database(database_url)) as database:
        for _ in range(7):
            with database.transaction() as conn:
                conn.execute("SELECT count(*) FROM users WHERE id = %s", (uuid4(),))
        conn.pgconn.exec_(b"DEALLOCATE ALL")  # as if the session were another one
        with pytest.raises(UNAVAILABLE), database.transaction() as conn:
            conn.execute("SELECT count(*) FROM users WHERE id = %s", (uuid4(),))
        for _ in range(7):
            with database.transaction() as conn:
                conn.execute("SELECT count(*) FROM users WHERE id = %s", (uuid4(),))
                assert conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_where_the_session_is_ours_statements_are_prepared_under_names_that_nobody_else_has(database_url: str) -> None:
    names: set[str] = set()
    for _ in range(2):
        with closing(Database(database_url)) as database:
            for _ in range(7):
                with database.transaction() as conn:
                    conn.execute("SELECT count(*) FROM users WHERE id = %s", (uuid4(),))
            with database.transaction() as conn:
                found = conn.execute("SELECT name FROM pg_prepared_statements").fetchall()
            assert len(found) == 1
            names.add(found[0][0])
    assert len(names) == 2
