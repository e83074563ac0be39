"""A database server out of connections, out of disk, slow, in a deadlock, or killed: the faults are the real ones.

Everybody is refused for now, keeps what he holds, and goes on when it is over, with the sandbox that met it.
"""

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from energy_market.database import Database
from energy_market_client.errors import UnreachableError
from local_market.parts.postgres import FUNCTIONS_ROLE
from local_market.parts.postgres import LocalPostgres as Server
from tests.support.everybody import Everybody
from tests.support.loop import Loop
from tests.support.market import Market
from tests.support.neighbours import Api, Cancelling, Ordering
from tests.support.owner import as_functions, as_owner
from tests.support.places import TEMPLATE

DISK_MB = 32


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients do not ask again by themselves."""
    monkeypatch.setattr("energy_market_client.transport.ATTEMPTS", 1)


@pytest.fixture
def somebody(database_url: str, owner_url: str) -> Iterator[str]:
    """The address for a role that may have two connections at a time."""
    name = f"somebody_{uuid4().hex[:8]}"
    with psycopg.connect(owner_url, autocommit=True) as conn:
        quoted, functions = sql.Identifier(name), sql.Identifier(FUNCTIONS_ROLE)
        conn.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x' CONNECTION LIMIT 2 IN ROLE {}").format(quoted, functions)
        )
        yield f"postgresql://{name}:x@{database_url.rpartition('@')[2]}"
        conn.execute(sql.SQL("DROP ROLE {}").format(quoted))


def test_without_a_free_connection_everybody_waits_for_one(api: Api, loop: Loop, market: Market, somebody: str) -> None:
    everybody = Everybody(api, loop, market)
    with api.on(Database(somebody)), loop.on(Database(somebody)):
        with psycopg.connect(somebody), psycopg.connect(somebody):
            with pytest.raises(psycopg.OperationalError, match="too many connections"):
                psycopg.connect(somebody)
            everybody.is_refused()
        everybody.goes_on()


@contextlib.contextmanager
def locked_order(url: str, order: UUID) -> Iterator[psycopg.Connection]:
    """Somebody holds the order's row in the book, in a transaction that does not end."""
    with psycopg.connect(as_owner(url)) as conn:
        conn.execute("SET deadlock_timeout = '10 s'")
        conn.execute("SELECT FROM open_orders WHERE order_id = %s FOR UPDATE", (order,))
        yield conn
        conn.rollback()


def test_a_statement_that_takes_too_long_is_given_up(api: Api, market: Market, database_url: str) -> None:
    cancelling = Cancelling(api, market)
    with api.on(Database(database_url, statement_s=0.1)):
        with locked_order(database_url, UUID(str(cancelling.order["id"]))), pytest.raises(UnreachableError):
            cancelling.go()
        assert [answer.refusal for answer in api.refused] == [(503, "database_unavailable")]
        cancelling.go()
        cancelling.check()


def test_the_victim_of_a_deadlock_asks_again(api: Api, market: Market, database_url: str) -> None:
    cancelling = Cancelling(api, market)
    order = UUID(str(cancelling.order["id"]))

    def refused() -> None:
        with pytest.raises(UnreachableError):
            cancelling.go()

    with psycopg.connect(as_owner(database_url), autocommit=True) as conn:
        conn.execute(
            sql.SQL("ALTER DATABASE {} SET deadlock_timeout = '300 ms'").format(sql.Identifier(conn.info.dbname))
        )
    with api.on(Database(database_url)):
        with locked_order(database_url, order) as other:
            victim = threading.Thread(target=refused)
            victim.start()
            _wait_for_a_waiter(database_url)
            other.execute("SELECT FROM energy_orders WHERE id = %s FOR UPDATE", (order,))
            victim.join()
        assert [answer.refusal for answer in api.refused] == [(503, "database_unavailable")]
        cancelling.go()
        cancelling.check()


def _wait_for_a_waiter(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        deadline = time.monotonic() + 10
        while not conn.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def small_disk(server: Server) -> Iterator[tuple[str, Path]]:
    """A database on a disk of its own, and that disk; skipped where this process may not mount one."""
    with psycopg.connect(server.url, autocommit=True) as conn, contextlib.ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        folder.chmod(0o755)
        disk = folder / "disk"
        disk.mkdir()
        owner = conn.execute("SELECT current_setting('data_directory')").fetchone()
        assert owner is not None
        user = Path(owner[0]).stat()
        options = f"size={DISK_MB}m,uid={user.st_uid},gid={user.st_gid},mode=700"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, check=False, text=True
        )
        if mounted.returncode != 0:
            pytest.skip(f"no disk of its own can be mounted here: {mounted.stderr.strip()}")
        undo.callback(lambda: subprocess.run(["umount", "--lazy", disk], check=True))
        name = f"small_{uuid4().hex[:8]}"
        quoted = sql.Identifier(name)
        conn.execute(sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(quoted, sql.Literal(str(disk))))
        undo.callback(conn.execute, sql.SQL("DROP TABLESPACE {}").format(quoted))
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} TABLESPACE {}").format(quoted, sql.Identifier(TEMPLATE), quoted)
        )
        undo.callback(conn.execute, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(quoted))
        yield as_functions(server, name), disk


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Nothing more fits onto the disk."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(65536))
    while True:
        with ballast.open("ab", buffering=0) as file:
            try:
                file.write(bytes(512))
            except OSError:
                break
    assert os.statvfs(disk).f_bavail == 0
    yield
    ballast.unlink()


@pytest.mark.may_be_skipped("mounting needs a right that a container may not have")
def test_on_a_full_disk_what_finds_no_room_is_done_when_there_is_some(
    api: Api, loop: Loop, small_disk: tuple[str, Path]
) -> None:
    url, disk = small_disk
    market = Market(url)
    with contextlib.closing(market), api.on(Database(url)), loop.on(Database(url)):
        neighbour = Ordering(api, market).neighbour
        loop.market = market
        home = loop.home(available_wh=1_000)
        market.order(home.user, "sell", 700, 200_000)
        market.order(market.user(), "buy", 700, 200_000)
        device = loop.broker.devices[home.device]

        def place(number: int) -> None:
            neighbour.place(side="buy", size_wh=400, price_micro=1, all_or_none=True, key=f"order {number}")

        def placed_until_refused() -> int:
            for number in range(1000):
                try:
                    place(number)
                except UnreachableError:
                    return number
            raise AssertionError("there was room for a thousand orders")

        with full(disk):
            loop.tick()
            # Neither matches nor the levels of the book find room; commands, of which there are none yet, come between.
            assert [type(error) for error in loop.failed] == [psycopg.errors.DiskFull] * 2
            orders = placed_until_refused()
            while not loop.queue:
                device.report()
                loop.deliver()
        loop.failed.clear()
        place(orders)
        assert market.sql("SELECT count(*) FROM energy_orders WHERE price_micro = 1") == [(orders + 1,)]
        loop.run_on()
        assert (list(loop.queue), loop.failed) == ([], [])
        assert market.sql("SELECT status, delivery FROM transactions") == [("Confirmed", "Delivered")]
        market.is_sound()
