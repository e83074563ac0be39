"""A sandbox's single connection to the server, direct or through a pooler.

A pooler (PgBouncer, RDS Proxy) may run each transaction in a different server session and give the session to another
client afterwards. Nothing here relies on session state unless the session is known to be ours. A server or a pooler may
also fall silent without closing the connection, so every wait has a limit.
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
"""Errors that a later try may not meet. The server is away, starting, silent, overloaded or full (SQLSTATE classes 08,
53, 57, 58), it cancelled the statement or the session (57014, 25P03), another transaction was in the way (40001,
40P01), it is the former writer after a failover (25006), or a pooler gave a session to two clients (26000, 42P05)."""
CONNECT_TIMEOUT_S: Final = 3
"""Seconds for a new connection, for each address of the server's name."""
FIRST_ANSWER_S: Final = 2.0
"""Seconds for the first answer on a connection that was idle for `IDLE_S`; after that the connection counts as lost."""
IDLE_S: Final = 1.0
STATEMENT_S: Final = 5.0
"""Seconds that the server may spend on one statement, and that a transaction may stay idle."""
BEYOND_STATEMENT_S: Final = 1.0
"""Seconds beyond the server's own limit. A live server gives up first, and the connection is kept."""
T = TypeVar("T")
# CASE fixes the order of evaluation; for AND, the server may evaluate the second operand first.
_WHOSE_SESSION: Final = """
    SELECT CASE WHEN pg_backend_pid() = %(told)s
           THEN set_config('statement_timeout', %(limit)s, false)
                || set_config('idle_in_transaction_session_timeout', %(limit)s, false) END,
           current_setting('transaction_read_only')"""
# Neither statement is a query, so SET TRANSACTION may still follow.
_LIMITS: Final = sql.SQL(
    "SET LOCAL statement_timeout = {0}; SET LOCAL idle_in_transaction_session_timeout = {0}; SHOW transaction_read_only"
)
_INTERVAL_S: Final = 0.1  # how often psycopg checks for signals and for the end of a wait


class Unreachable(psycopg.OperationalError):
    """No connection could be made, and further attempts now would fail as well."""


class ReadsOnly(Unreachable):
    """The server is the former writer after a failover: its data is outdated, and it accepts no writes."""


class Silent(psycopg.OperationalError):
    """The server did not answer in time. The connection is dropped; the statement under way may or may not have run."""


class BoundedConnection(Connection):
    """A connection that waits at most `answer_s` for an answer, and never beyond `deadline` (monotonic seconds).

    `is_shared`: each transaction may run in another server session, so each one sets its own limits.
    """

    answer_s: float = math.inf
    deadline: float = math.inf
    is_shared: bool = False
    limit_ms: int = 0
    _answered_at: float = -math.inf

    def wait(self, gen: PQGen[T], interval: float = _INTERVAL_S, timeout: float | None = None) -> T:
        """Wait for the server; psycopg calls this for every statement. Raises `Silent`."""
        left_s = min(self._patience_s(), math.inf if timeout is None else timeout)
        if left_s <= 0:
            self.close()  # send nothing: the outcome of a COMMIT without a wait would be unknown
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

    `statement_s`: limit for a statement's work on the server, and for an idle transaction; None: no limit. `deadline`:
    time of `time.monotonic` after which no answer is awaited. `prepare`: prepare repeated statements, if the session is
    ours. Raises `Unreachable` or its subclass `ReadsOnly`.
    """
    if deadline - monotonic() < connect_timeout_s:
        raise Unreachable("There is no time left to connect.")
    # libpq sends PGTZ as a startup parameter, which poolers keep for each client. They would reject it inside
    # `options`.
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
            # Random names: if the session does belong to another client after all, its statements never have our names.
            connection._prepared._prepared_idx = secrets.randbits(63)  # noqa: SLF001 -- psycopg counts from 0
    except BaseException as error:
        connection.close()
        if isinstance(error, psycopg.OperationalError) and not isinstance(error, Unreachable):
            raise Unreachable(str(error)) from error
        raise
    return connection


def _find_out_whose_session(connection: BoundedConnection, *, statement_s: float | None) -> None:
    """Set the session's limits if the session is ours while the connection lasts; otherwise only mark it as shared.

    A pooler invents the process id that it reports to a client, to recognise that client's cancellations. If the
    session's real process id equals the reported one, no pooler stands between.
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
        """Set a deadline `deadline_s` from now: later statements wait no longer, and raise at once after it."""
        self._deadline = monotonic() + deadline_s
        if self._connection is not None:
            self._connection.deadline = self._deadline

    def statement(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, which executes one statement, without BEGIN and COMMIT: the statement is its own transaction.

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
        breaks or falls silent during COMMIT, it is unknown whether the transaction took effect. The caller must be able
        to repeat it without harm.
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
        """Drop the connection if the next transaction could not use it."""
        try:
            yield
        except ReadOnlySqlTransaction:
            self.close()  # another server is the writer now; this one would refuse every time
            raise
        except _NOT_OUR_SESSION:
            self._prepares = False
            self.close()
            raise
        finally:
            # A kept connection has no open transaction: the next transaction would only be nested in it.
            if self._connection is not None and self._connection.info.transaction_status != TransactionStatus.IDLE:
                self.close()

    def _begin(self, stack: ExitStack) -> BoundedConnection:
        """Begin a transaction, on a new connection if the kept one is gone.

        Only traffic shows that a server restarted or that a proxy dropped an idle connection. BEGIN is the first
        statement in any case, and repeating it is always harmless.
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
        """Set the limits per transaction in a shared session, and check that its server accepts writes."""
        if connection.is_shared:
            cursor = connection.execute(_LIMITS.format(sql.Literal(connection.limit_ms)))
            while cursor.nextset():
                pass
            for (only_reads,) in cursor:
                _refuse_to_read_only(only_reads)
        return connection

    def _connect(self) -> BoundedConnection:
        """Open a new connection and keep it."""
        self.close()
        self._connection = connect(
            self._url, statement_s=self._statement_s, deadline=self._deadline, prepare=self._prepares
        )
        return self._connection


@contextmanager
def read_only(url: str, *, deadline_s: float) -> Iterator[Connection]:
    """A connection in autocommit mode for this block, whose transactions write nothing. Callers limit their statements.

    No wait lasts longer than `deadline_s` from now. Raises `psycopg.OperationalError` when the database cannot be
    reached.
    """
    with connect(url, statement_s=None, deadline=monotonic() + deadline_s) as connection:
        connection.read_only = True
        yield connection
