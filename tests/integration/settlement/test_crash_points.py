"""A sweep that dies after any of its side effects, whatever else goes wrong at the same time.

What can be is played on a contract that would pay a trade as often as it is asked (`ForgetfulSettlement`): that each
trade is paid once is then the settlement's own doing. `LEANING` are the lives that lean on the real contract's memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Final
from uuid import UUID

import psycopg
import pytest
from eth_account.signers.local import LocalAccount
from reconcile import Ledger as Books
from reconcile import reconcile

from energy_market.domain.settlement import SettlementRules
from energy_market.usecases.settle_trades import settle_trades
from tests.api import ENVIRONMENT, load_function
from tests.chain import mock, trade, word
from tests.integration.crashes import Fuse, FusedDatabase, every_crash, occupy
from tests.integration.settlement.world import NANO, POISON_SLOT, World

CONFIRMATIONS = 2
FINALITY = 4
RULES = SettlementRules(max_batch=50, confirmations=CONFIRMATIONS, finality_blocks=FINALITY, resend_after_s=0.0)
IMPATIENT = replace(RULES, stuck_after_s=0.0)
ENERGY_WH, PRICE_MICRO = 500, 200_000
AMOUNT = ENERGY_WH * PRICE_MICRO * NANO
CONFIRMED = ("Confirmed", None)

COVERS: Final[dict[str, set[str]]] = {
    "a sweep": {"settle_trades", "confirm_trades", "expire_trades", "resend_batches"},
    "the function": {
        "settlement.sweep",
        "end_deliveries",
        "report_failures",
        "report_shortfalls",
        "abandon_registrations",
    },
}
Outcome = tuple[str, str | None]
Script = Callable[["Shop"], Iterator[SettlementRules]]
"""What happens to the chain and to the market; at each `yield` the loop's sweep runs, by these rules."""


class TimeEnough:
    """The context of a Lambda function that has just been called."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class Shop:
    """One donor, two buyers of whom one has money, and the processes that settle between them."""

    def __init__(self, world: World) -> None:
        self.world, self.chain, self.market = world, world.chain, world.market
        self.home = world.market.home(available_wh=10**9)
        self.seller = self._wallet(self.home.user)
        self.rich, self.poor = world.market.user(), world.market.user()
        self.rich_wallet = self._wallet(self.rich)
        self._wallet(self.poor)
        world.chain.deposit(self.rich_wallet, 10**6 * AMOUNT)
        self.trades: list[UUID] = []
        self.database, self.ledger = world.database, world.ledger
        self.function: ModuleType | None = None
        self._seq = 10**6

    def _wallet(self, user: UUID) -> LocalAccount:
        account = self.chain.person()
        self.world.sql("UPDATE users SET wallet_address = %s WHERE id = %s", account.address, user)
        return account

    def locked(self, *, by: UUID | None = None) -> UUID:
        """A trade that its device has locked."""
        buyer = by or self.rich
        ask = self.market.order(self.home.user, "sell", ENERGY_WH, PRICE_MICRO)
        self.market.order(buyer, "buy", ENERGY_WH, PRICE_MICRO)
        (made,) = self.market.tick().trade_ids
        self.market.publish()
        self.market.answer(self.home.device, ask, "locked", trade=made)
        self.trades.append(made)
        return made

    @contextmanager
    def process(self, fuse: Fuse) -> Iterator[None]:
        """Within the block sweeps are of a process with this fuse."""
        self.database = FusedDatabase(self.world.database_url, fuse, statements=False)
        self.ledger = self.world.fused_ledger(fuse)
        try:
            yield
        finally:
            self.database.close()
            self.ledger.close()
            self.database, self.ledger = self.world.database, self.world.ledger

    def sweep(self, rules: SettlementRules) -> None:
        if self.function is None:
            settle_trades(self.database, self.ledger, rules=rules, budget_s=20.0)
        else:
            occupy(self.function, self.database)
            self.function._ledger = lambda: self.ledger  # type: ignore[attr-defined] # noqa: SLF001 -- the test's own
            assert self.function.sweep({}, TimeEnough()) == {"swept": True}

    def settle_by_function(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on the loop's function sweeps, by rules of its own."""
        rules = {
            "MAX_BATCH": "50",
            "DELIVERY_WINDOW_S": "3600",
            "CONFIRMATIONS": str(CONFIRMATIONS),
            "FINALITY_BLOCKS": str(FINALITY),
        }
        for name, value in {**ENVIRONMENT, "OPERATOR_PRIVATE_KEY": self.chain.operator.key.hex(), **rules}.items():
            monkeypatch.setenv(name, value)
        self.function = load_function("settlement")

    def outcomes(self) -> list[Outcome]:
        return [
            (status, reason)
            for made in self.trades
            for status, reason in self.world.sql("SELECT status, reason FROM transactions WHERE id = %s", made)
        ]

    def payments(self, made: UUID) -> int:
        """How often the chain paid a trade."""
        event = {
            "address": self.chain.settlement.address,
            "fromBlock": "0x0",
            "topics": [None, "0x" + word(made).hex()],
        }
        logs = self.chain.rpc.call("eth_getLogs", event)
        return sum(1 for log in logs if len(log["topics"]) == 4)  # TradeSettled names id, buyer and seller

    def clear_the_table(self) -> None:
        """Deliver what was sold, release what was not, and take what is left from the book."""
        self.chain.rpc.start_budget(60)
        self.market.publish()
        for made, (status, _) in zip(self.trades, self.outcomes(), strict=True):
            if status == "Confirmed":
                self._seq += 1
                self.market.report(
                    f"energy/transfer/{self.home.device}/status",
                    {"transaction_id": str(made), "status": "delivered", "kwh_delivered": 0.5, "seq": self._seq},
                )
        self._seq += 1
        self.market.status(self.home.device, available_wh=10**9, seq=self._seq)
        for order, owner in self.world.sql("SELECT order_id, user_id FROM open_orders"):
            self.market.cancel(owner, order)
        self.trades.clear()

    def agrees(self) -> None:
        """Database and chain tell one story, and nothing is under way."""
        books = Books(
            rpc_url=self.world.rpc_url,
            contract=self.chain.settlement.address,
            token=self.chain.token.address,
            token_decimals=18,
        )
        with psycopg.connect(self.world.database_url, autocommit=True) as conn:
            found = reconcile(conn, ledger=books, at_rest=True)
            half_registered = conn.execute("SELECT count(*) FROM iot_devices WHERE status = 'Provisioning'").fetchone()
        assert (found, half_registered) == ([], (0,))


@dataclass(kw_only=True)
class Life:
    """Trades of the shop, from their locks to the chain's last word."""

    shop: Shop
    script: Script
    expected: list[Outcome]
    steps: Iterator[SettlementRules] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = self.script(self.shop)

    def go(self) -> None:
        for rules in self.steps:
            self.shop.sweep(rules)

    def run_on(self) -> None:
        """A process that died keeps its lease until it runs out. The rest happens all the same."""
        world = self.shop.world
        world.time_passes_for_the_lease()
        self.go()
        world.go_on()
        for _ in range(10):
            self.shop.sweep(RULES)
            world.mine(FINALITY)
            if not world.sql(
                """SELECT 1 FROM settlement_batches WHERE status IN ('Stored', 'Mined')
                UNION ALL SELECT 1 FROM transactions WHERE status IN ('Locked', 'Submitted')"""
            ):
                return
        raise AssertionError(f"still under way: {world.batches()}")

    def check(self) -> None:
        shop = self.shop
        assert shop.outcomes() == self.expected, shop.outcomes()
        assert [shop.payments(made) for made in shop.trades] == [int(one == CONFIRMED) for one in self.expected]
        shop.clear_the_table()


# ------------------------------------------------------------------------------------------------ what may happen


def nothing_special(shop: Shop) -> Iterator[SettlementRules]:
    """One trade is paid and not delivered in its time; one whose buyer has no money is refused."""
    shop.world.sql(
        """INSERT INTO iot_devices (owner_id, device_type, side, location, zone, created_at)
        VALUES (%s, 'esp32', 'donor', 'a registration that died', 'default', now() - interval '2 days')""",
        shop.rich,
    )
    paid = shop.locked()
    shop.locked(by=shop.poor)
    yield RULES
    shop.world.mine()
    yield RULES
    shop.world.sql(
        "UPDATE transactions SET deliver_by = clock_timestamp() WHERE id = %s AND status = 'Confirmed'", paid
    )
    shop.world.mine(FINALITY)
    yield RULES


def stuck(shop: Shop) -> Iterator[SettlementRules]:
    shop.locked()
    shop.world.hold()
    yield IMPATIENT
    yield IMPATIENT
    yield IMPATIENT
    shop.world.mine()
    shop.world.go_on()
    yield RULES


def forgotten_by_the_node(shop: Shop) -> Iterator[SettlementRules]:
    shop.locked()
    shop.world.hold()
    yield RULES
    shop.world.drop_pool()
    yield RULES
    shop.world.mine()
    yield RULES


def a_culprit_in_a_batch_that_reverts(shop: Shop) -> Iterator[SettlementRules]:
    shop.locked()
    culprit = shop.locked()
    shop.locked()
    shop.world.hold()
    yield RULES
    shop.chain.rpc.call("anvil_setStorageAt", shop.chain.settlement.address, POISON_SLOT, "0x" + word(culprit).hex())
    shop.world.mine(2)
    shop.world.go_on()
    yield RULES
    shop.world.mine(2)
    yield RULES


def a_nonce_that_somebody_else_used(shop: Shop) -> Iterator[SettlementRules]:
    shop.locked()
    shop.world.hold()
    nonce = shop.world.nonce()
    yield RULES
    shop.world.use_key(nonce)
    shop.world.mine(2)
    yield RULES
    shop.world.mine()
    shop.world.go_on()
    yield RULES


def a_gap_that_somebody_else_left(shop: Shop) -> Iterator[SettlementRules]:
    shop.locked()
    shop.world.hold()
    foreign = shop.world.use_key(shop.world.nonce())
    yield RULES
    shop.chain.rpc.call("anvil_dropTransaction", foreign)
    shop.world.mine()
    yield RULES
    shop.world.mine()
    yield RULES


def a_reorganisation_before_finality(shop: Shop) -> Iterator[SettlementRules]:
    shop.locked()
    yield RULES
    shop.world.mine()
    yield RULES
    shop.world.hold()
    shop.world.reorganise(2)
    yield RULES
    shop.world.mine()
    yield RULES


def a_reorganisation_below_finality(shop: Shop) -> Iterator[SettlementRules]:
    shop.world.mine(FINALITY)  # what was settled before stays
    shop.locked()
    yield RULES
    shop.world.mine(FINALITY)
    yield RULES
    shop.world.reorganise(FINALITY + 1)
    yield RULES
    shop.world.mine(2)
    yield RULES


def out_of_time(shop: Shop) -> Iterator[SettlementRules]:
    """One trade was never signed for, since the operator had no gas money; one was, and its bytes are nowhere."""
    shop.locked()
    shop.world.hold()
    yield RULES
    shop.world.drop_pool()
    shop.chain.rpc.call("anvil_setBalance", shop.chain.operator.address, "0x1")
    unsigned = shop.locked()
    yield RULES
    shop.world.sql("UPDATE transactions SET valid_until = clock_timestamp() - interval '1 s' WHERE id = %s", unsigned)
    yield RULES
    shop.chain.rpc.call("anvil_setBalance", shop.chain.operator.address, hex(10**20))


def paid_by_somebody_else_with_our_key(shop: Shop) -> Iterator[SettlementRules]:
    made = shop.locked()
    shop.world.hold()
    nonce = shop.world.nonce()
    yield RULES
    payment = trade(shop.rich_wallet, shop.seller, AMOUNT, id=made, energy_wh=ENERGY_WH)
    data = shop.chain.settlement.artifact.call("settle", [payment])
    shop.world.send_as(shop.chain.operator, nonce=nonce, to=shop.chain.settlement.address, data=data)
    shop.world.mine(2)
    yield RULES
    shop.world.mine(FINALITY)
    yield RULES


def a_batch_that_comes_back_to_life(shop: Shop) -> Iterator[SettlementRules]:
    """Its nonce was used by somebody else, so its trade went into another; then a reorganisation took that use back."""
    shop.world.mine(FINALITY)
    shop.locked()
    shop.world.hold()
    nonce = shop.world.nonce()
    yield RULES
    shop.world.use_key(nonce)
    shop.world.mine(CONFIRMATIONS)
    yield RULES
    shop.world.mine()
    shop.world.reorganise(CONFIRMATIONS + 1)
    yield RULES
    shop.world.mine()
    yield RULES
    shop.world.mine()
    yield RULES


LIVES: list[tuple[Script, list[Outcome]]] = [
    (nothing_special, [CONFIRMED, ("Failed", "insufficient_escrow")]),
    (stuck, [CONFIRMED]),
    (forgotten_by_the_node, [CONFIRMED]),
    (a_culprit_in_a_batch_that_reverts, [CONFIRMED, ("Failed", "chain_refused"), CONFIRMED]),
    (a_nonce_that_somebody_else_used, [CONFIRMED]),
    (a_gap_that_somebody_else_left, [CONFIRMED]),
    (a_reorganisation_before_finality, [CONFIRMED]),
    (a_reorganisation_below_finality, [CONFIRMED]),
    (out_of_time, [CONFIRMED, ("Failed", "settlement_expired")]),
]


LEANING: list[tuple[Script, list[Outcome]]] = [
    (paid_by_somebody_else_with_our_key, [CONFIRMED]),
    (a_batch_that_comes_back_to_life, [CONFIRMED]),
]
"""Two signed transactions carry the same trade here, and both can be mined."""


@pytest.fixture
def forgetful(database_url: str, own_chain: str) -> Iterator[World]:
    world = World(database_url, own_chain, settlement=mock("ForgetfulSettlement"))
    yield world
    world.close()


@pytest.mark.parametrize(("script", "expected"), LIVES, ids=[script.__name__ for script, _ in LIVES])
def test_a_sweep_that_dies_pays_each_trade_once_whatever_else_goes_wrong(
    forgetful: World, script: Script, expected: list[Outcome]
) -> None:
    shop = Shop(forgetful)
    every_crash(
        script.__name__,
        shop.process,
        lambda: Life(shop=shop, script=script, expected=expected),
        covers=COVERS["a sweep"],
        at_least=8,
    )
    shop.agrees()


@pytest.mark.parametrize(("script", "expected"), LEANING, ids=[script.__name__ for script, _ in LEANING])
def test_what_only_the_contract_can_know_it_pays_once(world: World, script: Script, expected: list[Outcome]) -> None:
    shop = Shop(world)
    every_crash(
        script.__name__,
        shop.process,
        lambda: Life(shop=shop, script=script, expected=expected),
        covers=COVERS["a sweep"],
        at_least=8,
    )
    shop.agrees()


def test_the_loops_function_may_die_as_well(forgetful: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(forgetful)
    shop.settle_by_function(monkeypatch)
    every_crash(
        "the function that sweeps",
        shop.process,
        lambda: Life(shop=shop, script=nothing_special, expected=[CONFIRMED, ("Failed", "insufficient_escrow")]),
        covers=COVERS["the function"],
        at_least=8,
    )
    shop.agrees()
