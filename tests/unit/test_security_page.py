"""docs/security.md: each thing that somebody could try names a test that tries it, and that test exists."""

import re
from pathlib import Path

import pytest

from tests.support.pages import names_in

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
HEADER = "| who | tries | what stops it | test |"
AREAS = [
    "Sign-in", "Tokens", "Authorisation", "Abuse", "Input", "Devices", "Contract", "Operators", "Least privilege",
    "Secrets", "Supply chain",
]  # fmt: skip


def sections(page: str) -> dict[str, str]:
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in page.split("\n## ")[1:]}


def attacks(section: str) -> list[list[str]]:
    """The cells of each row of a section's table of attacks; `\\|` is a character of a cell."""
    _, _, table = section.partition(HEADER + "\n")
    lines = [line for line in table.split("\n\n")[0].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if "---" not in line]


def wrong_with(row: list[str]) -> str | None:
    """What a row lacks; None if nothing."""
    if len(row) != 4 or not all(row):
        return "it has not four cells"
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[3])
    if not named:
        return "it names no test"
    missing = [name for file, name in named if not (ROOT / file).exists() or name not in names_in(ROOT / file)]
    return f"there is no {missing[0]}" if missing else None


SECTIONS = sections(PAGE.read_text())


@pytest.mark.parametrize("area", AREAS)
def test_every_area_has_attacks_and_each_names_tests_that_exist(area: str) -> None:
    rows = attacks(SECTIONS[area])
    assert rows
    assert [(row[1:2], wrong) for row in rows if (wrong := wrong_with(row))] == []


def test_every_table_of_attacks_is_looked_at() -> None:
    assert {name for name, text in SECTIONS.items() if HEADER in text} == set(AREAS)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("| a user | x | y | trust |", "it names no test"),
        ("| a user | x | y | `tests/unit/test_security_page.py` |", "it names no test"),
        ("| a user | x | y | `tests/unit/test_security_page.py::test_nothing` |", "there is no test_nothing"),
        ("| a user | x | y | `tests/unit/test_no_such_file.py::test_x` |", "there is no test_x"),
        ("| a user | x | `tests/unit/test_security_page.py::test_nothing` |", "it has not four cells"),
        ("| a user | | y | `tests/unit/test_security_page.py::test_nothing` |", "it has not four cells"),
    ],
)
def test_a_row_without_its_test_is_found(line: str, wrong: str) -> None:
    (row,) = attacks(f"{HEADER}\n| --- | --- | --- | --- |\n{line}\n")
    assert wrong_with(row) == wrong
