"""The function that migrates, as CloudFormation calls it on a deploy."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import psycopg

from energy_market.database import connect
from tests.support.api import FUNCTIONS, load_function
from tests.support.trouble.crashes import Fuse, fused_cursor

NEWEST = 3


def first_migrations(folder: Path) -> Path:
    """The first of the migrations: what may go wrong is the same between any two, and all of them take a second."""
    folder.mkdir()
    for path in sorted((FUNCTIONS.parent / "infra" / "migrations").glob("*.sql"))[:NEWEST]:
        shutil.copy(path, folder)
    return folder


class Migrating:
    """A deploy's migrations, on a database with nothing in it; at the address that the environment names."""

    def __init__(self, url: str, migrations: Path) -> None:
        self.url = url
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("DROP SCHEMA public CASCADE")
            conn.execute("CREATE SCHEMA public")
        self.function = cast("Any", load_function("migrations"))
        self.function.MIGRATIONS = migrations
        self.function.respond = self._respond
        self.answers: list[dict[str, Any]] = []

    @contextmanager
    def process(self, fuse: Fuse) -> Iterator[None]:
        def connected(url: str, **options: Any) -> psycopg.Connection:  # noqa: ANN401 -- as the product has it
            connection = connect(url, **options)
            connection.cursor_factory = fused_cursor(fuse, statements=True, autocommit=True)
            return connection

        def respond(url: str, answer: dict[str, Any]) -> None:
            with fuse.effect("answer"):
                self._respond(url, answer)

        self.function.connect = connected
        self.function.respond = respond
        yield

    def _respond(self, _url: str, answer: dict[str, Any]) -> None:
        self.answers.append(answer)

    def go(self) -> None:
        request = dict.fromkeys(("StackId", "RequestId", "LogicalResourceId", "ResponseURL"), "any")
        self.function.handle({"RequestType": "Create", **request}, None)

    def run_on(self) -> None:
        """Lambda calls a function again whose process died; whoever is told of a failure deploys again."""
        self.function.connect, self.function.respond = connect, self._respond
        if not self.answers or self.answers[-1]["Status"] == "FAILED":
            self.go()

    def check(self) -> None:
        assert (self.answers[-1].get("Reason"), self.answers[-1].get("Data")) == (None, {"Version": NEWEST})
        with psycopg.connect(self.url) as conn:
            versions = conn.execute("SELECT array_agg(version ORDER BY version) FROM schema_migrations").fetchone()
        assert versions == (list(range(1, NEWEST + 1)),)
