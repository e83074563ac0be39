"""A whole settlement, from locked to final, through every way of providers and nodes that `faulty_node` plays."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from energy_market.evm.books import Books
from energy_market.evm.ledger import Ledger
from energy_market.evm.node_check import check
from energy_market.evm.rpc import ChainError, Rpc
from energy_market.usecases.reconcile import reconcile
from energy_market.usecases.settling.settle import settle_trades
from local_market.faulty_node import WAYS, FaultyNode, Way
from local_market.faulty_node.answers import Reverts
from local_market.faulty_node.transport import PASSWORD, USER
from local_market.parts.anvil import start_anvil
from local_market.stack.stack import remove_state
from tests.support.chain.chain import trade as chain_trade
from tests.support.chain.chain import word
from tests.support.chain.world import CHAIN_ID, FINALITY_BLOCKS, NEVER_S, RULES, Deal, World

ROUNDS = 60
SEVERAL = 3
SWEEPS_OF_A_PAUSE = 4
ROUND_S = 5
DEADLINE_S = 10.0
_chains = count(1)


class Clock:
    """A clock that sleeping turns on, and that otherwise stands still: retries take no time, and deadlines come."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, pause_s: float) -> None:
        self.now_s += pause_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Street:
    """Trades that are locked, and what must become of each."""

    rich: list[Deal]
    poor: Deal
    elsewhere: Deal  # it was paid by another transaction of the operator's

    @property
    def deals(self) -> list[Deal]:
        return [*self.rich, self.poor, self.elsewhere]


class Life:
    """A settlement behind a faulty node."""

    def __init__(self, world: World, *ways: type[Way], seed: int = 1) -> None:
        self.world, self.ways = world, ways
        self.clock = Clock()
        self.node = FaultyNode(world.rpc_url, seed=seed)
        url = self.node.url
        if "needs_password" in [one.name for one in ways]:
            url = url.replace("://", f"://{USER}:{quote(PASSWORD, safe='')}@")
        chance = random.Random(seed)
        self.rpc = Rpc(url, timeout_s=2.0, monotonic=self.clock.monotonic, sleep=self.clock.sleep, chance=chance.random)
        self.ledger = world.ledger_of(Ledger, rpc=self.rpc)
        trades = max(one.trades for one in ways)
        self.rules = replace(
            RULES,
            max_batch=50 if trades > SEVERAL else SEVERAL,  # in two batches, where it does not matter
            finality_blocks=max(one.finality_blocks or 0 for one in ways) or RULES.finality_blocks,
            stuck_after_s=2.0 * ROUND_S,
            quiet_after_s=NEVER_S if all(one.makes_empty_blocks for one in ways) else 0.0,
        )
        self.street = self._street(trades)
        self.troubles: list[str] = []

    def _street(self, trades: int) -> Street:
        elsewhere = self.world.lock()
        self.world.chain.settle(
            [chain_trade(elsewhere.buyer, elsewhere.seller, elsewhere.amount, id=elsewhere.id, energy_wh=500)]
        )
        self.world.mine(max(*(one.blocks_before for one in self.ways), self.rules.finality_blocks - FINALITY_BLOCKS))
        rich = [self.world.lock() for _ in range(trades)]
        return Street(rich=rich, poor=self.world.lock(in_escrow=False), elsewhere=elsewhere)

    def close(self) -> None:
        self.rpc.close()
        self.node.close()

    def go(self) -> int:
        """Sweep and make blocks until nothing is under way; how many sweeps it took."""
        world = self.world
        for gas in [one.block_gas for one in self.ways if one.block_gas is not None]:
            world.chain.rpc.call("evm_setBlockGasLimit", hex(gas))
        is_paused = any(issubclass(one, Reverts) for one in self.ways)
        if is_paused:  # just after the contract's facts were asked, so that the estimate is the first to tell
            self.ledger.look(finality_blocks=self.rules.finality_blocks)
            world.chain.settlement.transact(world.chain.owner, "pause")
        makes_blocks = all(one.makes_empty_blocks for one in self.ways)
        if makes_blocks:
            world.hold()
        self.node.play(*self.ways)
        for sweeps in range(1, ROUNDS + 1):
            self.sweep()
            if self.is_over():
                return sweeps
            self.time_passes()
            if is_paused and sweeps == SWEEPS_OF_A_PAUSE:
                world.call_first(world.chain.owner, world.chain.settlement, "unpause")
            if makes_blocks and sweeps >= max(one.sweeps_before for one in self.ways):
                world.mine(max(1, self.rules.finality_blocks // FINALITY_BLOCKS))
        raise AssertionError(
            f"not over after {ROUNDS} sweeps: {self.statuses()}, {world.batches()}, {self.troubles[-3:]}"
        )

    def sweep(self) -> None:
        try:
            settle_trades(
                self.world.database,
                self.ledger,
                rules=self.rules,
                deadline_s=DEADLINE_S,
                monotonic=self.clock.monotonic,
                sleep=self.clock.sleep,
            )
        except ChainError as trouble:
            self.troubles.append(f"{type(trouble).__name__}: {trouble}")

    def time_passes(self) -> None:
        """By the database's clock, for what was signed."""
        self.clock.sleep(ROUND_S)
        self.world.sql(
            """UPDATE signed_transactions SET created_at = created_at - make_interval(secs => %s),
            sent_at = sent_at - make_interval(secs => %s)""",
            ROUND_S,
            ROUND_S,
        )

    def is_over(self) -> bool:
        return not self.world.sql(
            """SELECT 1 FROM settlement_batches b JOIN settlement_batch_trades ON batch_id = b.id
            WHERE status IN ('Stored', 'Mined')
            UNION ALL SELECT 1 FROM transactions WHERE status IN ('Locked', 'Submitted')"""
        )

    def statuses(self) -> list[str]:
        return self.world.statuses(self.street.deals)

    def payments(self) -> list[int]:
        """How often the chain paid each trade."""
        asked = {"address": self.world.chain.settlement.address, "fromBlock": "0x0"}
        ids = [
            entry["topics"][1]
            for entry in self.world.chain.rpc.call("eth_getLogs", asked)
            if len(entry["topics"]) == 4  # TradeSettled names id, buyer and seller
        ]
        return [ids.count("0x" + word(deal.id).hex()) for deal in self.street.deals]

    def check(self) -> None:
        """Every trade that could be paid is paid, once, and the poor buyer's has failed for that reason."""
        world, street = self.world, self.street
        assert self.statuses() == [*("Confirmed" for _ in street.rich), "Failed", "Confirmed"]
        assert world.trade(street.poor) == ("Failed", "insufficient_escrow")
        assert self.payments() == [*(1 for _ in street.rich), 0, 1]
        assert [world.chain.escrow(deal.seller) for deal in street.rich] == [deal.amount for deal in street.rich]
        assert self.compared() == []
        self.node.play()
        assert world.differences() == []

    def compared(self) -> list[str]:
        """What the nightly comparison finds, which has the same node."""
        contract, token = self.world.chain.settlement.address, self.world.chain.token.address
        books = Books(self.rpc, chain_id=CHAIN_ID, contract=contract, token=token, token_decimals=18)
        with psycopg.connect(self.world.database_url, autocommit=True) as conn:
            found = reconcile(conn, books=books, monotonic=self.clock.monotonic, sleep=self.clock.sleep)
        return found.differences.as_lines()


@contextmanager
def life(database_url: str, folder: Path, *ways: type[Way], seed: int = 1) -> Iterator[Life]:
    """A world of its own for one life, on the chain that the ways ask for."""
    home = folder / f"ways-{next(_chains)}"
    chain = start_anvil(home, block_time_s=None, more=[part for one in ways for part in one.anvil])
    world = World(database_url, chain.rpc_url)
    life = Life(world, *ways, seed=seed)
    try:
        yield life
    finally:
        life.close()
        world.close()
        chain.stop()
        remove_state(home)


BESIDE = frozenset({"forgets_the_pool", "slow", *(name for name, way in WAYS.items() if way.family == "chains")})
"""Ways that change nothing in what is asked and answered."""
SAID_BEFOREHAND = {"legacy_chain": "base_fee", "moved_for_now": "node", "moved_permanently": "node"}
"""Ways that no settlement can live with, and the need that the deploy's check finds not met."""
NOT_ASKED = frozenset(
    {
        "needs_password",
        "needs_user_agent",
        "no_safe_nor_finalized",
        "only_json",
        "receipts_of_the_unmined",
        "states_of_128_blocks",
        "states_pruned_as_reverts",
    }
)
"""Ways that this settlement does not meet: nothing in it asks for what they lack."""


@pytest.mark.parametrize("name", [name for name in WAYS if name not in SAID_BEFOREHAND])
def test_a_settlement_ends_through_each_way_of_nodes(database_url: str, state_folder: Path, name: str) -> None:
    with life(database_url, state_folder, WAYS[name]) as one:
        one.go()
        one.check()
        assert one.node.met == {name} - BESIDE - NOT_ASKED


@pytest.mark.parametrize("name", SAID_BEFOREHAND)
def test_the_deploys_check_says_what_no_settlement_can_live_with(
    database_url: str, state_folder: Path, name: str
) -> None:
    with life(database_url, state_folder, WAYS[name]) as one:
        one.node.play(*one.ways)
        assert [gap.need for gap in check(one.rpc, one.ledger.expected)] == [SAID_BEFOREHAND[name]]
        one.sweep()
        assert one.statuses() == ["Locked"] * len(one.street.deals)


def combinations(lives: int, seed: int) -> list[tuple[str, ...]]:
    """Two or three ways at once, each of another family, that can all be had at once."""
    chance = random.Random(seed)
    names = sorted(name for name in WAYS.keys() - SAID_BEFOREHAND.keys() - BESIDE if WAYS[name].anytime)
    drawn: list[tuple[str, ...]] = []
    while len(drawn) < lives:
        some = chance.sample(names, chance.choice((2, 3)))
        if len({WAYS[name].family for name in some}) == len(some):
            drawn.append(tuple(some))
    return drawn


@pytest.mark.parametrize("names", combinations(8, seed=13), ids="-".join)
def test_a_settlement_ends_through_several_ways_at_once(
    database_url: str, state_folder: Path, names: tuple[str, ...]
) -> None:
    with life(database_url, state_folder, *(WAYS[name] for name in names), seed=13) as one:
        one.go()
        one.check()
