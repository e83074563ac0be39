"""The whole market on this machine: the parts, the contracts on the chain, the template on the local AWS."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from local_market.emulators.local_aws import StartAws
from local_market.emulators.ministack import start_ministack
from local_market.stack.contracts import deploy_contracts
from local_market.stack.sam import Deployment, build, deploy
from local_market.stack.stack import Stack, read_stack, start_stack, update_stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the functions find database and chain, and the devices their broker (host:port).

    `migrations_database_url` is the same database's, for who owns it.
    """

    database_url: str
    migrations_database_url: str
    rpc_url: str
    broker: str

    @classmethod
    def of(cls, stack: Stack) -> Self:
        """The parts' own."""
        return cls(
            database_url=stack.database.functions_url,
            migrations_database_url=stack.database.url,
            rpc_url=stack.chain.rpc_url,
            broker=f"{stack.aws.iot_host}:{stack.aws.iot_port}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalMarket:
    """A running market: its parts, its contracts' addresses, and what was deployed."""

    stack: Stack
    token: str
    settlement_contract: str
    deployment: Deployment
    deploy_again: Callable[[Mapping[str, str]], Deployment]
    """Deploy the same once more, with these parameters changed. Raises `ServiceError`."""

    @property
    def api_url(self) -> str:
        """The API's address, without a slash at its end; routes begin with /api/v1."""
        return self.deployment.api_url


def start_market(
    folder: Path,
    *,
    parameters: Mapping[str, str] | None = None,
    addresses_of: Callable[[Stack], Addresses] = Addresses.of,
    keep_state: bool = False,
    outlives_us: bool = False,
    start_aws: StartAws = start_ministack,
) -> LocalMarket:
    """Start all parts with their state in the folder, deploy contracts and template; all or nothing.

    parameters are the template's, over those that follow from the parts. addresses_of: other ways to the parts than
    their own addresses. start_aws: starts another local AWS. Contracts that stand already on a kept chain are used
    again. Raises `ServiceError`.
    """
    with contextlib.ExitStack() as undo, ThreadPoolExecutor(1) as builder:
        built = builder.submit(build, folder)
        stack = start_stack(folder, keep_state=keep_state, outlives_us=outlives_us, start_aws=start_aws)
        undo.callback(stack.stop)
        token, settlement_contract = deploy_contracts(stack.chain, known=read_stack(folder))
        update_stack(folder, token=token, settlement_contract=settlement_contract)
        addresses = addresses_of(stack)

        def deploy_with(changed: Mapping[str, str]) -> Deployment:
            return deploy(
                stack.aws.adapted(built.result()),
                endpoint_url=stack.aws.endpoint_url,
                database_url=addresses.database_url,
                migrations_database_url=addresses.migrations_database_url,
                operator_key=stack.chain.operator_key,
                parameters={
                    "ChainId": str(stack.chain.chain_id),
                    # One block a second, and nobody reorganises this chain but a test.
                    "Confirmations": "2",
                    "FinalityBlocks": "8",
                    "RpcUrl": addresses.rpc_url,
                    "SettlementContract": settlement_contract,
                    "TokenContract": token,
                    "DeviceBroker": addresses.broker,
                    "DeviceCaUrl": stack.aws.device_ca_url,
                    **(parameters or {}),
                    **changed,
                },
            )

        deployment = deploy_with({})
        update_stack(folder, api_url=deployment.api_url)
        undo.pop_all()
    return LocalMarket(
        stack=stack,
        token=token,
        settlement_contract=settlement_contract,
        deployment=deployment,
        deploy_again=deploy_with,
    )


@contextlib.contextmanager
def market(folder: Path, *, parameters: Mapping[str, str] | None = None) -> Iterator[LocalMarket]:
    """Run a market for the length of a block."""
    started = start_market(folder, parameters=parameters)
    try:
        yield started
    finally:
        started.stack.stop()


RATE_LIMITS: Final = {  # parameters of the template: all homes ask from one address, and as fast as they can
    "RateLimitPerMinute": "1000000",
    "SignInLimitPerMinute": "1000000",
    "UserLimitPerMinute": "1000000",
}
