"""The one connection of a sandbox, behind whatever stands between it and the server.

A pooler (PgBouncer, RDS Proxy) may give each transaction another of its sessions with the server, and that session to
somebody else afterwards. Nothing here relies on a session unless it is known to be ours. And a server, or what stands
before it, may fall silent without closing the connection: no wait is endless.
"""

import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Final, TypeVar

import psycopg
from psycopg import Connection, sql
from psycopg.abc import PQGen
from psycopg.errors import (
    DuplicatePreparedStatement,
    IdleInTransactionSessionTimeout,
    InvalidSqlStatementName,
    ReadOnlySqlTransaction,
)
from psycopg.pq import TransactionStatus

_NOT_OUR_SESSION: Final = (InvalidSqlStatementName, DuplicatePreparedStatement)
UNAVAILABLE: Final = (
    psycopg.OperationalError,
    IdleInTransactionSessionTimeout,
    ReadOnlySqlTransaction,
    *_NOT_OUR_SESSION,
)
"""What a later try may well not meet: the server is away, starting, silent, overloaded or full (SQLSTATE classes 08,
53, 57, 58), it cancelled the statement or the session (57014, 25P03), another transaction was in the way (40001,
40P01), it is the former writer after a failover (25006), or a pooler gave a session to two clients (26000, 42P05)."""
CONNECT_TIMEOUT_S: Final = 3
"""Seconds for a new connection, to each address that the server's name has."""
FIRST_ANSWER_S: Final = 2.0
"""Seconds for the first answer on a connection that was not used for `IDLE_S`: who is silent so long is gone."""
IDLE_S: Final = 1.0
STATEMENT_S: Final = 5.0
"""Seconds that the server may work on one statement, and that a transaction may stand idle."""
BEYOND_STATEMENT_S: Final = 1.0
"""Seconds that an answer may take on top: a server that is there gives up first, and keeps the connection."""
T = TypeVar("T")
# CASE, since of an AND the server may look at the second part first.
_WHOSE_SESSION: Final = """
    SELECT CASE WHEN pg_backend_pid() = %(told)s
           THEN set_config('statement_timeout', %(limit)s, false)
                || set_config('idle_in_transaction_session_timeout', %(limit)s, false) END,
           current_setting('transaction_read_only')"""
# Neither is a query: SET TRANSACTION may follow.
_LIMITS: Final = sql.SQL(
    "SET LOCAL statement_timeout = {0}; SET LOCAL idle_in_transaction_session_timeout = {0}; SHOW transaction_read_only"
)
_INTERVAL_S: Final = 0.1  # psycopg looks for signals, and for the end of a wait, so often


class Unreachable(psycopg.OperationalError):
    """No connection could be made: whatever else is to be done now will not find one either."""


class ReadsOnly(Unreachable):
    """It was a former writer, a failover ago: what is read there is old, and nothing can be written."""


class Silent(psycopg.OperationalError):
    """The server did not answer in time. The connection is dropped; what was under way may have happened or not."""


class BoundedConnection(Connection):
    """A connection on which no answer is waited for longer than `answer_s`, nor beyond `deadline` (monotonic seconds).

    `is_shared`: the server's session may be another's each time. Then each transaction begins with its limits.
    """

    answer_s: float = math.inf
    deadline: float = math.inf
    is_shared: bool = False
    limit_ms: int = 0
    _answered_at: float = -math.inf

    def wait(self, gen: PQGen[T], interval: float = _INTERVAL_S, timeout: float | None = None) -> T:
        """Talk to the server, as psycopg does for every statement. Raises `Silent`."""
        left_s = min(self._patience_s(), math.inf if timeout is None else timeout)
        if left_s <= 0:
            self.close()  # nothing is sent: a COMMIT that nobody waits for would only leave doubt
            raise Silent("There is no time left to ask the server.")
        try:
            done = super().wait(gen, interval, None if left_s == math.inf else left_s)
        except psycopg.errors._WaitTimeout:  # noqa: SLF001 -- psycopg tells callers to convert it, and has no other name for it
            self.close()
            raise Silent(f"The server did not answer within {left_s:.1f} s.") from None
        self._answered_at = monotonic()
        return done

    def _patience_s(self) -> float:
        now = monotonic()
        answer_s = self.answer_s
        if now - self._answered_at > IDLE_S and self.pgconn.transaction_status == TransactionStatus.IDLE:
            answer_s = min(answer_s, FIRST_ANSWER_S)
        return min(answer_s, self.deadline - now)


def connect(
    url: str,
    *,
    statement_s: float | None = STATEMENT_S,
    deadline: float = math.inf,
    connect_timeout_s: int = CONNECT_TIMEOUT_S,
    prepare: bool = True,
) -> BoundedConnection:
    """A new connection in autocommit mode, whose times are in UTC.

    `statement_s`: how long the server may work on a statement, and a transaction may stand idle; None: no limit.
    `deadline`: when to give up for good, in seconds of `time.monotonic`. `prepare`: prepare what is repeated, if the
    session is ours. Raises `Unreachable`, `ReadsOnly` among them.
    """
    if deadline - monotonic() < connect_timeout_s:
        raise Unreachable("There is no time left to connect.")
    # libpq sends it as a parameter of the session's start, which poolers keep for each client. As `options` they
    # would refuse it.
    os.environ["PGTZ"] = "UTC"
    try:
        connection = BoundedConnection.connect(url, autocommit=True, connect_timeout=connect_timeout_s)
    except psycopg.OperationalError as error:
        raise Unreachable(str(error)) from error
    try:
        connection.answer_s, connection.deadline = connect_timeout_s, deadline
        _find_out_whose_session(connection, statement_s=statement_s)
        connection.answer_s = math.inf if statement_s is None else statement_s + BEYOND_STATEMENT_S
        if connection.is_shared or not prepare:
            connection.prepare_threshold = None
        else:
            # Names that no other client has: were the session another's after all, its statement would never be ours.
            connection._prepared._prepared_idx = secrets.randbits(63)  # noqa: SLF001 -- psycopg counts from 0
    except BaseException as error:
        connection.close()
        if isinstance(error, psycopg.OperationalError) and not isinstance(error, Unreachable):
            raise Unreachable(str(error)) from error
        raise
    return connection


def _find_out_whose_session(connection: BoundedConnection, *, statement_s: float | None) -> None:
    """Set the session's limits if it is ours for as long as the connection lasts; otherwise only take note of it.

    A pooler invents the process id that it tells a client: it must recognise that client's cancellations. So a session
    whose process has the id that we were told is one that we talk to directly.
    """
    limit_ms = 0 if statement_s is None else round(1000 * statement_s)
    ((done, only_reads),) = connection.execute(
        _WHOSE_SESSION, {"told": connection.info.backend_pid, "limit": str(limit_ms)}
    )
    connection.is_shared = done is None
    connection.limit_ms = limit_ms
    _refuse_to_read_only(only_reads)


def _refuse_to_read_only(transaction_read_only: str) -> None:
    if transaction_read_only == "on":
        raise ReadsOnly("The server takes no writes: another one does.")


class Database:
    """Opens a connection when first needed, keeps it, and opens another when the kept one was dropped or fell silent.

    A Lambda sandbox serves one request at a time, so one connection is all it needs; making a connection
    costs ten times what a request's statements cost.
    """

    def __init__(self, url: str, *, statement_s: float = STATEMENT_S) -> None:
        """`url`: a libpq connection string. `statement_s` as in `connect`. Nothing is opened yet."""
        self._url = url
        self._statement_s = statement_s
        self._deadline = math.inf
        self._prepares = True
        self._connection: BoundedConnection | None = None

    def start_deadline(self, deadline_s: float) -> None:
        """From now on for so many seconds the server is waited for; what is asked later raises at once."""
        self._deadline = monotonic() + deadline_s
        if self._connection is not None:
            self._connection.deadline = self._deadline

    def statement(self, work: Callable[[Connection], T]) -> T:
        """What `work` finds out by one statement, which is a transaction of its own: nothing else is sent.

        Only for statements that are safe to repeat: if the kept connection is gone, the statement runs again on a new
        one. Raises as `transaction` does.
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
        breaks, or falls silent, while COMMIT is under way nobody knows whether it took effect: whoever calls must be
        able to do the same again.
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
        except _NOT_OUR_SESSION:
            self._prepares = False
            self.close()
            raise
        finally:
            # A connection that is kept has no transaction open: in one that lingered, the next would only be a part.
            if self._connection is not None and self._connection.info.transaction_status != TransactionStatus.IDLE:
                self.close()

    def _begin(self, stack: ExitStack) -> BoundedConnection:
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
                return self._limited(self._connection)
        connection = self._connect()
        stack.enter_context(connection.transaction())
        return self._limited(connection)

    @staticmethod
    def _limited(connection: BoundedConnection) -> BoundedConnection:
        """In a session that is not ours the limits are the transaction's, and the server may be another one, too."""
        if connection.is_shared:
            cursor = connection.execute(_LIMITS.format(sql.Literal(connection.limit_ms)))
            while cursor.nextset():
                pass
            for (only_reads,) in cursor:
                _refuse_to_read_only(only_reads)
        return connection

    def _connect(self) -> BoundedConnection:
        """A new connection, which is kept."""
        self.close()
        self._connection = connect(
            self._url, statement_s=self._statement_s, deadline=self._deadline, prepare=self._prepares
        )
        return self._connection


@contextmanager
def read_only(url: str, *, deadline_s: float) -> Iterator[Connection]:
    """A connection for this block, whose transactions write nothing, in autocommit mode. How long they take is theirs.

    Nothing is waited for longer than `deadline_s` from now. Raises `psycopg.OperationalError` when the database cannot
    be reached.
    """
    with connect(url, statement_s=None, deadline=monotonic() + deadline_s) as connection:
        connection.read_only = True
        yield connection
