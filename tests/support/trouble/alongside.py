"""Two things at once: a call in a thread of its own, and the means to know that it has come to where it must wait."""

import threading
import time
from collections.abc import Callable

import psycopg
from psycopg import Connection

MOST_S = 15.0


class Alongside:
    """A call in a thread of its own, whose error is the test's."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,))
        self._thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 -- raised by `end`
            self._error = error

    def end(self) -> None:
        """Wait for its end; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error


def all_at_once(calls: list[Callable[[], object]]) -> None:
    """Make calls in threads that start together; raises what the first of them raised."""
    start = threading.Barrier(len(calls))

    def waiting(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            start.wait()
            call()

        return run

    threads = [Alongside(waiting(call)) for call in calls]
    for thread in threads:
        thread.end()


def wait_until_somebody_waits_for(holder: Connection) -> None:
    """Until another connection waits for a lock that this one has."""
    until = time.monotonic() + MOST_S
    with psycopg.connect(holder.info.dsn, password=holder.info.password, autocommit=True) as looking:
        while time.monotonic() < until:
            waiting = looking.execute(
                "SELECT FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))", (holder.info.backend_pid,)
            )
            if waiting.rowcount:
                return
            time.sleep(0.01)
    raise AssertionError("nobody waits")
