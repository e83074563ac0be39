"""Where a running system could leave a secret behind: its files, its database, its logs, what AWS shows of it."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg
from psycopg import sql

from local_market.emulators.local_aws import STACK
from local_market.stack.market import LocalMarket

Place = tuple[str, bytes]  # where it is, and all that stands there


def files(folder: Path) -> Iterator[Place]:
    """Every file that anything of the system wrote."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(folder)), path.read_bytes()


def tables(database_url: str) -> Iterator[Place]:
    """Every row of every table, as text."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        names = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (name,) in names:
            rows = conn.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(name))).fetchall()
            yield f"table {name}", "\n".join(row for (row,) in rows).encode()


def command_lines() -> Iterator[Place]:
    """What everybody on this machine may read of its programs."""
    for process in psutil.process_iter(["cmdline"]):
        yield f"process {process.pid}", " ".join(process.info["cmdline"] or []).encode()


def shown_by_aws(endpoint_url: str) -> Iterator[Place]:
    """Logs, the stack, and the loop's executions, as the console shows them."""
    logs = boto3.client("logs", endpoint_url=endpoint_url)
    stacks = boto3.client("cloudformation", endpoint_url=endpoint_url)
    loop = boto3.client("stepfunctions", endpoint_url=endpoint_url)
    for group in logs.describe_log_groups()["logGroups"]:
        name = group["logGroupName"]
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=name)
        yield name, "\n".join(entry["message"] for page in pages for entry in page["events"]).encode()
    yield "describe-stack-events", _text(stacks.describe_stack_events(StackName=STACK))
    yield "outputs", _text(stacks.describe_stacks(StackName=STACK)["Stacks"][0].get("Outputs", []))
    for machine in loop.list_state_machines()["stateMachines"]:
        # AWS shows none of an express machine's; MiniStack does.
        with contextlib.suppress(loop.exceptions.StateMachineTypeNotSupported):
            yield "executions", _text(loop.list_executions(stateMachineArn=machine["stateMachineArn"]))
    logs.close()
    stacks.close()
    loop.close()


def variables(endpoint_url: str) -> Mapping[str, Mapping[str, str]]:
    """Function -> its variables, as whoever may list the functions sees them here. On AWS a key of ours hides them."""
    client = boto3.client("lambda", endpoint_url=endpoint_url)
    listed = [one for page in client.get_paginator("list_functions").paginate() for one in page["Functions"]]
    client.close()
    return {one["FunctionName"]: one.get("Environment", {}).get("Variables", {}) for one in listed}


def secrets_of(market: LocalMarket) -> Mapping[str, str]:
    """What the stack was given to keep, by the names of the secrets."""
    client = boto3.client("secretsmanager", endpoint_url=market.stack.aws.endpoint_url)
    names = [one["Name"] for page in client.get_paginator("list_secrets").paginate() for one in page["SecretList"]]
    found = {name: client.get_secret_value(SecretId=name)["SecretString"] for name in names}
    client.close()
    return found


def _text(answer: Any) -> bytes:  # noqa: ANN401 - whatever AWS answers
    return json.dumps(answer, default=str).encode()
