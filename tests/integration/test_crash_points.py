"""A process that dies after any side effect of a trade's life: the system runs on, and all books agree.

The settlement's own crash points are in tests/integration/settlement, the device's in tests/unit.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from uuid import UUID

import pytest

from energy_market.database import Database
from energy_market.device_registry import Credentials
from energy_market.devices import Dropped, QueuedMessage
from energy_market.domain.commands import Command
from energy_market.postgres.reconciliation import database_differences
from energy_market.usecases.publish_commands import publish_commands
from energy_market.usecases.record_lock_response import record_lock_response
from energy_market.usecases.record_telemetry import record_telemetry
from energy_market.usecases.register_device import register_device
from energy_market.usecases.run_tick import run_tick
from tests.integration.market import SETTINGS, Market
from tests.integration.model_device import ModelDevice
from tests.integration.settlement.world import Crashed, Fuse, FusedDatabase

ENDLESS = 10**9


class Life:
    """Everything that happens to a few trades, by processes that share one fuse."""

    def __init__(self, market: Market, database_url: str, fuse: Fuse) -> None:
        self.market = market
        self.fuse = fuse
        self.queue: deque[QueuedMessage] = deque()
        home, self.buyer = market.home(available_wh=2_000), market.user()
        self.device = ModelDevice(id=home.device, available_wh=2_000, refuses_wh=600, queue=self.queue)
        self.database = FusedDatabase(database_url, fuse)
        # One that the device keeps, one that it refuses, one whose lock does not reach it.
        self.asks = [market.order(home.user, "sell", size, 200_000) for size in (700, 600, 500)]
        self.bids = [market.order(self.buyer, "buy", size, 200_000) for size in (700, 600, 500)]
        self.lost_wh = 500

    def round(self) -> None:
        """One step of the loop, and all that it leads to."""
        run_tick(self.database, zone="default", settings=SETTINGS)
        publish_commands(self.database, self._publish, settings=SETTINGS)
        while self.queue:
            self._handle(self.queue[0])
            self.queue.popleft()  # a crash before this: the queue delivers the message again
        self._settle()

    def five_seconds_pass(self) -> None:
        """The loop's next step is due: commands may be repeated, and locks run out in the end."""
        self.market.sql(
            """
            UPDATE transactions
            SET command_sent_at = command_sent_at - interval '5 seconds',
                expires_at = expires_at - CASE WHEN status = 'Pending' THEN interval '5 seconds' ELSE '0' END
            """
        )
        self.device.report()

    def close(self) -> None:
        self.database.close()

    def _publish(self, commands: Iterable[Command]) -> list[tuple[Command, Exception]]:
        for command in commands:
            self.fuse.check()
            if command.kind != "lock" or command.energy_wh != self.lost_wh:
                self.device.hear(command)
            self.fuse.count()
        return []

    def _handle(self, message: QueuedMessage) -> None:
        try:
            with self.database.transaction() as conn:
                if message.topic.endswith("/lock/response"):
                    record_lock_response(conn, message, settlement_window_s=SETTINGS.settlement_window_s)
                else:
                    record_telemetry(conn, message)
        except Dropped:
            pass  # old news, as a repetition is; what must not be lost shows at the end

    def _settle(self) -> None:
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


def _live(market: Market, database_url: str, burns_after: int) -> tuple[Life, bool]:
    """The life of three trades, with a crash after the k-th side effect; whether it came that far."""
    life = Life(market, database_url, Fuse(burns_after))
    crashed = False
    for _ in range(12):
        try:
            life.round()
        except Crashed:
            assert not crashed, "a new process does not die of the old one's crash"
            crashed = True
            life.close()
            life.fuse = Fuse(ENDLESS)
            life.database = FusedDatabase(database_url, life.fuse)
        life.five_seconds_pass()
    return life, crashed


def test_a_crash_after_any_side_effect_leaves_every_trade_ended_and_all_books_in_agreement(
    market: Market, database_url: str
) -> None:
    crashed, k = True, 0
    while crashed:
        k += 1
        life, crashed = _live(market, database_url, k)
        life.close()
        trades = {trade.energy_wh: trade for trade in market.trades(life.buyer)}
        kept, refused, silent = trades[700], trades[600], trades[500]
        assert (kept.status, kept.delivery, kept.delivered_wh) == ("Confirmed", "Delivered", 700), k
        assert (refused.status, refused.reason) == ("Failed", "lock_rejected"), k
        assert (silent.status, silent.reason) == ("Failed", "lock_timeout"), k
        assert [market.status_of(ask) for ask in life.asks] == ["Completed", "Rejected", "Rejected"], k
        assert [market.status_of(bid) for bid in life.bids] == ["Completed", "Created", "Created"], k
        assert life.device.held_wh == {}, k
        for bid in life.bids[1:]:
            market.cancel(life.buyer, bid)
        with market.database.transaction() as conn:
            assert database_differences(conn, at_rest=True).lines == [], k
    assert k > 15


class _Registry:
    """AWS IoT: what it has made, and a fuse."""

    def __init__(self, fuse: Fuse) -> None:
        self.made: set[UUID] = set()
        self._fuse = fuse

    def issue(self, device_id: UUID, csr: str | None) -> Credentials:
        assert csr is None
        self._fuse.check()
        self.made.add(device_id)
        self._fuse.count()
        return Credentials(
            certificate_id="c", certificate_arn=f"arn:{device_id}", certificate_pem="pem", private_key="key"
        )

    def withdraw(self, device_id: UUID, credentials: Credentials) -> None:
        assert credentials.certificate_arn == f"arn:{device_id}"
        self._fuse.check()
        self.made.discard(device_id)
        self._fuse.count()


@pytest.fixture
def waiting_seller(market: Market) -> Iterator[UUID]:
    seller = market.user()
    market.order(seller, "sell", 500, 200_000)
    yield seller
    market.close()


def test_a_registration_that_dies_half_way_leaves_no_device_that_sells(
    market: Market, database_url: str, waiting_seller: UUID
) -> None:
    for burns_after in (1, 2):  # after the row, after AWS: the last side effect is the registration itself
        fuse = Fuse(burns_after)
        database: Database = FusedDatabase(database_url, fuse)
        with pytest.raises(Crashed):
            register_device(
                database,
                _Registry(fuse),
                owner_id=waiting_seller,
                device_type="esp32",
                side="donor",
                location="roof",
                csr=None,
            )
        database.close()
        assert {row[0] for row in market.sql("SELECT status FROM iot_devices")} == {"Provisioning"}
        assert market.sql("SELECT device_id FROM open_orders") == [(None,)]
    registered = register_device(
        market.database,
        _Registry(Fuse(ENDLESS)),
        owner_id=waiting_seller,
        device_type="esp32",
        side="donor",
        location="roof",
        csr=None,
    )
    assert market.sql("SELECT device_id FROM open_orders") == [(registered.device.id,)]
