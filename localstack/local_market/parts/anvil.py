"""Anvil, the local chain."""

import json
import os
import platform
import shutil
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local_market.parts.http_here import open_here
from local_market.parts.places import CHECKOUT
from local_market.parts.ports import on_some_port
from local_market.parts.processes import ServiceError, Started, plain_environment, start, stop, wait_until

# Anvil's first accounts, known to everybody, with 10,000 ether each on a chain that exists only here.
DEPLOYER_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
OPERATOR_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalChain:
    """An EVM chain; process is None if it is somebody else's."""

    rpc_url: str
    chain_id: int
    deployer_key: str
    operator_key: str
    process: Started | None

    def stop(self) -> None:
        """Stop the node, if it is ours; it writes its state first."""
        if self.process is not None:
            stop(self.process)


def anvil_binary() -> Path:
    """Find Anvil: ANVIL_BIN, else npm's for this platform, else one on the PATH."""
    named = os.environ.get("ANVIL_BIN", "")
    if named:
        found = shutil.which(named)
        if found is None:
            raise ServiceError(f"ANVIL_BIN is {named!r}, which is no program.")
        return Path(found)
    system = platform.system().lower()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    packaged = CHECKOUT / "node_modules" / "@foundry-rs" / f"anvil-{system}-{machine}" / "bin" / "anvil"
    if packaged.exists():
        return packaged
    elsewhere = shutil.which("anvil")
    if elsewhere is None:
        raise ServiceError(f"npm has no Anvil for {system} on {machine}: install Foundry's and name it with ANVIL_BIN.")
    return Path(elsewhere)


def start_anvil(
    folder: Path,
    *,
    port: int | None = None,
    block_time_s: int | None = 1,
    outlives_us: bool = False,
    more: Sequence[str] = (),
) -> LocalChain:
    """Start Anvil with the chain kept in the folder; without a block time each transaction makes its own block.

    `more`: further arguments.
    """
    return on_some_port(
        port,
        lambda chosen: _anvil_on(chosen, folder=folder, block_time_s=block_time_s, outlives_us=outlives_us, more=more),
    )


def _anvil_on(
    port: int, *, folder: Path, block_time_s: int | None, outlives_us: bool, more: Sequence[str]
) -> LocalChain:
    home = folder / "anvil"
    home.mkdir(parents=True, exist_ok=True)
    arguments: list[str | Path] = [anvil_binary(), "--host", "127.0.0.1", "--port", str(port), "--chain-id", "31337"]
    # Written while it runs as well, so that a node that is killed loses seconds, not the chain.
    arguments += ["--state", home / "state.json", "--state-interval", "5"]
    if block_time_s is not None:
        arguments += ["--block-time", str(block_time_s)]
    arguments += more
    log = folder / "logs" / "anvil.log"
    process = start(
        "anvil",
        arguments,
        log=log,
        # Its home, because it keeps old states under ~/.foundry.
        environment={**plain_environment(), "HOME": str(home), "TMPDIR": str(home)},
        working_folder=home,
        folders=[folder],
        outlives_us=outlives_us,
    )
    rpc_url = f"http://127.0.0.1:{port}"
    wait_until(lambda: _chain_id(rpc_url) is not None, process=process, log=log, timeout_s=30)
    return LocalChain(
        rpc_url=rpc_url, chain_id=31337, deployer_key=DEPLOYER_KEY, operator_key=OPERATOR_KEY, process=process
    )


def existing_chain(rpc_url: str) -> LocalChain:
    """Use somebody else's chain; keys are DEPLOYER_PRIVATE_KEY and OPERATOR_PRIVATE_KEY, else Anvil's first two."""
    chain_id = _chain_id(rpc_url)
    if chain_id is None:
        raise ServiceError(f"No chain answers at {rpc_url}, which RPC_URL names.")
    return LocalChain(
        rpc_url=rpc_url,
        chain_id=chain_id,
        deployer_key=os.environ.get("DEPLOYER_PRIVATE_KEY", DEPLOYER_KEY),
        operator_key=os.environ.get("OPERATOR_PRIVATE_KEY", OPERATOR_KEY),
        process=None,
    )


def _chain_id(rpc_url: str) -> int | None:
    """Ask a node for its chain's id; None if it does not answer."""
    try:
        return int(call_chain(rpc_url, "eth_chainId", []), 16)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def call_chain(rpc_url: str, method: str, parameters: list[str]) -> str:
    """Call a node; KeyError if it answers with an error."""
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    request = urllib.request.Request(  # noqa: S310
        rpc_url, data=json.dumps(question).encode(), headers={"Content-Type": "application/json"}
    )
    with open_here(request) as answer:
        result: str = json.load(answer)["result"]
    return result
