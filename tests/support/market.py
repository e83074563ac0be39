"""A small market to test with: people, devices and orders, made by the product's own use cases."""

import hashlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import psycopg

from energy_market.database import Database
from energy_market.domain.commands import Command
from energy_market.domain.devices import Device
from energy_market.domain.orders import Order, OrderStatus, OrderTerms, OrderType
from energy_market.domain.trades import Trade
from energy_market.messages.received import QueuedMessage
from energy_market.postgres import certificates, commands, devices, market, orders, trade_reads, trades
from energy_market.postgres.reconciliation import database_differences
from energy_market.usecases.cancel_order import cancel_order
from energy_market.usecases.place_order import place_order
from energy_market.usecases.publish_commands import Published, publish_commands
from energy_market.usecases.record_lock_response import Outcome, record_lock_response
from energy_market.usecases.record_telemetry import record_telemetry
from energy_market.usecases.run_tick import run_tick
from tests.support.owner import as_owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Times that the market's rules use."""

    lock_timeout_s: int
    device_online_s: int
    settlement_window_s: int


SETTINGS = Settings(lock_timeout_s=30, device_online_s=120, settlement_window_s=600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Somebody with a donor device."""

    user: UUID
    device: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    """What a tick did, and the trades that came of it."""

    ran: bool
    trade_ids: tuple[UUID, ...]
    locks_expired: int
    orders_expired: int
    attempts: int
    overlooked: int


def certificate_of(device: UUID | str) -> str:
    """The id of the certificate that a device of a test has."""
    return hashlib.sha256(str(device).encode()).hexdigest()


def now_ms() -> int:
    """The broker's clock."""
    return time.time_ns() // 1_000_000


class Market:
    """The market of one test, on its own database."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self._owners_database = Database(as_owner(url))
        self.published: list[Command] = []
        self._seq = 0

    def close(self) -> None:
        self.database.close()
        self._owners_database.close()

    # ------------------------------------------------------------------------------------------------ people

    def user(self) -> UUID:
        with self.database.transaction() as conn:
            row = conn.execute(
                "INSERT INTO users (wallet_address) VALUES ('0x' || %s) RETURNING id", (uuid4().hex + "00000000",)
            ).fetchone()
            assert row is not None
            user: UUID = row[0]
            return user

    def device(self, owner: UUID) -> UUID:
        with self.database.transaction() as conn:
            device = devices.insert(
                conn, owner_id=owner, device_type="esp32", side="donor", location="roof", zone="default"
            )
            assert devices.register(conn, device)
            certificates.add(conn, certificate_of(device), device)
            certificates.activated(conn, certificate_of(device), device)
        return device

    def home(self, *, available_wh: int | None = 100_000) -> Home:
        owner = self.user()
        home = Home(user=owner, device=self.device(owner))
        if available_wh is not None:
            self.status(home.device, available_wh=available_wh)
        return home

    # ------------------------------------------------------------------------------------------------ orders

    def order(
        self,
        user: UUID,
        order_type: OrderType,
        energy_wh: int,
        price_micro: int,
        *,
        partial: bool = False,
        device: UUID | None = None,
        expires_at: datetime | None = None,
    ) -> UUID:
        terms = OrderTerms(
            type=order_type,
            energy_wh=energy_wh,
            price_micro=price_micro,
            all_or_none=not partial,
            expires_at=expires_at,
            device_id=device,
        )
        with self.database.transaction() as conn:
            order = place_order(
                conn, terms, user_id=user, now=datetime.now(UTC), device_online_s=SETTINGS.device_online_s
            )
        return order.id

    def cancel(self, user: UUID, order: UUID) -> Order:
        with self.database.transaction() as conn:
            return cancel_order(conn, order, user_id=user, device_online_s=SETTINGS.device_online_s)

    def get(self, order: UUID) -> Order:
        with self.database.transaction() as conn:
            found = orders.get(conn, order, device_online_s=SETTINGS.device_online_s)
        assert found is not None
        return found

    def status_of(self, order: UUID) -> OrderStatus:
        return self.get(order).status

    def trades(self, user: UUID) -> list[Trade]:
        with self.database.transaction() as conn:
            return trade_reads.of_user(conn, user, limit=100)

    def seen(self, home: Home) -> Device:
        """A home's only device, as its owner sees it."""
        with self.database.transaction() as conn:
            (device,) = devices.of_owner(conn, home.user)
        return device

    # -------------------------------------------------------------------------------------------- the system

    def tick(self) -> Ticked:
        """A tick, and the trades of its matches."""
        done = run_tick(self.database, zone="default", device_online_s=SETTINGS.device_online_s)
        with self.database.transaction() as conn:
            known = conn.execute("SELECT coalesce(max(seq), 0) FROM transactions").fetchone()
            trades.make(conn, limit=100_000)
            made = conn.execute("SELECT id FROM transactions WHERE seq > %s ORDER BY seq", known).fetchall()
        return Ticked(
            ran=done.ran,
            trade_ids=tuple(row[0] for row in made),
            locks_expired=done.locks_expired,
            orders_expired=done.orders_expired,
            attempts=done.attempts,
            overlooked=done.overlooked,
        )

    def show(self, *, verified_only: bool = False) -> None:
        """What the loop's step does last: the book shows what can trade now."""
        with self.database.transaction() as conn:
            market.show_what_can_trade(conn, device_online_s=SETTINGS.device_online_s, verified_only=verified_only)

    def publish(self) -> Published:
        def keep(claimed: object) -> list[tuple[Command, Exception]]:
            assert isinstance(claimed, list)
            self.published += claimed
            return []

        return publish_commands(
            self.database, keep, lock_timeout_s=SETTINGS.lock_timeout_s, device_online_s=SETTINGS.device_online_s
        )

    def claim_locks(self, *, limit: int = 100) -> list[Command]:
        with self.database.transaction() as conn:
            return commands.claim_locks(conn, lock_timeout_s=SETTINGS.lock_timeout_s, limit=limit)

    def matched(self, *, energy_wh: int = 500, price_micro: int = 200_000) -> tuple[Home, UUID, UUID, UUID, Trade]:
        """(donor's home, recipient, ask, bid, trade) of one trade whose lock has been published."""
        home, buyer = self.home(), self.user()
        ask = self.order(home.user, "sell", energy_wh, price_micro)
        bid = self.order(buyer, "buy", energy_wh, price_micro)
        assert len(self.tick().trade_ids) == 1
        self.publish()
        (trade,) = self.trades(buyer)
        return home, buyer, ask, bid, trade

    def confirm(self, trade: UUID) -> None:
        """As if the chain had paid a locked trade."""
        self.sql(
            """
            WITH batch AS (INSERT INTO settlement_batches (chain_id, contract, sender, nonce)
                           SELECT 1, '0x', '0x', count(*) FROM settlement_batches RETURNING id)
            UPDATE transactions SET status = 'Confirmed', batch_id = (SELECT id FROM batch), confirmed_at = now(),
                   blockchain_hash = '0x1', delivery = 'Owed', command_sent_at = NULL WHERE id = %s
            """,
            trade,
        )

    def sold(self, *, energy_wh: int = 500) -> tuple[Home, UUID, Trade]:
        """(donor's home, recipient, trade) of one trade that was locked, paid, and told to be delivered."""
        home, buyer, ask, _, trade = self.matched(energy_wh=energy_wh)
        self.answer(home.device, ask, "locked", trade=trade.id)
        self.confirm(trade.id)
        self.publish()
        return home, buyer, self.trades(buyer)[0]

    def sql(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """What the test arranges or looks up behind the product's back, as the owner."""
        with self._owners_database.transaction() as conn:
            cursor = conn.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def is_sound(self) -> None:
        """Nothing is under way, and the database tells one story."""
        with self.database.transaction() as conn:
            found = database_differences(conn, at_rest=True).lines
        assert not found, found

    # --------------------------------------------------------------------------------------------- messages

    @staticmethod
    def say(
        topic: str,
        payload: object,
        *,
        client_id: str | None = None,
        principal: str | None = None,
        received_ms: int | None = None,
    ) -> QueuedMessage:
        """A message as the broker queued it, now or at another time; with the certificate of the topic's device."""
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        sender = topic.split("/")[2] if client_id is None else client_id
        return QueuedMessage(
            topic=topic,
            client_id=sender,
            principal=certificate_of(topic.split("/")[2]) if principal is None else principal,
            payload=raw,
            received_at_ms=now_ms() if received_ms is None else received_ms,
        )

    def status(
        self,
        device: UUID,
        *,
        available_wh: int,
        locks: tuple[UUID, ...] = (),
        seq: int | None = None,
        received_ms: int | None = None,
        principal: str | None = None,
    ) -> None:
        self._seq = self._seq + 1 if seq is None else seq
        message = self.say(
            f"energy/donor/{device}/status",
            {
                "available_kwh": available_wh / 1000,
                "battery_level": 50,
                "locks": [str(lock) for lock in locks],
                "seq": self._seq,
            },
            principal=principal,
            received_ms=received_ms,
        )
        with self.database.transaction() as conn:
            record_telemetry(conn, message)

    def report(
        self,
        topic: str,
        payload: object,
        *,
        client_id: str | None = None,
        principal: str | None = None,
        received_ms: int | None = None,
    ) -> None:
        message = self.say(topic, payload, client_id=client_id, principal=principal, received_ms=received_ms)
        with self.database.transaction() as conn:
            record_telemetry(conn, message)

    def answer(
        self,
        device: UUID,
        order: UUID,
        status: str,
        *,
        trade: UUID | None = None,
        client_id: str | None = None,
        principal: str | None = None,
    ) -> Outcome:
        payload = {"order_id": str(order), "status": status}
        if trade is not None:
            payload["transaction_id"] = str(trade)
        message = self.say(f"energy/donor/{device}/lock/response", payload, client_id=client_id, principal=principal)
        with self.database.transaction() as conn:
            outcome, _ = record_lock_response(conn, message, settlement_window_s=SETTINGS.settlement_window_s)
        return outcome


def chain_was_asked(connection: psycopg.Connection) -> None:
    """As if a sweep had just asked the chain, whenever that is: most tests' ticks have no chain beside them."""
    connection.execute("UPDATE chain_state SET asked_at = 'infinity'")
