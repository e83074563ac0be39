"""The running stack: requests through the gateway, a burst of lock responses, and how long each stage of a trade takes.

The whole system is started as by `make run`, in a folder of its own, and nothing of it is left at the end. Only how
large a batch of payments should be is measured without it, in this process.
"""

import contextlib
import http.client
import io
import os
import queue
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import psutil
import psycopg
from eth_account import Account
from eth_account.signers.local import LocalAccount

from bench.measure import Row, Table, alternated, median, timed
from bench.tick import server
from energy_market.domain.orders import OrderTerms
from energy_market.domain.settlement import SettlementRules
from energy_market.usecases.place_order import place_order
from energy_market_client.market_client import MarketClient
from energy_market_client.wallet import Wallet, call_data
from local_market.commands.session import DEFAULT_SPEED
from local_market.community.clock import START, SimulatedClock
from local_market.community.household import community
from local_market.community.street import Street
from local_market.emulators.local_aws import STACK, aws_session
from local_market.parts.anvil import start_anvil
from local_market.parts.places import LOCAL
from local_market.parts.postgres import LocalPostgres, let_functions_in
from local_market.parts.processes import stop_what_is_ours
from local_market.stack.market import RATE_LIMITS, LocalMarket, start_market
from local_market.stack.sam import STAGE
from local_market.stack.stack import remove_state
from local_market.watching.comparison import TOKEN_DECIMALS, Escrow, reconcile
from local_market.watching.figures import percentile
from tests.support.chain.chain import trade
from tests.support.chain.world import NANO, World
from tests.support.devices.firmware import Firmware
from tests.support.owner import remember

CLIENTS: Final = 8
AT_LEAST_THE_EMPTY: Final = 0.8
BURST: Final = 2_000
A_DEVICE: Final = 100  # locks that each device of the burst answers
A_USER: Final = 400  # open orders, fewer than a user may have
ENERGY_WH: Final = 500
PRICE_MICRO: Final = 200_000
BATCHES: Final = (1, 20, 100)
LOCK_TIMEOUT_S: Final = 60  # twice as long as else: the devices of the burst wait for each other before they answer
MOST_TO_HEAR_S: Final = 40.0
PATIENCE_S: Final = 120.0
PERIOD_S: Final = 0.2
GAS_WEI: Final = 10**18
THROUGH_THE_GATEWAY: Final = f"Through the local gateway, {CLIENTS} clients, against an empty handler"
IN_ONE_BURST: Final = f"Lock responses: settled of {BURST:,} in one burst"
LOCK_RESPONSE: Final = "energy/donor/{}/lock/response"


def measure(*, quick: bool) -> Iterator[Row | Table]:
    """What needs no stack first; then the stack, once, for all the rest."""
    yield from batches(rounds=2 if quick else 3)
    if quick:
        for name in (THROUGH_THE_GATEWAY, IN_ONE_BURST, "From match to confirmed, by stage"):
            yield Row(name=name, measured=None, shown="left out of the short form: starting the stack takes half of it")
        return
    with stack() as market:
        yield from gateway(market, rounds=5, requests=400)
        yield from burst(market, trades=BURST)
        yield lively_street(market, homes=10, duration_s=60.0)


@contextlib.contextmanager
def stack() -> Iterator[LocalMarket]:
    """The system for the block, however that ends."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=LOCAL))
    try:
        market = start_market(
            folder,
            parameters=RATE_LIMITS | {"LockTimeoutS": str(LOCK_TIMEOUT_S)},
        )
        try:
            yield market
        finally:
            market.stack.stop()
    finally:
        stop_what_is_ours()  # a start that was broken off may have left some
        remove_state(folder)


def place(
    conn: psycopg.Connection[Any], user_id: UUID, *, is_ask: bool, price_micro: int, device_id: UUID | None = None
) -> None:
    """Place an order, as the API does."""
    terms = OrderTerms(
        type="sell" if is_ask else "buy",
        energy_wh=ENERGY_WH,
        price_micro=price_micro,
        all_or_none=True,
        expires_at=None,
        device_id=device_id,
    )
    place_order(conn, terms, user_id=user_id, now=datetime.now(UTC), device_online_s=120)


# --------------------------------------------------------------------------------------------------- the gateway


def gateway(market: LocalMarket, *, rounds: int, requests: int) -> Iterator[Row | Table]:
    """Eight clients ask for the same again and again, of us and of a handler that does nothing."""
    client = MarketClient(market.api_url)
    client.sign_up()
    rest_orders(market, UUID(client.user_id))
    headers = {"Authorization": f"Bearer {client.renew()}"}
    client.close()
    routes = {
        "GET book": f"{market.api_url}/api/v1/market/book",
        "GET orders": f"{market.api_url}/api/v1/market/orders",
        "GET chain": f"{market.api_url}/api/v1/chain",
    }
    size_bytes = {name: ask(url, headers, times=1) for name, url in routes.items()}
    empty_url = deploy_empty(market)
    empty = {name: f"{empty_url}?bytes={size}" for name, size in size_bytes.items()}
    urls = routes | {f"{name}, empty": url for name, url in empty.items()}
    for url in urls.values():
        all_at_once(url, headers, requests=5 * CLIENTS)  # cold starts
    work = {name: Work(market, url, headers, requests=requests) for name, url in urls.items()}
    taken = alternated({name: one.seconds for name, one in work.items()}, rounds=rounds)
    rate = {name: requests / median(seconds) for name, seconds in taken.items()}
    yield Table(
        title=f"Requests through the local gateway, {CLIENTS} clients (medians of {rounds} rounds)",
        columns=[
            "what",
            "bytes",
            "a second",
            "ms of the emulator",
            "of the functions",
            "of the database",
            "of the clients",
        ],
        lines=[
            [name, size_bytes[name.removesuffix(", empty")], rate[name], *work[name].processor_ms()]
            for name in sorted(urls)
        ],
    )
    for name in routes:
        bare = f"{name}, empty"
        yield Row(
            name=f"{THROUGH_THE_GATEWAY}: {name}",
            # Round by round: what slows the machine for a while slows both of a round.
            measured=median([least / ours for ours, least in zip(taken[name], taken[bare], strict=True)]),
            at_least=AT_LEAST_THE_EMPTY,
            shown=f"{rate[name]:,.0f} a second against {rate[bare]:,.0f}, {size_bytes[name]:,} bytes each;"
            f" by the emulator's own time {work[bare].emulator_ms / work[name].emulator_ms:.2g} could be had",
        )


class Work:
    """The same request again and again, and whose processor time that takes."""

    def __init__(self, market: LocalMarket, url: str, headers: Mapping[str, str], *, requests: int) -> None:
        """Nothing is sent yet."""
        self._market, self._url, self._headers, self._requests = market, url, headers, requests
        self._spent_s: list[list[float]] = []

    def seconds(self) -> float:
        """A round."""
        before = self._processor_s()
        took_s = all_at_once(self._url, self._headers, requests=self._requests)
        self._spent_s.append([after - then for after, then in zip(self._processor_s(), before, strict=True)])
        return took_s

    @property
    def emulator_ms(self) -> float:
        """Its processor time of a request: it is one process, on one processor at a time, and all goes through it."""
        return self.processor_ms()[0]

    def processor_ms(self) -> list[float]:
        """Of a request: of the emulator, of the functions, of the database, of the clients. Medians of the rounds."""
        return [median(spent_s) * 1000 / self._requests for spent_s in zip(*self._spent_s, strict=True)]

    def _processor_s(self) -> list[float]:
        emulator = psutil.Process(self._market.stack.aws.process.pid)
        database = self._market.stack.database.process
        servers = [] if database is None else [psutil.Process(database.pid)]
        servers += [child for server in servers for child in server.children()]
        return [
            sum(one.user + one.system for one in (process.cpu_times() for process in processes))
            for processes in ([emulator], emulator.children(), servers, [psutil.Process()])
        ]


def all_at_once(url: str, headers: Mapping[str, str], *, requests: int) -> float:
    """Seconds that the clients together take for so many requests. Raises what went wrong at one of them."""
    failed: list[Exception] = []

    def client() -> None:
        try:
            ask(url, headers, times=requests // CLIENTS)
        except Exception as error:  # noqa: BLE001 - raised below, by the thread that waits
            failed.append(error)

    def clients() -> None:
        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    took_s = timed(clients)
    if failed:
        raise failed[0]
    return took_s


def ask(url: str, headers: Mapping[str, str], *, times: int) -> int:
    """One client's requests, one after the other on one connection; the bytes of the last answer."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    length = 0
    with contextlib.closing(http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)) as connection:
        for _ in range(times):
            connection.request("GET", target, headers=dict(headers))
            answer = connection.getresponse()
            length = len(answer.read())
            assert answer.status == http.client.OK, f"{url}: {answer.status}"
    return length


def rest_orders(market: LocalMarket, user_id: UUID) -> None:
    """Fill the book with orders that nothing crosses: the asks are dear and have no device, the bids are cheap."""
    with psycopg.connect(market.stack.database.url) as conn:
        for number in range(A_USER):
            is_ask = number % 2 == 0
            place(conn, user_id, is_ask=is_ask, price_micro=number + (900_000 if is_ask else 1_000))


EMPTY_HANDLER: Final = """
def handle(event, context):
    print('{"status": 200}', flush=True)  # as ours does: without a line the emulator waits for one, 50 ms
    size = int(event["queryStringParameters"]["bytes"])
    return {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": "x" * size}
"""


def deploy_empty(market: LocalMarket) -> str:
    """A handler that does nothing, behind a REST API of its own in the same emulator; its address."""
    session = aws_session()
    endpoint_url = market.stack.aws.endpoint_url
    functions = session.client("lambda", endpoint_url=endpoint_url)
    apis = session.client("apigateway", endpoint_url=endpoint_url)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("app.py", EMPTY_HANDLER)
    ours = functions.get_function_configuration(FunctionName=f"{STACK}-market-api")
    function = functions.create_function(
        FunctionName="empty",
        Runtime=ours["Runtime"],
        Role=ours["Role"],
        Handler="app.handle",
        Code={"ZipFile": packed.getvalue()},
        MemorySize=ours["MemorySize"],
        Timeout=ours["Timeout"],
    )
    api_id = apis.create_rest_api(name="empty")["id"]
    (root,) = apis.get_resources(restApiId=api_id)["items"]
    resource_id = apis.create_resource(restApiId=api_id, parentId=root["id"], pathPart="empty")["id"]
    apis.put_method(restApiId=api_id, resourceId=resource_id, httpMethod="GET", authorizationType="NONE")
    apis.put_integration(
        restApiId=api_id,
        resourceId=resource_id,
        httpMethod="GET",
        type="AWS_PROXY",
        integrationHttpMethod="POST",
        uri=f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{function['FunctionArn']}/invocations",
    )
    apis.create_deployment(restApiId=api_id, stageName=STAGE)
    functions.add_permission(
        FunctionName="empty",
        StatementId="gateway",
        Action="lambda:InvokeFunction",
        Principal="apigateway.amazonaws.com",
    )
    functions.close()
    apis.close()
    return f"{endpoint_url}/_aws/execute-api/{api_id}/{STAGE}/empty"


# -------------------------------------------------------------------------------------------------- lock responses


@dataclass(frozen=True, slots=True, kw_only=True)
class Donor:
    """Somebody with a device that says what it is told to."""

    user_id: UUID
    firmware: Firmware


def burst(market: LocalMarket, *, trades: int) -> Iterator[Row | Table]:
    """One tick matches so many trades; their devices answer all at once, when the last of them has heard its lock."""
    with contextlib.ExitStack() as undo:
        donors = [undo.enter_context(donor(market)) for _ in range(-(-trades // A_DEVICE))]
        buyers = [buyer(market, tokens=A_USER) for _ in range(-(-trades // A_USER))]
        conn = undo.enter_context(psycopg.connect(market.stack.database.url, autocommit=True))
        for one in donors:
            one.firmware.say("energy/donor/{}/status", {"available_kwh": 100_000, "battery_level": 90, "seq": 2})
        with conn.transaction():
            for number in range(trades):
                seller = donors[number % len(donors)]
                device_id = UUID(seller.firmware.device_id)
                place(conn, seller.user_id, is_ask=True, price_micro=PRICE_MICRO, device_id=device_id)
                place(conn, buyers[number % len(buyers)], is_ask=False, price_micro=PRICE_MICRO)
        began_at = now(conn)
        answers = hear(donors, trades)
        began = time.monotonic()
        acknowledged = [
            said
            for one, to_say in zip(donors, answers, strict=True)
            for said in one.firmware.say_at_once(LOCK_RESPONSE, to_say)
        ]
        for one_said in acknowledged:
            one_said.result(PATIENCE_S)
        said_s = time.monotonic() - began
        wait_until_paid(conn)
        yield what_became_of(market, conn, trades=trades, since=began_at, said_s=said_s)
        yield stages(conn, since=began_at, of=f"trades of the burst of {trades:,}")


@contextlib.contextmanager
def donor(market: LocalMarket) -> Iterator[Donor]:
    """Somebody who has signed up, with a device that is connected for the block."""
    client = MarketClient(market.api_url)
    client.sign_up()
    registered = client.register_device(side="donor", device_type="esp32", location="the roof")
    client.close()
    with Firmware(registered, market.stack.aws) as firmware:
        yield Donor(user_id=UUID(client.user_id), firmware=firmware)


def buyer(market: LocalMarket, *, tokens: int) -> UUID:
    """Somebody who has signed up and has tokens in escrow."""
    client = MarketClient(market.api_url)
    client.sign_up()
    chain, rpc_url = client.chain(), market.stack.chain.rpc_url
    amount = tokens * 10**chain.token_decimals
    faucet = Wallet(Account.from_key(market.stack.chain.deployer_key), rpc_url=rpc_url, chain_id=chain.chain_id)
    wallet = Wallet(client.account, rpc_url=rpc_url, chain_id=chain.chain_id)
    with contextlib.closing(faucet), contextlib.closing(wallet), contextlib.closing(client):
        mint = call_data("mint(address,uint256)", client.account.address, amount)
        sent = [faucet.send(client.account.address, value_wei=GAS_WEI), faucet.send(chain.token_contract, data=mint)]
        for transaction in sent:
            faucet.wait(transaction)
        wallet.deposit(token=chain.token_contract, contract=chain.settlement_contract, amount=amount)
    return UUID(client.user_id)


def hear(donors: Sequence[Donor], trades: int) -> list[list[dict[str, object]]]:
    """What each donor's device answers to the locks it heard, once all are heard, or time is short."""
    answers: list[dict[str, dict[str, object]]] = [{} for _ in donors]
    until = time.monotonic() + MOST_TO_HEAR_S
    while sum(map(len, answers)) < trades and time.monotonic() < until:
        for one, known in zip(donors, answers, strict=True):
            with contextlib.suppress(queue.Empty):
                while True:
                    topic, said = one.firmware.heard.get_nowait()
                    if topic.endswith("/lock"):
                        trade = said["transaction_id"]
                        known[trade] = {"order_id": said["order_id"], "status": "locked", "transaction_id": trade}
        time.sleep(0.01)
    return [list(known.values()) for known in answers]


def now(conn: psycopg.Connection[Any]) -> datetime:
    """The database's time."""
    ((time_there,),) = conn.execute("SELECT clock_timestamp()").fetchall()
    return time_there  # type: ignore[no-any-return]


def wait_until_paid(conn: psycopg.Connection[Any]) -> None:
    """Wait until every trade is confirmed or has failed; what is not after so long will be seen in the figures."""
    until = time.monotonic() + PATIENCE_S
    unpaid = "SELECT FROM transactions WHERE status IN ('Pending', 'Locked', 'Submitted') LIMIT 1"
    while time.monotonic() < until and conn.execute(unpaid).fetchone() is not None:
        time.sleep(PERIOD_S)


def what_became_of(
    market: LocalMarket, conn: psycopg.Connection[Any], *, trades: int, since: datetime, said_s: float
) -> Row:
    """How many of the burst's trades were paid, and how fast; and whether the chain says so, too."""
    ((paid, failed, in_batches, answered_s, paid_s),) = conn.execute(
        """
        SELECT count(*) FILTER (WHERE status = 'Confirmed'), count(*) FILTER (WHERE status = 'Failed'),
               count(DISTINCT batch_id),
               extract(epoch FROM max(locked_at) - min(locked_at))::float8,
               extract(epoch FROM max(confirmed_at) - min(locked_at))::float8
        FROM transactions WHERE "timestamp" >= %s
        """,
        (since,),
    ).fetchall()
    differences = reconcile(
        conn,
        ledger=Escrow(
            rpc_url=market.stack.chain.rpc_url,
            contract=market.settlement_contract,
            token=market.token,
            token_decimals=TOKEN_DECIMALS,
        ),
    )
    assert not differences, differences
    return Row(
        name=IN_ONE_BURST,
        measured=paid,
        at_least=trades,
        unit="trades",
        shown=f"{failed} failed; said in {said_s:.1f} s, taken in {answered_s:.1f} s ({paid / answered_s:,.0f} a"
        f" second), paid in {paid_s:.1f} s ({paid / paid_s:,.0f} a second) in {in_batches} batches; the chain agrees",
    )


# ------------------------------------------------------------------------------------------------------- the stages

STAGES: Final = ("lock published", "answered", "submitted", "confirmed", "all of it")


def stages(conn: psycopg.Connection[Any], *, since: datetime, of: str) -> Table:
    """How long each stage took, of the confirmed trades that were matched since then.

    A lock is published as soon as it is claimed, which begins its device's time to answer.
    """
    rows = conn.execute(
        """
        SELECT published - matched, locked_at - published, submitted_at - locked_at, confirmed_at - submitted_at,
               confirmed_at - matched
        FROM (SELECT *, "timestamp" AS matched, expires_at - make_interval(secs => %s) AS published FROM transactions) t
        WHERE status = 'Confirmed' AND matched >= %s
        """,
        (LOCK_TIMEOUT_S, since),
    ).fetchall()
    lines: list[list[str | float | None]] = []
    for column, name in enumerate(STAGES):
        took_ms = [row[column].total_seconds() * 1000 for row in rows]
        lines.append([name, percentile(took_ms, 50), percentile(took_ms, 99)])
    return Table(title=f"From match to confirmed, {len(rows):,} {of}: ms", columns=["stage", "p50", "p99"], lines=lines)


def lively_street(market: LocalMarket, *, homes: int, duration_s: float) -> Table:
    """The community of `make run` for a while: devices that answer at once."""
    clock = SimulatedClock(START, speed=DEFAULT_SPEED)
    street = Street(community(homes, seed=1), api_url=market.api_url, clock=clock)
    with psycopg.connect(market.stack.database.url, autocommit=True) as conn:
        began_at = now(conn)
        try:
            street.register()
            street.fund(rpc_url=market.stack.chain.rpc_url, deployer_key=market.stack.chain.deployer_key)
            street.connect(ca=market.stack.aws.ca_file.read_bytes(), folder=market.stack.folder / "devices")
            street.start()
            time.sleep(duration_s)
            street.stop_trading()
            wait_until_paid(conn)
        finally:
            street.disconnect()
        return stages(conn, since=began_at, of=f"trades of {homes} homes in {duration_s:.0f} s")


# ------------------------------------------------------------------------------------------------ batches of trades

PEOPLE: Final = max(BATCHES)  # on each side: nobody pays or is paid twice in a batch


def batches(*, rounds: int) -> Iterator[Row | Table]:
    """Sweeps in this process with batches of several sizes, on a database and a chain of their own."""
    with server() as new_database, chain() as rpc_url:
        url = new_database()
        database = LocalPostgres(url=url, functions_url=let_functions_in(url), process=None)
        remember(database)
        world = World(database.functions_url, rpc_url)
        with contextlib.closing(world):
            parties = Parties(world)
            found: dict[int, list[Swept]] = {size: [] for size in BATCHES}
            for _ in range(rounds):
                for size in BATCHES:
                    found[size].append(parties.settle(trades=max(20, 2 * size), max_batch=size))
    yield Table(
        title=f"Sweeps with a block for each batch (medians of {rounds} rounds)",
        columns=["trades in a batch", "gas a trade", "settled trades a second"],
        lines=[
            [size, median([one.gas_a_trade for one in swept]), median([one.trades_a_second for one in swept])]
            for size, swept in found.items()
        ],
    )


@contextlib.contextmanager
def chain() -> Iterator[str]:
    """A chain for the block, which makes a block of each transaction; its address."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=LOCAL))
    node = start_anvil(folder, block_time_s=None)
    try:
        yield node.rpc_url
    finally:
        node.stop()
        remove_state(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What settling some trades took."""

    gas_a_trade: float
    trades_a_second: float


class Parties:
    """People who sell and buy, and have done so before: their escrow is in use."""

    def __init__(self, world: World) -> None:
        """All of them get a wallet, and escrow from somebody rich."""
        self._world = world
        world.chain.rpc.start_deadline(3600)
        self._homes = [world.market.home(available_wh=10**9) for _ in range(PEOPLE)]
        self._buyers = [world.market.user() for _ in range(PEOPLE)]
        escrow = 1_000 * ENERGY_WH * PRICE_MICRO * NANO
        rich = world.chain.buyer(2 * PEOPLE * escrow)
        gifts = []
        for user in [home.user for home in self._homes] + self._buyers:
            account: LocalAccount = Account.create()
            world.sql("UPDATE users SET wallet_address = %s WHERE id = %s", account.address, user)
            gifts.append(trade(rich, account, escrow))
        world.chain.settle(gifts)

    def settle(self, *, trades: int, max_batch: int) -> Swept:
        """Let so many trades be made and locked, then sweep until all are confirmed; the sweeps are timed."""
        world = self._world
        for number in range(trades):
            home = self._homes[number % PEOPLE]
            world.market.order(home.user, "sell", ENERGY_WH, PRICE_MICRO)
            # Not always the same two.
            world.market.order(self._buyers[(number + number // PEOPLE) % PEOPLE], "buy", ENERGY_WH, PRICE_MICRO)
        made = world.market.tick().trade_ids
        assert len(made) == trades
        world.market.publish()
        for made_id, order, device in world.sql(
            "SELECT id, sell_order_id, device_id FROM transactions WHERE id = ANY (%s)", list(made)
        ):
            assert world.market.answer(device, order, "locked", trade=made_id) == "locked"
        rules = SettlementRules(max_batch=max_batch, confirmations=2, finality_blocks=6)

        def sweep() -> None:
            while world.sql("SELECT 1 FROM transactions WHERE status IN ('Locked', 'Submitted') LIMIT 1"):
                assert world.sweep(rules)
                world.mine()  # the last batch is one deep, and may have nothing after it

        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):  # the sweeps' log
            took_s = timed(sweep)
        ((paid, hashes),) = world.sql(
            """SELECT count(*), array_agg(DISTINCT blockchain_hash) FROM transactions
            WHERE id = ANY (%s) AND status = 'Confirmed'""",
            list(made),
        )
        assert paid == trades
        world.ledger.start_deadline(60)
        gas = sum(receipt.gas_used for receipt in world.ledger.receipts(hashes).values() if receipt is not None)
        return Swept(gas_a_trade=gas / trades, trades_a_second=trades / took_s)
