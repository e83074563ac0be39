"""A deploy migrates first and changes the code afterwards: until then the version before runs on the newer schema."""

import re
from pathlib import Path

import pytest

from energy_market.postgres.migrations import Migration, read

# The first two made the schema; nothing ran before them.
FILES = read(Path(__file__).parents[2] / "infra" / "migrations")[2:]

# What the version before may still read, write or call, or would have to know of.
TAKES_AWAY = re.compile(
    r"""
    \b DROP \s+ (TABLE|VIEW|FUNCTION|COLUMN|SCHEMA|TYPE) \b
    | \b RENAME \b
    | (?<! OR\ ) \b TRUNCATE \b  # a trigger may be of it
    | \b DELETE \s+ FROM \b
    | \b ALTER \s+ COLUMN \s+ \w+ \s+ (SET \s+ NOT \s+ NULL | (SET \s+ DATA \s+)? TYPE | DROP \s+ DEFAULT) \b
    | \b ADD \s+ COLUMN \s+ (?! [^,;]* \b (DEFAULT|GENERATED) \b) [^,;]* \b NOT \s+ NULL \b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def statements(text: str) -> str:
    return re.sub(r"--[^\n]*", "", text)


@pytest.mark.parametrize("migration", FILES, ids=lambda migration: f"{migration.version:04}_{migration.name}")
def test_a_migration_takes_nothing_away_from_the_version_before(migration: Migration) -> None:
    found = TAKES_AWAY.search(statements(migration.sql.decode()))
    assert found is None, found


@pytest.mark.parametrize(
    "text",
    [
        "DROP TABLE users;",
        "ALTER TABLE users DROP COLUMN zone;",
        "ALTER TABLE users RENAME COLUMN zone TO area;",
        "ALTER TABLE users ALTER COLUMN zone SET NOT NULL;",
        "ALTER TABLE users ALTER COLUMN zone TYPE uuid;",
        "ALTER TABLE users ADD COLUMN age int NOT NULL;",
        "DROP VIEW order_states;",
    ],
)
def test_what_takes_something_away_is_seen(text: str) -> None:
    assert TAKES_AWAY.search(statements(text))


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE users ADD COLUMN age int;",
        "ALTER TABLE users ADD COLUMN age int NOT NULL DEFAULT 0;",
        "ALTER TABLE users ADD COLUMN age int CHECK (age > 0), DROP CONSTRAINT users_zone_check; -- RENAME",
        "DROP INDEX users_by_zone; CREATE INDEX users_by_zone ON users (zone) WHERE zone IS NOT NULL;",
    ],
)
def test_what_only_adds_is_fine(text: str) -> None:
    assert not TAKES_AWAY.search(statements(text))
