"""A whole life as it goes on: the market's processes at work, the world that they work in, and what must come of it."""

import json
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

from energy_market.database import Database
from energy_market.domain import topics
from energy_market.domain.commands import Command
from energy_market.domain.errors import Conflict
from energy_market.domain.orders import OrderTerms
from energy_market.domain.settlement import SettlementRules
from energy_market.evm.ledger import Ledger
from energy_market.evm.rpc import Unreachable
from energy_market.messages.published import Publish
from energy_market.messages.received import Dropped, QueuedMessage
from energy_market.postgres.reconciliation import database_differences
from energy_market.postgres.trades import make as make_trades
from energy_market.usecases.answer_once import Answer, answer_once
from energy_market.usecases.cancel_order import cancel_order
from energy_market.usecases.place_order import place_order
from energy_market.usecases.publish_commands import publish_commands
from energy_market.usecases.reconcile import reconcile
from energy_market.usecases.record_lock_response import record_lock_response
from energy_market.usecases.record_telemetry import record_telemetry
from energy_market.usecases.run_tick import Tick, run_tick
from energy_market.usecases.settling.settle import settle_trades
from tests.integration.whole_life.clock import set_clock
from tests.integration.whole_life.device import LiveDevice
from tests.integration.whole_life.disturbed import Disturbance
from tests.integration.whole_life.expected import Expected, KnownDevice, Match, Order, Trade
from tests.integration.whole_life.stage import AVAILABLE_WH, DEADLINE_S, FIRST_SEQ, Person, Stage, rows
from tests.support.chain.world import NEVER_S
from tests.support.market import SETTINGS

RULES = SettlementRules(
    max_batch=2,
    confirmations=2,
    finality_blocks=5,
    resend_after_s=4.0,
    stuck_after_s=30.0,
    quiet_after_s=NEVER_S,  # blocks come when the life says so
    delivery_window_s=1000,
)
ROUNDS_TO_REST = 60


class Life:
    """One life. Whatever a process does is compared with what was expected of it at the next `look`."""

    stage: ClassVar[Stage]

    def be_born(self) -> None:
        self.now_s = float(self.stage.begin_again())
        self.seen: tuple[str, object] = ("", None)
        self.compared: object = None
        self.blocks_went = False  # and no sweep has looked at the chain since
        self.undone: set[UUID] = set()  # trades whose payment may be gone with them
        self.keys_used = 0
        self.commands: list[Command] = []
        self.queue: deque[QueuedMessage] = deque()
        self.devices: dict[UUID, LiveDevice] = {}
        self.expected = Expected()
        self.set_chain(answers=True)
        for seller in self.stage.sellers:
            assert seller.device is not None
            self.devices[seller.device] = LiveDevice(
                id=seller.device, available_wh=AVAILABLE_WH, queue=self.queue, seq=FIRST_SEQ, now_ms=self.now_ms
            )
            self.expected.devices[seller.device] = KnownDevice(
                id=seller.device, available_wh=AVAILABLE_WH, seq=FIRST_SEQ, last_seen_s=self.now_s
            )

    def now_ms(self) -> int:
        """The broker's clock."""
        return int(self.now_s * 1000)

    # ----------------------------------------------------------------------------------------------- the processes

    def place(
        self,
        who: Person,
        side: str,
        size: int,
        price: int,
        *,
        partial: bool,
        lasting: int | None = None,
        database: Database | None = None,
        sent: int = 1,
    ) -> None:
        """Place an order under an idempotency key; the client sends it once or several times."""
        self.keys_used += 1
        key, expires_s = f"key-{self.keys_used}", None if lasting is None else self.now_s + lasting
        terms = OrderTerms(
            type="sell" if side == "sell" else "buy",
            energy_wh=size,
            price_micro=price,
            all_or_none=not partial,
            expires_at=None if expires_s is None else datetime.fromtimestamp(expires_s, UTC),
            device_id=None,
        )
        told: set[str] = set()
        for _ in range(sent):
            with (database or self.stage.database).transaction() as conn:

                def answer() -> Answer:
                    now = datetime.fromtimestamp(self.now_s, UTC)
                    order = place_order(conn, terms, user_id=who.id, now=now, device_online_s=SETTINGS.device_online_s)
                    return Answer(status=201, body=str(order.id))

                said = answer_once(conn, user_id=who.id, route="create", key=key, body_hash=b"body", answer=answer)
            order = Order(
                id=UUID(said.body),
                user=who.id,
                type=side,
                energy_wh=size,
                price_micro=price,
                all_or_none=not partial,
                device=who.device if side == "sell" else None,
                arrival=len(self.expected.orders),
                expires_s=expires_s,
            )
            self.expected.orders.setdefault(order.id, order)
            told.add(said.body)
        assert len(told) == 1, "one key is one order"

    def withdraw(self, order: Order, database: Database) -> bool:
        """Cancel an order; whether that was taken."""
        try:
            with database.transaction() as conn:
                cancel_order(conn, order.id, user_id=order.user, device_online_s=SETTINGS.device_online_s)
        except Conflict:
            return False
        order.closed = "Cancelled"
        return True

    def run_tick(self, database: Database) -> Tick:
        return run_tick(database, zone="default", device_online_s=SETTINGS.device_online_s)

    def publish(self, database: Database, disturbance: Disturbance) -> list[Command]:
        """Tell the devices; what was said."""
        said: list[Command] = []

        def publish_each(commands: Iterable[Command]) -> list[tuple[Command, Exception]]:
            for command in commands:
                disturbance.comes_closer()
                said.append(command)
                self.commands.append(command)
                self.expected.trades[command.transaction_id].told.add(command.kind)
            return []

        say: Publish = publish_each
        publish_commands(
            database, say, lock_timeout_s=SETTINGS.lock_timeout_s, device_online_s=SETTINGS.device_online_s
        )
        return said

    def hand_over(
        self, message: QueuedMessage, database: Database, *, exactly: bool = False
    ) -> tuple[Trade | None, str]:
        """Have the market take a message; of an answer, the trade that it is about and what it says."""
        is_answer = message.topic.endswith("/lock/response")
        trade, said = self.meaning_of(message) if is_answer else (None, "")
        if trade is not None and (said == "rejected" or self.is_in_time(trade)):
            trade.answers.add(said)
        if trade is not None and said == "rejected" and trade.status == "Pending":
            trade.heard_s = message.received_at_ms / 1000
        try:
            with database.transaction() as conn:
                if is_answer:
                    record_lock_response(conn, message, settlement_window_s=SETTINGS.settlement_window_s)
                else:
                    record_telemetry(conn, message)
            if is_answer or message.topic.startswith("energy/transfer/"):
                self.expected.devices[UUID(message.client_id)].shows_life(message.received_at_ms / 1000)
        except Dropped:
            pass  # a repetition, old news or a forgery: what the books say is what counts
        if not is_answer:
            self.expect_known(message, exactly=exactly)
        return trade, said

    def meaning_of(self, message: QueuedMessage) -> tuple[Trade | None, str]:
        """The trade that an answer is about, if it is its device's own, and what it says."""
        device, payload = message.topic.split("/")[2], json.loads(message.payload)
        order = UUID(payload["order_id"])
        of_order = [t for t in self.expected.trades.values() if t.ask.id == order]
        named = payload.get("transaction_id")
        meant = [t for t in of_order if str(t.id) == named] if named else of_order if len(of_order) == 1 else []
        if not meant or device != message.client_id or device != str(meant[0].device):
            return None, ""
        return meant[0], payload["status"]

    def is_in_time(self, trade: Trade) -> bool:
        return trade.deadline_s is not None and self.now_s < trade.deadline_s

    def expect_known(self, message: QueuedMessage, *, exactly: bool) -> None:
        """What is known of a device after its message was taken."""
        payload, heard_s = json.loads(message.payload), message.received_at_ms / 1000
        device = self.expected.devices[UUID(message.client_id)]
        if message.topic.startswith(topics.PRESENCE):
            connected = "/connected/" in message.topic
            device.is_present(connected=connected, session=payload["sessionIdentifier"], at_s=heard_s)
        elif message.topic.endswith("/alert"):
            device.is_seen(heard_s)
        elif "/donor/" in message.topic:
            available_wh = round(payload["available_kwh"] * 1000)
            is_news = device.says_status(available_wh=available_wh, seq=payload["seq"], heard_s=heard_s)
            for trade in self.expected.not_listed(device.id, payload["locks"], seq=payload["seq"]) if is_news else []:
                trade.lost = True
                if trade.status != "Failed":
                    trade.heard_s = heard_s
                if exactly and not trade.signed:
                    self.expected.fail(trade, "reservation_lost", self.now_s)
        else:
            trade = self.expected.trades[UUID(payload["transaction_id"])]
            trade.vague = trade.vague or not exactly
            if trade.status == "Confirmed" or (trade.status != "Failed" and trade.delivery is not None):
                trade.reports.append((payload["seq"], round(payload["kwh_delivered"] * 1000)))

    def set_chain(self, *, answers: bool) -> None:
        """From now on sweeps can ask the chain, or could not for longer than a minute."""
        self.expected.chain_answers = answers
        asked_at = "infinity" if answers else "-infinity"
        self.stage.conn.execute("UPDATE chain_state SET asked_at = %s", (asked_at,))

    def sweep_once(self, database: Database, ledger: Ledger) -> None:
        if not self.expected.chain_answers:
            return
        try:
            swept = settle_trades(database, ledger, rules=RULES, deadline_s=DEADLINE_S)
        except Unreachable:
            return
        if swept:
            self.blocks_went = False

    def let_time_pass(self, seconds: int) -> None:
        self.now_s += seconds
        set_clock(self.stage.conn, self.now_s)
        self.stage.rpc.call("evm_setNextBlockTimestamp", max(int(self.now_s), self.stage.chain.time() + 1))

    # ------------------------------------------------------------------------------------------------- comparisons

    def look(self) -> None:
        """Compare all there is, as far as anything changed since the last look."""
        self.stage.rpc.start_deadline(DEADLINE_S)
        block = self.stage.rpc.call("eth_getBlockByNumber", "latest", False)["hash"]  # noqa: FBT003 -- JSON
        ((next_transaction,),) = rows(self.stage.conn, "SELECT pg_snapshot_xmax(pg_current_snapshot())")
        if (block, next_transaction) == self.seen:
            return
        if next_transaction != self.seen[1]:
            self.learn()
            self.compare_orders()
        self.compare_devices()
        if not self.blocks_went:
            self.undone.clear()
        paid = [trade.status in {"Submitted", "Confirmed"} for trade in self.expected.trades.values()]
        lines: list[str] = []
        if (block, paid) != self.compared and not self.blocks_went:
            self.compared = (block, paid)
            lines = reconcile(self.stage.conn, books=self.stage.books).differences.as_lines()
        elif next_transaction != self.seen[1]:
            lines = database_differences(self.stage.conn, at_rest=False).as_lines()
        # The loop may have stood still for a while; what is overdue by then, the next tick ends (see `tick`).
        assert [line for line in lines if not line.endswith("no deadline ahead")] == []
        self.seen = (block, next_transaction)

    def learn(self) -> None:
        """Take over what the settlement and disturbed processes did, if what has happened leads there."""
        latest_s = max(self.now_s, self.stage.chain.time())
        for row in rows(
            self.stage.conn,
            """SELECT id, status, reason, extract(epoch FROM expires_at)::float8,
                      extract(epoch FROM valid_until)::float8, delivery, delivered_wh, lock_seq, batch_id IS NOT NULL,
                      extract(epoch FROM failed_at)::float8, extract(epoch FROM confirmed_at)::float8, fed_wh
               FROM transactions ORDER BY seq""",
        ):
            if row[0] in self.expected.trades:
                self.learn_trade(self.expected.trades[row[0]], row[1:], latest_s=latest_s)
        for order_id, closed in rows(self.stage.conn, "SELECT id, closed FROM energy_orders ORDER BY arrival"):
            order = self.expected.orders[order_id]
            if order.closed is None and closed == "Expired":
                assert order.expires_s is not None
                assert order.expires_s <= self.now_s
                order.closed = closed
        self.new_trades()
        for device_id, paused in rows(self.stage.conn, "SELECT id, paused_until IS NOT NULL FROM iot_devices"):
            device = self.expected.devices[device_id]
            if device.paused_until_s is not None and device.paused_until_s <= self.now_s and not paused:
                device.paused_until_s = None  # a tick that was disturbed did it

    def learn_trade(self, trade: Trade, row: tuple[Any, ...], *, latest_s: float) -> None:
        status, reason, deadline_s, valid_until_s, delivery, delivered_wh, trade.lock_seq, signed, *at = row
        if trade.deadline_s is None and deadline_s is not None:
            assert self.now_s < deadline_s <= self.now_s + SETTINGS.lock_timeout_s + 1
            trade.deadline_s = deadline_s
        if trade.valid_until_s is None and valid_until_s is not None:
            assert self.now_s < valid_until_s <= self.now_s + SETTINGS.settlement_window_s + 1
            trade.valid_until_s = valid_until_s
        # Once set they are never moved.
        assert (deadline_s, valid_until_s) == (trade.deadline_s, trade.valid_until_s)
        if status != trade.status:
            there = trade.may_become(status, reason, now_s=latest_s, undone=trade.id in self.undone)
            assert there, f"{trade.status} became {status} ({reason}); its device said {trade.answers}"
            if status == "Confirmed":
                self.is_deep_enough(trade)
                self.expected.devices[trade.device].sells(trade)
            if status == "Failed":
                self.expected.fail(trade, reason, self.now_s)
            trade.status = status
        trade.signed = signed
        trade.failed_s, trade.confirmed_s, trade.fed_wh = at[0] or 0.0, at[1], at[2]
        fed_wh = trade.fed_before(self.expected.devices[trade.device].seq)
        assert trade.fed_wh == fed_wh or (trade.vague and trade.fed_wh < fed_wh)
        assert delivered_wh <= self.devices[trade.device].ever_fed_wh.get(trade.id, 0)
        assert (delivery == "Delivered") == (status == "Confirmed" and delivered_wh == trade.energy_wh)
        trade.delivery, trade.delivered_wh = delivery, delivered_wh

    def is_deep_enough(self, trade: Trade) -> None:
        ((tx_hash,),) = rows(self.stage.conn, "SELECT blockchain_hash FROM transactions WHERE id = %s", trade.id)
        receipt = self.stage.rpc.call("eth_getTransactionReceipt", tx_hash)
        assert self.stage.chain.height() - int(receipt["blockNumber"], 16) + 1 >= RULES.confirmations

    def new_trades(self) -> list[Match]:
        """The trades that nobody has seen yet; of matches that nobody has made trades of, somebody does."""
        make_trades(self.stage.conn, limit=1_000)
        made = []
        for trade, ask, bid, energy_wh, price_micro, matched_s in rows(
            self.stage.conn,
            """SELECT id, sell_order_id, buy_order_id, energy_wh, price_micro, extract(epoch FROM "timestamp")::float8
               FROM transactions ORDER BY seq""",
        ):
            if trade in self.expected.trades:
                continue
            new = Trade(
                id=trade,
                ask=self.expected.orders[ask],
                bid=self.expected.orders[bid],
                energy_wh=energy_wh,
                price_micro=price_micro,
                matched_s=matched_s,
            )
            assert (new.ask.closed, new.bid.closed) == (None, None), "an order was matched that is closed"
            self.expected.trades[trade] = new
            made.append(new.match)
        return made

    def compare_orders(self) -> None:
        found = rows(
            self.stage.conn,
            """SELECT s.id, s.status, coalesce(b.remaining_wh, 0) FROM order_states s
               LEFT JOIN open_orders b ON b.order_id = s.id ORDER BY s.arrival""",
        )
        assert found == [
            (o.id, self.expected.status(o), self.expected.open_wh(o)) for o in self.expected.orders.values()
        ]

    def compare_devices(self) -> None:
        for device, status, silent, last_seen_s, available_wh, seq, heard_s, failures, paused_until_s in rows(
            self.stage.conn,
            """SELECT id, status, silent_since IS NOT NULL, extract(epoch FROM last_ping)::float8, available_wh,
                      status_seq, extract(epoch FROM status_heard_at)::float8, failures,
                      extract(epoch FROM paused_until)::float8 FROM iot_devices""",
        ):
            known, real = self.expected.devices[device], self.devices[device]
            assert (available_wh, seq, heard_s) == (known.available_wh, known.seq, known.heard_s)
            is_silent = known.silent_since_s is not None
            assert (status, silent) == ("Online" if known.online else "Offline", is_silent)
            assert abs(last_seen_s - known.last_seen_s) < 1
            assert failures == known.failures
            assert (paused_until_s is None) == (known.paused_until_s is None)
            assert abs((paused_until_s or 0) - (known.paused_until_s or 0)) < 1
            promised_wh = sum(
                trade.energy_wh - real.ever_fed_wh.get(trade.id, 0)
                for trade in self.expected.trades.values()
                if trade.device == device and trade.goes_on and trade.id not in real.delivered
            )
            assert promised_wh <= real.available_wh, "more is promised than there is"
            assert real.reserved_wh() <= real.available_wh

    # ---------------------------------------------------------------------------------------------------- the end

    def come_to_rest(self) -> None:
        """Nothing goes wrong any more: everything that is under way comes to its end."""
        self.set_chain(answers=True)
        for device in self.devices.values():
            device.takes_its_time = device.falls_short = False
            if device.is_away:
                self.queue.extend(device.come_back(before_the_end_was_noticed=False))
        self.withdraw_all()
        for _ in range(ROUNDS_TO_REST):
            self.everybody_does_his_part()
            if self.is_at_rest():
                break
        self.withdraw_all()

    def withdraw_all(self) -> None:
        for order in self.expected.orders.values():
            if self.expected.open_wh(order):
                self.withdraw(order, self.stage.database)

    def everybody_does_his_part(self) -> None:
        for command in self.commands:
            self.devices[command.device_id].hear(command)
        self.commands.clear()
        for device in self.devices.values():
            device.feed()
        while self.queue:
            self.hand_over(self.queue.popleft(), self.stage.database)
        self.learn()
        self.let_time_pass(11)
        self.run_tick(self.stage.database)
        self.learn()
        self.publish(self.stage.database, self.stage.disturbance)
        self.sweep_once(self.stage.database, self.stage.ledger)
        self.stage.world.mine(RULES.finality_blocks)
        self.learn()

    def is_at_rest(self) -> bool:
        ((under_way,),) = rows(
            self.stage.conn,
            """SELECT EXISTS (SELECT FROM transactions WHERE status IN ('Pending', 'Locked', 'Submitted')
                                 OR unlock = 'Owed' OR delivery IN ('Owed', 'Started'))
                   OR EXISTS (SELECT FROM settlement_batches WHERE status IN ('Stored', 'Mined'))""",
        )
        return not (under_way or self.commands)
