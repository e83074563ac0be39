"""The whole life of orders, trades, devices and payments, in any order of events: a state machine looks for trouble.

Everything is real but the devices: PostgreSQL, the contract on a chain, the product's use cases. Commands and messages
are lost, repeated, reordered and late; locks run out; buyers take their escrow away; the chain reorganises. After every
step the books must agree, and when the faults end everything must come to rest.
"""

import os
from collections import deque
from collections.abc import Iterable
from itertools import count
from typing import Any
from uuid import UUID

import psycopg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg import sql
from reconcile import Ledger, reconcile

from energy_market.devices import Dropped, QueuedMessage
from energy_market.domain.commands import Command
from energy_market.domain.errors import Conflict
from energy_market.usecases.publish_commands import publish_commands
from energy_market.usecases.record_lock_response import record_lock_response
from energy_market.usecases.record_telemetry import record_telemetry
from energy_market.usecases.run_tick import run_tick
from tests.conftest import TEMPLATE
from tests.integration.market import SETTINGS
from tests.integration.model_device import ModelDevice
from tests.integration.settlement.world import NANO, World

_databases = count(1)
SIZES = st.sampled_from([100, 200, 300])
PRICES = st.sampled_from([100_000, 200_000, 300_000])
CHANCE = st.integers(0, 10**6)


class WholeLife(RuleBasedStateMachine):
    """Two homes with a device each, two buyers, one of whom is poor."""

    server = ""
    node = ""

    @initialize()
    def begin(self) -> None:
        self.name = f"life_{next(_databases)}"
        with psycopg.connect(self.server, autocommit=True) as conn:
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(self.name), sql.Identifier(TEMPLATE))
            )
        self.world = World(f"{self.server.rpartition('/')[0]}/{self.name}", self.node)
        self.market = self.world.market
        self.queue: deque[QueuedMessage] = deque()
        self.commands: list[Command] = []
        self.devices: dict[UUID, ModelDevice] = {}
        self.orders: list[tuple[UUID, UUID]] = []  # (whose, which)
        self.sellers = [self.home(), self.home()]
        self.buyers = [self.buyer(tokens_nano=10**9), self.buyer(tokens_nano=3 * 10**7)]
        for number in range(2):
            self.agree(number, number, 100 + 100 * number, partial=False)

    def home(self) -> UUID:
        home = self.market.home(available_wh=1_000)
        self.world.sql(
            "UPDATE users SET wallet_address = %s WHERE id = %s", self.world.chain.person().address, home.user
        )
        self.devices[home.device] = ModelDevice(id=home.device, available_wh=1_000, refuses_wh=0, queue=self.queue)
        return home.user

    def buyer(self, *, tokens_nano: int) -> UUID:
        user, account = self.market.user(), self.world.chain.buyer(tokens_nano * NANO)
        self.world.sql("UPDATE users SET wallet_address = %s WHERE id = %s", account.address, user)
        self.accounts: dict[UUID, Any] = {**getattr(self, "accounts", {}), user: account}
        return user

    # ---------------------------------------------------------------------------------------------------- people

    @rule(who=st.integers(0, 1), size=SIZES, price=PRICES, partial=st.booleans())
    def offer(self, who: int, size: int, price: int, *, partial: bool) -> None:
        seller = self.sellers[who]
        self.orders.append((seller, self.market.order(seller, "sell", size, price, partial=partial)))

    @rule(who=st.integers(0, 1), size=SIZES, price=PRICES, partial=st.booleans())
    def bid(self, who: int, size: int, price: int, *, partial: bool) -> None:
        buyer = self.buyers[who]
        self.orders.append((buyer, self.market.order(buyer, "buy", size, price, partial=partial)))

    @rule(seller=st.integers(0, 1), buyer=st.integers(0, 1), size=SIZES, partial=st.booleans())
    def agree(self, seller: int, buyer: int, size: int, *, partial: bool) -> None:
        """An ask and a bid that cross."""
        self.offer(seller, size, 200_000, partial=partial)
        self.bid(buyer, size, 200_000, partial=partial)

    @precondition(lambda self: self.orders)
    @rule(which=CHANCE)
    def cancel(self, which: int) -> None:
        whose, order = self.orders[which % len(self.orders)]
        try:
            self.market.cancel(whose, order)
        except Conflict:
            assert self.market.get(order).remaining_wh == 0 or self.market.status_of(order) != "Created"

    @rule(who=st.integers(0, 1))
    def take_escrow_away(self, who: int) -> None:
        account = self.accounts[self.buyers[who]]
        if escrow := self.world.chain.escrow(account):
            self.world.chain.settlement.transact(account, "withdraw", escrow)

    @rule(who=st.integers(0, 1))
    def deposit(self, who: int) -> None:
        self.world.chain.deposit(self.accounts[self.buyers[who]], 5 * 10**7 * NANO)

    # -------------------------------------------------------------------------------------------------- the loop

    @rule()
    def step(self) -> None:
        run_tick(self.market.database, zone="default", settings=SETTINGS)
        publish_commands(self.market.database, self._publish, settings=SETTINGS)

    @rule()
    def step_that_reaches_everybody(self) -> None:
        self.step()
        while self.commands:
            self.devices[self.commands[0].device_id].hear(self.commands.pop(0))
        while self.queue:
            self._take(self.queue.popleft())

    def _publish(self, commands: Iterable[Command]) -> list[tuple[Command, Exception]]:
        self.commands += commands
        return []

    @rule(seconds=st.sampled_from([5, 5, 5, 31]))
    def time_passes(self, seconds: int) -> None:
        self.world.sql(
            """
            UPDATE transactions
            SET command_sent_at = command_sent_at - make_interval(secs => %s),
                expires_at = expires_at - CASE WHEN status = 'Pending' THEN make_interval(secs => %s) ELSE '0' END
            """,
            seconds,
            seconds,
        )

    # ---------------------------------------------------------------------------------------------------- devices

    @precondition(lambda self: self.commands)
    @rule(which=CHANCE, fate=st.sampled_from(["once", "once", "once", "again", "lost"]))
    def command_arrives(self, which: int, fate: str) -> None:
        place = which % len(self.commands)
        command = self.commands[place]
        if fate != "again":
            del self.commands[place]
        if fate != "lost":
            self.devices[command.device_id].hear(command)

    @precondition(lambda self: self.queue)
    @rule(which=CHANCE, fate=st.sampled_from(["once", "once", "once", "again", "lost"]))
    def message_arrives(self, which: int, fate: str) -> None:
        place = which % len(self.queue)
        message = self.queue[place]
        if fate != "again":
            del self.queue[place]
        if fate != "lost":
            self._take(message)

    def _take(self, message: QueuedMessage) -> None:
        try:
            with self.market.database.transaction() as conn:
                if message.topic.endswith("/lock/response"):
                    record_lock_response(conn, message, settlement_window_s=SETTINGS.settlement_window_s)
                else:
                    record_telemetry(conn, message)
        except Dropped:
            pass  # a repetition, or old news: what the books say is what counts

    @rule(who=st.integers(0, 1), refuses=st.sampled_from([0, 100, 200, 300]))
    def device_changes_its_mind(self, who: int, refuses: int) -> None:
        list(self.devices.values())[who].refuses_wh = refuses

    @rule(who=st.integers(0, 1))
    def device_reports(self, who: int) -> None:
        list(self.devices.values())[who].report()

    # -------------------------------------------------------------------------------------------------- the chain

    @rule()
    def sweep(self) -> None:
        self.world.sweep()

    @rule(blocks=st.integers(1, 3))
    def mine(self, blocks: int) -> None:
        self.world.mine(blocks)

    @rule(depth=st.integers(1, 2))
    def reorganise(self, depth: int) -> None:
        """The newest blocks are gone; the settlement notices at its next sweep."""
        self.world.reorganise(depth)
        self.world.sweep()

    # ----------------------------------------------------------------------------------------------------- always

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "world"):
            assert self.differences(at_rest=False) == []
            self.nothing_is_promised_twice()

    def differences(self, *, at_rest: bool) -> list[str]:
        chain = self.world.chain
        ledger = Ledger(
            rpc_url=self.node, contract=chain.settlement.address, token=chain.token.address, token_decimals=18
        )
        with psycopg.connect(self.world.database_url, autocommit=True) as conn:
            return reconcile(conn, ledger=ledger, at_rest=at_rest)

    def nothing_is_promised_twice(self) -> None:
        for device in self.devices.values():
            assert sum(device.held_wh.values()) <= device.available_wh

    def teardown(self) -> None:
        """The faults end: everything that is under way comes to its end, and nothing is left over."""
        if not hasattr(self, "world"):
            return
        try:
            self.come_to_rest()
            assert self.differences(at_rest=True) == []
            assert [device.held_wh for device in self.devices.values()] == [{}, {}]
        finally:
            self.world.close()
            with psycopg.connect(self.server, autocommit=True) as conn:
                conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.name)))

    def come_to_rest(self) -> None:
        for whose, order in self.orders:
            self._close(whose, order)
        for _ in range(20):
            for command in self.commands:
                self.devices[command.device_id].hear(command)
            self.commands.clear()
            for device in self.devices.values():
                device.report()
            while self.queue:
                self._take(self.queue.popleft())
            self.time_passes(11)
            self.step()
            self.sweep()
            self.mine(1)
        for whose, order in self.orders:
            self._close(whose, order)

    def _close(self, whose: UUID, order: UUID) -> None:
        if self.market.status_of(order) == "Created":
            self.market.cancel(whose, order)


def test_whatever_happens_in_whatever_order_the_books_agree(postgres: str, anvil: str) -> None:
    machine = type("WholeLifeHere", (WholeLife,), {"server": postgres, "node": anvil})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("WHOLE_LIVES", "15")),
            stateful_step_count=40,
            deadline=None,
            derandomize="WHOLE_LIVES" not in os.environ,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            print_blob=True,
        ),
    )
