"""The whole life of orders, trades, devices and payments, in any order of events: a state machine looks for trouble.

Everything is real but time and the devices: PostgreSQL, the contract on a chain, the product's use cases. Commands and
messages are lost, repeated, reordered, late and forged; locks run out; processes die between two side effects, or
another one acts there; buyers take their escrow away; the chain reorganises, forgets what was sent, cannot be asked,
and sees the operator's key used by somebody else. After every step the books must agree with each other, with what the
devices hold, and with a naive model of what the market must make of all this; when the faults end everything must come
to rest.

`WHOLE_LIVES=n` lets it look at n lives, from another seed each time; `WHOLE_LIVES_SEED=s` begins from this seed and
stops at the first trouble, without looking for a shorter way to it.
"""

import copy
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from psycopg.errors import LockNotAvailable

from energy_market.database import Database
from energy_market.domain import topics
from energy_market.evm.ledger import Ledger
from energy_market.evm.rpc import Refused
from energy_market.messages.received import QueuedMessage
from energy_market.usecases.reconcile import reconcile
from local_market.parts.postgres import LocalPostgres as Server
from tests.integration.whole_life.device import LiveDevice
from tests.integration.whole_life.disturbed import Disturbance
from tests.integration.whole_life.expected import Order
from tests.integration.whole_life.life import RULES, Life
from tests.integration.whole_life.stage import DEADLINE_S, GAS_MONEY, Stage, rows
from tests.support.chain.world import NANO
from tests.support.trouble.crashes import Crashed

SIZES = st.sampled_from([100, 200, 300])
ASKED, BIDDEN = st.sampled_from([100_000, 200_000, 300_000]), st.sampled_from([300_000, 200_000, 100_000])
LASTING = st.sampled_from([None, None, None, 10, 60])
SENT = st.sampled_from([1, 1, 2])
CHANCE = st.integers(0, 10**6)
ORDER = st.fixed_dictionaries(
    {
        "who": st.integers(0, 3),
        "side": st.sampled_from(["sell", "buy"]),
        "size": SIZES,
        "price": ASKED,
        "partial": st.booleans(),
    }
)
FATES = st.sampled_from(["once", "once", "once", "again", "lost"])
PAIRS = [
    ("tick", "cancel"), ("tick", "cancel"), ("tick", "tick"), ("tick", "tick"), ("tick", "order"), ("tick", "message"),
    ("tick", "publish"), ("tick", "die"),
    ("publish", "die"), ("publish", "publish"), ("publish", "message"), ("publish", "tick"),
    ("message", "die"), ("message", "message"), ("message", "tick"), ("message", "publish"), ("message", "sweep"),
    ("sweep", "die"), ("sweep", "die"), ("sweep", "sweep"), ("sweep", "late sweep"), ("sweep", "message"),
    ("cancel", "tick"), ("cancel", "message"), ("cancel", "die"),
    ("order", "tick"), ("order", "die"),
]  # fmt: skip
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that may happen, and how often beside the others. Trouble happens only in lives that have that kind."""

    weight: int
    is_trouble: bool
    arguments: st.SearchStrategy[dict[str, Any]]


ACTS: dict[str, Act] = {}


def act(weight: int, *, trouble: bool = False, **arguments: st.SearchStrategy[Any]) -> Callable[[F], F]:
    """Have the machine do this. (Hypothesis takes each of its rules as often as any other, if at all.)"""

    def known(method: F) -> F:
        ACTS[method.__name__] = Act(weight=weight, is_trouble=trouble, arguments=st.fixed_dictionaries(arguments))
        return method

    return known


def troubles() -> list[str]:
    return sorted(name for name, one in ACTS.items() if one.is_trouble)


class WholeLife(Life, RuleBasedStateMachine):
    """Two homes with a device each, two buyers, one of whom is poor; the homes buy, too."""

    @initialize(of=st.deferred(lambda: st.sets(st.sampled_from(troubles()), min_size=2, max_size=8)))
    def begin(self, of: set[str]) -> None:
        # The most frequent first: what Hypothesis tries most, and comes to when it looks for a shorter life.
        possible = sorted(
            (name for name, one in ACTS.items() if not one.is_trouble or name in of),
            key=lambda name: -ACTS[name].weight,
        )
        self.acts = st.sampled_from([name for name in possible for _ in range(ACTS[name].weight)])
        self.waiting: list[Callable[[], bool]] = []
        self.be_born()

    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        name = data.draw(self.acts)
        getattr(self, name)(**data.draw(ACTS[name].arguments))

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "expected"):
            self.look()

    def teardown(self) -> None:
        """The faults end, and nothing is left over."""
        if not hasattr(self, "expected") or sys.exc_info()[0] is not None:
            return
        self.stage.rpc.start_deadline(DEADLINE_S)
        self.operator_has_gas_money(GAS_MONEY)
        self.blocks_cost(1)
        self.come_to_rest()
        assert reconcile(self.stage.conn, books=self.stage.books, at_rest=True).differences.as_lines() == []
        assert [device.held_wh for device in self.devices.values()] == [{}, {}]

    # ---------------------------------------------------------------------------------------------------- people

    @act(1, who=st.integers(0, 1), size=SIZES, price=ASKED, partial=st.booleans(), lasting=LASTING, sent=SENT)
    def offer(self, who: int, size: int, price: int, *, partial: bool, lasting: int | None, sent: int) -> None:
        self.place(self.stage.sellers[who], "sell", size, price, partial=partial, lasting=lasting, sent=sent)

    @act(2, who=st.integers(0, 3), size=SIZES, price=BIDDEN, partial=st.booleans(), lasting=LASTING, sent=SENT)
    def bid(self, who: int, size: int, price: int, *, partial: bool, lasting: int | None, sent: int) -> None:
        self.place(self.stage.people[who], "buy", size, price, partial=partial, lasting=lasting, sent=sent)

    @act(4, seller=st.integers(0, 1), buyer=st.integers(0, 1), size=SIZES, partial=st.booleans())
    def agree(self, seller: int, buyer: int, size: int, *, partial: bool) -> None:
        """An ask and a bid that cross."""
        self.place(self.stage.sellers[seller], "sell", size, 200_000, partial=partial)
        self.place(self.stage.buyers[buyer], "buy", size, 200_000, partial=partial)

    @act(3, orders=st.lists(ORDER, min_size=2, max_size=6))
    def many_come_at_once(self, orders: list[dict[str, Any]]) -> None:
        """Before the next tick sees any of them."""
        for order in orders:
            people = self.stage.sellers if order["side"] == "sell" else self.stage.people
            who = people[order["who"] % len(people)]
            self.place(who, order["side"], order["size"], order["price"], partial=order["partial"])

    @act(1, which=CHANCE)
    def cancel(self, which: int) -> None:
        if self.expected.orders:
            order = list(self.expected.orders.values())[which % len(self.expected.orders)]
            was_open = self.expected.open_wh(order) > 0
            assert self.withdraw(order, self.stage.database) == was_open

    @act(1, trouble=True, who=st.integers(0, 3))
    def take_escrow_away(self, who: int) -> None:
        person = self.stage.people[who]
        if escrow := self.stage.chain.escrow(person.account):
            self.stage.transact(person, self.stage.chain.settlement, "withdraw", escrow)

    @act(1, who=st.integers(0, 1))
    def deposit(self, who: int) -> None:
        """Somebody who got tokens puts them into escrow."""
        person, amount = self.stage.buyers[who], 5 * 10**7 * NANO
        chain = self.stage.chain
        self.stage.send(
            chain.owner.address, chain.token.address, chain.token.artifact.call("mint", person.account.address, amount)
        )
        self.stage.transact(person, chain.token, "approve", chain.settlement.address, amount)
        self.stage.world.mine()
        self.stage.transact(person, chain.settlement, "deposit", amount)
        self.stage.world.mine()

    # -------------------------------------------------------------------------------------------------- the loop

    @act(1)
    def tick(self) -> None:
        matches = self.expected.tick(self.now_s)
        tick = self.run_tick(self.stage.database)
        assert (tick.ran, tick.matches, tick.overlooked) == (True, len(matches), 0)
        assert tick.halted == (None if self.expected.chain_answers else "chain_unreachable")
        assert sorted(self.new_trades()) == sorted(matches)

    @act(1)
    def tell_the_devices(self) -> None:
        owed = {(trade.id, kind) for trade in self.expected.trades.values() for kind in trade.owed_to_its_device}
        said = self.publish(self.stage.database, self.stage.disturbance)
        assert owed <= {(command.transaction_id, command.kind) for command in said}
        for command in said:
            trade = self.expected.trades[command.transaction_id]
            assert trade.may_be_told(command.kind)
            assert (command.device_id, command.sell_order_id) == (trade.device, trade.ask.id)
            assert command.energy_wh == trade.energy_wh
        self.learn()

    @act(2)
    def step(self) -> None:
        self.tick()
        self.look()
        self.tell_the_devices()

    @act(5)
    def step_that_reaches_everybody(self) -> None:
        self.step()
        self.commands_are_heard()
        self.messages_are_taken(list(self.queue))

    @act(2, trouble=True)
    def answers_come_too_late(self) -> None:
        self.step()
        self.commands_are_heard()
        self.let_time_pass(31)
        self.messages_are_taken(list(self.queue))

    @act(2, trouble=True)
    def all_comes_twice_and_backwards(self) -> None:
        self.step()
        self.commands.extend(self.commands[::-1])
        self.commands_are_heard()
        self.messages_are_taken([*reversed(self.queue), *self.queue])

    def commands_are_heard(self) -> None:
        for command in [command for command in self.commands if not self.devices[command.device_id].is_away]:
            self.commands.remove(command)
            self.devices[command.device_id].hear(command)

    def messages_are_taken(self, messages: list[QueuedMessage]) -> None:
        self.queue.clear()
        for message in messages:
            self.take(message)

    @act(3, seconds=st.sampled_from([5, 5, 5, 5, 31, 31, 130, 601]))
    def time_passes(self, seconds: int) -> None:
        self.let_time_pass(seconds)

    # ---------------------------------------------------------------------------------------------------- devices

    @act(3, which=CHANCE, fate=FATES)
    def command_arrives(self, which: int, fate: str) -> None:
        there = [c for c in self.commands if not self.devices[c.device_id].is_away]
        if not there:
            return
        command = there[which % len(there)]
        if fate != "again":
            self.commands.remove(command)
        if fate != "lost":
            self.devices[command.device_id].hear(command)

    @act(3, which=CHANCE, fate=FATES)
    def message_arrives(self, which: int, fate: str) -> None:
        if not self.queue:
            return
        place = which % len(self.queue)
        message = self.queue[place]
        if fate != "again":
            del self.queue[place]
        if fate != "lost":
            self.take(message)

    def take(self, message: QueuedMessage) -> None:
        """Have the market take a message, and expect what must come of an answer that counts."""
        trade, said = self.hand_over(message, self.stage.database, exactly=True)
        if trade is not None and trade.status == "Pending" and said in trade.answers:
            if said == "locked":
                trade.status = "Locked"
                self.learn()
            else:
                self.expected.fail(trade, "lock_rejected", self.now_s)

    def device(self, who: int) -> LiveDevice:
        return list(self.devices.values())[who]

    @act(1, trouble=True, who=st.integers(0, 1), refuses=SIZES)
    def device_changes_its_mind(self, who: int, refuses: int) -> None:
        self.device(who).refuses_wh = refuses

    @act(2, trouble=True, who=st.integers(0, 1), size=SIZES, times=st.integers(2, 5))
    def device_refuses_again_and_again(self, who: int, size: int, times: int) -> None:
        device = self.device(who)
        before, device.refuses_wh = device.refuses_wh, size
        for _ in range(times):
            self.agree(who, 0, size, partial=False)
            self.step_that_reaches_everybody()
            self.look()
            self.let_time_pass(5)
        device.refuses_wh = before

    @act(1, who=st.integers(0, 1))
    def device_takes_its_time(self, who: int) -> None:
        self.device(who).takes_its_time = not self.device(who).takes_its_time

    @act(1, who=st.integers(0, 1))
    def device_feeds(self, who: int) -> None:
        self.device(who).feed()

    @act(3, trouble=True, who=st.integers(0, 1))
    def device_falls_short(self, who: int) -> None:
        self.device(who).falls_short = not self.device(who).falls_short

    @act(1, trouble=True, who=st.integers(0, 1))
    def device_is_replaced(self, who: int) -> None:
        self.device(who).forget()

    @act(2, who=st.integers(0, 1))
    def the_sun_shines(self, who: int) -> None:
        self.device(who).available_wh += 300

    @act(1, who=st.integers(0, 1))
    def device_reports(self, who: int) -> None:
        self.device(who).report()

    @act(1, trouble=True, who=st.integers(0, 1))
    def device_raises_an_alert(self, who: int) -> None:
        device = self.device(who)
        device.say(f"energy/device/{device.id}/alert", {"severity": "info", "code": "here", "message": "hello"})

    @act(2, trouble=True, who=st.integers(0, 1), unnoticed=st.booleans())
    def device_comes_and_goes(self, who: int, *, unnoticed: bool) -> None:
        device = self.device(who)
        if not device.is_away:
            end = device.leave()
            if not unnoticed:
                self.queue.append(end)
        else:
            self.queue.extend(device.come_back(before_the_end_was_noticed=unnoticed))

    @act(2, trouble=True, which=CHANCE, status=st.sampled_from(["locked", "rejected"]), named=st.booleans())
    def device_answers_again(self, which: int, status: str, *, named: bool) -> None:
        """It says the same once more, or the contrary; that it has locked what it has not, it never says."""
        answered = [(device, trade) for device in self.devices.values() for trade in device.answered]
        if answered:
            device, trade = answered[which % len(answered)]
            device.answer_lock(trade, status if trade in device.held_wh else "rejected", named=named)

    @act(
        2,
        trouble=True,
        which=CHANCE,
        status=st.sampled_from(["locked", "rejected"]),
        how=st.sampled_from(["own topic", "foreign topic", "foreign order", "forged trade"]),
    )
    def somebody_talks_nonsense(self, which: int, status: str, how: str) -> None:
        """Another device answers for a trade; its own one names an order that it is not of, or no trade of ours."""
        self.agree(which % 2, which // 2 % 2, 100, partial=False)
        self.step()  # a lock is asked for, and nobody has answered yet
        waiting = [trade for trade in self.expected.trades.values() if trade.status == "Pending"]
        trades = waiting or list(self.expected.trades.values())
        if not trades:
            return
        trade = trades[which % len(trades)]
        other = next(device for device in self.devices.values() if device.id != trade.device)
        ask, named, sender, topic = trade.ask.id, trade.id, other.id, other.id
        match how:
            case "foreign topic":
                topic = trade.device
            case "foreign order":
                ask, sender, topic = trade.bid.id, trade.device, trade.device
            case "forged trade":
                named, sender, topic = uuid4(), trade.device, trade.device
        other.say(
            topics.of(topics.LOCK_RESPONSE, topic),
            {"order_id": str(ask), "transaction_id": str(named), "status": status},
            client_id=str(sender),
        )
        self.messages_are_taken(list(self.queue))

    # -------------------------------------------------------------------------------------------------- the chain

    @act(2, blocks=st.integers(0, 3))
    def sweep(self, blocks: int) -> None:
        """The settlement's sweep, and the blocks that come after it."""
        self.sweep_once(self.stage.database, self.stage.ledger)
        self.learn()  # before more blocks confirm it
        if blocks:
            self.stage.world.mine(blocks)

    @act(3)
    def settle(self) -> None:
        """All that is locked is paid and confirmed, if nothing is in the way."""
        for _ in range(3):
            self.sweep(2)

    @act(1, blocks=st.integers(1, 4))
    def mine(self, blocks: int) -> None:
        self.stage.world.mine(blocks)

    @act(2, trouble=True, depth=st.integers(1, RULES.finality_blocks - 1))
    def reorganise(self, depth: int) -> None:
        """The newest blocks are gone; the settlement notices at its next sweep."""
        depth = min(depth, self.stage.chain.height() - self.stage.first_block)
        if depth:
            self.stage.world.reorganise(depth)
            self.blocks_went = True
            self.undone |= {trade.id for trade in self.expected.trades.values() if trade.status == "Confirmed"}

    @act(3, trouble=True)
    def the_chain_comes_and_goes(self) -> None:
        self.set_chain(answers=not self.expected.chain_answers)

    @act(2, trouble=True)
    def the_node_forgets_its_pool(self) -> None:
        self.stage.world.drop_pool()

    @act(2, trouble=True)
    def an_answer_of_the_node_is_lost(self) -> None:
        self.stage.ledger.loses_answers = True
        self.sweep(1)
        self.stage.ledger.loses_answers = False

    @act(2, trouble=True, ahead=st.integers(0, 2))
    def somebody_else_uses_the_operators_key(self, ahead: int) -> None:
        operator, nonce = self.stage.chain.operator.address, hex(self.stage.world.nonce() + ahead)
        fields = {"nonce": nonce, "maxFeePerGas": hex(10**12), "maxPriorityFeePerGas": hex(10**11)}
        with suppress(Refused):  # he has used that nonce before
            self.stage.send(operator, operator, fields=fields)

    @act(2, trouble=True, wei=st.sampled_from(["0x0", GAS_MONEY]))
    def operator_has_gas_money(self, wei: str) -> None:
        self.stage.rpc.call("anvil_setBalance", self.stage.chain.operator.address, wei)

    @act(2, trouble=True, gwei=st.sampled_from([1, 1, 30]))
    def blocks_cost(self, gwei: int) -> None:
        self.stage.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(gwei * 10**9))

    # ------------------------------------------------------------------------------------------------- disturbances

    @act(5, k=st.integers(0, 14), pair=st.sampled_from(PAIRS), which=CHANCE)
    def something_happens_in_the_middle(self, k: int, pair: tuple[str, str], which: int) -> None:
        """Before the k-th side effect of a process another one acts, or it dies."""
        what, then = pair
        if what == "tick":
            self.agree(which % 2, which // 2 % 2, 100, partial=False)
        disturbance = self.stage.disturbance
        process = self.process(what, which, self.stage.database, self.stage.ledger, disturbance)
        books = [copy.deepcopy(self.expected)]  # before the other process acted, and after it

        def happens() -> None:
            if then == "die":
                disturbance.die()
            is_matching = self.zone_is_locked()
            assert not (self.in_the_middle(then, which) and is_matching), "two ticks at once"
            books.append(copy.deepcopy(self.expected))

        disturbance.plan(k, happens)
        known = set(self.expected.trades)
        try:
            process()
        except Crashed:
            for trade in self.expected.trades.values():  # it may have said any of it, or only claimed it
                trade.told |= trade.owed_to_its_device
        disturbance.end()
        with self.stage.other_database.transaction() as conn:  # who died telling the devices is missed for some seconds
            conn.execute("UPDATE leases SET expires_at = clock_timestamp() WHERE name = 'commands'")
        self.learn()
        if what == "tick" and then in {"cancel", "order"}:
            made = [trade.match for trade in self.expected.trades.values() if trade.id not in known]
            assert sorted(made) in [sorted(book.tick(self.now_s)) for book in books], (
                "neither the book before nor the one after"
            )
        while self.waiting:
            self.waiting.pop()()
            self.learn()

    def in_the_middle(self, what: str, which: int) -> bool:
        """Another process acts; what has to wait for the first one's locks is done after it. Whether a tick matched."""
        self.learn()
        if what == "late sweep":
            self.let_time_pass(130)
            what = "sweep"
        process = self.process(what, which, self.stage.other_database, self.stage.other_ledger, Disturbance())
        try:
            ran = process()
        except LockNotAvailable:
            self.waiting.append(process)
            return False
        self.learn()
        return ran

    def zone_is_locked(self) -> bool:
        """Whether a tick is matching at this moment."""
        here = "SELECT oid FROM pg_database WHERE datname = current_database()"
        return bool(rows(self.stage.conn, f"SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = ({here})"))

    def about_to_be_matched(self) -> list[Order]:
        matches = copy.deepcopy(self.expected).tick(self.now_s)
        return [self.expected.orders[order] for ask, bid, _, _ in matches for order in (ask, bid)]

    def process(
        self, what: str, which: int, database: Database, ledger: Ledger, disturbance: Disturbance
    ) -> Callable[[], bool]:
        """A process, of which only what it must not do is expected. It returns whether a tick matched."""
        orders = self.about_to_be_matched() or list(self.expected.orders.values())
        message = self.queue[which % len(self.queue)] if self.queue else None

        def run() -> bool:
            match what:
                case "tick":
                    return self.run_tick(database).attempts > 0
                case "publish":
                    self.publish(database, disturbance)
                case "sweep":
                    self.sweep_once(database, ledger)
                case "message" if message is not None and message in self.queue:
                    self.hand_over(message, database)
                    with suppress(ValueError):  # two processes may have had it
                        self.queue.remove(message)  # who dies before this leaves it in the queue
                case "cancel" if orders:
                    self.withdraw(orders[which % len(orders)], database)
                case "order":
                    seller = self.stage.sellers[which % 2]
                    self.place(seller, "sell", 100, 200_000, partial=False, database=database, sent=2)
            return False

        return run


# Each life by chance alone. Of its own accord Hypothesis spends most of a few dozen on the simplest that there are, and
# on variations of one in which something happens twice.
AVAILABLE_PROVIDERS["afresh"] = HypothesisProvider


def lives() -> settings:
    return settings(
        backend="afresh",
        max_examples=int(os.environ.get("WHOLE_LIVES", "30")),
        stateful_step_count=50,
        deadline=None,
        derandomize="WHOLE_LIVES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate] if "WHOLE_LIVES_SEED" in os.environ else [Phase.generate, Phase.shrink],
        print_blob=True,
        report_multiple_bugs=False,
    )


def test_whatever_happens_in_whatever_order_the_books_agree(server: Server, anvil: str) -> None:
    stage = Stage(server, anvil)
    machine = type("WholeLifeHere", (WholeLife,), {"stage": stage})
    if "WHOLE_LIVES_SEED" in os.environ:
        machine = seed(int(os.environ["WHOLE_LIVES_SEED"]))(machine)
    try:
        run_state_machine_as_test(machine, settings=lives())
    finally:
        stage.close()
