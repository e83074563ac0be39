"""What is locked, and under which licences."""

import importlib.metadata
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
EVERYTHING = CHECKOUT / "requirements.txt"
SHIPPED = [
    CHECKOUT / "layers" / "energy_market" / "requirements.txt",
    CHECKOUT / "functions" / "settlement" / "requirements.txt",
]
LOCKS = [EVERYTHING, *SHIPPED, *sorted((CHECKOUT / "localstack" / "locks").glob("*.txt"))]

PERMISSIVE = re.compile(
    r"\b(MIT|MIT-0|BSD|0BSD|Apache|ISC|MPL|Mozilla Public License|PSF|Python Software Foundation|CNRI|Public Domain)\b",
    re.IGNORECASE,
)
EXCEPTIONS = {
    # LGPL: used as it is published, as a library that whoever deploys may replace; the design names it.
    "psycopg": "LGPL-3.0-only",
    "psycopg-binary": "LGPL-3.0-only",
}


def locked(lock: Path) -> dict[str, set[str]]:
    """Read a lock file: name -> versions (more than one where they differ by the interpreter)."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", lock.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def licence_of(distribution: importlib.metadata.Distribution) -> str:
    """Say what a distribution declares: an expression, else its classifiers, else a line of text."""
    declared = distribution.metadata
    if "License-Expression" in declared:
        return declared["License-Expression"]
    classifiers = [c for c in declared.get_all("Classifier", []) if c.startswith("License :: ")]
    return "; ".join(classifiers or declared.get_all("License", []))


@pytest.mark.parametrize("lock", SHIPPED, ids=lambda lock: lock.parent.name)
def test_what_is_shipped_is_what_is_tested(lock: Path) -> None:
    tested = locked(EVERYTHING)
    shipped = locked(lock)
    assert shipped
    assert shipped == {name: tested[name] for name in shipped}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(CHECKOUT)))
def test_a_lock_has_hashes_and_names_no_registry(lock: Path) -> None:
    text = lock.read_text()
    entries = re.split(r"^(?=[a-z0-9][^\n]*==)", text, flags=re.MULTILINE)[1:]
    assert entries
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text
    assert "--index" not in text


def test_npms_lock_has_hashes_and_names_no_registry() -> None:
    text = (CHECKOUT / "package-lock.json").read_text()
    assert '"resolved"' not in text
    assert text.count('"integrity"') == text.count('"node_modules/')


def test_no_package_runs_a_program_as_it_is_installed() -> None:
    commands = [
        line
        for path in ("Makefile", "localstack/set_up.py", ".ci/run")
        for line in (CHECKOUT / path).read_text().splitlines()
        if re.search(r"\bnpm (ci|install)\b|\*command, \"(ci|install)\"", line)
    ]
    assert len(commands) == 2
    assert [command for command in commands if "--ignore-scripts" not in command] == []


def test_the_layer_goes_without_what_chalices_command_line_needs() -> None:
    assert locked(SHIPPED[0]).keys() & {"botocore", "click", "inquirer", "jmespath", "pip", "setuptools"} == set()


def test_the_settlement_function_packs_nothing_that_the_layer_brings_in_bulk() -> None:
    assert "pycryptodome" in locked(SHIPPED[0])
    assert "pycryptodome" not in locked(SHIPPED[1])


def test_every_licence_is_permissive_or_a_known_exception() -> None:
    refused = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.name).lower()
        licence = licence_of(distribution)
        if EXCEPTIONS.get(name) == licence:
            continue
        # Of several, each must be permissive, except where we may choose (OR): there one is enough.
        parts = re.split(r"\bAND\b|;", licence.replace("(", " ").replace(")", " "))
        if not all(PERMISSIVE.search(part) for part in parts) or re.search(r"\b(A|L)?GPL", licence):
            refused[name] = licence
    assert refused == {}
