"""`make up`: the running market without the simulated community. It keeps its state until `make clean`."""

import os
import time

from local_market.parts.places import LOCAL
from local_market.parts.processes import locked, recorded, stop, stop_orphans
from local_market.stack.market import start_market
from local_market.stack.stack import read_stack

FOLDER = LOCAL / "up"
STARTED = FOLDER / "started"
"""There while all of it was started to the end."""


def main() -> None:
    """Start what does not run yet, and say where it is. Raises `ServiceError`."""
    stop_orphans()
    with locked(LOCAL / "up.lock"):
        lasting = [process for process in recorded() if process.outlives_its_starter]
        if STARTED.exists() and lasting and all(process.is_running() for process in lasting):
            print("It runs already.")
        else:
            STARTED.unlink(missing_ok=True)
            # What is left of a stack that was not started to the end, or of which a part has died.
            for process in lasting:
                stop(process)
            began = time.monotonic()
            wallets = os.environ.get("OPERATOR_WALLETS", "")
            start_market(
                FOLDER,
                parameters={"OperatorWallets": wallets} if wallets else None,
                keep_state=True,
                outlives_us=True,
            )
            STARTED.touch()
            print(f"Started in {time.monotonic() - began:.0f} s.")
    known = read_stack(FOLDER)
    print(f"API        {known['api_url']}/api/v1/health")
    print(f"its page   {known['api_url']}/api/v1/docs")
    print(f"AWS        AWS_ENDPOINT_URL={known['aws_endpoint_url']} (region us-east-1, credentials test/test)")
    print(f"devices    {known['iot_host']}:{known['iot_port']} (authority: {known['iot_ca_file']})")
    print(f"database   {known['database_url']}")
    print(f"chain      {known['rpc_url']} (id {known['chain_id']})")
    print(f"contracts  token {known['token']}, settlement {known['settlement_contract']}")
    print(f"All of this is in {(FOLDER / 'stack.json').relative_to(LOCAL.parent)}; logs are beside it.")
