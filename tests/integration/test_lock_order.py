"""No two transactions ever wait for each other: rows are locked in one order, the book by whoever holds nothing."""

import threading
from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

import psycopg
import pytest
from psycopg import Connection
from psycopg.errors import LockNotAvailable

from energy_market.domain.matching import Book, Match
from energy_market.postgres import batches, book, deliveries, settleable, trades
from energy_market.usecases import run_tick as tick_module
from energy_market.usecases.run_tick import Tick, run_tick
from tests.support.market import SETTINGS, Market
from tests.support.trouble.alongside import Alongside, wait_until_somebody_waits_for

ASKS = 6


@pytest.fixture
def other(database_url: str) -> Iterator[Connection]:
    """Somebody else's transaction."""
    with psycopg.connect(database_url) as conn:
        conn.execute("SET lock_timeout = '3 s'")
        yield conn
        conn.rollback()


def crossed_book(market: Market) -> list[UUID]:
    """Asks that all match with one bid, and stay in the book with it because their devices have less than they sell."""
    for _ in range(ASKS):
        market.order(market.home(available_wh=500).user, "sell", 10_000, 1_000, partial=True)
    market.order(market.user(), "buy", 10_000, 1_000, partial=True)
    return [row[0] for row in market.sql("SELECT order_id FROM open_orders ORDER BY order_id")]  # type: ignore[misc]


def free_rows(conn: Connection) -> int:
    """How many rows of the book nobody has locked."""
    rows = conn.execute("SELECT order_id FROM open_orders FOR UPDATE SKIP LOCKED").fetchall()
    return len(rows)


def test_a_match_waits_but_a_moment_for_a_row_of_the_book_and_is_made_by_the_next_tick(
    market: Market, database_url: str, other: Connection
) -> None:
    first, *others = crossed_book(market)
    other.execute("SELECT FROM open_orders WHERE order_id = %s FOR UPDATE", (first,))
    ticks = Market(database_url)
    with pytest.raises(LockNotAvailable):
        ticks.tick()
    ticks.close()
    with psycopg.connect(database_url) as third:
        assert free_rows(third) == len(others)
    other.rollback()
    assert len(market.tick().trade_ids) == ASKS


def test_a_failure_that_waits_for_the_first_row_of_the_book_holds_none_of_the_others(
    market: Market, database_url: str, other: Connection
) -> None:
    first, *others = crossed_book(market)
    made = market.tick().trade_ids
    other.execute("SELECT FROM open_orders WHERE order_id = %s FOR UPDATE", (first,))

    def fail() -> None:
        with psycopg.connect(database_url) as conn:
            assert len(trades.fail(conn, made, reason="lock_timeout", expected="Pending")) == ASKS

    failing = Alongside(fail)
    wait_until_somebody_waits_for(other)
    with psycopg.connect(database_url) as third:
        assert free_rows(third) == len(others)
    other.rollback()
    failing.end()
    assert market.sql("SELECT count(*) FROM open_orders") == [(ASKS + 1,)]


@pytest.fixture
def _holds_the_book_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tick_module, "ATTEMPTS", 1)


@pytest.mark.usefixtures("_holds_the_book_at_once")
def test_a_tick_does_not_hold_the_book_while_somebody_has_a_row_of_it(
    market: Market, database_url: str, other: Connection
) -> None:
    """He is about to write, and would wait for the tick, which would wait for his row."""
    crossed_book(market)
    ((ask,), *_) = market.sql("SELECT order_id FROM open_orders WHERE type = 'sell'")
    other.execute("SELECT FROM open_orders WHERE order_id = %s FOR UPDATE", (ask,))
    ticks = Market(database_url)
    ticking = Alongside(ticks.tick)
    wait_until_somebody_waits_for(other)
    other.execute("DELETE FROM open_orders WHERE order_id = %s", (ask,))
    other.commit()
    ticking.end()
    ticks.close()
    assert market.sql("SELECT count(*) FROM transactions") == [(ASKS - 1,)]


@pytest.mark.usefixtures("_holds_the_book_at_once")
def test_ticks_of_two_zones_that_both_want_the_book_take_turns(
    market: Market, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.sql("INSERT INTO zones (id) VALUES ('west')")
    both_arrived = threading.Barrier(2, timeout=10)
    see = book.see_one_moment

    def wait_and_see(conn: Connection, *, hold: bool) -> None:
        assert hold
        both_arrived.wait()
        see(conn, hold=hold)

    monkeypatch.setattr(book, "see_one_moment", wait_and_see)
    ticks: list[Tick] = []

    def tick(zone: str) -> None:
        own = Market(database_url)
        try:
            ticks.append(run_tick(own.database, zone=zone, device_online_s=SETTINGS.device_online_s))
        finally:
            own.close()

    ticking = [Alongside(lambda: tick("default")), Alongside(lambda: tick("west"))]
    for one in ticking:
        one.end()
    assert [one.ran for one in ticks] == [True, True]


@pytest.mark.usefixtures("_holds_the_book_at_once")
def test_who_holds_the_book_has_no_order(
    market: Market, database_url: str, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order whose lock ran out is closed by the tick; whoever cancels it must not have to wait for the match."""
    _, _, ask, bid, _ = market.matched()
    market.sql("UPDATE transactions SET expires_at = clock_timestamp()")
    crossed_book(market)
    write = book.take
    owners: list[object] = []

    def look_and_write(conn: Connection, matches: list[Match], seen: Book) -> bool:
        owners.extend(
            other.execute(
                "SELECT id FROM energy_orders WHERE id = ANY (%s) FOR NO KEY UPDATE NOWAIT", ([ask, bid],)
            ).fetchall()
        )
        other.rollback()
        return write(conn, matches, seen)

    monkeypatch.setattr(book, "take", look_and_write)
    ticks = Market(database_url)
    assert ticks.tick().locks_expired == 1
    ticks.close()
    assert len(owners) == 2


# ------------------------------------------------------------------------------------------------ trades

ACCOUNT = batches.Account(chain_id=1, sender="0x")


def store(conn: Connection, made: Sequence[UUID]) -> UUID:
    batch = batches.store(
        conn,
        ACCOUNT,
        contract="0x",
        nonce=0,
        tx_hash="0x1",
        raw=b"",
        max_fee=1,
        priority_fee=1,
        asked=(1, 1),
        trades=made,
    )
    assert batch is not None
    return batch


def locked_trades(market: Market) -> list[UUID]:
    """Trades of one device, in the order in which they were made."""
    home = market.home()
    for _ in range(ASKS):
        market.order(home.user, "sell", 500, 1_000)
    market.order(market.user(), "buy", 10_000, 1_000, partial=True)
    made = market.tick().trade_ids
    market.publish()
    market.sql("UPDATE transactions SET status = 'Locked', locked_at = now(), valid_until = now() + interval '1 hour'")
    # Whoever goes through them by id does not meet the oldest first.
    oldest = next(place for place, one in enumerate(made) if one != min(made[place:]))
    return list(made[oldest:])


def confirm(conn: Connection, made: Sequence[UUID]) -> UUID:
    batch = store(conn, made)
    batches.mark_mined(conn, batch, tx_hash="0x1", block_number=1, block_hash="0xb")
    settleable.confirm(conn, made, tx_hash="0x1", delivery_window_s=60)
    return batch


def answered(conn: Connection, _made: Sequence[UUID]) -> None:
    """Their device has counted its answers, and will list none of them."""
    conn.execute("UPDATE transactions SET lock_seq = 1")


STEPS: dict[str, tuple[Callable[[Connection, Sequence[UUID]], UUID | None], Callable[..., object | None]]] = {
    "store": (lambda _conn, _made: None, lambda conn, made, _batch: store(conn, made)),
    "confirm": (
        store,
        lambda conn, made, _batch: settleable.confirm(conn, made, tx_hash="0x1", delivery_window_s=60),
    ),
    "put back": (confirm, lambda conn, _made, batch: batches.put_back(conn, batch)),
    "end": (store, lambda conn, _made, batch: batches.end_without_effect(conn, batch, "Reverted", reason="x")),
    "fail": (
        lambda _conn, _made: None,
        lambda conn, made, _batch: trades.fail(conn, made, reason="settlement_expired", expected="Locked"),
    ),
    "status": (
        answered,
        lambda conn, _made, _batch: deliveries.hold_reserved(
            conn, conn.execute("SELECT device_id FROM transactions LIMIT 1").fetchall()[0][0], [], seq=2
        ),
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_whatever_changes_several_trades_locks_the_oldest_first(
    market: Market, database_url: str, other: Connection, step: str
) -> None:
    prepare, change = STEPS[step]
    oldest, *others = made = locked_trades(market)
    with market.database.transaction() as conn:
        batch = prepare(conn, made)
    other.execute("SELECT FROM transactions WHERE id = %s FOR NO KEY UPDATE", (oldest,))

    def run() -> None:
        with psycopg.connect(database_url) as conn:
            conn.execute("SET enable_seqscan = off")
            conn.execute("SET enable_bitmapscan = off")
            change(conn, made, batch)

    changing = Alongside(run)
    wait_until_somebody_waits_for(other)
    with psycopg.connect(database_url) as third:
        free = third.execute("SELECT id FROM transactions ORDER BY seq FOR NO KEY UPDATE SKIP LOCKED").fetchall()
    other.rollback()
    changing.end()
    assert set(others) <= {row[0] for row in free}
