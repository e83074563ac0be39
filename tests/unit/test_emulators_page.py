"""docs/emulators.md: the versions are those that are locked, and every test that it names exists."""

import re
from pathlib import Path

import pytest

from tests.support.pages import names_in

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "emulators.md").read_text()


def _rows(heading: str) -> list[list[str]]:
    """The cells of the table's rows below a heading."""
    table = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize(
    ("lock", "package"),
    [("ministack", "ministack"), ("localstack", "localstack-core"), ("lambda", "awslambdaric")],
)
def test_the_versions_are_the_locked_ones(lock: str, package: str) -> None:
    (version,) = re.findall(
        rf"^{package}==(\S+)", (ROOT / "localstack" / "locks" / f"{lock}.txt").read_text(), re.MULTILINE
    )
    assert version in PAGE.split("\n## ")[0]


def test_the_images_version_is_the_pinned_one() -> None:
    (version,) = re.findall(r"localstack/localstack:([\d.]+)", (ROOT / "localstack" / "docker-compose.yml").read_text())
    assert f"| LocalStack's image | {version} |" in PAGE


@pytest.mark.parametrize(("heading", "cells"), [("What runs where", 6), ("What the emulators showed", 5)])
def test_every_row_is_whole_and_names_tests_that_exist(heading: str, cells: int) -> None:
    rows = _rows(heading)
    assert len(rows) > 5
    for row in rows:
        assert len(row) == cells, row
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[-1])
        assert named, row
        assert [name for file, name in named if name not in names_in(ROOT / file)] == []
