"""A process that dies between any two of its side effects, and what the others find.

A side effect is a statement, a commit, a publish, a call of AWS, or a transaction handed to the chain's node. A `Fuse`
counts them and burns after the k-th: that effect has happened, nobody has heard of it, and everything the process tries
from then on fails, as for one that is gone. `every_crash` plays a scenario once for each k that there is.

On the way the fuse holds every use case to one more rule: nothing is said to anybody else, and nobody sleeps, while a
transaction is open.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, Final, Protocol, TypeVar

from psycopg import Connection, Cursor
from psycopg.pq import TransactionStatus

from energy_market.database import Database
from energy_market.evm.rpc import Rpc
from tests.support.places import CHECKOUT

T = TypeVar("T")
ENDLESS: Final = 10**9
USE_CASES: Final = CHECKOUT / "layers" / "energy_market" / "energy_market" / "usecases"
FUNCTIONS: Final = CHECKOUT / "functions"


class Crashed(BaseException):
    """The process is gone. No product code catches it."""


class Fuse:
    """Counts side effects, and burns after one of them: everything later fails too, as for a process that is gone."""

    def __init__(self, burns_after: int = ENDLESS, *, burns_at: str = "") -> None:
        """`burns_at`: the name of an effect, after the first of which it burns."""
        self.burns_after = burns_after
        self.burns_at = burns_at
        self.effects: list[str] = []
        self.in_transaction = False
        self.has_written = False
        self.meanwhile: Callable[[str], object] = lambda _: None  # what others do just before a statement
        self._lock = threading.Lock()

    @property
    def burnt(self) -> bool:
        return len(self.effects) >= self.burns_after or self.burns_at in self.effects

    def check(self) -> None:
        if self.burnt:
            raise Crashed

    def count(self, effect: str) -> None:
        with self._lock:
            self.effects.append(effect)
        self.check()

    def outside(self, what: str) -> None:
        """Something that takes its time, or that no rollback takes back, is about to happen."""
        assert not self.in_transaction, f"{what} while a transaction is open"

    @contextmanager
    def effect(self, name: str) -> Iterator[None]:
        """One side effect outside the database. Of those that several threads have at once, one is the last."""
        self.outside(name)
        self.check()
        yield
        self.count(name)

    def sleep(self, _pause_s: float) -> None:
        self.outside("sleep")
        self.check()


class FusedDatabase(Database):
    """Crashes after any statement and after any commit that wrote something.

    Without `statements` only after commits: what a transaction did before is undone by the server, whichever of its
    statements was the last, so all these crashes are one. That no statement runs outside a transaction is checked.
    """

    def __init__(self, url: str, fuse: Fuse, *, statements: bool = True) -> None:
        super().__init__(url)
        self._fuse = fuse
        self._cursors = fused_cursor(fuse, statements=statements)
        self._alone = fused_cursor(fuse, statements=False, autocommit=True)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        self._fuse.outside("another transaction")
        self._fuse.check()
        try:
            with super().transaction() as conn:
                self._fuse.in_transaction = True
                conn.cursor_factory = self._cursors
                yield conn
                self._fuse.check()
                written = Cursor(conn).execute("SELECT pg_current_xact_id_if_assigned()").fetchone() != (None,)
        finally:
            self._fuse.in_transaction = False
        if written:
            self._fuse.count("commit")

    def statement(self, work: Callable[[Connection], T]) -> T:
        self._fuse.outside("a statement of its own")
        self._fuse.check()
        self._fuse.has_written = False

        def alone(conn: Connection) -> T:
            conn.cursor_factory = self._alone
            return work(conn)

        done = super().statement(alone)
        if self._fuse.has_written:
            self._fuse.count("commit")
        return done


def fused_cursor(fuse: Fuse, *, statements: bool, autocommit: bool = False) -> type[Cursor[Any]]:
    """Cursors that count statements; none may run outside a transaction unless `autocommit` says so."""

    class FusedCursor(Cursor[Any]):
        def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 -- as psycopg has it
            fuse.check()
            fuse.meanwhile(str(query))
            done = super().execute(query, *arguments, **options)
            fuse.has_written |= (self.statusmessage or "").startswith(("INSERT", "UPDATE", "DELETE"))
            assert autocommit or self.connection.info.transaction_status == TransactionStatus.INTRANS
            if statements:
                fuse.count("statement")
            return done

    return FusedCursor


class FusedRpc(Rpc):
    """Crashes after a transaction was handed in, before anybody knows."""

    def __init__(self, url: str, fuse: Fuse) -> None:
        super().__init__(url, sleep=fuse.sleep)
        self._fuse = fuse

    def call_many(self, calls: Any, *, present: bool = False) -> list[Any]:  # noqa: ANN401 -- as Rpc has it
        self._fuse.outside("a question to the chain")
        if all(method != "eth_sendRawTransaction" for method, _ in calls):
            return super().call_many(calls, present=present)
        with self._fuse.effect("send"):
            return super().call_many(calls, present=present)


class FusedClient:
    """An AWS client: each call that changes something is a side effect."""

    def __init__(self, client: object, fuse: Fuse) -> None:
        self._client = client
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 -- boto3's clients are made at run time
        member = getattr(self._client, name)
        if not callable(member):
            return member

        def call(**arguments: object) -> object:
            with self._fuse.effect(f"aws {name}"):
                return member(**arguments)

        return call


def occupy(module: ModuleType, database: Database) -> None:
    """Have a function's sandbox use this connection."""
    if hasattr(module, "app"):
        module.database = database  # type: ignore[attr-defined]
        module.app._database = database  # noqa: SLF001 -- the sandbox is the test's
    else:
        module._database = lambda: database  # type: ignore[attr-defined] # noqa: SLF001


class Scenario(Protocol):
    """A use case, from a stage of its own to the end of all that follows from it."""

    def go(self) -> None:
        """What a process does until it has done its work, or dies."""

    def run_on(self) -> None:
        """Others go on: the loop, queues that deliver again, clients that ask again."""

    def check(self) -> None:
        """What must hold in the end, whatever happened."""


Process = Callable[[Fuse], AbstractContextManager[None]]
"""Within the block what the scenario uses runs in a process with this fuse."""


def every_crash(name: str, process: Process, stage: Callable[[], Scenario], *, covers: set[str], at_least: int) -> None:
    """Play the scenario without a crash, then once for each of its side effects with a crash after it (and before all).

    `covers`: the use cases (by module) and the functions' handlers (as `folder.handler`) that the process must pass
    through. `at_least`: how many side effects there must be, so that no list is empty by mistake.
    """
    fuse, scenario = Fuse(), stage()
    with process(fuse), passed_through() as passed:
        scenario.go()
    scenario.run_on()
    scenario.check()
    assert covers <= passed, f"{name} does not pass through {covers - passed}"
    effects = fuse.effects
    assert len(effects) >= at_least, effects
    for k in range(len(effects) + 1):
        fuse, scenario = Fuse(k), stage()
        with suppress(Crashed), process(fuse):
            scenario.go()
        assert fuse.burnt, f"{name} had fewer side effects at the {k}th try: {fuse.effects} of {effects}"
        try:
            scenario.run_on()
            scenario.check()
        except BaseException as error:
            error.add_note(f"{name}, crashed after {k} side effects, the last of them {fuse.effects[-1:]}")
            raise
    print(f"{name}: {len(effects) + 1} crash points")


@contextmanager
def passed_through() -> Iterator[set[str]]:
    """The use cases and handlers whose code runs in this thread during the block."""
    seen: set[CodeType] = set()

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            seen.add(frame.f_code)

    passed: set[str] = set()
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield passed
    finally:
        sys.setprofile(before)
    for code in seen:
        path = Path(code.co_filename)
        if path.is_relative_to(USE_CASES):
            passed.add(".".join(path.relative_to(USE_CASES).with_suffix("").parts))
        elif path.parent.parent == FUNCTIONS:
            passed.add(f"{path.parent.name}.{code.co_name}")
