"""The functions of the loop and of the queues, and devices behind a broker."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from uuid import UUID

import msgspec
import psycopg

from energy_market.database import Database
from energy_market.devices import QueuedMessage, publisher
from energy_market.domain.commands import Command
from tests.api import load_function
from tests.integration.crashes import Fuse, FusedClient, FusedDatabase, occupy
from tests.integration.market import Home, Market
from tests.integration.model_device import ModelDevice


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
        self.failed: list[psycopg.Error] = []  # how invocations ended that did not end well
        self._sandbox = Database(url)
        self._occupy(Database(url), Fuse())

    def clear(self) -> None:
        """Begin anew, with homes of its own: the devices of before have nothing to do any more."""
        assert not self.queue
        self.broker.devices.clear()

    def home(self, *, available_wh: int, refuses_wh: int = 0) -> Home:
        home = self.market.home(available_wh=available_wh)
        self.broker.devices[home.device] = ModelDevice(
            id=home.device,
            available_wh=available_wh,
            refuses_wh=refuses_wh,
            queue=self.queue,
            seq=10**6,  # the market has spoken for it, under numbers of its own
        )
        return home

    @contextmanager
    def process(self, fuse: Fuse, *, statements: bool = False) -> Iterator[None]:
        """Within the block all functions run in processes with this fuse."""
        with self.on(FusedDatabase(self.url, fuse, statements=statements), fuse):
            yield

    @contextmanager
    def on(self, database: Database, fuse: Fuse | None = None) -> Iterator[None]:
        """Within the block the functions have this connection."""
        self._occupy(database, fuse or Fuse())
        try:
            yield
        finally:
            self._occupy(Database(self.url), Fuse())
            self.market.sql("UPDATE leases SET expires_at = clock_timestamp()")  # whoever held one is long dead

    def close(self) -> None:
        self._sandbox.close()

    def _occupy(self, database: Database, fuse: Fuse) -> None:
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
        self.tick()
        while self.queue:
            self.deliver()
        self.pay()

    def tick(self) -> None:
        """What the state machine does at a mark: whatever became of the tick, the devices are told."""
        mark = datetime.now(UTC).isoformat()
        for call, event in (
            (self.matching.tick, {"mark": mark, "zone": "default"}),
            (self.matching.commands, {"mark": mark, "missed": False}),
        ):
            try:
                call(event, None)
            except psycopg.Error as error:
                self.failed.append(error)

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
        """A sweep begins, and the chain pays whatever is locked."""
        self.market.sql("DELETE FROM leases")
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
        """The loop's next step is due: commands may be repeated, and locks and leases run out in the end."""
        self.market.sql("UPDATE leases SET expires_at = expires_at - make_interval(secs => %s)", seconds)
        self.market.sql(
            """
            UPDATE transactions
            SET command_sent_at = command_sent_at - make_interval(secs => %s),
                expires_at = expires_at - make_interval(secs => CASE WHEN status = 'Pending' THEN %s ELSE 0 END)
            WHERE status = 'Pending' OR unlock = 'Owed' OR delivery IN ('Owed', 'Started')
            """,
            seconds,
            seconds,
        )
        for device in self.broker.devices.values():
            device.report()

    def run_on(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Step after step, until devices that were not heard of are given up and those that were have delivered."""
        for seconds in (5, 5, 5, 30, 5, 5, 5, 5):
            self.time_passes(seconds)
            meanwhile()
            self.step()
            if not self.market.sql(
                """SELECT 1 FROM transactions WHERE status IN ('Pending', 'Locked') OR unlock = 'Owed'
                OR (status = 'Confirmed' AND delivery <> 'Delivered')"""
            ):
                return


class Living:
    """The life of three trades: one that the device keeps, one that it refuses, one whose lock does not reach it.

    The device also sends a status that nobody can take.
    """

    sends_nonsense = True

    def __init__(self, loop: Loop, market: Market) -> None:
        self.loop, self.market = loop, market
        loop.clear()
        self.home, self.buyer = loop.home(available_wh=2_000, refuses_wh=600), market.user()
        loop.broker.lost_wh = 500
        self.device = loop.broker.devices[self.home.device]
        self.asks = [market.order(self.home.user, "sell", size, 200_000) for size in (700, 600, 500)]
        self.bids = [market.order(self.buyer, "buy", size, 200_000) for size in (700, 600, 500)]
        if self.sends_nonsense:
            nonsense = {"available_kwh": -1, "seq": 10**6}
            loop.queue.append(market.say(f"energy/donor/{self.home.device}/status", nonsense))

    def go(self) -> None:
        self.loop.step()
        self.run_on()

    def run_on(self) -> None:
        self.loop.run_on(self.take_back)
        self.take_back()

    def take_back(self) -> None:
        """Their owner sells no more what has come back into the book."""
        for (ask,) in self.market.sql(
            """SELECT order_id FROM open_orders WHERE order_id = ANY (%s) AND EXISTS (
                   SELECT FROM transactions WHERE sell_order_id = order_id AND status = 'Failed')""",
            self.asks,
        ):
            assert isinstance(ask, UUID)
            self.market.cancel(self.home.user, ask)

    def check(self) -> None:
        trades = {trade.energy_wh: trade for trade in self.market.trades(self.buyer)}
        kept, refused, silent = trades[700], trades[600], trades[500]
        assert (kept.status, kept.delivery, kept.delivered_wh) == ("Confirmed", "Delivered", 700)
        assert (refused.status, refused.reason) == ("Failed", "lock_rejected")
        assert (silent.status, silent.reason) == ("Failed", "lock_timeout")
        assert [self.market.status_of(ask) for ask in self.asks] == ["Completed", "Cancelled", "Cancelled"]
        assert [self.market.status_of(bid) for bid in self.bids] == ["Completed", "Created", "Created"]
        assert self.device.held_wh == {}
        refusals = self.market.sql(
            "SELECT DISTINCT payload ->> 'code' FROM device_reports WHERE kind = 'refused' AND device_id = %s",
            self.home.device,
        )
        assert refusals == ([("invalid_field",)] if self.sends_nonsense else [])
        for bid in self.bids[1:]:
            self.market.cancel(self.buyer, bid)
        self.market.is_sound()


class TwoSteps(Living):
    """The same trades in two steps of the loop, the lock that does not reach the device running out in between."""

    sends_nonsense = False

    def go(self) -> None:
        self.loop.step()
        self.loop.time_passes(5)
        self.market.sql(
            "UPDATE transactions SET expires_at = now() - interval '1 ms' WHERE status = 'Pending' AND energy_wh = 500"
        )
        self.loop.step()


class MovingBook:
    """An ask that could trade with five bids, four of which are cancelled when the tick has just read them."""

    def __init__(self, loop: Loop, market: Market) -> None:
        self.loop, self.market = loop, market
        loop.clear()
        loop.broker.lost_wh = 0
        home, self.buyer = loop.home(available_wh=1_000), market.user()
        self.ask = market.order(home.user, "sell", 700, 200_000)
        self.bids = [market.order(self.buyer, "buy", 700, 300_000 - rank) for rank in range(5)]
        self._going = iter(self.bids[:4])

    def cancel_what_was_read(self, statement: str) -> None:
        """When the tick has read the book and asks for the devices' energy."""
        if "WHERE d.no = ANY" in statement and (bid := next(self._going, None)) is not None:
            self.market.cancel(self.buyer, bid)

    def go(self) -> None:
        self.loop.tick()

    def run_on(self) -> None:
        self.loop.run_on()

    def check(self) -> None:
        (trade,) = self.market.trades(self.buyer)
        assert (trade.sell_order_id, trade.status, trade.delivery) == (self.ask, "Confirmed", "Delivered")
        for bid in self.bids:
            closed = self.market.status_of(bid)
            assert (bid == trade.buy_order_id) == (closed == "Completed")
            if closed == "Created":
                self.market.cancel(self.buyer, bid)
        self.market.is_sound()
