"""A process to which something happens between two of its side effects: another one acts, or it dies."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from psycopg import Connection

from energy_market.database import Database
from energy_market.evm.ledger import Ledger, Sent
from energy_market.evm.rpc import Unreachable
from tests.support.trouble.crashes import Crashed


class Disturbance:
    """Happens before the k-th side effect: a statement, a transaction sent to the chain, a command to a device."""

    def __init__(self) -> None:
        self._left = 0
        self._happens: Callable[[], None] | None = None
        self._dead = False
        self.statements = 0  # of the transaction that is open

    def plan(self, k: int, happens: Callable[[], None]) -> None:
        self._left, self._happens = k, happens

    def end(self) -> None:
        """It does not happen any more, and who died is there again."""
        self._happens, self._dead = None, False

    def die(self) -> None:
        self._dead = True
        raise Crashed

    def comes_closer(self) -> None:
        if self._dead:
            raise Crashed
        if self._happens is None:
            return
        if self._left == 0:
            happens, self._happens = self._happens, None
            happens()
        self._left -= 1


class DisturbedDatabase(Database):
    """The database as a process sees it that is disturbed."""

    def __init__(self, url: str, disturbance: Disturbance) -> None:
        super().__init__(url)
        self._disturbance = disturbance

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        self._disturbance.statements = 0
        self._disturbance.comes_closer()
        with super().transaction() as conn:
            yield cast("Connection", _Disturbed(conn, self._disturbance))
            self._disturbance.comes_closer()


class _Disturbed:
    """A connection, as far as the product uses one."""

    def __init__(self, conn: Connection, disturbance: Disturbance) -> None:
        self._conn = conn
        self._disturbance = disturbance

    def execute(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 -- a connection's own
        self._disturbance.comes_closer()
        self._disturbance.statements += 1
        return self._conn.execute(*args, **options)

    def cursor(self, **kwargs: Any) -> Any:  # noqa: ANN401 -- a connection's own
        self._disturbance.comes_closer()
        return self._conn.cursor(**kwargs)


class DisturbedLedger(Ledger):
    """The chain as a process sees it that is disturbed. `loses_answers`: what is sent arrives, and nobody hears so."""

    disturbance: Disturbance
    loses_answers = False

    def send(self, raw: bytes) -> tuple[Sent, str]:
        self.disturbance.comes_closer()
        answer = super().send(raw)
        self.disturbance.comes_closer()
        if self.loses_answers:
            raise Unreachable("the answer was lost")
        return answer
