"""The people and devices of an end-to-end session, on the running system."""

import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import psycopg
from energy_device.agent import DeviceAgent, Network
from energy_device.config import DeviceConfig
from energy_device.energy_source import SimulatedBattery
from eth_account import Account
from eth_account.signers.local import LocalAccount

from energy_market_client.answers import SettlementChain
from energy_market_client.market_client import MarketClient
from energy_market_client.wallet import Wallet, call_data
from local_market.emulators.local_aws import STACK
from local_market.stack.market import LocalMarket
from local_market.watching.comparison import Escrow, reconcile

ENOUGH_GAS_WEI = 10**18
UNIT = 10**18  # of the test token
PATIENCE_S = 60.0
NODE_KEY = f"key-{secrets.token_hex(16)}"  # part of the node's address, as those have it that are paid for
ON_LOCALSTACK = os.environ.get("LOCAL_AWS") == "localstack"
OPERATOR: LocalAccount = Account.create()  # of the market: its configuration names this wallet


@dataclass(kw_only=True)
class Neighbour:
    """Somebody with a wallet and a session, and perhaps a device."""

    client: MarketClient
    agent: DeviceAgent | None = None
    device_id: str = ""


class Neighbourhood:
    """People and devices of one test session, on the running system."""

    def __init__(self, market: LocalMarket, folder: Path) -> None:
        self.market = market
        self.network = Network()
        self.agents: list[tuple[Neighbour, DeviceAgent]] = []
        self._folder = folder
        self._clients: list[MarketClient] = []
        self._logs = boto3.client("logs", endpoint_url=market.stack.aws.endpoint_url)
        self._deployer = Wallet(
            Account.from_key(market.stack.chain.deployer_key),
            rpc_url=market.stack.chain.rpc_url,
            chain_id=market.stack.chain.chain_id,
        )

    def buyer(self, *, tokens: int) -> Neighbour:
        """Somebody with tokens in escrow."""
        neighbour = self.stranger()
        chain: SettlementChain = neighbour.client.chain()
        amount = tokens * UNIT
        self._deployer.wait(self._deployer.send(neighbour.client.account.address, value_wei=ENOUGH_GAS_WEI))
        if tokens:
            mint = call_data("mint(address,uint256)", neighbour.client.account.address, amount)
            self._deployer.wait(self._deployer.send(chain.token_contract, data=mint))
            wallet = Wallet(neighbour.client.account, rpc_url=self.market.stack.chain.rpc_url, chain_id=chain.chain_id)
            wallet.deposit(token=chain.token_contract, contract=chain.settlement_contract, amount=amount)
            wallet.close()
        return neighbour

    def operator(self) -> Neighbour:
        """Whoever signs in with the wallet that the configuration names."""
        return self.stranger(OPERATOR)

    def stranger(self, account: LocalAccount | None = None) -> Neighbour:
        """Somebody who has just signed up, or logged in."""
        neighbour = Neighbour(client=MarketClient(self.market.api_url, account))
        self._clients.append(neighbour.client)
        neighbour.client.sign_up()
        return neighbour

    def donor(self, *, charge_wh: int) -> Neighbour:
        """Somebody whose device is connected and has reported."""
        neighbour = self.stranger()
        registered = neighbour.client.register_device(side="donor", device_type="raspi", location="the roof")
        aws = self.market.stack.aws
        agent = DeviceAgent(
            config=DeviceConfig(
                device_id=registered.device_id,
                side="donor",
                host=aws.iot_host,
                port=aws.iot_port,
                certificate=registered.certificate_pem.encode(),
                private_key=registered.private_key.encode(),
                ca=aws.ca_file.read_bytes(),
                state_path=self._folder / f"{registered.device_id}.db",
                status_period_s=2.0,
                transfer_period_s=0.5,
            ),
            source=SimulatedBattery(capacity_wh=100_000, charge_wh=charge_wh, power_w=5_000, speed_up=3_600),
            network=self.network,
        )
        agent.start()
        agent.wait_ready(PATIENCE_S)
        neighbour.agent, neighbour.device_id = agent, registered.device_id
        self.agents.append((neighbour, agent))
        wait_until(lambda: self.devices_of(neighbour)[0]["available_kwh"] is not None)
        return neighbour

    @staticmethod
    def devices_of(neighbour: Neighbour) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = neighbour.client.get("/api/v1/iot/devices")
        return found

    def differences(self) -> list[str]:
        """What database and chain disagree on, and what a device still holds."""
        ledger = Escrow(
            rpc_url=self.market.stack.chain.rpc_url,
            contract=self.market.settlement_contract,
            token=self.market.token,
            token_decimals=18,
        )
        with psycopg.connect(self.market.stack.database.url, autocommit=True) as conn:
            found = reconcile(conn, ledger=ledger, at_rest=True)
        return found + [f"device {one.device_id} holds {agent.locks}" for one, agent in self.agents if agent.locks]

    def reconciled_by_night(self) -> int:
        """How many differences the nightly function finds, called as its schedule calls it."""
        return int(self._called("reconcile")["differences"])

    def tidy_devices(self) -> None:
        """Call the function that tidies devices, as its schedule does."""
        self._called("device-tidying")

    def _called(self, function: str) -> Any:  # noqa: ANN401 -- whatever it says
        client = boto3.client("lambda", endpoint_url=self.market.stack.aws.endpoint_url)
        answer = client.invoke(FunctionName=f"{STACK}-{function}", Payload=b"{}")
        said = json.loads(answer["Payload"].read())
        client.close()
        assert not answer.get("FunctionError"), said
        return said

    def logged_times(self, function: str, reason: str) -> int:
        """How many messages a function has dropped for a reason."""
        return sum(line.get("reason") == reason for line in self._log_lines(function))

    def logged(self, function: str, event: str, *, what: str = "reason") -> set[str]:
        """The reasons, or another field, that a function has logged with an event."""
        return {line[what] for line in self._log_lines(function) if line.get("event") == event}

    def marks(self, zone: str) -> list[tuple[datetime, bool]]:
        """The loop's marks at which a zone was ticked, in order, and whether no other tick of it was at work."""
        ticks = (line for line in self._log_lines("match") if line.get("event") == "tick" and line["zone"] == zone)
        return sorted({(datetime.fromisoformat(tick["mark"]), tick["ran"]) for tick in ticks})

    def publish_over_https(self, topic: str, payload: object) -> None:
        """As somebody with AWS credentials and no device would."""
        client = boto3.client("iot-data", endpoint_url=self.market.stack.aws.iot_endpoint_url)
        client.publish(topic=topic, qos=1, payload=json.dumps(payload).encode())
        client.close()

    def tokens_and_keys(self) -> dict[str, str]:
        """What only a client or a device holds, by a name."""
        found = {}
        for number, client in enumerate(self._clients):
            found[f"access token {number}"], found[f"refresh token {number}"] = client.tokens
        for neighbour, agent in self.agents:
            key = "".join(agent.config.private_key.decode().splitlines()[1:-1])
            found[f"key of {neighbour.device_id}"] = key[-60:]
        return {name: secret for name, secret in found.items() if secret}

    def _log_lines(self, function: str) -> list[dict[str, Any]]:
        pages = self._logs.get_paginator("filter_log_events").paginate(logGroupName=f"/aws/lambda/{STACK}-{function}")
        lines = (entry["message"] for page in pages for entry in page["events"])
        return [json.loads(line) for line in lines if line.startswith("{")]

    def close(self) -> None:
        self._logs.close()
        self._deployer.close()
        for client in self._clients:
            client.close()
        for _, agent in self.agents:
            agent.stop()
        self.network.close()


def wait_until(holds: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
    """Wait for what the system does by itself; it fails the test when it does not come."""
    until = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < until, f"it did not happen in {patience_s:.0f} s"
        time.sleep(0.2)
