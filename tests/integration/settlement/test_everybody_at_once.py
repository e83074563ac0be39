"""Everybody writes at once, in slow motion: nobody ever waits for somebody who waits for him, and the books agree.

EVERYBODY=60: so many seconds.
"""

import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

import psycopg
from psycopg.errors import LockNotAvailable

from energy_market.aws.registry import Credentials
from energy_market.domain.commands import Command
from energy_market.domain.errors import MarketError
from energy_market.messages.received import Dropped, QueuedMessage
from energy_market.usecases.publish_commands import publish_commands
from energy_market.usecases.record_lock_response import record_lock_response
from energy_market.usecases.record_telemetry import record_telemetry
from energy_market.usecases.register_device import Registration, register_device
from energy_market.usecases.run_tick import run_tick
from energy_market.usecases.settling.settle import settle_trades
from tests.support.chain.world import NANO, RULES, World
from tests.support.devices.model import ModelDevice
from tests.support.market import SETTINGS, Market, certificate_of
from tests.support.owner import as_owner

SECONDS = float(os.environ.get("EVERYBODY", "6"))
AT_MOST_S = SECONDS + 60
PRICE = 200_000
HAPPENINGS = ("trades", "locked", "rejected", "late", "cancel", "register", "sweep")
SLOW_MOTION = """
    CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_sleep(random() * 0.004); RETURN coalesce(NEW, OLD); END $$;
    CREATE TRIGGER dawdle BEFORE UPDATE OR DELETE ON open_orders FOR EACH ROW EXECUTE FUNCTION dawdle();
    CREATE TRIGGER dawdle BEFORE UPDATE OR DELETE ON energy_orders FOR EACH ROW EXECUTE FUNCTION dawdle();
    CREATE TRIGGER dawdle BEFORE UPDATE OR DELETE ON transactions FOR EACH ROW EXECUTE FUNCTION dawdle();
"""


class _Registry:
    """AWS IoT, which has nothing to say here."""

    def issue(self, device_id: UUID, csr: str | None) -> Credentials:
        assert csr is None
        return Credentials(
            certificate_arn="arn", certificate_id=certificate_of(device_id), certificate_pem="", private_key=None
        )

    def activate(self, certificate_id: str) -> None:
        assert certificate_id

    def tidy(self, device_id: UUID, **_: object) -> None:
        raise AssertionError(device_id)


class Town:
    """Few orders, large and partial, and devices that have less: so that all want the same rows again and again."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.queue: deque[QueuedMessage] = deque()
        self.commands: deque[Command] = deque()
        self.devices: dict[UUID, ModelDevice] = {}
        self.at_device = threading.Lock()
        self.sellers = [self._seller() for _ in range(2)]
        # One can pay, one cannot.
        self.buyers = [self._buyer(world.chain.buyer(10**12 * NANO)), self._buyer(world.chain.person())]
        self.orders: deque[tuple[UUID, UUID]] = deque(maxlen=8)
        self.done: Counter[str] = Counter()
        self.errors: list[tuple[str, BaseException]] = []
        self.ledger = world.new_ledger()
        self.rules = replace(RULES, max_batch=4, confirmations=1, finality_blocks=2)
        self._began = 0.0
        self.seen_devices = 0
        self.soon_s = 0.05

    def _seller(self) -> UUID:
        home = self.world.market.home(available_wh=2_000)
        self._give_wallet(home.user, self.world.chain.person().address)
        self.devices[home.device] = ModelDevice(id=home.device, available_wh=2_000, queue=self.queue)
        return home.user

    def _buyer(self, account: object) -> UUID:
        user = self.world.market.user()
        self._give_wallet(user, account.address)  # type: ignore[attr-defined]
        return user

    def _give_wallet(self, user: UUID, address: str) -> None:
        self.world.sql("UPDATE users SET wallet_address = %s WHERE id = %s", address, user)

    # ------------------------------------------------------------------------------------------------ what each does

    def trade(self, market: Market, chance: random.Random) -> None:
        for kind, people in (("sell", self.sellers), ("buy", self.buyers)):
            ((in_book,),) = market.sql("SELECT count(*) FROM open_orders WHERE type = %s", kind)
            if in_book < 4:  # type: ignore[operator]
                user = chance.choice(people)
                soon = datetime.now(UTC) + timedelta(seconds=1) if chance.random() < 0.1 else None
                size, price = chance.choice([300, 1_000, 5_000]), chance.choice([1, 2]) * PRICE
                price += PRICE if kind == "buy" else 0
                order = market.order(user, kind, size, price, partial=size != 300, expires_at=soon)  # type: ignore[arg-type]
                self.orders.append((user, order))
        time.sleep(0.005)

    def cancel(self, market: Market, chance: random.Random) -> None:
        time.sleep(0.05)
        if self.orders:
            market.cancel(*chance.choice(list(self.orders)))

    def loop(self, market: Market, chance: random.Random) -> None:
        try:
            tick = run_tick(market.database, zone="default", device_online_s=SETTINGS.device_online_s)
        except LockNotAvailable:
            # In slow motion, on a slow machine, the book may not be had within a second: the next step's has its turn.
            self.done["tick gave way"] += 1
            return
        self.done["trades"] += tick.matches
        self.done["disturbed"] += tick.attempts > 1
        publish_commands(
            market.database,
            self._publish,
            lock_timeout_s=SETTINGS.lock_timeout_s,
            device_online_s=SETTINGS.device_online_s,
        )
        time.sleep(chance.random() * 0.005)

    def _publish(self, commands: object) -> list[tuple[Command, Exception]]:
        self.commands.extend(commands)  # type: ignore[arg-type]
        return []

    def device(self, market: Market, chance: random.Random) -> None:
        with self.at_device:
            for one in self.devices.values():
                one.refuses_wh = chance.choice([0, 0, 300, 500, 1_000])
                free_wh = one.available_wh - sum(one.held_wh.values())
                if free_wh < 1_000:
                    one.available_wh += chance.choice([500, 1_000, 2_000])
                    one.report()
            if self.commands:
                command = self.commands.popleft()
                if chance.random() < 0.9:
                    self.devices[command.device_id].hear(command)
        while self.queue:
            try:
                self._take(market, self.queue.popleft(), times=chance.choice([1, 1, 2]))
            except IndexError:
                return
        time.sleep(0.002)

    def _take(self, market: Market, message: QueuedMessage, *, times: int) -> None:
        for _ in range(times):
            try:
                with market.database.transaction() as conn:
                    if message.topic.endswith("/lock/response"):
                        outcome, _ = record_lock_response(conn, message, settlement_window_s=600)
                        self.done[outcome] += 1
                    else:
                        record_telemetry(conn, message)
            except Dropped:
                self.done["dropped"] += 1

    def register(self, market: Market, chance: random.Random) -> None:
        """Somebody whose orders run out just when they get their device."""
        user = market.user()
        self.soon_s *= 1.5
        soon = datetime.now(UTC) + timedelta(seconds=self.soon_s)
        for _ in range(3):
            market.order(user, "sell", 1_000, PRICE, partial=True, expires_at=soon)  # refused once it is past
        self.soon_s = max(0.05, self.soon_s / 2)
        time.sleep(max(0.0, (soon - datetime.now(UTC)).total_seconds() - 0.01))
        asked = Registration(owner_id=user, device_type="esp32", side="donor", location="x")
        register_device(market.database, _Registry(), asked, present=str)
        time.sleep(chance.random() / 5)

    def time_passes(self, market: Market, chance: random.Random) -> None:
        """Of some locks, and of some trades that are to be paid, the time is over."""
        while self.done["device"] < self.seen_devices + 20 and not self._is_enough():
            time.sleep(0.005)  # most are answered in time, however slow the machine is
        self.seen_devices = self.done["device"]
        for column, status, often in (("expires_at", "Pending", 0.2), ("valid_until", "Locked", 0.4)):
            if chance.random() < often:
                market.sql(
                    f"""
                    UPDATE transactions SET {column} = clock_timestamp() WHERE id IN (
                        SELECT id FROM transactions WHERE status = %s AND {column} IS NOT NULL
                        ORDER BY seq LIMIT 3 FOR UPDATE SKIP LOCKED)
                    """,
                    status,
                )
        time.sleep(0.05)

    def sweep(self, market: Market, chance: random.Random) -> None:
        settle_trades(market.database, self.ledger, rules=self.rules, deadline_s=20.0)
        self.world.chain.rpc.start_deadline(20.0)
        self.world.mine(chance.choice([1, 2]))

    # ------------------------------------------------------------------------------------------------ all of them

    def live(self) -> None:
        self._began = time.monotonic()
        whose = [self.trade, self.trade, self.cancel, self.loop, self.loop, self.device, self.device]
        whose += [self.register, self.time_passes, self.sweep]
        threads = [
            threading.Thread(target=self._keep_doing, args=(what, number)) for what, number in zip(whose, count())
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _is_enough(self) -> bool:
        """On a busy machine it takes longer until everything has happened that may disturb something else."""
        lived_s = time.monotonic() - self._began
        return lived_s > AT_MOST_S or (lived_s > SECONDS and all(self.done[one] for one in HAPPENINGS))

    def _keep_doing(self, what: Callable[[Market, random.Random], None], number: int) -> None:
        market, chance = Market(self.world.database_url), random.Random(number)
        while not self._is_enough():
            try:
                what(market, chance)
                self.done[what.__name__] += 1
            except MarketError:
                self.done[what.__name__ + " refused"] += 1
            except BaseException as error:  # noqa: BLE001 -- all are told at the end
                self.errors.append((what.__name__, error))
        market.close()


def test_everybody_at_once(world: World) -> None:
    with psycopg.connect(as_owner(world.database_url), autocommit=True) as conn:
        # The server looks for deadlocks after a second, as elsewhere: a tick has given way by then to whoever has one
        # row of its match and wants another (docs/decisions/0004).
        conn.execute(SLOW_MOTION.encode())
    town = Town(world)
    town.live()
    print(dict(town.done))
    assert town.errors == []
    assert world.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]
    assert [one for one in HAPPENINGS if not town.done[one]] == []
    assert world.differences() == []
