"""`make chaos`: the community of `make run` while everything beneath it fails, by a random schedule of faults.

Environment: SEED (1; of the schedule and the homes' sizes), DURATION (120 seconds of faults, from the first order on),
HOMES (10), SPEED (as for `make run`).

The parts are our own: they are killed. Functions and devices reach them over links that can fail (`chaos.links`), the
launcher directly. While the faults last, the database's invariants are checked every few seconds. Then the faults stop,
dead-letter queues are replayed, the homes cancel what is open; when all has come to rest, database, chain, devices and
the homes' books are compared.

The last line of standard output is one JSON object; everything else goes to standard error. Exit status 0 only if
nothing was violated, nothing is stuck, and something was traded.
"""

import contextlib
import csv
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg

from energy_market.postgres.reconciliation import CHECKS
from energy_market_client.errors import ApiError, UnreachableError
from local_market.chaos.faults.aws import DEPLOY_TIMEOUT_S
from local_market.chaos.links import Link, Links
from local_market.chaos.schedule import Faults, schedule
from local_market.chaos.world import ChaosWorld
from local_market.commands.session import FOLDER, Interrupts, RunError, Settings, play
from local_market.community.clock import START, SimulatedClock
from local_market.community.device_process import DeviceProcesses
from local_market.community.household import community
from local_market.community.street import Street
from local_market.faulty_node import FaultyNode
from local_market.parts.places import LOCAL
from local_market.parts.processes import stop_what_is_ours
from local_market.stack.market import RATE_LIMITS, Addresses, LocalMarket, start_market
from local_market.stack.stack import Stack
from local_market.watching.comparison import TOKEN_DECIMALS, Escrow, reconcile
from local_market.watching.dead_letters import replay
from local_market.watching.display import say
from local_market.watching.figures import Figures, read_figures, under_way

LOGS: Final = LOCAL / "chaos-logs"
DEFAULT_DURATION_S: Final = 120.0
PERIOD_S: Final = 0.5
FIRST_ORDER_TIMEOUT_S: Final = 180.0
CHECK_PERIOD_S: Final = 3.0
FAULTS_END_TIMEOUT_S: Final = DEPLOY_TIMEOUT_S + 30
CALM_TIMEOUT_S: Final = 60.0
REST_TIMEOUT_S: Final = 180.0
REST_PERIOD_S: Final = 2.0
CHECKS_AT_THE_END: Final = 3  # chain, devices, the homes' books


class Chaos:
    """One run of the community, and of the faults, on a system that has been launched."""

    def __init__(self, settings: Settings, market: LocalMarket, interrupts: Interrupts, links: "ThreeLinks") -> None:
        """Nothing is registered yet."""
        self._settings = settings
        self._market = market
        self._interrupts = interrupts
        self.street = Street(
            community(settings.homes, seed=settings.seed),
            api_url=market.api_url,
            clock=SimulatedClock(START, speed=settings.speed),
        )
        self._devices = DeviceProcesses(FOLDER / "devices", logs=FOLDER / "logs")
        self.world = ChaosWorld(
            market,
            folder=FOLDER,
            database=links.database,
            chain=links.chain,
            broker=links.broker,
            node=links.node,
            street=self.street,
            devices=self._devices,
        )
        faults = schedule(settings.seed, settings.duration_s or DEFAULT_DURATION_S)
        self._faults = Faults(faults, self.world, say=say)
        self._checked = 0
        self._violations: dict[str, None] = {}  # in order, each once
        self._stuck: list[str] = []
        self._trades: dict[str, int] = {}

    def prepare(self) -> None:
        """Register the homes, fund their wallets, connect their devices. Raises StreetError."""
        stack = self._market.stack
        say(f"Registering {self._settings.homes} homes, depositing test tokens, connecting devices ...")
        self.street.register()
        self.street.fund(rpc_url=stack.chain.rpc_url, deployer_key=stack.chain.deployer_key)
        self.street.connect(ca=stack.aws.ca_file.read_bytes(), folder=FOLDER / "devices", devices=self._devices)
        self.world.visitor.sign_up()

    def trade(self) -> None:
        """Let the homes trade, and things go wrong, until the duration is over or a signal comes."""
        self.street.start()
        until = time.monotonic() + FIRST_ORDER_TIMEOUT_S
        while not self._interrupts.ended.wait(PERIOD_S) and not self._figures().orders:
            if time.monotonic() > until:
                raise RunError(f"No order came in for {FIRST_ORDER_TIMEOUT_S:.0f} s.")
        say("The homes trade; now things go wrong.")
        self._faults.start()
        until = time.monotonic() + (self._settings.duration_s or DEFAULT_DURATION_S)
        while time.monotonic() < until and not self._interrupts.ended.wait(CHECK_PERIOD_S):
            self._check()
        self._faults.end(timeout_s=FAULTS_END_TIMEOUT_S)
        say("The faults are over.")
        self.world.heal()
        # On a slow machine all of it may have been in vain: what was never traded proves nothing.
        until = time.monotonic() + CALM_TIMEOUT_S
        while (
            not self._figures().trades["Confirmed"]
            and time.monotonic() < until
            and not self._interrupts.ended.wait(PERIOD_S)
        ):
            self._check()

    def settle_down(self) -> None:
        """Cancel what is open, replay what could not be processed, wait for rest, compare all."""
        say("Cancelling open orders, settling what is under way ...")
        self._stuck += self._faults.trouble
        self._stuck += [f"{name} did not end its trading in time" for name in self.street.stop_trading()]
        until = time.monotonic() + REST_TIMEOUT_S
        began = time.monotonic()
        with self.world.connect() as conn:
            while (left := self._left(conn)) and time.monotonic() < until:
                self._check()
                time.sleep(REST_PERIOD_S)
            say(f"At rest after {time.monotonic() - began:.0f} s." if not left else "It does not come to rest.")
            self._stuck += left
            with contextlib.suppress(ApiError, UnreachableError):  # what was not collected is a difference below
                self.street.collect()
            self._stuck += self.street.disconnect()
            self._violate(self.world.violations)
            self._compare(conn)
            figures = read_figures(conn)
        self._trades = figures.trades
        confirmed, failed = (figures.trades[stage] for stage in ("Confirmed", "Failed"))
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(figures.reasons.items()))
        say(f"{confirmed} trades are confirmed, {failed} failed ({reasons or '-'}).")

    def _figures(self) -> Figures:
        with self.world.connect() as conn:
            return read_figures(conn)

    def _check(self) -> None:
        """Check the database's invariants at one moment, if it can be asked."""
        with contextlib.suppress(psycopg.Error), self.world.connect() as conn:
            found = reconcile(conn)
            self._checked += len(CHECKS)
            self._violate(found)

    def _violate(self, found: list[str]) -> None:
        for sentence in found:
            if sentence not in self._violations:
                say(f"VIOLATION: {sentence}")
            self._violations[sentence] = None

    def _left(self, conn: psycopg.Connection[Any]) -> list[str]:
        """What has not come to rest; messages in dead-letter queues are given another chance."""
        found = under_way(conn)
        found += [
            row[0]
            for row in conn.execute(
                """SELECT format('batch %s with nonce %s is %s', id, nonce, status)
                   FROM settlement_batches WHERE status IN ('Stored', 'Mined')"""
            )
        ]
        aws, outputs = self._market.stack.aws, self._market.deployment.outputs
        for letters, moved in replay(aws.endpoint_url).items():
            if moved:
                found.append(f"{moved} messages of {letters} are tried again")
        for name in ("LockResponsesQueueUrl", "TelemetryQueueUrl", "RuleErrorsQueueUrl"):
            waiting = self._messages(outputs[name])
            if waiting:
                found.append(f"{waiting} messages wait ({name})")
        return found

    def _messages(self, queue_url: str) -> int:
        counts = self.world.sqs.get_queue_attributes(
            QueueUrl=queue_url, AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        )["Attributes"]
        return int(counts["ApproximateNumberOfMessages"]) + int(counts["ApproximateNumberOfMessagesNotVisible"])

    def _compare(self, conn: psycopg.Connection[Any]) -> None:
        """Compare database, chain, devices and the homes' books; what is known to be stuck is not told twice."""
        ledger = Escrow(
            rpc_url=self.world.chain.rpc_url,
            contract=self._market.settlement_contract,
            token=self._market.token,
            token_decimals=TOKEN_DECIMALS,
        )
        devices = [home.record() for home in self.street.homes]
        self._violate(reconcile(conn, ledger=ledger, devices=devices, at_rest=not self._stuck))
        self._checked += len(CHECKS) + CHECKS_AT_THE_END
        if not self._stuck:
            self._violate(self.street.differences())

    def result(self) -> dict[str, Any]:
        """The line for standard output."""
        return {
            "seed": self._settings.seed,
            "faults": dict(sorted(self._faults.counts.items())),
            "trades_confirmed": self._trades.get("Confirmed", 0),
            "trades_failed": self._trades.get("Failed", 0),
            "invariants_checked": self._checked,
            "violations": len(self._violations),
            "stuck": len(self._stuck),
        }

    def tell(self) -> None:
        """Say what is wrong, and keep what helps to find out why."""
        for sentence in self._violations:
            say(f"VIOLATION: {sentence}")
        for sentence in self._stuck:
            say(f"STUCK: {sentence}")
        if self._violations or self._stuck:
            self._keep_evidence(FOLDER / "logs")

    def _keep_evidence(self, folder: Path) -> None:
        with contextlib.suppress(psycopg.Error), self.world.connect() as conn:
            for (table,) in conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall():
                with (folder / f"table-{table}.csv").open("w", newline="") as file:
                    rows = conn.execute(psycopg.sql.SQL("SELECT * FROM {}").format(psycopg.sql.Identifier(table)))
                    writer = csv.writer(file)
                    writer.writerow([column.name for column in rows.description or ()])
                    writer.writerows(rows)
        self.world.keep_function_logs(folder / "functions.log")

    def close(self) -> None:
        """Let go of the devices and connections; safe to call twice."""
        self._faults.end(timeout_s=FAULTS_END_TIMEOUT_S)
        for sentence in self.street.disconnect():
            say(sentence)
        self.world.close()


class ThreeLinks:
    """The ways of functions and devices to the parts, over proxies; before the chain stands a node that has ways."""

    def __init__(self, links: Links) -> None:
        """Made when the parts stand, by `addresses_of`."""
        self._links = links
        self.database: Link
        self.node: FaultyNode
        self.chain: Link
        self.broker: Link

    def addresses_of(self, stack: Stack) -> Addresses:
        """The parts' addresses, each by its link."""
        direct = Addresses.of(stack)
        database = urlsplit(direct.database_url)
        assert database.port is not None
        self.database = self._links.add(database.port)
        self.node = FaultyNode(direct.rpc_url)
        self.chain = self._links.add(self.node.port)
        self.broker = self._links.add(stack.aws.iot_port, garbage=os.urandom(8))
        return replace(
            direct,
            database_url=direct.database_url.replace(f":{database.port}/", f":{self.database.port}/"),
            migrations_database_url=direct.migrations_database_url.replace(
                f":{database.port}/", f":{self.database.port}/"
            ),
            rpc_url=f"http://127.0.0.1:{self.chain.port}",
            broker=f"{stack.aws.iot_host}:{self.broker.port}",
        )

    def close(self) -> None:
        """Drop every connection."""
        self._links.close()
        if hasattr(self, "node"):
            self.node.close()


def run(settings: Settings, interrupts: Interrupts) -> int:
    """Launch, trade while things go wrong, settle down, stop; the exit status."""
    market: LocalMarket | None = None
    chaos: Chaos | None = None
    links = Links()
    three = ThreeLinks(links)
    try:
        say("Building and starting: PostgreSQL, Anvil, MiniStack, contracts, functions ...")
        market = start_market(
            FOLDER,
            parameters=RATE_LIMITS,
            addresses_of=three.addresses_of,
        )
        chaos = Chaos(settings, market, interrupts, three)
        chaos.prepare()
        interrupts.trading()
        chaos.trade()
        chaos.settle_down()
        chaos.tell()
    finally:
        interrupts.stopping()
        if chaos is not None:
            chaos.close()
        if market is not None:
            say("Stopping everything ...")
            market.stack.stop()
        stop_what_is_ours()
        three.close()
    result = chaos.result()
    if not result["trades_confirmed"]:
        say("No trade was confirmed: nothing was shown.")
    print(json.dumps(result), flush=True)
    return 0 if result["trades_confirmed"] and not result["violations"] and not result["stuck"] else 1


def refuse_others_parts() -> None:
    """See to it that nothing is killed that is somebody else's. Raises RunError."""
    for name in ("DATABASE_URL", "RPC_URL"):
        if os.environ.get(name):
            raise RunError(f"{name} is set, but `make chaos` kills its database and its chain: it takes its own.")


def main() -> int:
    """Run, and put what went wrong into one sentence."""
    return play("make chaos", run, first=refuse_others_parts, logs_of=_logs_of)


def _logs_of(settings: Settings | None) -> Path:
    return LOGS if settings is None else LOGS / f"seed-{settings.seed}"
