"""`make localstack`: the market on LocalStack's image, which needs Docker and an account (docs/emulators.md).

PostgreSQL and Anvil first; then this machine deploys the contracts and builds the functions. LocalStack comes last, and
its own hooks (init/ready.d) deploy the template.

Environment: LOCALSTACK_AUTH_TOKEN; POSTGRES_PORT, ANVIL_PORT (5432, 8545); LOCALSTACK_IMAGE in place of the pinned one.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from urllib.parse import urlsplit

from local_market.parts.anvil import existing_chain
from local_market.parts.http_here import open_here
from local_market.parts.places import CHECKOUT, LOCAL
from local_market.parts.postgres import existing_database
from local_market.parts.processes import ServiceError
from local_market.stack.contracts import deploy_contracts
from local_market.stack.sam import build
from local_market.stack.stack import read_stack, update_stack

FILE = CHECKOUT / "localstack" / "docker-compose.yml"
FOLDER = LOCAL / "compose"
ENDPOINT_URL = "http://127.0.0.1:4566"
USER = "energy_market"
DEPLOY_TIMEOUT_S = 600.0
POLL_S = 2.0


def missing() -> list[str]:
    """What `make localstack` lacks here, each as a part of a sentence."""
    found = []
    if shutil.which("docker") is None:
        found.append("Docker, and there is no `docker` on the PATH")
    elif not _succeeds("docker", "info"):
        found.append("Docker, and its daemon does not answer")
    elif not _succeeds("docker", "compose", "version"):
        found.append("Docker Compose, and `docker compose` is not installed")
    if not os.environ.get("LOCALSTACK_AUTH_TOKEN"):
        found.append("an account, and LOCALSTACK_AUTH_TOKEN is not set")
    return found


def main() -> None:
    """Start everything, and say where it is. Raises `ServiceError`."""
    lacking = missing()
    if lacking:
        raise ServiceError(
            f"LocalStack's image needs {', and '.join(lacking)}: `make localstack-test` runs without either."
        )
    for name in ("secrets", "build"):
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
    _compose("up", "--detach", "--wait", "postgres", "anvil")
    password = os.environ.get("POSTGRES_PASSWORD", "local")
    database_url = f"postgresql://{USER}:{password}@127.0.0.1:{os.environ.get('POSTGRES_PORT', '5432')}/{USER}"
    database = existing_database(database_url)
    chain = existing_chain(f"http://127.0.0.1:{os.environ.get('ANVIL_PORT', '8545')}")
    token, settlement_contract = deploy_contracts(chain, known=read_stack(FOLDER))
    update_stack(FOLDER, token=token, settlement_contract=settlement_contract)
    build(FOLDER)
    write_secrets(
        {
            "database-url": _inside(database.functions_url),
            "migrations-database-url": _inside(database.url),
            "operator-key": chain.operator_key,
        }
    )
    write_parameters(
        {
            "ChainId": str(chain.chain_id),
            "SettlementContract": settlement_contract,
            "TokenContract": token,
        }
    )
    _compose("up", "--detach", "--force-recreate", "localstack")
    wait_for_hooks()
    print(f"AWS        AWS_ENDPOINT_URL={ENDPOINT_URL} (region us-east-1, credentials test/test), or localstack-client")
    print(f"database   {database.url}")
    print(f"chain      {chain.rpc_url} (id {chain.chain_id})")
    print(f"contracts  token {token}, settlement {settlement_contract}")
    print("stop       docker compose --file localstack/docker-compose.yml down   (--volumes: with all that was stored)")


def write_secrets(values: dict[str, str]) -> None:
    """Write the secrets that the hooks give to LocalStack, one file each, for nobody else's eyes.

    The keys of access tokens are made once and kept.
    """
    folder = FOLDER / "secrets"
    keys = folder / "jwt-keys"
    if not keys.exists():
        values = {**values, "jwt-keys": json.dumps({"local-1": secrets.token_hex(32)})}
    for name, value in values.items():
        with os.fdopen(os.open(folder / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
            file.write(value)


def write_parameters(values: dict[str, str]) -> None:
    """Write the template's parameters for the hooks, one a line; the devices' broker they find themselves."""
    given = {
        "Platform": "local",
        "DeployedAt": str(time.time_ns()),
        "PythonRuntime": f"python{sys.version_info.major}.{sys.version_info.minor}",
        "SignInDomain": "localhost",
        "SignInUri": "http://localhost",
        "Confirmations": "2",
        "FinalityBlocks": "8",
        "RpcUrl": "http://anvil:8545",
        **values,
    }
    (FOLDER / "parameters").write_text("".join(f"{name}={value}\n" for name, value in given.items()))


def wait_for_hooks() -> None:
    """Wait until LocalStack has run its hooks. Raises `ServiceError` with its last words if one failed."""
    deadline = time.monotonic() + DEPLOY_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            with open_here(f"{ENDPOINT_URL}/_localstack/init/ready") as answer:
                stage = json.load(answer)
        except (OSError, ValueError):
            stage = {}
        if any(script["state"] == "ERROR" for script in stage.get("scripts", [])):
            break
        if stage.get("completed"):
            return
        time.sleep(POLL_S)
    said = subprocess.run([*_DOCKER, "logs", "--tail", "30", "localstack"], capture_output=True, text=True, check=False)
    raise ServiceError(f"LocalStack did not deploy the market:\n{said.stdout[-3000:]}")


def _inside(url: str) -> str:
    """The database's address as a function's container sees it."""
    outside = urlsplit(url)
    return outside._replace(netloc=f"{outside.netloc.rpartition('@')[0]}@postgres:5432").geturl()


_DOCKER = ["docker", "compose", "--file", str(FILE)]


def _compose(*arguments: str) -> None:
    done = subprocess.run([*_DOCKER, *arguments], cwd=CHECKOUT, check=False)
    if done.returncode != 0:
        raise ServiceError(f"docker compose {arguments[0]} ended with {done.returncode}.")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
