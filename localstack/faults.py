"""The faults of `make chaos`: when which one happens, and how each is brought about on the running system.

Every fault is a block of code with a beginning, in which it is made to happen, and an end, which puts things right as
far as somebody would: a server is started again, a cut line repaired, gas bought. What it did to the market in between
is the market's to put right.
"""

import contextlib
import dataclasses
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import boto3
import psutil
import psycopg
from botocore.exceptions import BotoCoreError, ClientError
from chain_node import Chain, start_anvil
from deploy import STACK
from device_process import DeviceProcess, DeviceProcesses
from market import Market
from postgres_server import Database, start_postgres
from processes import Started, stop
from proxy import Link, Trouble
from services import AWS_ENVIRONMENT, ServiceError
from street import Street

from energy_market.evm.rpc import ChainError, Rpc

FIRST_S: Final = 4.0  # the first orders come in
GAP_S: Final = (2.0, 4.5)  # from one fault's beginning to the next one's
PAUSE_S: Final = 0.25
TURN_TIMEOUT_S: Final = 20.0
STATE_PERIOD_S: Final = 5.0  # how often Anvil writes its state (`chain_node`)
DEEPEST_REORGANISATION: Final = 5  # blocks; payments are final after 8 (`market`)


class NotNow(Exception):
    """A fault cannot be made to happen at this moment: why, as a sentence."""


IMPOSSIBLE: Final = (NotNow, psycopg.Error, ChainError, BotoCoreError, ClientError, OSError, psutil.Error)
"""What a fault's beginning may raise when other faults are in its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of a schedule. `chance` seeds whatever it leaves open: which device, how deep."""

    at_s: float
    kind: str
    lasts_s: float
    chance: int


def schedule(seed: int, duration_s: float) -> tuple[Fault, ...]:
    """The faults of a run, in order; a function of seed and duration and nothing else. None lasts beyond the duration.

    Kinds are drawn like cards: each once before any comes again, those of `FIRST` before the others, so that even a
    short run has them.
    """
    chance = random.Random(seed)  # noqa: S311 - to be the same each time is its purpose
    faults: list[Fault] = []
    cards = [*_shuffled(chance, FIRST), *_shuffled(chance, KINDS.keys() - FIRST)]
    at_s = FIRST_S
    while at_s < duration_s:
        if not cards:
            cards = _shuffled(chance, {name for name, kind in KINDS.items() if not kind.once})
        name = cards.pop(0)
        kind = KINDS[name]
        lasts_s = min(chance.uniform(*kind.lasts_s), duration_s - at_s)
        drawn = Fault(at_s=round(at_s, 2), kind=name, lasts_s=round(lasts_s, 2), chance=chance.getrandbits(32))
        if duration_s - at_s >= kind.needs_s:
            faults.append(drawn)
        at_s += chance.uniform(*GAP_S)
    return tuple(faults)


def _shuffled(chance: random.Random, names: set[str] | frozenset[str]) -> list[str]:
    cards = sorted(names)
    chance.shuffle(cards)
    return cards


class World:
    """What faults happen to: the parts, the links between them, the homes and their devices. For many threads."""

    def __init__(
        self,
        market: Market,
        *,
        folder: Path,
        database: Link,
        chain: Link,
        broker: Link,
        street: Street,
        devices: DeviceProcesses,
    ) -> None:
        """All is well."""
        self.market = market
        self.folder = folder
        self.database_link, self.chain_link, self.broker_link = database, chain, broker
        self.street = street
        self.devices = devices
        self.database: Database = market.stack.database
        self.chain: Chain = market.stack.chain
        self.turns = {part: threading.Lock() for part in ("database", "chain", "aws")}
        self.reorganised_at = 0.0
        self.highest_block = 0
        session = boto3.Session(
            aws_access_key_id=AWS_ENVIRONMENT["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=AWS_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
            region_name=AWS_ENVIRONMENT["AWS_DEFAULT_REGION"],
        )
        endpoint_url = market.stack.aws.endpoint_url
        self.sqs = session.client("sqs", endpoint_url=endpoint_url)
        self.functions = session.client("lambda", endpoint_url=endpoint_url)
        self.loop = session.client("stepfunctions", endpoint_url=endpoint_url)
        self.logs = session.client("logs", endpoint_url=endpoint_url)

    @contextlib.contextmanager
    def turn(self, part: str) -> Iterator[None]:
        """Have a part to oneself: what was killed is not killed again before it is back. Raises NotNow."""
        if not self.turns[part].acquire(timeout=TURN_TIMEOUT_S):
            raise NotNow(f"the {part} is the matter of another fault")
        try:
            yield
        finally:
            self.turns[part].release()

    def connect(self) -> psycopg.Connection[Any]:
        """A connection of the launcher's own to the database, past the link."""
        return psycopg.connect(self.database.url, autocommit=True, connect_timeout=3, application_name="chaos")

    def ask_chain(self, method: str, *parameters: object) -> Any:  # noqa: ANN401 - JSON
        """Ask the node, past the link."""
        with closing(Rpc(self.chain.rpc_url, timeout_s=3, budget_s=5)) as rpc:
            return rpc.call(method, *parameters)

    def any_device(self, chance: random.Random) -> DeviceProcess:
        """A donor's device rather than another: those have something to lose."""
        donors = [home.household.name for home in self.street.homes if home.household.is_donor]
        names = donors if chance.random() < 0.8 else sorted(self.devices.running)  # noqa: PLR2004
        return self.devices.running[chance.choice(names)]

    def keep_function_logs(self, names: Iterable[str], file: Path) -> None:
        """Write down what the functions have logged, all in order of time."""
        lines = []
        pages = self.logs.get_paginator("filter_log_events")
        for name in names:
            with contextlib.suppress(ClientError):  # never called
                for page in pages.paginate(logGroupName=f"/aws/lambda/{STACK}-{name}"):
                    lines += [(event["timestamp"], name, event["message"].rstrip()) for event in page["events"]]
        with file.open("w") as out:
            for timestamp_ms, name, message in sorted(lines):
                at = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
                out.write(f"{at:%H:%M:%S.%f} {name} {message}\n")

    def close(self) -> None:
        """Drop the AWS clients' connections."""
        for client in (self.sqs, self.functions, self.loop, self.logs):
            client.close()


def _kill(process: Started | None) -> None:
    if process is not None:
        stop(dataclasses.replace(process, stop_signal=signal.SIGKILL))


Injector = Callable[[World, random.Random], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault. `needs_s`: so long before the end it must begin; `once`: at most once in a run."""

    inject: Injector
    lasts_s: tuple[float, float]
    needs_s: float = 1.0
    once: bool = False


# ------------------------------------------------------------------------------------------------------- the database


@contextlib.contextmanager
def database_killed(world: World, _chance: random.Random) -> Iterator[None]:
    """`kill -9` of the postmaster and all its backends; it recovers from its log when it is started again."""
    with world.turn("database"):
        port = int(world.database.url.rpartition(":")[2].partition("/")[0])
        _kill(world.database.process)
        try:
            yield
        finally:
            world.database = start_postgres(world.folder, port=port)


# ---------------------------------------------------------------------------------------------------------- the chain


@contextlib.contextmanager
def chain_killed(world: World, _chance: random.Random) -> Iterator[None]:
    """`kill -9` of Anvil. It comes back with the state it wrote last: for the market, blocks were reorganised away.

    No more of them than the market is promised not to lose: what it wrote must be whole, and younger than any other
    reorganisation.
    """
    with world.turn("chain"):
        if world.chain.process is None:
            raise NotNow("the chain is somebody else's")
        node = psutil.Process(world.chain.process.pid)
        until = time.monotonic() + 2 * STATE_PERIOD_S + TURN_TIMEOUT_S
        while True:
            node.suspend()  # or it might be writing
            if _is_whole(world.folder / "anvil" / "state.json", since=world.reorganised_at):
                break
            node.resume()
            if time.monotonic() > until:
                raise NotNow("the chain has written no state that it could come back with")
            time.sleep(PAUSE_S)
        _kill(world.chain.process)
        try:
            yield
        finally:
            world.chain = start_anvil(world.folder, port=int(world.chain.rpc_url.rpartition(":")[2]))


def _is_whole(state: Path, *, since: float) -> bool:
    try:
        written_at = state.stat().st_mtime
        if written_at <= since or time.time() - written_at > STATE_PERIOD_S:
            return False
        json.loads(state.read_bytes())
    except (OSError, ValueError):
        return False
    return True


# ---------------------------------------------------------------------------------------------- links, workers, devices


def _trouble(link: Callable[[World], Link], trouble: Trouble) -> Injector:
    def inject(world: World, _chance: random.Random) -> AbstractContextManager[None]:
        return link(world).trouble(trouble)

    return inject


def _slow(link: Callable[[World], Link], least_s: float, most_s: float) -> Injector:
    def inject(world: World, chance: random.Random) -> AbstractContextManager[None]:
        return link(world).slow(chance.uniform(least_s, most_s))

    return inject


@contextlib.contextmanager
def workers_killed(world: World, chance: random.Random) -> Iterator[None]:
    """`kill -9` of the functions' processes, whatever they are at: all of them, or about half."""
    workers = psutil.Process(world.market.stack.aws.process.pid).children(recursive=True)
    if not workers:
        raise NotNow("no function is at work")
    share = chance.choice((0.5, 1.0))
    for worker in workers:
        if chance.random() < share:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
    yield


@contextlib.contextmanager
def device_killed(world: World, chance: random.Random) -> Iterator[None]:
    """`kill -9` of a device, whatever it is at; its state file and its hardware stay."""
    device = world.any_device(chance)
    with device.turn:
        device.kill()
        try:
            yield
        finally:
            device.run()


KINDS: Final[dict[str, Kind]] = {
    "database_killed": Kind(inject=database_killed, lasts_s=(1, 4)),
    "database_cut": Kind(inject=_trouble(lambda w: w.database_link, "cut"), lasts_s=(1, 4)),
    "database_torn": Kind(inject=_trouble(lambda w: w.database_link, "torn"), lasts_s=(1, 2)),
    "database_silent": Kind(inject=_trouble(lambda w: w.database_link, "silent"), lasts_s=(3, 8)),
    "database_slow": Kind(inject=_slow(lambda w: w.database_link, 0.1, 0.4), lasts_s=(4, 8)),
    "chain_killed": Kind(inject=chain_killed, lasts_s=(1, 4)),
    "chain_cut": Kind(inject=_trouble(lambda w: w.chain_link, "cut"), lasts_s=(3, 8)),
    "chain_silent": Kind(inject=_trouble(lambda w: w.chain_link, "silent"), lasts_s=(3, 8)),
    "chain_slow": Kind(inject=_slow(lambda w: w.chain_link, 0.3, 1.5), lasts_s=(4, 8)),
    "chain_garbled": Kind(inject=_trouble(lambda w: w.chain_link, "garbled"), lasts_s=(4, 8)),
    "devices_cut": Kind(inject=_trouble(lambda w: w.broker_link, "cut"), lasts_s=(2, 6)),
    "devices_silent": Kind(inject=_trouble(lambda w: w.broker_link, "silent"), lasts_s=(4, 10)),
    "devices_slow": Kind(inject=_slow(lambda w: w.broker_link, 0.5, 2.0), lasts_s=(4, 8)),
    "devices_garbled": Kind(inject=_trouble(lambda w: w.broker_link, "garbled"), lasts_s=(2, 6)),
    "workers_killed": Kind(inject=workers_killed, lasts_s=(0, 0)),
    "device_killed": Kind(inject=device_killed, lasts_s=(1, 6)),
}

FIRST: Final = frozenset(
    {
        "database_killed",
        "database_cut",
        "database_slow",
        "chain_killed",
        "chain_garbled",
        "devices_cut",
        "workers_killed",
        "device_killed",
    }
)
"""The main kinds, which even a short run has."""


class Faults:
    """A schedule at work: each fault on a thread of its own, from its time on, for as long as it lasts."""

    def __init__(self, faults: tuple[Fault, ...], world: World, *, say: Callable[[str], None]) -> None:
        """Nothing has happened yet; `say` is told of each."""
        self._faults = faults
        self._world = world
        self._say = say
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._guard = threading.Lock()
        self.counts: dict[str, int] = {}
        self.trouble: list[str] = []

    def start(self) -> None:
        """From now on things go wrong."""
        self._began = time.monotonic()
        self._threads = [
            threading.Thread(target=self._happen, args=(fault,), name=f"{fault.kind} at {fault.at_s} s", daemon=True)
            for fault in self._faults
        ]
        for thread in self._threads:
            thread.start()

    def end(self, *, timeout_s: float) -> None:
        """No new faults, and an end to those that last; `trouble` has what could not be put right again."""
        self._over.set()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                self.trouble.append(f"the fault {thread.name} does not end")

    def _happen(self, fault: Fault) -> None:
        if self._over.wait(max(0.0, self._began + fault.at_s - time.monotonic())):
            return
        name = f"+{fault.at_s:.0f} s {fault.kind}"
        with contextlib.ExitStack() as undo:
            try:
                undo.enter_context(KINDS[fault.kind].inject(self._world, random.Random(fault.chance)))  # noqa: S311
            except IMPOSSIBLE as error:
                self._say(f"{name}: not possible now: {str(error).strip() or type(error).__name__}")
                return
            with self._guard:
                self.counts[fault.kind] = self.counts.get(fault.kind, 0) + 1
            self._say(f"{name} for {fault.lasts_s:.1f} s" if fault.lasts_s else name)
            self._over.wait(fault.lasts_s)
            try:
                undo.close()
            except (*IMPOSSIBLE, ServiceError) as error:
                self.trouble.append(f"the fault {name} could not be put right: {error}")
