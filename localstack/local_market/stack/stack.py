"""The parts of the local stack together: PostgreSQL, Anvil and the local AWS.

Everything listens on this machine only. Ports are free ones unless given; DATABASE_URL, RPC_URL and ANVIL_BIN name
existing parts to use in place of the embedded ones.
"""

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from local_market.emulators.local_aws import LocalAws, StartAws
from local_market.emulators.ministack import start_ministack
from local_market.parts.anvil import LocalChain, existing_chain, start_anvil
from local_market.parts.ports import is_free, port_from
from local_market.parts.postgres import LocalPostgres, existing_database, home_of_postgres, start_postgres
from local_market.parts.processes import locked


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The three parts together, and the folder that holds what they write."""

    folder: Path
    database: LocalPostgres
    chain: LocalChain
    aws: LocalAws

    def stop(self) -> None:
        """Stop all that is ours, those that use others first."""
        self.aws.stop()
        self.chain.stop()
        self.database.stop()


def start_stack(
    folder: Path,
    *,
    keep_state: bool = False,
    outlives_us: bool = False,
    start_aws: StartAws = start_ministack,
) -> Stack:
    """Start PostgreSQL, Anvil and the local AWS, or use those that the environment names; all or none.

    A stack that does not outlive us is a temporary one: killed before it could stop, its folder is removed with it by
    whoever next calls `stop_orphans`.

    A stack that keeps its state keeps its ports too, as long as they are free and no others are given.

    Environment: DATABASE_URL, RPC_URL; POSTGRES_PORT, ANVIL_PORT, API_PORT, IOT_PORT; AUTH (`true`: IAM and IoT
    policies are enforced; `false`: everybody may do everything, to see whether it is a right that lacks).
    """
    with contextlib.ExitStack() as undo:
        # All ports are looked at before anything is started.
        known = read_stack(folder)
        postgres_port = port_from("POSTGRES_PORT") or _former_port(known.get("database_url"))
        anvil_port = port_from("ANVIL_PORT") or _former_port(known.get("rpc_url"))
        api_port = port_from("API_PORT") or _former_port(known.get("aws_endpoint_url"))
        iot_port = port_from("IOT_PORT") or _former_port(f"//localhost:{known.get('iot_port', '')}")
        database_url, rpc_url = os.environ.get("DATABASE_URL", ""), os.environ.get("RPC_URL", "")
        if database_url:
            database = existing_database(database_url)
        else:
            database = start_postgres(folder, port=postgres_port, outlives_us=outlives_us)
            undo.callback(database.stop)
        if rpc_url:
            chain = existing_chain(rpc_url)
        else:
            chain = start_anvil(folder, port=anvil_port, outlives_us=outlives_us)
            undo.callback(chain.stop)
        aws = start_aws(
            folder,
            port=api_port,
            iot_port=iot_port,
            authorize=os.environ.get("AUTH", "true") != "false",
            keep_state=keep_state,
            outlives_us=outlives_us,
        )
        undo.callback(aws.stop)
        update_stack(
            folder,
            database_url=database.url,
            rpc_url=chain.rpc_url,
            chain_id=chain.chain_id,
            deployer_key=chain.deployer_key,
            operator_key=chain.operator_key,
            aws_endpoint_url=aws.endpoint_url,
            iot_host=aws.iot_host,
            iot_port=aws.iot_port,
            iot_ca_file=str(aws.ca_file),
        )
        undo.pop_all()
    return Stack(folder=folder, database=database, chain=chain, aws=aws)


def _former_port(address: str | int | None) -> int | None:
    port = urlsplit(str(address)).port if address else None
    return port if port is not None and is_free(port) else None


def remove_state(folder: Path) -> None:
    """Remove a stopped stack's folder, and PostgreSQL's where that is elsewhere."""
    if not folder.exists():
        return
    home = home_of_postgres(folder)
    shutil.rmtree(folder)
    if home.exists():
        shutil.rmtree(home)


def read_stack(folder: Path) -> dict[str, str | int]:
    """Read what is known of the stack in a folder: addresses, keys, contracts; empty if there is none."""
    try:
        known: dict[str, str | int] = json.loads((folder / "stack.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return known


def update_stack(folder: Path, **values: str | int) -> dict[str, str | int]:
    """Add to what is known of the stack in a folder; nobody ever reads half of it."""
    with locked(folder / "stack.lock"):
        known = read_stack(folder) | values
        unfinished = folder / "stack.json.new"
        # It holds keys and a password.
        with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
            json.dump(known, file, indent=2)
        unfinished.replace(folder / "stack.json")
    return known
