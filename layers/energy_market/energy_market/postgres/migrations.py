"""The schema's migrations: numbered SQL files, each applied once, in order, in its own transaction."""

import hashlib
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from psycopg import Connection, sql
from psycopg.errors import LockNotAvailable

FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
# The advisory lock of all migrating processes; the number only has to be the same everywhere.
LOCK = 0x656E6572
# The market runs during a migration, so a file locks all tables before it begins. It tries in short attempts, so that
# it never holds one table for long while it waits for the next: another transaction may hold that one and wait for the
# first.
TABLE_WAIT_MS: Final = 50
ATTEMPTS: Final = 200
MAX_BACKOFF_S: Final = 0.5


class MigrationError(Exception):
    """The files and the database do not match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file: its number is the schema's version once it is applied."""

    version: int
    name: str
    sql: bytes

    @property
    def checksum(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.sql).hexdigest()


def migrate(conn: Connection, folder: Path, *, sleep: Callable[[float], None] = time.sleep) -> list[int]:
    """Apply the migrations of `folder` that the database lacks; return the versions that were applied.

    `conn` must be in autocommit mode: every file gets its own transaction, with its row in schema_migrations. A file
    that fails leaves no trace, and those before it stay. Any number of callers may do this at once.

    Raises `MigrationError` for files that are misnamed or not numbered from 1 without gaps, for a database that a newer
    version has migrated, and for an applied file that was changed since. Raises `psycopg.Error` if a file fails, or if
    a table stays locked for about a minute.
    """
    migrations = read(folder)
    if not conn.autocommit:
        raise MigrationError("Migrations need a connection in autocommit mode.")
    with conn.transaction():
        _lock(conn)
        conn.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations ("
            " version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
    return [migration.version for migration in migrations if _apply_in_the_end(conn, migration, migrations, sleep)]


def schema_version(conn: Connection) -> int:
    """Return the number of the newest applied migration; 0 for a database that has none."""
    known = conn.execute("SELECT to_regclass('schema_migrations') IS NOT NULL").fetchone()
    if known != (True,):
        return 0
    row = conn.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchone()
    return int(row[0]) if row is not None else 0


def read(folder: Path) -> list[Migration]:
    """Read the migrations of a folder, in order. Raises `MigrationError` when they are not 1, 2, 3 and so on."""
    migrations = []
    for path in sorted(folder.glob("*.sql")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not named like 0001_what_it_does.sql.")
        migrations.append(Migration(version=int(match[1]), name=match[2], sql=path.read_bytes()))
    if not migrations:
        raise MigrationError(f"There are no migrations in {folder}.")
    for expected, migration in enumerate(migrations, start=1):
        if migration.version != expected:
            raise MigrationError(f"Migration {expected:04} is missing, or {migration.version:04} is there twice.")
    return migrations


def _apply_in_the_end(
    conn: Connection, migration: Migration, migrations: list[Migration], sleep: Callable[[float], None]
) -> bool:
    """Apply one migration as soon as no table is locked, with backoff and full jitter."""
    for attempt in range(1, ATTEMPTS):
        try:
            return _apply(conn, migration, migrations)
        except LockNotAvailable:
            sleep(random.random() * min(0.01 * 2**attempt, MAX_BACKOFF_S))  # noqa: S311 -- not cryptography
    return _apply(conn, migration, migrations)


def _apply(conn: Connection, migration: Migration, migrations: list[Migration]) -> bool:
    """Apply one migration unless it was applied already; return whether it was applied now.

    The lock belongs to the transaction, not to the session: it works behind a connection pool too, and migrations that
    others applied during the wait are seen.
    """
    with conn.transaction():
        _lock(conn)
        applied: dict[int, str] = dict(conn.execute("SELECT version, checksum FROM schema_migrations").fetchall())
        _check(applied, migrations)
        if migration.version in applied:
            return False
        _take_tables(conn)
        conn.execute(migration.sql)
        conn.execute(
            "INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
            (migration.version, migration.name, migration.checksum),
        )
    return True


def _take_tables(conn: Connection) -> None:
    """Lock all tables until the transaction ends. Raises LockNotAvailable."""
    tables = conn.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename <> 'schema_migrations'"
    ).fetchall()
    if tables:
        conn.execute(f"SET LOCAL lock_timeout = {TABLE_WAIT_MS}".encode())
        names = sql.SQL(", ").join(sql.Identifier(name) for (name,) in tables)
        conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names))
        conn.execute("SET LOCAL lock_timeout TO DEFAULT")


def _check(applied: dict[int, str], migrations: list[Migration]) -> None:
    """Refuse a database that was not made by these files."""
    newest = migrations[-1].version
    if applied and max(applied) > newest:
        raise MigrationError(
            f"The database is at version {max(applied)}, newer than this version of the software, which knows {newest}."
        )
    for migration in migrations:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise MigrationError(f"Migration {migration.version:04}_{migration.name} was changed after it was applied.")


def _lock(conn: Connection) -> None:
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
