"""The one connection of a sandbox."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, TypeVar

import psycopg
from psycopg import Connection
from psycopg.errors import IdleInTransactionSessionTimeout, ReadOnlySqlTransaction
from psycopg.pq import TransactionStatus

UNAVAILABLE: Final = (psycopg.OperationalError, IdleInTransactionSessionTimeout, ReadOnlySqlTransaction)
"""What a later try may well not meet: the server is away, starting, overloaded or full (SQLSTATE classes 08, 53, 57,
58), it cancelled the statement or the session (57014, 25P03), another transaction was in the way (40001, 40P01), or it
is the former writer after a failover (25006)."""
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 20_000
T = TypeVar("T")
_READ_ONLY_SESSION = b"SET default_transaction_read_only = on; SET timezone = 'UTC'"
_SESSION = f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}; SET timezone = 'UTC'".encode()


class Unreachable(psycopg.OperationalError):
    """No connection could be made: whatever else is to be done now will not find one either."""


class Database:
    """Opens a connection when first needed, keeps it, and opens another when the kept one was dropped.

    A Lambda sandbox serves one request at a time, so one connection is all it needs; making a connection
    costs ten times what a request's statements cost.
    """

    def __init__(self, url: str) -> None:
        """`url`: a libpq connection string. Nothing is opened yet."""
        self._url = url
        self._connection: Connection | None = None

    def statement(self, work: Callable[[Connection], T]) -> T:
        """What `work` finds out by one statement, which is a transaction of its own: nothing else is sent.

        For what may be said twice without harm, as all that only reads may: when the kept connection turns out to be
        gone, it is said again on another. Raises as `transaction` does.
        """
        with self._left_clean():
            if self._connection is not None and not self._connection.closed:
                try:
                    return work(self._connection)
                except psycopg.OperationalError:
                    if not self._connection.closed:
                        raise
            return work(self._connect())

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, rolled back when it raises.

        Raises one of `UNAVAILABLE` when the database cannot serve now, `Unreachable` among them. If the connection
        breaks while COMMIT is under way nobody knows whether it took effect: whoever calls must be able to do the same
        again.
        """
        with self._left_clean(), ExitStack() as stack:
            yield self._begin(stack)

    def close(self) -> None:
        """Drop the kept connection; the next transaction opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _left_clean(self) -> Iterator[None]:
        """Keep the connection only if the next one can use it."""
        try:
            yield
        except ReadOnlySqlTransaction:
            self.close()  # another server writes now; this one would refuse for as long as it is asked
            raise
        finally:
            # A connection that is kept has no transaction open: in one that lingered, the next would only be a part.
            if self._connection is not None and self._connection.info.transaction_status != TransactionStatus.IDLE:
                self.close()

    def _begin(self, stack: ExitStack) -> Connection:
        """Begin a transaction, on a new connection if the kept one is gone.

        A server that restarted, or a proxy that dropped an idle connection, is only noticed by talking to it.
        BEGIN is what we say first anyway, and the only statement that may be said twice without a thought.
        """
        if self._connection is not None and not self._connection.closed:
            try:
                stack.enter_context(self._connection.transaction())
            except psycopg.Error:
                self.close()
            else:
                return self._connection
        connection = self._connect()
        stack.enter_context(connection.transaction())
        return connection

    def _connect(self) -> Connection:
        """A new connection, which is kept."""
        self.close()
        try:
            connection = psycopg.connect(self._url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
        except psycopg.OperationalError as error:
            raise Unreachable(str(error)) from error
        try:
            # Not as options of the connection: RDS Proxy and PgBouncer refuse those.
            connection.execute(_SESSION)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection


@contextmanager
def read_only(url: str) -> Iterator[Connection]:
    """A connection for this block, whose transactions write nothing, in autocommit mode. How long they take is theirs.

    Raises `psycopg.OperationalError` when the database cannot be reached.
    """
    with psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        connection.execute(_READ_ONLY_SESSION)
        yield connection
