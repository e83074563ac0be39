"""Compare database and chain, while the market runs and without writing anything.

The rules within the database are a list of queries (`postgres.reconciliation`). Between database and chain the
following must hold, whatever crashed, came twice or came late:

- A confirmed trade was paid exactly once, to and from the right accounts; no other trade was ever paid.
- Each account's escrow is its deposits and receipts minus its withdrawals and payments.
- The contract's tokens are the sum of all escrow.

The two cannot be read at the same moment, so the order of reading matters. A payment on the chain was stored before:
the database is read after the chain, and must know it. A trade that the database calls confirmed was paid before: the
chain is read after the database, and must know that. Suspected differences are read once more.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar
from uuid import UUID

from psycopg import Connection

from energy_market.domain.reconciliation import Differences
from energy_market.evm.books import Books, Paid
from energy_market.evm.rpc import Unreachable
from energy_market.postgres import reconciliation
from energy_market.postgres.reconciliation import BookedTrade

ATTEMPTS: Final = 3
TRADES_AT_ONCE: Final = 500
ACCOUNTS_AT_ONCE: Final = 500
MAX_SUSPECTS: Final = 1_000
"""Maximum trades that are read a second time. With more, the difference is beyond doubt."""
NANO_DECIMALS: Final = 9

T = TypeVar("T")


class OutOfTime(Exception):
    """The comparison did not finish in its time."""


@dataclass(slots=True, kw_only=True)
class Reconciled:
    """The differences, and how much was compared."""

    differences: Differences = field(default_factory=Differences)
    block: int = -1  # the newest that was compared
    payments: int = 0
    accounts: int = 0
    paid_elsewhere: int = 0  # confirmed trades of another contract, which was not read


@dataclass(slots=True, kw_only=True)
class _Suspects:
    """Trades that looked wrong once, with their payments; `unpaid` are those without a payment."""

    payments: dict[UUID, list[Paid]] = field(default_factory=dict)
    unpaid: set[UUID] = field(default_factory=set)
    beyond: int = 0

    def add(self, trade: UUID, payments: Collection[Paid] = ()) -> None:
        if len(self.payments) + len(self.unpaid) >= MAX_SUSPECTS:
            self.beyond += 1
        elif payments:
            self.payments.setdefault(trade, []).extend(payments)
        else:
            self.unpaid.add(trade)


def reconcile(
    conn: Connection,
    *,
    books: Books | None,
    at_rest: bool = False,
    deadline_s: float = 300.0,
    recheck_s: float = 0.0,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Reconciled:
    """Compare everything in at most `deadline_s` seconds. Without `books`, the chain is left out.

    `conn` must not be in a transaction. `at_rest`: nothing is under way, so anything unfinished is a difference too.
    `recheck_s`: pause before the second reading. Raises psycopg's errors if the database cannot be read,
    `evm.rpc.ChainError` if the chain cannot, and OutOfTime.
    """
    deadline = monotonic() + deadline_s

    def remaining_s() -> float:
        if monotonic() >= deadline:
            raise OutOfTime(f"database and chain were not compared in {deadline_s:.0f} s")
        return deadline - monotonic()

    done = Reconciled()
    with _look(conn, remaining_s):
        done.differences = reconciliation.database_differences(conn, at_rest=at_rest, allowed_s=remaining_s)
    if books is None:
        return done
    books.start_deadline(remaining_s())
    for sentence in books.check():
        done.differences.add(sentence)
    for _ in range(ATTEMPTS):
        books.start_again()
        suspects, done.payments = _suspects(conn, books, remaining_s, at_rest=at_rest)
        escrow = _escrow_differences(books)
        if books.stand():
            break
    else:
        raise Unreachable(f"blocks were reorganised during each of {ATTEMPTS} readings")
    done.block, done.accounts = books.block, len(books.accounts)
    done.differences.extend(escrow)
    if suspects.payments or suspects.unpaid:
        sleep(recheck_s)
        done.differences.extend(_second_look(conn, books, suspects, remaining_s, at_rest=at_rest))
    if suspects.beyond:
        done.differences.add(f"{suspects.beyond} more trades differ", times=suspects.beyond)
    with _look(conn, remaining_s):
        done.paid_elsewhere = reconciliation.confirmed_elsewhere(conn, chain_id=books.chain_id, contract=books.contract)
    return done


@contextmanager
def _look(conn: Connection, remaining_s: Callable[[], float]) -> Iterator[None]:
    """A transaction that sees the database at one moment."""
    with conn.transaction():
        reconciliation.hold_still(conn)
        reconciliation.allow(conn, remaining_s())
        yield


def _suspects(
    conn: Connection, books: Books, remaining_s: Callable[[], float], *, at_rest: bool
) -> tuple[_Suspects, int]:
    """The trades that look wrong, and the number of payments."""
    suspects = _Suspects()
    count = 0
    for page in books.read_on():
        count += len(page)
        times = Counter(payment.trade_id for payment in page)
        for payments in _slices(page, TRADES_AT_ONCE):
            with _look(conn, remaining_s):
                trades = reconciliation.booked_trades(conn, [p.trade_id for p in payments])
            for payment in payments:
                trade = trades.get(payment.trade_id)
                if times[payment.trade_id] > 1 or _wrong(payment, trade, books, at_rest=at_rest):
                    suspects.add(payment.trade_id, [payment])
    for ids in _confirmed(conn, books, remaining_s):
        for trade_id in set(ids) - books.settled(ids):
            suspects.add(trade_id)
    return suspects, count


def _second_look(
    conn: Connection, books: Books, suspects: _Suspects, remaining_s: Callable[[], float], *, at_rest: bool
) -> Iterator[str]:
    """Differences that remain. The first may have come from a sweep at work, or from a block that was replaced."""
    payments = books.again([payment for known in suspects.payments.values() for payment in known])
    with _look(conn, remaining_s):
        trades = reconciliation.booked_trades(conn, [*suspects.payments, *suspects.unpaid])
    times = Counter(payment.trade_id for payment in payments)
    for trade_id, number in times.items():
        if number > 1:
            yield f"trade {trade_id} was paid {number} times"
    for payment in payments:
        yield from _wrong(payment, trades.get(payment.trade_id), books, at_rest=at_rest)
    for ids in _slices(sorted(suspects.unpaid), TRADES_AT_ONCE):
        for trade_id in sorted(set(ids) - books.settled(ids)):
            if trade_id in trades and trades[trade_id].status == "Confirmed":
                yield f"trade {trade_id} is Confirmed, but the chain never paid it"


def _wrong(paid: Paid, trade: BookedTrade | None, books: Books, *, at_rest: bool) -> list[str]:
    """The differences of one payment."""
    if trade is None:
        return [f"the chain paid a trade {paid.trade_id} that nobody knows"]
    found = []
    # Signed bytes may pay at any time; the next sweeps learn of it.
    is_expected = trade.status == "Submitted" or (trade.status == "Locked" and trade.was_signed)
    if trade.status != "Confirmed" and (at_rest or not is_expected):
        found.append(f"trade {trade.id} was paid, but it is {trade.status}")
    unit = 10 ** max(0, books.token_decimals - NANO_DECIMALS)
    stored = (trade.buyer, trade.seller, trade.amount_nano * unit, trade.energy_wh)
    on_chain = (paid.buyer, paid.seller, paid.amount, paid.energy_wh)
    if stored != on_chain:
        found.append(f"trade {trade.id} was paid as {on_chain}, but it is {stored}")
    if trade.status == "Confirmed" and trade.blockchain_hash != paid.transaction_hash:
        found.append(f"trade {trade.id} names {trade.blockchain_hash}, but was paid in {paid.transaction_hash}")
    return found


def _escrow_differences(books: Books) -> list[str]:
    """Accounts whose escrow differs from what the events add up to.

    Read in portions, each at the newest block of its moment: a node may have dropped a state that is minutes old.
    """
    found = []
    for accounts in _slices(books.accounts, ACCOUNTS_AT_ONCE):
        for _ in books.read_on():
            pass  # payments made meanwhile are left to the next comparison
        for account, escrow in books.escrow(accounts).items():
            by_events = books.escrow_by_events(account)
            if escrow != by_events:
                found.append(f"account {account} has {escrow} in escrow, but by the events it should be {by_events}")
    for _ in books.read_on():
        pass
    sums = books.holdings()
    if not sums.held == sums.stated == sums.by_events:
        found.append(
            f"the contract holds {sums.held} tokens' units and states {sums.stated} as escrow,"
            f" but the accounts have {sums.by_events}"
        )
    return found


def _confirmed(conn: Connection, books: Books, remaining_s: Callable[[], float]) -> Iterator[list[UUID]]:
    """The trades that count as paid by the contract, a page at a time."""
    after_seq = 0
    while True:
        with _look(conn, remaining_s):
            rows = reconciliation.confirmed_trades(
                conn, chain_id=books.chain_id, contract=books.contract, after_seq=after_seq, limit=TRADES_AT_ONCE
            )
        if not rows:
            return
        yield [trade_id for _, trade_id in rows]
        after_seq = rows[-1][0]


def _slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
