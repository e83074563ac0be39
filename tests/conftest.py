"""What tests of every kind share: a PostgreSQL server for the session, a database of its own for each test, a chain."""

import hashlib
import os
import shutil
import signal
from collections.abc import Generator, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from energy_market.postgres.migrations import migrate
from local_market.parts.anvil import start_anvil
from local_market.parts.places import LOCAL
from local_market.parts.postgres import LocalPostgres, start_postgres
from local_market.parts.processes import began_at, locked, stop_orphans
from local_market.stack.stack import remove_state
from tests.support.market import chain_was_asked
from tests.support.owner import as_functions, as_owner, remember
from tests.support.places import CHECKOUT, TEMPLATE

MEMORY = Path("/dev/shm")  # noqa: S108 -- a folder of our own in it
MEMORY_NEEDED = 4 * 2**30
"""Bytes that must be free in it: PostgreSQL's own use it as well, and a few hundred MB are filled."""
_databases = count(1)
# Tests kill processes and servers, not the machine: what was written is in its memory whether or not it is on the disk.
# Each test's database is 20 MB to write, and twice that with PostgreSQL's care for it: a third of many tests' time.
NO_CARE_FOR_THE_DISK = ("fsync", "full_page_writes", "wal_init_zero", "wal_recycle")


def pytest_configure() -> None:
    """End in order when told to, as by Ctrl-C: what tests started is stopped."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a skipped test fail under REQUIRE_ALL=1, unless the marker `may_be_skipped` says why it may be."""
    report = yield
    if report.skipped and item.get_closest_marker("may_be_skipped") is None:
        _fail_if_all_is_required(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let a file that is skipped as a whole fail under REQUIRE_ALL=1."""
    report = yield
    if report.skipped:
        _fail_if_all_is_required(report)
    return report


def _fail_if_all_is_required(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("REQUIRE_ALL") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, and REQUIRE_ALL=1 asks for all tests. {reason}"


@pytest.fixture(scope="session", autouse=True)
def _no_account_of_the_persons() -> Iterator[None]:
    """Keep AWS clients in tests from ever finding a real account, and settings of the shell from leaking in."""
    kept = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    yield
    os.environ.clear()
    os.environ |= kept


@pytest.fixture(scope="session")
def state_folder() -> Iterator[Path]:
    """Give the session a folder for servers' state; removed at the end, or by the next session if this one is killed.

    Not in the system's temporary folder: who runs PostgreSQL for root cannot enter pytest's.
    """
    place = _place_of_states()
    with locked(LOCAL / "tests.lock"):  # the workers of one run begin together
        stop_orphans()
        for abandoned in place.glob("[0-9]*"):
            if began_at(int(abandoned.name)) is None:
                remove_state(abandoned)
    folder = place / str(os.getpid())
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another worker has one in it still
        place.rmdir()


def _place_of_states() -> Path:
    """In memory if there is room, else in the checkout.

    Each test has a database of some 470 files. A file system that does not use the place of a removed file again for a
    while (ext4 without a journal) takes 0.4 s for them, memory 0.03 s.
    """
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_NEEDED:
        checkout = hashlib.sha256(f"{os.getuid()} {CHECKOUT}".encode()).hexdigest()[:12]
        return MEMORY / f"energy-market-tests-{checkout}"
    return LOCAL / "tests"


@pytest.fixture(scope="session")
def server(state_folder: Path) -> Iterator[LocalPostgres]:
    """Start PostgreSQL with a template that has the schema."""
    folder = state_folder / "database"
    server = start_postgres(folder)
    remember(server)
    try:
        with psycopg.connect(server.url, autocommit=True) as connection:
            for name in NO_CARE_FOR_THE_DISK:
                connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(name)))
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
        with psycopg.connect(make_conninfo(server.url, dbname=TEMPLATE), autocommit=True) as connection:
            migrate(connection, CHECKOUT / "infra" / "migrations")
            chain_was_asked(connection)
        yield server
    finally:
        server.stop()
        remove_state(folder)


@pytest.fixture(scope="session")
def postgres(server: LocalPostgres) -> str:
    """The owner's URL of the server's own database."""
    return server.url


@pytest.fixture
def database_url(server: LocalPostgres) -> Iterator[str]:
    """Make a database with the schema and nothing in it, for this test alone; the functions' URL of it."""
    name = f"test_{next(_databases)}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(TEMPLATE))
        )
        yield as_functions(server, name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def owner_url(database_url: str) -> str:
    """The owner's URL of this test's database."""
    return as_owner(database_url)


@pytest.fixture
def connection(owner_url: str) -> Iterator[psycopg.Connection]:
    """Open a connection of the owner's to this test's database, in autocommit mode as the product's own."""
    with psycopg.connect(owner_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def anvil(state_folder: Path) -> Iterator[str]:
    """Start a chain (id 31337) that makes a block for each transaction at once; its RPC URL."""
    folder = state_folder / "chain"
    chain = start_anvil(folder, block_time_s=None)
    try:
        yield chain.rpc_url
    finally:
        chain.stop()
        remove_state(folder)
