"""The faults of `make chaos`: when which one happens, and how each is brought about on the running system.

Every fault is a block of code with a beginning, in which it is made to happen, and an end, which puts things right as
far as somebody would: a server is started again, a cut line repaired, gas bought. What it did to the market in between
is the market's to put right.
"""

import base64
import contextlib
import dataclasses
import json
import logging
import random
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections import defaultdict
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
from client import ApiError, MarketClient, UnreachableError
from deploy import STACK
from device_process import DeviceProcess, DeviceProcesses
from eth_account import Account
from eth_account.signers.local import LocalAccount
from faulty_node import WAYS, FaultyNode
from market import Market
from postgres_server import Database, postgres_user, start_postgres
from processes import Started, stop
from proxy import Link, Trouble
from services import AWS_ENVIRONMENT, ServiceError
from street import Home, Street
from wallet import TransactionFailedError, Wallet, call_data, read_uint

from energy_market.evm.rpc import ChainError, Rpc

logger: Final = logging.getLogger("faults")

TURN_TIMEOUT_S: Final = 20.0
INSIST_S: Final = 60.0
DEPLOY_TIMEOUT_S: Final = 300.0  # on a busy machine; else some twenty
STATE_PERIOD_S: Final = 5.0  # how often Anvil writes its state (`chain_node`)
DEEPEST_REORGANISATION: Final = 5  # blocks; payments are final after 8 (`market`)
MOST_CLIENTS: Final = 300  # more than the server takes
INTERCEPTION_S: Final = 3.0
LONGEST_INTERCEPTION_S: Final = 12.0  # answers come only when something was matched
WALLET_PATIENCE_S: Final = 10.0
REPETITIONS: Final = 8
OPERATORS_GAS_WEI: Final = 10**22
MOMENT_S: Final = 6.0
WAY_S: Final = 3.0  # for each of a node's ways
UNPAID: Final = "SELECT id FROM transactions WHERE status IN ('Locked', 'Submitted')"


class NotNow(Exception):
    """A fault cannot be made to happen at this moment: why, as a sentence."""


IMPOSSIBLE: Final = (
    NotNow,
    psycopg.Error,
    ChainError,
    TransactionFailedError,
    BotoCoreError,
    ClientError,
    ApiError,
    UnreachableError,
    OSError,
    psutil.Error,
)
"""What a fault's beginning may raise when other faults are in its way."""


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
        self.database: Database = market.stack.database
        self.chain: Chain = market.stack.chain
        self.visitor = MarketClient(market.api_url)
        self.violations: list[str] = []
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
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
        with closing(Rpc(self.chain.rpc_url, timeout_s=3, budget_s=5)) as rpc:
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
        for client in (self.sqs, self.functions, self.loop, self.logs, self.visitor):
            client.close()


Injector = Callable[[World, random.Random], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault. `needs_s`: so long before the end it must begin; `once`: at most once in a run."""

    inject: Injector
    lasts_s: tuple[float, float]
    needs_s: float = 1.0
    once: bool = False


def _kill(process: Started | None) -> None:
    if process is None:
        raise NotNow("it is somebody else's")
    stop(dataclasses.replace(process, stop_signal=signal.SIGKILL))


@contextlib.contextmanager
def _again_and_again(action: Callable[[], object], *, every_s: float) -> Iterator[None]:
    """Do something now, and repeat it for the length of a block; what is not possible once is done the next time."""
    action()
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every_s):
            with contextlib.suppress(*IMPOSSIBLE):
                action()

    thread = threading.Thread(target=repeat, name="again and again", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def insist(action: Callable[[], object]) -> None:
    """Do what must be done at the end of a fault, though others may be in its way. Raises what was last raised."""
    until = time.monotonic() + INSIST_S
    while True:
        try:
            action()
        except IMPOSSIBLE:
            if time.monotonic() > until:
                raise
            time.sleep(1)
        else:
            return


# ------------------------------------------------------------------------------------------------------- the database


@contextlib.contextmanager
def _database_killed(world: World, _chance: random.Random) -> Iterator[None]:
    """`kill -9` of the postmaster and all its backends; it recovers from its log when it is started again."""
    with world.turn("database"):
        port = int(world.database.url.rpartition(":")[2].partition("/")[0])
        _kill(world.database.process)
        try:
            yield
        finally:
            world.database = start_postgres(world.folder, port=port)


@contextlib.contextmanager
def _database_connections_dropped(world: World, _chance: random.Random) -> Iterator[None]:
    """The server ends every session of the functions, in the middle of whatever it does."""

    def drop() -> None:
        with world.connect() as conn:
            conn.execute(_END_SESSIONS)

    with _again_and_again(drop, every_s=0.3):
        yield


_SESSIONS: Final = """
    SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'chaos'
"""
_END_SESSIONS: Final = f"SELECT pg_terminate_backend(pid) FROM ({_SESSIONS}) theirs"


@contextlib.contextmanager
def _database_full_of_clients(world: World, _chance: random.Random) -> Iterator[None]:
    """Others take every connection that the server has, those of the functions too."""
    with contextlib.ExitStack() as held:
        first = held.enter_context(closing(world.connect()))
        first.execute(_END_SESSIONS)
        for _ in range(MOST_CLIENTS):
            try:
                held.enter_context(closing(world.connect()))
            except psycopg.OperationalError:
                break
        yield


@contextlib.contextmanager
def _database_rows_locked(world: World, _chance: random.Random) -> Iterator[None]:
    """Somebody's transaction holds what a tick and a sweep write: they take longer than the loop's five seconds."""
    # Closed rather than committed: a server that another fault has restarted meanwhile let go of the rows by itself.
    with closing(world.connect()) as conn:
        conn.execute("BEGIN")
        conn.execute("SET LOCAL lock_timeout = '3s'")
        conn.execute("SELECT FROM transactions WHERE status IN ('Pending', 'Locked', 'Submitted') FOR UPDATE")
        conn.execute("SELECT FROM open_orders FOR UPDATE")
        yield


@contextlib.contextmanager
def _database_disk_full(world: World, _chance: random.Random) -> Iterator[None]:
    """The functions' sessions may write to no file: they fail as on a full disk, and at the log the server starts anew.

    By a limit on the sessions' processes, which later ones do not have; the error is EFBIG, not ENOSPC.
    """
    limiter, user = shutil.which("prlimit"), postgres_user()
    if limiter is None:
        raise NotNow("files cannot be limited here")

    def limit(most: str) -> None:
        with world.connect() as conn:
            pids = [row[0] for row in conn.execute(_SESSIONS)]
        for pid in pids:
            # As the server's own user: even root may not limit another's processes everywhere. The hard limit stays.
            subprocess.run(
                [limiter, "--pid", str(pid), f"--fsize={most}:"],
                user=None if user is None else user[0],
                group=None if user is None else user[1],
                capture_output=True,
                check=False,  # it may just have ended
            )

    with world.turn("database"):
        try:
            with _again_and_again(lambda: limit("0"), every_s=0.3):
                yield
        finally:
            insist(lambda: limit("unlimited"))


# ---------------------------------------------------------------------------------------------------------- the chain


@contextlib.contextmanager
def _chain_killed(world: World, _chance: random.Random) -> Iterator[None]:
    """`kill -9` of Anvil. It comes back with the state that it wrote last: to the market, blocks were reorganised away.

    Not more of them than the market promises to survive: what was written must be whole, young, and younger than any
    other reorganisation.
    """
    with world.turn("chain"):
        if world.chain.process is None:
            raise NotNow("it is somebody else's")
        node = psutil.Process(world.chain.process.pid)
        world.moment(UNPAID)
        world.highest_block = int(world.ask_chain("eth_blockNumber"), 16)
        until = time.monotonic() + 2 * STATE_PERIOD_S
        while True:
            node.suspend()  # or it might be writing
            if _is_whole(world.folder / "anvil" / "state.json", since=world.reorganised_at):
                break
            node.resume()
            if time.monotonic() > until:
                raise NotNow("the chain has written no state that it could come back with")
            time.sleep(0.2)
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


@contextlib.contextmanager
def _chain_reorganised(world: World, chance: random.Random) -> Iterator[None]:
    """The newest blocks give way to empty ones, their transactions forgotten; not as deep as finality."""
    with world.turn("chain"):
        world.moment("SELECT id FROM settlement_batches WHERE status = 'Mined'")
        if int(world.ask_chain("eth_blockNumber"), 16) < world.highest_block:
            raise NotNow("the chain has not grown back yet")
        world.ask_chain("anvil_reorg", chance.randint(1, DEEPEST_REORGANISATION), [])
        world.reorganised_at = time.time()
    yield


@contextlib.contextmanager
def _pool_dropped(world: World, _chance: random.Random) -> Iterator[None]:
    """The node forgets what waits to be mined."""
    world.moment(UNPAID)
    with _again_and_again(lambda: world.ask_chain("anvil_dropAllTransactions"), every_s=0.2):
        yield


@contextlib.contextmanager
def _fee_spike(world: World, chance: random.Random) -> Iterator[None]:
    """Blocks cost many times as much as what waits to be mined was signed for."""
    world.moment("SELECT id FROM settlement_batches WHERE status = 'Stored'")
    base_fee = int(world.ask_chain("eth_getBlockByNumber", "latest", False)["baseFeePerGas"], 16)  # noqa: FBT003 - JSON
    high = hex(base_fee * chance.randint(3, 30))
    try:
        with _again_and_again(lambda: world.ask_chain("anvil_setNextBlockBaseFeePerGas", high), every_s=0.5):
            yield
    finally:
        insist(lambda: world.ask_chain("anvil_setNextBlockBaseFeePerGas", hex(base_fee)))


@contextlib.contextmanager
def _operator_key_used(world: World, chance: random.Random) -> Iterator[None]:
    """Somebody else sends with the operator's key, and takes its nonces; perhaps the pool then forgets him: a gap."""
    world.moment(UNPAID)
    operator: LocalAccount = Account.from_key(world.chain.operator_key)
    with closing(Wallet(operator, rpc_url=world.chain.rpc_url, chain_id=world.chain.chain_id, patience_s=5)) as wallet:
        sent = [wallet.send(operator.address, value_wei=1) for _ in range(chance.randint(1, 3))]
        if chance.random() < 0.5:  # noqa: PLR2004
            for transaction_hash in sent:
                world.ask_chain("anvil_dropTransaction", transaction_hash)
    yield


@contextlib.contextmanager
def _operator_out_of_gas(world: World, _chance: random.Random) -> Iterator[None]:
    """The operator's account is empty until somebody fills it."""
    world.moment(UNPAID)
    operator = Account.from_key(world.chain.operator_key).address
    world.ask_chain("anvil_setBalance", operator, hex(10**9))
    try:
        yield
    finally:
        insist(world.refill_operator)


@contextlib.contextmanager
def _escrow_withdrawn(world: World, chance: random.Random) -> Iterator[None]:
    """A buyer takes all out of escrow, whatever it has bought; and puts it back later."""
    buyer = world.any_buyer(chance)
    with closing(world.wallet(buyer)) as wallet:
        contract = world.market.settlement_contract
        escrow = read_uint(wallet.rpc, contract, "escrow(address)", wallet.account.address)
        wallet.wait(wallet.send(contract, data=call_data("withdraw(uint256)", escrow)))
    try:
        yield
    finally:
        insist(lambda: world.deposit_again(buyer))


def _node_has_ways(*families: str) -> Injector:
    """The functions' node has a way of one of these families (`docs/nodes.md`), and another every few seconds."""
    names = sorted(name for name, way in WAYS.items() if way.family in families and way.anytime)

    @contextlib.contextmanager
    def inject(world: World, chance: random.Random) -> Iterator[None]:
        def change() -> None:
            name = chance.choice(names)
            logger.info("the node has the way %s", name)
            world.node.play(WAYS[name])

        with world.turn("node"):
            try:
                with _again_and_again(change, every_s=WAY_S):
                    yield
            finally:
                world.node.play()

    return inject


# ------------------------------------------------------------------------------------------- links, functions, the loop


def _trouble(link: Callable[[World], Link], trouble: Trouble) -> Injector:
    def inject(world: World, _chance: random.Random) -> AbstractContextManager[None]:
        return link(world).trouble(trouble)

    return inject


def _slow(link: Callable[[World], Link], least_s: float, most_s: float) -> Injector:
    def inject(world: World, chance: random.Random) -> AbstractContextManager[None]:
        return link(world).slow(chance.uniform(least_s, most_s))

    return inject


@contextlib.contextmanager
def _workers_killed(world: World, chance: random.Random) -> Iterator[None]:
    """`kill -9` of the functions' processes, whatever they are at: all of them, or about half."""
    world.moment(UNPAID)
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
def _aws_paused(world: World, _chance: random.Random) -> Iterator[None]:
    """Everything that AWS does stands still: ticks are missed, requests wait, messages wait."""
    aws = psutil.Process(world.market.stack.aws.process.pid)
    aws.suspend()
    try:
        yield
    finally:
        aws.resume()


@contextlib.contextmanager
def _loop_doubled(world: World, _chance: random.Random) -> Iterator[None]:
    """A second loop ticks beside the first, for up to two minutes."""
    world.loop.start_execution(stateMachineArn=world.market.deployment.state_machine_arn, input="{}")
    yield


@contextlib.contextmanager
def _redeployed(world: World, _chance: random.Random) -> Iterator[None]:
    """Every function is deployed anew in the middle of trading. A deploy that meets other faults is rolled back."""
    done: list[str] = []

    def deploy() -> None:
        try:
            world.market.deploy_again({"RateLimitPerMinute": "999999"})
        except ServiceError as error:
            done.append(str(error))

    thread = threading.Thread(target=deploy, name="deploy", daemon=True)
    thread.start()
    yield
    thread.join(DEPLOY_TIMEOUT_S)
    if thread.is_alive():
        raise NotNow(f"the deploy does not end in {DEPLOY_TIMEOUT_S:.0f} s")
    for sentence in done:
        logger.warning("the deploy was rolled back: %s", sentence)


# -------------------------------------------------------------------------------------------------------- the devices


@contextlib.contextmanager
def _device_killed(world: World, chance: random.Random) -> Iterator[None]:
    """`kill -9` of a device, whatever it is at; its state file and its hardware stay."""
    device = world.any_device(chance)
    with world.turn(device.name):
        device.kill()
        try:
            yield
        finally:
            device.run()


@contextlib.contextmanager
def _device_silent(world: World, chance: random.Random) -> Iterator[None]:
    """A device says nothing for a while, perhaps beyond a lock's deadline, and goes on where it was."""
    device = world.any_device(chance)
    with world.turn(device.name), device.frozen():
        yield


@contextlib.contextmanager
def _device_clock_wrong(world: World, chance: random.Random) -> Iterator[None]:
    """A device is started again with a clock that is minutes ahead or behind."""
    device = world.any_device(chance)
    with world.turn(device.name):
        device.stop()
        device.run(skew_s=chance.choice((-1, 1)) * chance.uniform(20, 300))
        try:
            yield
        finally:
            device.stop()
            device.run()


# ------------------------------------------------------------------------------------------------------- the messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue of devices' messages, and the function that reads it."""

    output: str
    function: str


ANSWERS: Final = Queue(output="LockResponsesQueueUrl", function=f"{STACK}-lock-responses")
REPORTS: Final = Queue(output="TelemetryQueueUrl", function=f"{STACK}-telemetry")


def _intercept(world: World, queue: Queue) -> list[str]:
    """Take what comes into a queue for some seconds, before its function can; the messages. Raises NotNow for none."""
    url = world.market.deployment.outputs[queue.output]
    taken: list[str] = []
    with world.turn(queue.function):
        (mapping,) = world.functions.list_event_source_mappings(FunctionName=queue.function)["EventSourceMappings"]
        world.functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
        try:
            began = time.monotonic()
            while time.monotonic() < began + (INTERCEPTION_S if taken else LONGEST_INTERCEPTION_S):
                batch = world.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
                for message in batch.get("Messages", []):
                    world.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                    taken.append(message["Body"])
        finally:
            insist(lambda: world.functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True))
    if not taken:
        raise NotNow("no message came in")
    return taken


def _put(world: World, queue: Queue, bodies: Iterable[str]) -> None:
    url = world.market.deployment.outputs[queue.output]
    for body in bodies:
        world.sqs.send_message(QueueUrl=url, MessageBody=body)


def _any_queue(chance: random.Random) -> Queue:
    return chance.choice((ANSWERS, REPORTS))


@contextlib.contextmanager
def _messages_lost(world: World, chance: random.Random) -> Iterator[None]:
    """What devices say for some seconds arrives nowhere, though the broker has acknowledged it."""
    _intercept(world, _any_queue(chance))
    yield


@contextlib.contextmanager
def _messages_duplicated(world: World, chance: random.Random) -> Iterator[None]:
    """Each message of some seconds arrives three times."""
    queue = _any_queue(chance)
    _put(world, queue, 3 * _intercept(world, queue))
    yield


@contextlib.contextmanager
def _messages_reordered(world: World, chance: random.Random) -> Iterator[None]:
    """The messages of some seconds arrive in another order, some of them twice."""
    queue = _any_queue(chance)
    bodies = _intercept(world, queue)
    bodies += chance.choices(bodies, k=len(bodies) // 2)
    chance.shuffle(bodies)
    _put(world, queue, bodies)
    yield


@contextlib.contextmanager
def _messages_delayed(world: World, chance: random.Random) -> Iterator[None]:
    """The messages of some seconds arrive much later: answers perhaps after their deadline."""
    queue = _any_queue(chance)
    bodies = _intercept(world, queue)
    try:
        yield
    finally:
        insist(lambda: _put(world, queue, bodies))


@contextlib.contextmanager
def _answers_contradicted(world: World, chance: random.Random) -> Iterator[None]:
    """Devices answer both `locked` and `rejected`, in either order."""
    for body in _intercept(world, ANSWERS):
        both = [body]
        with contextlib.suppress(ValueError, KeyError, TypeError):  # another fault's noise
            message = json.loads(body)
            answer = json.loads(base64.b64decode(message["payload"]))
            # Only what is really locked is contradicted: to say `locked` of what one does not hold would be a lie.
            if answer["status"] == "locked":
                both.append(_message(message["principal"], message["topic"], {**answer, "status": "rejected"}))
        chance.shuffle(both)
        _put(world, ANSWERS, both)
    yield


def _message(principal: str, topic: str, payload: object, *, client_id: str | None = None) -> str:
    """A message as a topic rule queues it; `client_id` is the topic's device unless another is given."""
    return json.dumps(
        {
            "payload": base64.b64encode(json.dumps(payload).encode()).decode(),
            "topic": topic,
            "client_id": topic.split("/")[2] if client_id is None else client_id,
            "principal": principal,
            "received_at_ms": int(time.time() * 1000),
        }
    )


@contextlib.contextmanager
def _messages_forged(world: World, chance: random.Random) -> Iterator[None]:
    """Answers of a wrong device, over a foreign connection or certificate, for an unknown order or trade; and noise."""
    with world.connect() as conn:
        trades = conn.execute(
            "SELECT id, device_id, sell_order_id FROM transactions ORDER BY status = 'Pending' DESC, seq DESC LIMIT 20"
        ).fetchall()
        own = dict(conn.execute("SELECT device_id::text, id FROM device_certificates").fetchall())
    if not trades:
        raise NotNow("there are no trades yet")
    trade, device, order = map(str, chance.choice(trades))
    other = str(chance.choice([home.device.device_id for home in world.street.homes if home.device is not None]))
    nobody, nothing = str(uuid.UUID(int=chance.getrandbits(128))), str(uuid.UUID(int=chance.getrandbits(128)))

    def answer(of: str, *, client: str, order_id: str, transaction_id: str, status: str) -> str:
        payload = {"order_id": order_id, "status": status, "transaction_id": transaction_id}
        return _message(own.get(of, ""), f"energy/donor/{of}/lock/response", payload, client_id=client)

    forged = []
    for status in ("locked", "rejected"):
        if other != device:
            forged.append(answer(other, client=other, order_id=order, transaction_id=trade, status=status))
        forged.append(answer(device, client=nobody, order_id=order, transaction_id=trade, status=status))
        forged.append(answer(device, client=device, order_id=nothing, transaction_id=trade, status=status))
        forged.append(answer(device, client=device, order_id=order, transaction_id=nothing, status=status))
        forged.append(answer(nobody, client=nobody, order_id=order, transaction_id=trade, status=status))
    topic = f"energy/donor/{device}/lock/response"
    forged.append(_message(own[device], topic, "no answer at all"))
    for principal in ("", nobody, *([] if other == device else [own[other]])):
        said = {"order_id": order, "status": "locked", "transaction_id": trade}
        forged.append(_message(principal, topic, said))
    forged.append("not even a message")
    delivered = {"transaction_id": trade, "status": "delivered", "kwh_delivered": 1, "seq": 2**62}
    if other != device:
        _put(world, REPORTS, [_message(own[other], f"energy/transfer/{other}/status", delivered)])
    _put(world, REPORTS, [_message("", f"energy/transfer/{device}/status", delivered), "noise"])
    chance.shuffle(forged)
    _put(world, ANSWERS, forged)
    yield


# ---------------------------------------------------------------------------------------------------------- the people


@contextlib.contextmanager
def _orders_repeated(world: World, chance: random.Random) -> Iterator[None]:
    """Somebody sends one order many times at once, under one key: there is one order."""
    key = str(uuid.UUID(int=chance.getrandbits(128)))
    ids: list[str] = []
    with world.turn("visitor"):
        world.visitor.renew()

    def place() -> None:
        with contextlib.suppress(UnreachableError, ApiError):
            client = world.visitor.another()
            try:
                answer = client.place(side="buy", size_wh=250, price_micro=1, all_or_none=True, key=key)
            finally:
                client.close()
            ids.append(str(answer["id"]))

    threads = [threading.Thread(target=place, name="order", daemon=True) for _ in range(REPETITIONS)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
    if len(set(ids)) > 1:
        world.violations.append(f"one order under one key became {len(set(ids))} orders: {sorted(set(ids))}")


KINDS: Final[dict[str, Kind]] = {
    "database_killed": Kind(inject=_database_killed, lasts_s=(1, 4)),
    "database_connections_dropped": Kind(inject=_database_connections_dropped, lasts_s=(1, 3)),
    "database_full_of_clients": Kind(inject=_database_full_of_clients, lasts_s=(2, 4)),
    "database_rows_locked": Kind(inject=_database_rows_locked, lasts_s=(5, 9)),
    "database_disk_full": Kind(inject=_database_disk_full, lasts_s=(1, 3)),
    "database_cut": Kind(inject=_trouble(lambda w: w.database_link, "cut"), lasts_s=(1, 4)),
    "database_torn": Kind(inject=_trouble(lambda w: w.database_link, "torn"), lasts_s=(1, 2)),
    "database_silent": Kind(inject=_trouble(lambda w: w.database_link, "silent"), lasts_s=(3, 8)),
    "database_slow": Kind(inject=_slow(lambda w: w.database_link, 0.1, 0.4), lasts_s=(4, 8)),
    "chain_killed": Kind(inject=_chain_killed, lasts_s=(1, 4)),
    "chain_cut": Kind(inject=_trouble(lambda w: w.chain_link, "cut"), lasts_s=(3, 8)),
    "chain_silent": Kind(inject=_trouble(lambda w: w.chain_link, "silent"), lasts_s=(3, 8)),
    "chain_slow": Kind(inject=_slow(lambda w: w.chain_link, 0.3, 1.5), lasts_s=(4, 8)),
    "chain_garbled": Kind(inject=_trouble(lambda w: w.chain_link, "garbled"), lasts_s=(4, 8)),
    "chain_reorganised": Kind(inject=_chain_reorganised, lasts_s=(0, 0)),
    "pool_dropped": Kind(inject=_pool_dropped, lasts_s=(2, 5)),
    "fee_spike": Kind(inject=_fee_spike, lasts_s=(3, 6)),
    "operator_key_used": Kind(inject=_operator_key_used, lasts_s=(0, 0)),
    "operator_out_of_gas": Kind(inject=_operator_out_of_gas, lasts_s=(4, 10)),
    "escrow_withdrawn": Kind(inject=_escrow_withdrawn, lasts_s=(5, 15)),
    "node_speaks_otherwise": Kind(inject=_node_has_ways("answers", "lists", "methods", "transport"), lasts_s=(12, 18)),
    "node_refuses": Kind(inject=_node_has_ways("limits", "fees", "pools"), lasts_s=(12, 18)),
    "nodes_apart": Kind(inject=_node_has_ways("heads"), lasts_s=(6, 12)),
    "workers_killed": Kind(inject=_workers_killed, lasts_s=(0, 0)),
    "aws_paused": Kind(inject=_aws_paused, lasts_s=(6, 8)),
    "loop_doubled": Kind(inject=_loop_doubled, lasts_s=(0, 0)),
    "redeployed": Kind(inject=_redeployed, lasts_s=(30, 30), needs_s=40, once=True),
    "device_killed": Kind(inject=_device_killed, lasts_s=(1, 6)),
    "device_silent": Kind(inject=_device_silent, lasts_s=(5, 40)),
    "device_clock_wrong": Kind(inject=_device_clock_wrong, lasts_s=(8, 20)),
    "devices_cut": Kind(inject=_trouble(lambda w: w.broker_link, "cut"), lasts_s=(2, 6)),
    "devices_silent": Kind(inject=_trouble(lambda w: w.broker_link, "silent"), lasts_s=(4, 10)),
    "devices_slow": Kind(inject=_slow(lambda w: w.broker_link, 0.5, 2.0), lasts_s=(4, 8)),
    "devices_garbled": Kind(inject=_trouble(lambda w: w.broker_link, "garbled"), lasts_s=(2, 6)),
    "messages_lost": Kind(inject=_messages_lost, lasts_s=(0, 0), needs_s=5),
    "messages_duplicated": Kind(inject=_messages_duplicated, lasts_s=(0, 0), needs_s=5),
    "messages_reordered": Kind(inject=_messages_reordered, lasts_s=(0, 0), needs_s=5),
    "messages_delayed": Kind(inject=_messages_delayed, lasts_s=(5, 40), needs_s=8),
    "messages_forged": Kind(inject=_messages_forged, lasts_s=(0, 0)),
    "answers_contradicted": Kind(inject=_answers_contradicted, lasts_s=(0, 0), needs_s=5),
    "orders_repeated": Kind(inject=_orders_repeated, lasts_s=(0, 0)),
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
