"""What faults happen to: the parts, the links between them, the homes and their devices."""

import contextlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
from eth_account import Account

from energy_market.evm.rpc import Rpc
from energy_market_client.market_client import MarketClient
from energy_market_client.wallet import Wallet, read_uint
from local_market.chaos.hindrances import NotNow, insist
from local_market.chaos.links import Link
from local_market.community.device_process import DeviceProcess, DeviceProcesses
from local_market.community.home import Home
from local_market.community.street import Street
from local_market.emulators.local_aws import aws_session
from local_market.faulty_node import FaultyNode
from local_market.parts.anvil import LocalChain
from local_market.parts.postgres import LocalPostgres
from local_market.stack.market import LocalMarket
from local_market.watching.figures import FUNCTION_LOGS, log_groups

TURN_TIMEOUT_S: Final = 20.0
WALLET_PATIENCE_S: Final = 10.0
OPERATORS_GAS_WEI: Final = 10**22
MOMENT_S: Final = 6.0
UNPAID: Final = "SELECT id FROM transactions WHERE status IN ('Locked', 'Submitted')"


class ChaosWorld:
    """What faults happen to: the parts, the links between them, the homes and their devices. For many threads."""

    def __init__(
        self,
        market: LocalMarket,
        *,
        folder: Path,
        database: Link,
        chain: Link,
        broker: Link,
        node: FaultyNode,
        street: Street,
        devices: DeviceProcesses,
    ) -> None:
        """All is well."""
        self.market = market
        self.folder = folder
        self.database_link, self.chain_link, self.broker_link = database, chain, broker
        self.node = node
        self.street = street
        self.devices = devices
        self.database: LocalPostgres = market.stack.database
        self.chain: LocalChain = market.stack.chain
        self.visitor = MarketClient(market.api_url)
        self.violations: list[str] = []
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self.reorganised_at = 0.0
        self.highest_block = 0
        session = aws_session()
        endpoint_url = market.stack.aws.endpoint_url
        self.sqs = session.client("sqs", endpoint_url=endpoint_url)
        self.functions = session.client("lambda", endpoint_url=endpoint_url)
        self.loop = session.client("stepfunctions", endpoint_url=endpoint_url)
        self.logs = session.client("logs", endpoint_url=endpoint_url)

    @contextlib.contextmanager
    def turn(self, part: str) -> Iterator[None]:
        """Have a part to oneself: what was killed is not killed again before it is back. Raises NotNow."""
        if not self._turns[part].acquire(timeout=TURN_TIMEOUT_S):
            raise NotNow(f"{part} is the matter of another fault")
        try:
            yield
        finally:
            self._turns[part].release()

    def connect(self) -> psycopg.Connection[Any]:
        """A connection of the launcher's own to the database, past the link."""
        return psycopg.connect(self.database.url, autocommit=True, connect_timeout=3, application_name="chaos")

    def ask_chain(self, method: str, *parameters: object) -> Any:  # noqa: ANN401 - JSON
        """Ask the node, past the link."""
        with closing(Rpc(self.chain.rpc_url, timeout_s=3, deadline_s=5)) as rpc:
            return rpc.call(method, *parameters)

    def moment(self, query: str) -> list[str]:
        """Wait a little for a moment at which something is at stake: what the query finds then, or nothing."""
        until = time.monotonic() + MOMENT_S
        while time.monotonic() < until:
            with contextlib.suppress(psycopg.Error), self.connect() as conn:
                found = [str(row[0]) for row in conn.execute(query)]
                if found:
                    return found
            time.sleep(0.2)
        return []

    def any_device(self, chance: random.Random) -> DeviceProcess:
        """A device that holds energy or is asked to, if there is one soon."""
        busy = self.moment(
            """SELECT device_id FROM transactions
               WHERE status IN ('Pending', 'Locked', 'Submitted') OR delivery IN ('Owed', 'Started') ORDER BY seq"""
        )
        homes = [home for home in self.street.homes if home.device is not None and home.device.device_id in busy]
        return self.devices.running[chance.choice(homes or self.street.homes).household.name]

    def any_buyer(self, chance: random.Random) -> Home:
        """Somebody who has bought what is not paid yet, if there is one soon."""
        owing = self.moment("SELECT recipient_id FROM transactions WHERE status IN ('Pending', 'Locked') ORDER BY seq")
        return chance.choice([home for home in self.street.homes if home.client.user_id in owing] or self.street.homes)

    def wallet(self, home: Home) -> Wallet:
        """A home's wallet, which waits a few blocks and not longer."""
        return Wallet(
            home.client.account, rpc_url=self.chain.rpc_url, chain_id=self.chain.chain_id, patience_s=WALLET_PATIENCE_S
        )

    def deposit_again(self, home: Home) -> None:
        """Put into escrow what a home has of tokens. Raises what `IMPOSSIBLE` has."""
        token, contract = self.market.token, self.market.settlement_contract
        with closing(self.wallet(home)) as wallet:
            amount = read_uint(wallet.rpc, token, "balanceOf(address)", wallet.account.address)
            if amount:
                wallet.deposit(token=token, contract=contract, amount=amount)

    def refill_operator(self) -> None:
        """Give the operator gas again."""
        self.ask_chain("anvil_setBalance", Account.from_key(self.chain.operator_key).address, hex(OPERATORS_GAS_WEI))

    def heal(self) -> None:
        """See to it that no fault's end was lost: a chain that was killed forgets the last that was done to it."""
        insist(lambda: self.connect().close())
        insist(self.refill_operator)
        for home in self.street.homes:
            insist(lambda home=home: self.deposit_again(home))  # type: ignore[misc]

    def keep_function_logs(self, file: Path) -> None:
        """Write down what the functions have logged, all in order of time."""
        lines = []
        pages = self.logs.get_paginator("filter_log_events")
        for group in log_groups(self.logs):
            name = group.removeprefix(FUNCTION_LOGS)
            for page in pages.paginate(logGroupName=group):
                lines += [(event["timestamp"], name, event["message"].rstrip()) for event in page["events"]]
        with file.open("w") as out:
            for timestamp_ms, name, message in sorted(lines):
                at = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
                out.write(f"{at:%H:%M:%S.%f} {name} {message}\n")

    def close(self) -> None:
        """Drop the AWS clients' connections."""
        for client in (self.sqs, self.functions, self.loop, self.logs, self.visitor):
            client.close()
