"""Migrations on a real PostgreSQL, and the custom resource that runs them on every deploy."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from energy_market.postgres import migrations
from energy_market.postgres.migrations import ATTEMPTS, MAX_BACKOFF_S, MigrationError, migrate, schema_version
from tests.support.api import load_function

_names = count(1)
Files = Callable[..., Path]


@pytest.fixture
def empty_url(postgres: str) -> Iterator[str]:
    """A database that nothing was done to; its URL."""
    name = f"empty_{next(_names)}"
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield f"{postgres.rpartition('/')[0]}/{name}"
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def conn(empty_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(empty_url, autocommit=True) as conn:
        yield conn


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Writes migrations, the name of each without its suffix, into a folder of their own."""
    folders = count(1)

    def write(**statements: str) -> Path:
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        for name, text in statements.items():
            (folder / f"{name.removeprefix('m')}.sql").write_text(text)
        return folder

    return write


def tables(conn: psycopg.Connection) -> set[str]:
    rows = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {name for (name,) in rows} - {"schema_migrations"}


def test_files_are_applied_in_order_and_only_once(conn: psycopg.Connection, files: Files) -> None:
    folder = files(m0001_homes="CREATE TABLE homes (id int)", m0002_more="ALTER TABLE homes ADD COLUMN sun int")
    assert schema_version(conn) == 0
    assert migrate(conn, folder) == [1, 2]
    assert migrate(conn, folder) == []
    assert schema_version(conn) == 2
    rows = conn.execute("SELECT version, name, length(checksum) FROM schema_migrations ORDER BY version").fetchall()
    assert rows == [(1, "homes", 64), (2, "more", 64)]


def test_a_later_file_is_added_to_what_is_there(conn: psycopg.Connection, files: Files) -> None:
    migrate(conn, files(m0001_a="CREATE TABLE a ()"))
    assert migrate(conn, files(m0001_a="CREATE TABLE a ()", m0002_b="CREATE TABLE b ()")) == [2]


def test_a_file_that_fails_leaves_nothing_behind_and_those_before_it_stay(
    conn: psycopg.Connection, files: Files
) -> None:
    good = files(m0001_a="CREATE TABLE a ()")
    broken = files(m0001_a="CREATE TABLE a ()", m0002_b="CREATE TABLE b (); SELECT 1 / 0", m0003_c="CREATE TABLE c ()")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(conn, broken)
    assert tables(conn) == {"a"}
    assert schema_version(conn) == 1
    assert migrate(conn, good) == []


def test_many_at_once_apply_each_file_once(empty_url: str, files: Files) -> None:
    folder = files(**{f"m000{n}_t": f"CREATE TABLE t{n} (); SELECT pg_sleep(0.02)" for n in range(1, 6)})
    start = threading.Barrier(8)

    def one(_: int) -> list[int]:
        with psycopg.connect(empty_url, autocommit=True) as conn:
            start.wait()
            return migrate(conn, folder)

    with ThreadPoolExecutor(8) as pool:
        applied = [version for versions in pool.map(one, range(8)) for version in versions]
    assert sorted(applied) == [1, 2, 3, 4, 5]


def test_a_table_that_somebody_holds_is_waited_for_but_not_for_ever(
    conn: psycopg.Connection, empty_url: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "TABLE_WAIT_MS", 1)
    migrate(conn, files(m0001_a="CREATE TABLE a (); CREATE TABLE b ()"))
    more = files(m0001_a="CREATE TABLE a (); CREATE TABLE b ()", m0002_b="ALTER TABLE a ADD COLUMN x int")
    pauses: list[float] = []
    with psycopg.connect(empty_url) as somebody:
        somebody.execute("SELECT FROM b")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            migrate(conn, more, sleep=pauses.append)
        assert schema_version(conn) == 1
        assert len(pauses) == ATTEMPTS - 1
        assert 5 < sum(pauses) < ATTEMPTS * MAX_BACKOFF_S
        assert migrate(conn, more, sleep=lambda _: somebody.rollback()) == [2]


def test_a_database_of_a_newer_version_is_refused(conn: psycopg.Connection, files: Files) -> None:
    migrate(conn, files(m0001_a="CREATE TABLE a ()", m0002_b="CREATE TABLE b ()"))
    with pytest.raises(MigrationError, match="at version 2, newer than"):
        migrate(conn, files(m0001_a="CREATE TABLE a ()"))


def test_a_file_that_was_changed_after_it_was_applied_is_refused(conn: psycopg.Connection, files: Files) -> None:
    migrate(conn, files(m0001_a="CREATE TABLE a ()"))
    with pytest.raises(MigrationError, match="0001_a was changed"):
        migrate(conn, files(m0001_a="CREATE TABLE a (x int)", m0002_b="CREATE TABLE b ()"))
    assert tables(conn) == {"a"}


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ((), "no migrations"),
        (("1_a",), "not named like"),
        (("0001_a", "0003_c"), "0002 is missing"),
        (("0001_a", "0001_b"), "twice"),
    ],
)
def test_files_that_are_misnamed_are_refused_before_anything_is_done(
    conn: psycopg.Connection, files: Files, names: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(MigrationError, match=complaint):
        migrate(conn, files(**dict.fromkeys(names, "CREATE TABLE x ()")))
    assert schema_version(conn) == 0


def test_a_connection_inside_a_transaction_is_refused(empty_url: str, files: Files) -> None:
    with psycopg.connect(empty_url) as conn, pytest.raises(MigrationError, match="autocommit"):
        migrate(conn, files(m0001_a="CREATE TABLE a ()"))


class Deploy:
    """Plays CloudFormation: sends requests to the function and takes its answers."""

    def __init__(self, url: str, migrations: Path, answers: list[dict[str, Any]]) -> None:
        self.function = load_function("migrations")
        self.pack(migrations)
        self.url = url
        self.answers = answers

    def pack(self, migrations: Path) -> None:
        """What the function's package holds from now on."""
        vars(self.function)["MIGRATIONS"] = migrations

    def request(self, kind: str, *, code: int = 1, old_code: int | None = None) -> dict[str, Any]:
        arn = "arn:aws:lambda:us-east-1:000000000000:function:energy-market-migrations:"
        event = {
            "RequestType": kind,
            "RequestId": "request",
            "StackId": "stack",
            "LogicalResourceId": "Schema",
            "ResponseURL": self.url,
            "ResourceProperties": {"Code": f"{arn}{code}"},
        }
        if old_code is not None:
            event["OldResourceProperties"] = {"Code": f"{arn}{old_code}"}
        self.function.handle(event, None)
        return self.answers[-1]


@pytest.fixture
def deploy(empty_url: str, files: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deploy]:
    """A deploy of two migrations onto an empty database."""
    monkeypatch.setenv("DATABASE_URL", empty_url)
    folder = files(m0001_a="CREATE TABLE a ()", m0002_b="CREATE TABLE b ()")
    answers: list[dict[str, Any]] = []

    class Taker(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            answers.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taker) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Deploy(f"http://127.0.0.1:{server.server_address[1]}/", folder, answers)
        server.shutdown()


def test_a_deploy_migrates_and_says_which_version_the_schema_has(deploy: Deploy, conn: psycopg.Connection) -> None:
    answer = deploy.request("Create")
    assert answer == {
        "Status": "SUCCESS",
        "PhysicalResourceId": "schema",
        "StackId": "stack",
        "RequestId": "request",
        "LogicalResourceId": "Schema",
        "Data": {"Version": 2},
    }
    assert tables(conn) == {"a", "b"}


def test_removing_the_stack_leaves_the_data(deploy: Deploy, conn: psycopg.Connection) -> None:
    deploy.request("Create")
    assert deploy.request("Delete")["Status"] == "SUCCESS"
    assert tables(conn) == {"a", "b"}


def test_without_a_database_the_deploy_fails(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://somebody:secret@127.0.0.1:1/none")
    answer = deploy.request("Create")
    assert answer["Status"] == "FAILED"
    assert "Migrations failed" in answer["Reason"]
    assert "secret" not in answer["Reason"]


@pytest.mark.parametrize("url", ["not a url, secret", "postgresql://u:secret@host:notaport/x", "host=x secret"])
def test_a_database_url_that_cannot_be_read_fails_without_being_quoted(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    answer = deploy.request("Create")
    assert answer["Status"] == "FAILED"
    assert "secret" not in json.dumps(answer) + capsys.readouterr().out


def test_old_software_on_a_newer_database_fails_the_deploy(deploy: Deploy, files: Files) -> None:
    deploy.request("Create")
    deploy.pack(files(m0001_a="CREATE TABLE a ()"))
    answer = deploy.request("Update", code=2, old_code=1)
    assert (answer["Status"], "newer than" in answer["Reason"]) == ("FAILED", True)


def test_taking_an_update_back_keeps_the_newer_schema(deploy: Deploy, files: Files) -> None:
    older = files(m0001_a="CREATE TABLE a ()")
    newer = files(m0001_a="CREATE TABLE a ()", m0002_b="CREATE TABLE b ()")
    deploy.pack(older)
    deploy.request("Create", code=1)
    deploy.pack(newer)
    deploy.request("Update", code=2, old_code=1)
    deploy.pack(older)
    answer = deploy.request("Update", code=1, old_code=2)
    assert (answer["Status"], answer["Data"]) == ("SUCCESS", {"Version": 2})
