"""Tests that need a program of Debian's: who may skip them, and how `.ci/run` has them all run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from local_market.parts.places import CHECKOUT
from tests.support import tools

NEEDY = """
import pytest
from tests.support import tools


def test_one():
    tools.pgbouncer()


def test_another():
    tools.pgbouncer()


@pytest.mark.may_be_skipped("a reason")
def test_a_third():
    pytest.skip("nowhere to be had")
"""


def _pytest(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    file = folder / "test_needy.py"
    file.write_text(NEEDY + environment.pop("AND", ""))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-c", CHECKOUT / "pyproject.toml", file],
        cwd=CHECKOUT,
        env={"PATH": "/nowhere", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def _without_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tools, "PATH", str(tmp_path))


@pytest.mark.usefixtures("_without_tools")
@pytest.mark.parametrize(("tool", "package"), [(tools.pgbouncer, "pgbouncer"), (tools.mosquitto, "mosquitto")])
def test_a_test_without_its_program_is_skipped_with_what_to_install(tool: Callable[[], Path], package: str) -> None:
    with pytest.raises(pytest.skip.Exception, match=f"^needs .*: `apt-get install {package}`$"):
        tool()


def test_a_program_is_found_where_debian_puts_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "pgbouncer"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert tools.PATH.split(os.pathsep)[-2:] == ["/usr/sbin", "/sbin"]
    monkeypatch.setattr(tools, "PATH", f"/nowhere{os.pathsep}{tmp_path}")
    assert tools.pgbouncer() == program


WITHOUT_TOOLS = 'tools.PATH = "/nowhere"'


def test_skips_for_one_program_are_one_counted_line(tmp_path: Path) -> None:
    done = _pytest(tmp_path, AND=WITHOUT_TOOLS)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "needs PgBouncer" in line]
    assert line.startswith("SKIPPED [2] tests/support/tools.py:")
    assert line.endswith("needs PgBouncer: `apt-get install pgbouncer`")


def test_where_all_is_required_a_skip_fails_unless_it_is_marked(tmp_path: Path) -> None:
    done = _pytest(tmp_path, AND=WITHOUT_TOOLS, REQUIRE_ALL="1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("2 failed, 1 skipped")
    assert "test_one was skipped, and REQUIRE_ALL=1 asks for all tests. Skipped: needs PgBouncer" in done.stdout


def test_where_all_is_required_a_file_that_is_skipped_as_a_whole_fails(tmp_path: Path) -> None:
    done = _pytest(tmp_path, AND='pytest.skip("all of it", allow_module_level=True)', REQUIRE_ALL="1")
    assert done.returncode != 0, done.stdout + done.stderr
    assert "Skipped: all of it" in done.stdout


class Machine:
    """A machine whose programs write down how they were called, and on which `.ci/run` finds no tool."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self.policy = folder / "policy-rc.d"
        self.bin = folder / "bin"
        self.bin.mkdir()
        (folder / "checkout" / ".ci").mkdir(parents=True)
        text = (CHECKOUT / ".ci" / "run").read_text()
        for old, new in (("TOOLS=(pgbouncer mosquitto)", "TOOLS=(no-such-tool)"),
                         ("policy=/usr/sbin/policy-rc.d", f"policy={self.policy}")):  # fmt: skip
            assert old in text
            text = text.replace(old, new)
        self.script = folder / "checkout" / ".ci" / "run"
        self.script.write_text(text)
        for name in ("dirname", "mktemp", "rm", "tail", "chmod", "printf", "sh"):
            found = next(path for path in (Path("/usr/bin") / name, Path("/bin") / name) if path.exists())
            (self.bin / name).symlink_to(found)
        self.has("make", 'test -e "$POLICY" && held=" and services held"; echo "make $1 REQUIRE_ALL=$REQUIRE_ALL$held"')
        self.has("id", "echo 0 >&3")

    def has(self, name: str, script: str) -> None:
        program = self.bin / name
        program.write_text(f"#!/bin/sh\nexec 3>&1 >>'{self.calls}'\n{script}\n")
        program.chmod(0o755)

    def runs(self) -> tuple[list[str], str]:
        """The calls in turn, and the sentences that a person was told."""
        done = subprocess.run(
            ["/bin/bash", str(self.script)],
            env={"PATH": str(self.bin), "POLICY": str(self.policy)},
            capture_output=True,
            text=True,
            check=True,
        )
        return self.calls.read_text().splitlines(), done.stderr


GATE = ["make check REQUIRE_ALL=1", "make test REQUIRE_ALL=1"]


def test_ci_installs_what_is_missing_with_its_services_held_and_then_requires_all(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.has("apt-get", 'test -x "$POLICY" && held=" with services held"; echo "apt-get $1$held"')
    calls, told = machine.runs()
    assert calls == ["apt-get update with services held", "apt-get install with services held", *GATE]
    assert told == ""
    assert not machine.policy.exists()


def test_ci_leaves_a_machines_own_word_on_services_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.policy.write_text("mine")
    machine.has("apt-get", "true")
    machine.runs()
    assert machine.policy.read_text() == "mine"


@pytest.mark.parametrize(
    ("programs", "told"),
    [
        ({}, "There is no apt-get here: install no-such-tool yourself.\n"),
        ({"apt-get": "true", "id": "echo 1000 >&3"}, "Only root installs packages: install no-such-tool yourself.\n"),
        ({"apt-get": "echo no network >&2; exit 100"}, "no-such-tool could not be installed:\nno network\n"),
    ],
)
def test_where_ci_can_install_nothing_it_says_so_and_goes_on(
    tmp_path: Path, programs: dict[str, str], told: str
) -> None:
    machine = Machine(tmp_path)
    for name, script in programs.items():
        machine.has(name, script)
    calls, said = machine.runs()
    assert (calls[-2:], said) == (GATE, told)
