"""A process that dies between any two of its side effects: the system runs on, promises hold, all books agree.

Every use case and every handler is in one of the scenarios here, in those of the settlement
(tests/integration/settlement/test_crash_points.py), or in `READS`; the last test holds the list against the code.
What clients do after a lost answer is done by the reference client (localstack/client.py) itself.
"""

import http.client
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import Any
from uuid import UUID

import boto3
import client
import msgspec
import pytest
from client import MarketClient
from moto import mock_aws

from energy_market.database import Database
from energy_market.devices import QueuedMessage, publisher
from energy_market.domain.commands import Command
from energy_market.postgres.reconciliation import database_differences
from tests.api import ENVIRONMENT, Client, load_function
from tests.integration.conftest import LoadApi
from tests.integration.crashes import Crashed, Fuse, FusedClient, FusedDatabase, every_crash, occupy
from tests.integration.market import Home, Market
from tests.integration.model_device import ModelDevice


class Api:
    """The functions behind the API. A process that dies is replaced by one that works, as Lambda does it."""

    def __init__(self, url: str, functions: Mapping[str, Client], iot: object = None) -> None:
        self.functions = functions
        self._url = url
        self._iot = iot
        self._sandbox = Database(url)
        self.before_the_next_process: Callable[[], object] = lambda: None

    @contextmanager
    def process(self, fuse: Fuse) -> Iterator[None]:
        """Within the block requests are served by a process with this fuse, until it burns."""
        self._replace(FusedDatabase(self._url, fuse), fuse)
        try:
            yield
        finally:
            self._replace(Database(self._url), Fuse())

    def serve(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, Any, bytes]:
        """What an HTTP connection would give; ConnectionResetError from a process that dies."""
        function = self.functions[path.split("/")[3]]
        try:
            answer = function.call(method, path, raw=None if body is None else body.decode(), headers=headers)
        except Crashed:
            self._replace(Database(self._url), Fuse())
            self.before_the_next_process()
            raise ConnectionResetError from None
        message = http.client.HTTPMessage()
        for name, value in answer.headers.items():
            message[name] = value
        return answer.status, message, answer.text.encode()

    def close(self) -> None:
        self._sandbox.close()

    def _replace(self, database: Database, fuse: Fuse) -> None:
        self._sandbox.close()
        self._sandbox = database
        for function in self.functions.values():
            occupy(function.module, database)
        if self._iot is not None:
            self.functions["iot"].module.registry._client = FusedClient(self._iot, fuse)  # noqa: SLF001


class Neighbour(MarketClient):
    """The reference client, whose line leads to functions of this process."""

    def __init__(self, api: Api) -> None:
        super().__init__("http://api.example")
        self._api = api

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        return self._api.serve(method, path, body, headers)

    def patch(self, path: str, body: Mapping[str, object]) -> object:
        return self._call(
            "PATCH", path, json.dumps(body).encode(), {"Content-Type": "application/json"}, signed_in=True
        )

    @property
    def refresh_token(self) -> str:
        return self._refresh_token


@pytest.fixture
def api(database_url: str, load_api: LoadApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.0)
    with mock_aws():
        iot = boto3.client("iot")
        iot.create_policy(policyName="energy-market-device", policyDocument="{}")
        names = ("auth", "market", "iot", "network")
        api = Api(database_url, {name: load_api(f"{name}_api") for name in names}, iot)
        with api.process(Fuse()):
            pass
        yield api
        api.close()


class AtApi:
    """Somebody uses the API; the client asks again by itself when the line breaks."""

    def __init__(self, api: Api, market: Market) -> None:
        self.api, self.market, self.neighbour = api, market, Neighbour(api)

    def act(self, fuse: Fuse) -> None:
        with self.api.process(fuse):
            self.ask()

    def ask(self) -> None:
        raise NotImplementedError

    def run_on(self) -> None:
        """The client has asked again already."""

    def check(self) -> None:
        raise NotImplementedError

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """Of a query with one parameter: the user's id."""
        return self.market.sql(statement, UUID(self.neighbour.user_id))


# ------------------------------------------------------------------------------------------------ people


class SigningUp(AtApi):
    def ask(self) -> None:
        self.neighbour.sign_up()

    def check(self) -> None:
        wallet = self.neighbour.account.address
        users = self.market.sql("SELECT id::text FROM users WHERE wallet_address = %s", wallet)
        assert users == [(self.neighbour.user_id,)]


def test_a_wallet_signs_up_once_whenever_the_process_dies(api: Api, market: Market) -> None:
    every_crash(
        "sign up and log in",
        lambda: SigningUp(api, market),
        covers={"open_challenge", "sign_up", "answer_challenge", "log_in", "read_profile"}
        | {"auth_api.challenge", "auth_api.signup", "auth_api.login", "auth_api.me"},
        at_least=25,
    )


class SignedUp(AtApi):
    def __init__(self, api: Api, market: Market) -> None:
        super().__init__(api, market)
        self.neighbour.sign_up()


class Refreshing(SignedUp):
    """A client that did not hear its new tokens has only the old ones to ask with."""

    def ask(self) -> None:
        self.neighbour.renew()

    def check(self) -> None:
        assert self.neighbour.renew(), "the session that the client ended up with goes on"


class RefreshingLater(Refreshing):
    """Asks again only when the ten seconds are over in which that is taken for a second tab."""

    def ask(self) -> None:
        session = self.neighbour.refresh_token.partition(".")[0]
        self.api.before_the_next_process = lambda: self.market.sql(
            "UPDATE refresh_tokens SET rotated_at = rotated_at - interval '11 s' WHERE id = %s", UUID(session)
        )
        super().ask()


@pytest.mark.parametrize("stage", [Refreshing, RefreshingLater])
def test_a_session_whose_refresh_was_not_answered_goes_on_or_a_new_one_begins(
    api: Api, market: Market, stage: type[Refreshing]
) -> None:
    every_crash(
        f"refresh a session ({stage.__name__})",
        lambda: stage(api, market),
        covers={"refresh_session", "auth_api.refresh"},
        at_least=5,
    )


class LoggingOut(SignedUp):
    def ask(self) -> None:
        self.neighbour.post("/api/v1/auth/logout", {"refresh_token": self.neighbour.refresh_token}, signed_in=False)

    def check(self) -> None:
        assert self.rows("SELECT revoked_at IS NOT NULL FROM refresh_tokens WHERE user_id = %s") == [(True,)]


class MovingHouse(SignedUp):
    def ask(self) -> None:
        assert self.neighbour.patch("/api/v1/auth/me", {"location": "the other street"})

    def check(self) -> None:
        assert self.rows("SELECT location FROM users WHERE id = %s") == [("the other street",)]


class BuildingANode(SignedUp):
    def ask(self) -> None:
        self.neighbour.post("/api/v1/network/node/register", {"location": "the mast"}, key="a node")

    def check(self) -> None:
        assert self.rows("SELECT location FROM network_nodes WHERE operator_id = %s") == [("the mast",)]
        assert self.rows("SELECT roles FROM users WHERE id = %s") == [(["Recipient", "NetworkNodeOperator"],)]


@pytest.mark.parametrize(
    ("stage", "covers"),
    [
        (LoggingOut, {"log_out", "auth_api.logout"}),
        (MovingHouse, {"update_profile", "auth_api.change_me"}),
        (BuildingANode, {"register_node", "network_api.register"}),
    ],
)
def test_what_is_asked_again_is_done_once(api: Api, market: Market, stage: type[SignedUp], covers: set[str]) -> None:
    every_crash(stage.__name__, lambda: stage(api, market), covers=covers, at_least=4)


# ------------------------------------------------------------------------------------------------ orders


class Ordering(SignedUp):
    """An order under an idempotency key: answered 201, it exists, once."""

    side = "buy"

    def ask(self) -> None:
        self.order = self.neighbour.place(side=self.side, size_wh=400, price_micro=150_000, all_or_none=True)

    def check(self) -> None:
        placed = self.rows(
            """SELECT o.id::text, o.type, b.remaining_wh FROM energy_orders o
            JOIN open_orders b ON b.order_id = o.id WHERE o.user_id = %s"""
        )
        assert placed == [(self.order["id"], self.side, 400)]
        with self.market.database.transaction() as conn:
            assert database_differences(conn, at_rest=True).lines == []


class Selling(Ordering):
    side = "sell"

    def __init__(self, api: Api, market: Market) -> None:
        super().__init__(api, market)
        market.device(UUID(self.neighbour.user_id))


class Cancelling(Ordering):
    def __init__(self, api: Api, market: Market) -> None:
        super().__init__(api, market)
        super().ask()

    def ask(self) -> None:
        self.neighbour.cancel(str(self.order["id"]))

    def check(self) -> None:
        assert self.rows("SELECT status FROM order_states WHERE user_id = %s") == [("Cancelled",)]
        assert self.rows("SELECT 1 FROM open_orders WHERE user_id = %s") == []
        with self.market.database.transaction() as conn:
            assert database_differences(conn, at_rest=True).lines == []


@pytest.mark.parametrize(
    ("stage", "covers"),
    [
        (Ordering, {"place_order", "answer_once", "market_api.create_order"}),
        (Selling, {"place_order", "answer_once", "market_api.create_order"}),
        (Cancelling, {"cancel_order", "market_api.cancel"}),
    ],
)
def test_an_order_is_placed_once_and_a_cancelled_one_is_closed(
    api: Api, market: Market, stage: type[SignedUp], covers: set[str]
) -> None:
    every_crash(stage.__name__, lambda: stage(api, market), covers=covers, at_least=6)


# ------------------------------------------------------------------------------------------------ devices


class Registering(SignedUp):
    """Somebody who has put an energy offer into the book registers the device that is to keep it."""

    def __init__(self, api: Api, market: Market) -> None:
        super().__init__(api, market)
        self.order = self.neighbour.place(side="sell", size_wh=400, price_micro=150_000, all_or_none=True)

    def ask(self) -> None:
        self.device = self.neighbour.register_device(side="donor", device_type="esp32", location="the roof")

    def check(self) -> None:
        assert self.device.private_key.startswith("-----BEGIN")
        usable = self.rows("SELECT id::text FROM iot_devices WHERE owner_id = %s AND status = 'Registered'")
        # One whose answer was lost is registered too, but nobody has its key.
        assert (self.device.device_id,) in usable
        assert len(usable) <= 2
        assert self.rows("SELECT device_id::text FROM open_orders WHERE user_id = %s")[0] in usable


def test_a_registration_that_dies_gives_one_device_that_sells(api: Api, market: Market) -> None:
    every_crash(
        "register a device",
        lambda: Registering(api, market),
        covers={"register_device", "iot_api.register"},
        at_least=15,
    )


# ------------------------------------------------------------------------------------------------ the loop


@dataclass(kw_only=True)
class Broker:
    """The devices' broker. `lost_wh`: locks of this size are lost on their way."""

    devices: dict[UUID, ModelDevice] = field(default_factory=dict)
    lost_wh: int = 0
    _one_at_a_time: Lock = field(default_factory=Lock)

    def publish(self, *, topic: str, qos: int, payload: bytes) -> None:
        assert qos == 1
        _, _, device, kind = topic.split("/")
        said = json.loads(payload)
        energy_wh = round(1000 * said.get("kwh_requested", said.get("kwh", 0)))
        command = Command(
            kind=kind,  # type: ignore[arg-type] # one of the three, or the device does not know it
            device_id=UUID(device),
            transaction_id=UUID(said["transaction_id"]),
            sell_order_id=UUID(said.get("order_id", device)),
            energy_wh=energy_wh,
            expires_at=datetime.now(UTC),
        )
        with self._one_at_a_time:
            if kind != "lock" or energy_wh != self.lost_wh:
                self.devices[UUID(device)].hear(command)


class Waker:
    """AWS Lambda, as far as the lock responses need it."""

    def invoke(self, *, FunctionName: str, InvocationType: str) -> None:  # noqa: N803 -- AWS's names
        assert (FunctionName, InvocationType) == ("settle", "Event")


class Loop:
    """The functions of the loop and of the queues, with devices behind a broker; who pays is not looked at here."""

    def __init__(self, url: str, market: Market) -> None:
        self.market, self.url = market, url
        self.broker, self.waker = Broker(), Waker()
        self.queue: deque[QueuedMessage] = deque()
        self.matching, self.settlement, self.telemetry = map(load_function, ("matching", "settlement", "telemetry"))
        self._sandbox = Database(url)
        self._replace(Database(url), Fuse())

    def clear(self) -> None:
        """Begin anew, with homes of its own: the devices of before have nothing to do any more."""
        assert not self.queue
        self.broker.devices.clear()

    def home(self, *, available_wh: int, refuses_wh: int = 0) -> Home:
        home = self.market.home(available_wh=available_wh)
        self.broker.devices[home.device] = ModelDevice(
            id=home.device, available_wh=available_wh, refuses_wh=refuses_wh, queue=self.queue
        )
        return home

    @contextmanager
    def process(self, fuse: Fuse) -> Iterator[None]:
        """Within the block all functions run in processes with this fuse."""
        self._replace(FusedDatabase(self.url, fuse, statements=False), fuse)
        try:
            yield
        finally:
            self._replace(Database(self.url), Fuse())

    def close(self) -> None:
        self._sandbox.close()

    def _replace(self, database: Database, fuse: Fuse) -> None:
        self._sandbox.close()
        self._sandbox = database
        for function in (self.matching, self.settlement, self.telemetry):
            occupy(function, database)
        publish = publisher(FusedClient(self.broker, fuse))
        self.matching._publish = lambda: publish  # type: ignore[attr-defined] # noqa: SLF001 -- its sandbox is ours
        waker = FusedClient(self.waker, fuse)
        self.settlement._functions = lambda: waker  # type: ignore[attr-defined] # noqa: SLF001

    def step(self) -> None:
        """One step of the loop, and what the queues bring of it."""
        self.matching.tick({"mark": datetime.now(UTC).isoformat()}, None)
        while self.queue:
            self.deliver()
        self.pay()

    def deliver(self) -> None:
        """Each queue gives its function up to ten messages, and forgets those that were not given back."""
        answers = [message for message in self.queue if message.topic.endswith("/lock/response")][:10]
        reports = [message for message in self.queue if not message.topic.endswith("/lock/response")][:10]
        for batch, handle in ((answers, self.settlement.lock_responses), (reports, self.telemetry.handle)):
            if not batch:
                continue
            records = [{"messageId": str(n), "body": msgspec.json.encode(m).decode()} for n, m in enumerate(batch)]
            again = {int(one["itemIdentifier"]) for one in handle({"Records": records}, None)["batchItemFailures"]}
            for n, message in enumerate(batch):
                if n not in again:
                    self.queue.remove(message)

    def pay(self) -> None:
        """The chain pays whatever is locked."""
        self.market.sql(
            """
            WITH locked AS (SELECT id FROM transactions WHERE status = 'Locked'),
            batch AS (INSERT INTO settlement_batches (chain_id, contract, sender, nonce, status)
                      SELECT 1, '0x', '0x', (SELECT count(*) FROM settlement_batches), 'Final'
                      WHERE EXISTS (SELECT FROM locked) RETURNING id)
            UPDATE transactions SET status = 'Confirmed', batch_id = batch.id, confirmed_at = now(),
                   blockchain_hash = '0x1', delivery = 'Owed', command_sent_at = NULL
            FROM batch WHERE transactions.id IN (SELECT id FROM locked)
            """
        )

    def time_passes(self, seconds: int) -> None:
        """The loop's next step is due: commands may be repeated, and locks run out in the end."""
        self.market.sql(
            """
            UPDATE transactions
            SET command_sent_at = command_sent_at - make_interval(secs => %s),
                expires_at = expires_at - make_interval(secs => CASE WHEN status = 'Pending' THEN %s ELSE 0 END)
            """,
            seconds,
            seconds,
        )
        for device in self.broker.devices.values():
            device.report()

    def run_on(self) -> None:
        """Step after step, until devices that were not heard of are given up and those that were have delivered."""
        for seconds in (5, 5, 5, 30, 5, 5, 5, 5):
            self.time_passes(seconds)
            self.step()
            if not self.market.sql(
                """SELECT 1 FROM transactions WHERE status IN ('Pending', 'Locked') OR unlock = 'Owed'
                OR (status = 'Confirmed' AND delivery <> 'Delivered')"""
            ):
                return


@pytest.fixture
def loop(database_url: str, market: Market, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    for name, value in {**ENVIRONMENT, "DATABASE_URL": database_url, "SETTLE_FUNCTION": "settle"}.items():
        monkeypatch.setenv(name, value)
    loop = Loop(database_url, market)
    yield loop
    loop.close()


class Living:
    """The life of three trades: one that the device keeps, one that it refuses, one whose lock does not reach it."""

    def __init__(self, loop: Loop, market: Market) -> None:
        self.loop, self.market = loop, market
        loop.clear()
        home, self.buyer = loop.home(available_wh=2_000, refuses_wh=600), market.user()
        loop.broker.lost_wh = 500
        self.device = loop.broker.devices[home.device]
        self.asks = [market.order(home.user, "sell", size, 200_000) for size in (700, 600, 500)]
        self.bids = [market.order(self.buyer, "buy", size, 200_000) for size in (700, 600, 500)]

    def act(self, fuse: Fuse) -> None:
        with self.loop.process(fuse):
            self.loop.step()
            self.loop.run_on()

    def run_on(self) -> None:
        self.loop.run_on()

    def check(self) -> None:
        trades = {trade.energy_wh: trade for trade in self.market.trades(self.buyer)}
        kept, refused, silent = trades[700], trades[600], trades[500]
        assert (kept.status, kept.delivery, kept.delivered_wh) == ("Confirmed", "Delivered", 700)
        assert (refused.status, refused.reason) == ("Failed", "lock_rejected")
        assert (silent.status, silent.reason) == ("Failed", "lock_timeout")
        assert [self.market.status_of(ask) for ask in self.asks] == ["Completed", "Rejected", "Rejected"]
        assert [self.market.status_of(bid) for bid in self.bids] == ["Completed", "Created", "Created"]
        assert self.device.held_wh == {}
        for bid in self.bids[1:]:
            self.market.cancel(self.buyer, bid)
        with self.market.database.transaction() as conn:
            assert database_differences(conn, at_rest=True).lines == []


def test_a_crash_anywhere_in_the_life_of_trades_leaves_each_ended_and_all_books_in_agreement(
    loop: Loop, market: Market
) -> None:
    every_crash(
        "the life of three trades",
        lambda: Living(loop, market),
        covers={"run_tick", "publish_commands", "record_lock_response", "record_telemetry"}
        | {"matching.tick", "settlement.lock_responses", "telemetry.handle"},
        at_least=20,
    )
