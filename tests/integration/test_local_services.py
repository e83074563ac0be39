"""The parts that the local stack starts: each alone, as a launcher uses them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from local_market.commands.run import refuse_a_used_database
from local_market.commands.session import RunError
from local_market.parts import anvil, ports, postgres, processes
from local_market.parts.anvil import start_anvil
from local_market.parts.places import CHECKOUT
from local_market.parts.postgres import start_postgres
from local_market.parts.processes import ServiceError
from local_market.stack.stack import read_stack, remove_state, update_stack

LOCALSTACK = CHECKOUT / "localstack"


def wait_for(condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def test_every_test_has_a_database_with_the_schema_to_itself(connection: psycopg.Connection) -> None:
    versions = connection.execute("SELECT version FROM schema_migrations ORDER BY version").fetchall()
    assert versions[0] == (1,)
    assert connection.execute("SELECT count(*) FROM energy_orders").fetchone() == (0,)


def test_a_database_keeps_its_data_through_a_crash_and_a_lock_file_of_another_process(state_folder: Path) -> None:
    folder = state_folder / "crash"
    server = start_postgres(folder)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL)
    server.stop()
    pid_file = postgres.home_of_postgres(folder) / "data" / "postmaster.pid"
    lines = pid_file.read_text().split("\n")
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))

    server = start_postgres(folder)
    try:
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
    finally:
        server.stop()
        remove_state(folder)


def test_two_databases_run_side_by_side(postgres: str, state_folder: Path) -> None:
    folder = state_folder / "second"
    server = start_postgres(folder)
    try:
        assert server.url != postgres
    finally:
        server.stop()
        remove_state(folder)
    assert not folder.exists()


def test_a_chain_keeps_its_blocks(state_folder: Path) -> None:
    folder = state_folder / "kept-chain"
    address = "0x00000000000000000000000000000000000000ff"
    chain = start_anvil(folder, block_time_s=None)
    anvil.call_chain(chain.rpc_url, "anvil_setBalance", [address, "0x1234"])
    anvil.call_chain(chain.rpc_url, "evm_mine", [])
    chain.stop()
    chain = start_anvil(folder, block_time_s=None)
    try:
        assert anvil.call_chain(chain.rpc_url, "eth_getBalance", [address, "latest"]) == "0x1234"
    finally:
        chain.stop()
        remove_state(folder)


def test_a_port_in_use_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("ANVIL_PORT", str(port))
        with pytest.raises(ServiceError, match=rf"^Port {port} is in use: name another one with ANVIL_PORT\.$"):
            ports.port_from("ANVIL_PORT")


@pytest.mark.parametrize("value", ["0", "65536", "-1", "eighty", "80.0"])
def test_a_port_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("API_PORT", value)
    with pytest.raises(ServiceError, match=r"^API_PORT is .*, which is no port\.$"):
        ports.port_from("API_PORT")


def test_a_chain_that_does_not_answer_is_named() -> None:
    with pytest.raises(ServiceError, match="RPC_URL"):
        anvil.existing_chain(f"http://127.0.0.1:{ports.free_port()}")


def test_a_part_that_cannot_start_says_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = processes.start(
        "part", ["sh", "-c", "echo I have no heart >&2; sleep 0.2; exit 3"], log=log, environment={}
    )
    with pytest.raises(ServiceError, match="I have no heart"):
        processes.wait_until(lambda: False, process=process, log=log, timeout_s=10)
    assert not process.record.exists()


ORPHANS = """
import os, sys
from pathlib import Path
sys.path.insert(0, {localstack!r})
from local_market.parts import processes
folder = Path({folder!r})
folder.mkdir()
shell = "sh -c 'trap : TERM; sleep 600 & wait; sleep 600' & trap '' TERM; echo $! > child; wait; sleep 600"
process = processes.start("part", ["sh", "-c", shell], log=folder / "log", working_folder=folder,
                          environment=dict(os.environ), folders=[folder])
print(process.pid, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_launcher_left_is_stopped_with_its_children_and_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.3)
    folder = tmp_path / "state"
    code = ORPHANS.format(localstack=str(LOCALSTACK), folder=str(folder))
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        orphan = int(launcher.stdout.readline())
        wait_for(lambda: (folder / "child").exists() and (folder / "child").read_text().strip())
        child = int((folder / "child").read_text())
        processes.stop_orphans()
        assert processes.began_at(orphan) is not None, "its launcher lives, so it is no orphan"
        launcher.kill()
    assert processes.stop_orphans() == ["part"]
    assert processes.began_at(orphan) is None
    assert processes.began_at(child) is None
    assert not folder.exists()


def test_a_process_that_was_given_an_orphans_id_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as innocent:
        began = processes.began_at(innocent.pid)
        assert began is not None
        stale = processes.Started(
            name="part",
            pid=innocent.pid,
            began="another boot 1",
            owner=1,
            owner_began="gone",
            stop_signal=15,
            folders=[],
        )
        processes.RECORDS.mkdir(parents=True, exist_ok=True)
        stale.record.write_text(json.dumps({field: getattr(stale, field) for field in stale.__slots__}))
        processes.stop_orphans()
        assert not stale.record.exists()
        assert processes.began_at(innocent.pid) == began
        innocent.kill()


def test_what_is_known_of_a_stack_adds_up(tmp_path: Path) -> None:
    update_stack(tmp_path, api_url="http://127.0.0.1:1")
    update_stack(tmp_path, chain_id=31337)
    assert read_stack(tmp_path) == {"api_url": "http://127.0.0.1:1", "chain_id": 31337}
    assert (tmp_path / "stack.json").stat().st_mode & 0o077 == 0


def test_a_run_refuses_a_database_that_holds_a_market(
    postgres: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres)
    refuse_a_used_database()
    monkeypatch.setenv("DATABASE_URL", database_url)
    with pytest.raises(RunError, match="needs an empty one"):
        refuse_a_used_database()
