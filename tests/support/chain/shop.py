"""One donor, two buyers, and lives of their trades, from the locks to the chain's last word."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType
from uuid import UUID

import psycopg
import pytest
from eth_account.signers.local import LocalAccount

from energy_market.database import Database
from energy_market.domain.settlement import SettlementRules
from energy_market.evm.ledger import Ledger
from energy_market.usecases.settling.settle import settle_trades
from local_market.watching.comparison import Escrow, reconcile
from tests.support.api import ENVIRONMENT, FEES, load_function
from tests.support.chain.chain import word
from tests.support.chain.world import NANO, NEVER_S, World
from tests.support.trouble.crashes import Fuse, FusedDatabase, occupy

CONFIRMATIONS = 2
FINALITY = 4
RULES = SettlementRules(
    max_batch=50,
    confirmations=CONFIRMATIONS,
    finality_blocks=FINALITY,
    resend_after_s=0.0,
    quiet_after_s=NEVER_S,
)
IMPATIENT = replace(RULES, stuck_after_s=0.0)
ENERGY_WH, PRICE_MICRO = 500, 200_000
AMOUNT = ENERGY_WH * PRICE_MICRO * NANO
CONFIRMED = ("Confirmed", None)

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
        self.failed: list[psycopg.Error] = []  # how sweeps ended that did not end well
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
        with self.on(FusedDatabase(self.world.database_url, fuse, statements=False), self.world.fused_ledger(fuse)):
            yield

    @contextmanager
    def on(self, database: Database, ledger: Ledger | None = None) -> Iterator[None]:
        """Within the block sweeps have this connection."""
        self.database, self.ledger = database, ledger or self.world.new_ledger()
        try:
            yield
        finally:
            self.database.close()
            self.ledger.close()
            self.database, self.ledger = self.world.database, self.world.ledger

    def sweep(self, rules: SettlementRules) -> None:
        """What the state machine does at a mark: a sweep that fails is an alarm, not the end of the minute."""
        try:
            if self.function is None:
                settle_trades(self.database, self.ledger, rules=rules, deadline_s=20.0)
            else:
                occupy(self.function, self.database)
                self.function._ledger = lambda: self.ledger  # type: ignore[attr-defined] # noqa: SLF001 -- our own
                assert self.function.sweep({}, TimeEnough()) == {"swept": True}
        except psycopg.Error as error:
            self.failed.append(error)

    def settle_by_function(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on the loop's function sweeps, by rules of its own."""
        rules = {
            "MAX_BATCH": "50",
            "DELIVERY_WINDOW_S": "3600",
            **FEES,
            "CONFIRMATIONS": str(CONFIRMATIONS),
            "FINALITY_BLOCKS": str(FINALITY),
            "TOKEN_CONTRACT": self.chain.token.address,
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
        self.chain.rpc.start_deadline(60)
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
        books = Escrow(
            rpc_url=self.world.rpc_url,
            contract=self.chain.settlement.address,
            token=self.chain.token.address,
            token_decimals=18,
        )
        with psycopg.connect(self.world.database_url, autocommit=True) as conn:
            found = reconcile(conn, ledger=books, at_rest=True)
        assert found == []


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


def nothing_special(shop: Shop) -> Iterator[SettlementRules]:
    """One trade is paid and not delivered in its time; one whose buyer has no money is refused."""
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
