"""The comparison of database and chain, made while both go on."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest

from energy_market.evm.books import BLOCKS_PER_QUERY, Books, Paid
from energy_market.evm.node_check import WrongChain
from energy_market.evm.rpc import Refused, Rpc, Unreachable
from energy_market.postgres import reconciliation
from energy_market.usecases.reconcile import OutOfTime, Reconciled, reconcile
from tests.support.chain.chain import trade
from tests.support.chain.world import CHAIN_ID, World

TOO_MANY_RESULTS = -32005
LESS_BYTES = 16_384  # enough for the contract's code, or for some twenty events


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as conn:
        yield conn


def books_of(world: World, *, kind: type[Books] = Books, rpc: Rpc | None = None, chain_id: int = CHAIN_ID) -> Books:
    return kind(
        rpc or world.new_rpc(),
        chain_id=chain_id,
        contract=world.chain.settlement.address,
        token=world.chain.token.address,
        token_decimals=18,
    )


def lines(done: Reconciled) -> list[str]:
    return done.differences.as_lines()


def test_what_a_sweep_confirms_between_the_two_looks_is_no_difference(world: World, conn: psycopg.Connection) -> None:
    deal = world.lock()
    world.sweep()  # paid, with one confirmation of the two that it takes
    # As if the row had been read before the sweep stored anything: paid, and nobody expected it.
    world.sql("UPDATE transactions SET status = 'Pending' WHERE id = %s", deal.id)

    def meanwhile(_: float) -> None:
        world.sql("UPDATE transactions SET status = 'Submitted' WHERE id = %s", deal.id)
        world.mine(2)
        world.sweep()
        assert world.trade(deal) == ("Confirmed", None)

    assert lines(reconcile(conn, books=books_of(world), sleep=meanwhile)) == []


def test_what_is_still_wrong_at_the_second_look_is_a_difference(world: World, conn: psycopg.Connection) -> None:
    deal = world.lock()
    world.sweep()
    world.sql("UPDATE transactions SET status = 'Pending', unlock = NULL WHERE id = %s", deal.id)
    paused: list[float] = []
    done = reconcile(conn, books=books_of(world), recheck_s=7.0, sleep=paused.append)
    assert f"trade {deal.id} was paid, but it is Pending" in lines(done)
    assert paused == [7.0]


def test_a_payment_whose_block_gives_way_between_the_two_looks_is_no_difference(
    world: World, conn: psycopg.Connection
) -> None:
    """A stranger's trade stands for one that the database would call wrong."""
    buyer, seller = world.chain.buyer(1), world.chain.person()
    world.chain.settle([trade(buyer, seller, 1)])
    assert len(lines(reconcile(conn, books=books_of(world)))) == 1
    assert lines(reconcile(conn, books=books_of(world), sleep=lambda _: world.reorganise(1))) == []


def test_a_payment_that_was_undone_after_it_counted_is_a_difference_until_a_sweep_knows(
    world: World, conn: psycopg.Connection
) -> None:
    deal = world.lock()
    world.sweep()
    world.mine()
    world.sweep()
    assert world.trade(deal) == ("Confirmed", None)
    world.reorganise(2)
    found = lines(reconcile(conn, books=books_of(world)))
    assert found == [f"trade {deal.id} is Confirmed, but the chain never paid it"]
    world.sweep()
    assert lines(reconcile(conn, books=books_of(world))) == []


def test_signed_bytes_that_may_still_pay_a_trade_that_is_to_be_signed_again_are_no_difference(
    world: World, conn: psycopg.Connection
) -> None:
    deal = world.lock()
    world.sweep()
    world.sql("UPDATE transactions SET status = 'Locked' WHERE id = %s", deal.id)  # its batch was taken for replaced
    assert lines(reconcile(conn, books=books_of(world))) == []
    assert f"trade {deal.id} was paid, but it is Locked" in lines(reconcile(conn, books=books_of(world), at_rest=True))


class _Moving(Books):
    """While the balances are asked for, the newest block gives way to another, so many times."""

    world: World
    times: int

    def escrow(self, accounts: Sequence[str]) -> dict[str, int]:
        if self.times:
            self.times -= 1
            self.world.reorganise(1)
        return super().escrow(accounts)


def _moving(world: World, times: int) -> _Moving:
    books = books_of(world, kind=_Moving)
    assert isinstance(books, _Moving)
    books.world, books.times = world, times
    return books


def test_blocks_that_are_reorganised_while_they_are_read_are_read_again(world: World, conn: psycopg.Connection) -> None:
    world.chain.buyer(5)
    books = _moving(world, 1)  # takes the deposit away
    done = reconcile(conn, books=books)
    assert (lines(done), books.times) == ([], 0)


def test_blocks_that_never_stand_still_are_given_up(world: World, conn: psycopg.Connection) -> None:
    world.chain.buyer(5)
    world.chain.buyer(5)
    world.mine(3)
    with pytest.raises(Unreachable, match="reorganised during each of 3 readings"):
        reconcile(conn, books=_moving(world, 100))


class _Strict(Rpc):
    """A node that answers for a few blocks at a time, and complains otherwise as nodes do."""

    most_blocks = 3
    asked: list[int]

    def call(self, method: str, *params: Any) -> Any:  # noqa: ANN401 -- JSON
        if method == "eth_getLogs":
            blocks = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
            self.asked.append(blocks)
            if blocks > self.most_blocks:
                raise Refused(TOO_MANY_RESULTS, "query returned more than 10000 results")
        return super().call(method, *params)


def test_events_are_read_in_as_small_portions_as_the_node_wants(world: World, conn: psycopg.Connection) -> None:
    deals = [world.lock() for _ in range(3)]
    world.sweep()
    world.mine(2)
    world.sweep()
    assert world.statuses(deals) == ["Confirmed"] * 3
    rpc = _Strict(world.rpc_url)
    rpc.asked = []
    done = reconcile(conn, books=books_of(world, rpc=rpc))
    rpc.close()
    assert (lines(done), done.payments, done.accounts) == ([], 3, 6)
    assert done.block == world.chain.height()
    answered = [blocks for blocks in rpc.asked if blocks <= _Strict.most_blocks]
    assert sum(answered) == done.block + 1  # each block once
    assert max(rpc.asked) <= BLOCKS_PER_QUERY


def test_a_node_that_refuses_even_one_block_is_an_error(world: World, conn: psycopg.Connection) -> None:
    rpc = _Strict(world.rpc_url)
    rpc.asked, rpc.most_blocks = [], 0
    with pytest.raises(Refused, match="more than 10000 results"):
        reconcile(conn, books=books_of(world, rpc=rpc))
    rpc.close()
    assert rpc.asked[-1] == 1


def test_an_answer_that_is_too_long_is_asked_for_in_portions(
    world: World, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    buyer = world.chain.buyer(1)
    for _ in range(30):
        world.chain.settlement.transact(buyer, "withdraw", 1)
        world.chain.deposit(buyer, 1)
    monkeypatch.setattr("energy_market.evm.endpoint.MAX_ANSWER_BYTES", LESS_BYTES)
    rpc = _Strict(world.rpc_url)
    rpc.asked, rpc.most_blocks = [], BLOCKS_PER_QUERY
    done = reconcile(conn, books=books_of(world, rpc=rpc))
    rpc.close()
    assert (lines(done), done.accounts) == ([], 1)
    assert len(rpc.asked) > 2  # 61 events were too much at once


def test_a_node_on_another_chain_is_not_compared(world: World, conn: psycopg.Connection) -> None:
    with pytest.raises(WrongChain, match="on chain 31337, not on 1"):
        reconcile(conn, books=books_of(world, chain_id=1))


def test_a_trade_that_another_contract_paid_is_counted_and_not_asked_for(
    world: World, conn: psycopg.Connection
) -> None:
    deal = world.lock()
    world.sweep()
    world.mine()
    world.sweep()
    assert world.trade(deal) == ("Confirmed", None)
    new = world.chain.deploy_settlement(world.chain.token)
    books = Books(
        world.new_rpc(),
        chain_id=CHAIN_ID,
        contract=new.address,
        token=world.chain.token.address,
        token_decimals=18,
    )
    done = reconcile(conn, books=books)
    assert (lines(done), done.payments, done.paid_elsewhere) == ([], 0, 1)


class _Stuttering(Books):
    """A chain that tells of each payment twice, as one whose contract paid twice would."""

    def read_on(self) -> Iterator[list[Paid]]:
        for page in super().read_on():
            yield [*page, *page]

    def again(self, payments: Any) -> list[Paid]:  # noqa: ANN401 -- as above
        return 2 * super().again(payments)


def test_a_trade_that_was_paid_twice_is_a_difference(world: World, conn: psycopg.Connection) -> None:
    deal = world.lock()
    world.sweep()
    found = lines(reconcile(conn, books=books_of(world, kind=_Stuttering)))
    assert f"trade {deal.id} was paid 2 times" in found


def test_of_very_many_differences_the_first_are_listed_and_all_counted(world: World, conn: psycopg.Connection) -> None:
    user = world.market.user()
    world.sql(
        """INSERT INTO energy_orders (user_id, zone, type, energy_wh, price_micro, all_or_none)
        SELECT %s, 'default', 'buy', 1, 1, true FROM generate_series(1, 2500)""",
        user,
    )  # not one of them in the book
    done = reconcile(conn, books=None)
    assert (done.differences.count, len(done.differences.lines)) == (2500, 1000)
    assert lines(done)[-1] == "... and 1500 more"


def test_a_look_writes_nothing_and_sees_one_moment(world: World, conn: psycopg.Connection) -> None:
    with conn.transaction():
        reconciliation.hold_still(conn)
        reconciliation.allow(conn, 2.5)
        before = conn.execute("SELECT count(*) FROM users").fetchone()
        world.market.user()
        assert conn.execute("SELECT count(*) FROM users").fetchone() == before
        assert conn.execute("SHOW statement_timeout").fetchone() == ("2500ms",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), conn.transaction():
            conn.execute("DELETE FROM users WHERE id = %s", (UUID(int=0),))
    assert conn.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_a_comparison_that_takes_too_long_is_given_up(world: World, conn: psycopg.Connection) -> None:
    world.lock()
    times = iter([0.0, *[1.0] * 10, *[30.0] * 1000])
    with pytest.raises(OutOfTime, match="not compared in 20 s"):
        reconcile(conn, books=books_of(world), deadline_s=20.0, monotonic=lambda: next(times))


def test_a_query_that_takes_too_long_is_cancelled(
    world: World, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "CHECKS", ("SELECT pg_sleep(60)::text",))
    with pytest.raises(psycopg.errors.QueryCanceled):
        reconcile(conn, books=books_of(world), deadline_s=0.2)
