"""A home's hardware as the device may trust it: whatever the plug-in raises or returns, and however long it takes.

A wrong answer of a plug-in becomes a HardwareError with a sentence. Amounts are whole watt-hours, rounded down.
"""

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from decimal import Decimal
from numbers import Real
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

from energy_device.energy_source import EnergySource
from energy_device.messages import MAX_ENERGY_WH

ANSWER_S: Final = 3.0
"""Maximum seconds for an answer of the hardware. The answer to a lock is due within 30."""

_FULL_PERCENT: Final = 100.0
_OFF_PERCENT: Final = 5.0
"""Percent outside of 0 to 100 that are taken for a gauge's error and clipped; a level further off is invalid."""

_MAX_POWER_W: Final = 10**9

T = TypeVar("T")


class HardwareError(Exception):
    """The hardware raised an error, returned an impossible value, or took too long; the sentence says which."""


class _Job(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.future: Future[T] = Future()
        self._result: T
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 -- a plug-in's SystemExit must not end the device
            self._error = error

    def tell(self) -> None:
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(self._result)


Submit = Callable[[Callable[[], object]], "Future[object]"]


def at_once(work: Callable[[], object]) -> "Future[object]":
    """Call the hardware in this thread, for as long as it takes."""
    job = _Job(work)
    job.run()
    job.tell()
    return job.future


class Workers:
    """Threads that call hardware: one for all calls, and another for each call that hangs."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._idle: list[SimpleQueue[_Job[object] | None]] = []
        self._threads: dict[SimpleQueue[_Job[object] | None], threading.Thread] = {}
        self._closed = False

    def submit(self, work: Callable[[], object]) -> "Future[object]":
        """Call `work` in a free thread."""
        job = _Job(work)
        with self._guard:
            if not self._idle:
                jobs: SimpleQueue[_Job[object] | None] = SimpleQueue()
                # A daemon thread: hardware that hangs does not keep the program from ending.
                self._threads[jobs] = threading.Thread(
                    target=self._serve, args=(jobs,), name="energy-hardware", daemon=True
                )
                self._threads[jobs].start()
                self._idle.append(jobs)
            self._idle.pop().put(job)
        return job.future

    def _serve(self, jobs: "SimpleQueue[_Job[object] | None]") -> None:
        while (job := jobs.get()) is not None:
            job.run()
            with self._guard:
                # Before the result is passed on: whoever waits for it finds this thread free for the next call.
                closed = self._closed
                self._idle.append(jobs)
            job.tell()
            if closed:
                return

    def close(self, *, timeout_s: float) -> None:
        """End the free threads; a thread whose hardware hangs ends when that returns."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
        for jobs in idle:
            jobs.put(None)
        for jobs in idle:
            self._threads[jobs].join(timeout_s)


class Hardware:
    """An EnergySource whose answers are checked. Methods raise only HardwareError.

    One call at a time: while one has not returned, others are refused. The answer of a call that returned too late is
    not used; the next call gets it again.
    """

    def __init__(self, source: EnergySource, *, submit: Submit = at_once, answer_s: float = ANSWER_S) -> None:
        self._source = source
        self._submit = submit
        self._answer_s = answer_s
        self._pending: Future[object] | None = None
        self.failing: set[str] = set()
        """The methods whose last call failed."""

    def available_wh(self) -> int:
        """Energy that could be sold now; 0 if the hardware reports less."""
        return max(0, self._ask("available_wh", _whole(least=-MAX_ENERGY_WH)))

    def battery_level(self) -> float:
        """State of charge in percent, 0 to 100."""
        return self._ask("battery_level", _percent)

    def consumption_wh(self) -> int:
        """The meter's reading."""
        return self._ask("consumption_wh", _whole())

    def power_w(self) -> int:
        """The power that the home draws now, in watts; below 0 if it feeds."""
        return self._ask("power_w", _whole(least=-_MAX_POWER_W, most=_MAX_POWER_W))

    def deliver(self, transaction_id: str, energy_wh: int) -> int:
        """Start or continue the delivery. Returns the watt-hours fed so far."""
        return self._ask("deliver", _whole(), transaction_id, energy_wh)

    def stop(self, transaction_id: str) -> int:
        """Feed no more for this transaction. Returns the watt-hours fed for it in total."""
        return self._ask("stop", _whole(), transaction_id)

    def _ask(self, name: str, read: Callable[[object], T], *arguments: object) -> T:
        try:
            answer = read(self._called(lambda: getattr(self._source, name)(*arguments)))
        except HardwareError as error:
            self.failing.add(name)
            raise HardwareError(f"{name} {error}") from error.__cause__
        self.failing.discard(name)
        return answer

    def _called(self, call: Callable[[], object]) -> object:
        if self._pending is not None and not self._pending.done():
            raise HardwareError("was not called: the call before it has not come back.")
        self._pending = self._submit(call)
        try:
            error = self._pending.exception(timeout=self._answer_s)
        except TimeoutError:
            raise HardwareError(f"has not come back in {self._answer_s:g} s.") from None
        if error is not None:
            raise HardwareError(f"failed: {_short(error)}") from error
        return self._pending.result()


def _number(value: object) -> int | float | Decimal:
    # Python's booleans are Real, so they are excluded; numpy's booleans are not Real, and its numbers are.
    if isinstance(value, bool) or not isinstance(value, Real | Decimal) or not math.isfinite(value):
        raise HardwareError(f"returned {_short(value)}, which is no number.")
    return value if isinstance(value, int | Decimal) else float(value)


def _whole(*, least: int = 0, most: int = MAX_ENERGY_WH) -> Callable[[object], int]:
    def read(value: object) -> int:
        number = _number(value)
        if not least <= number < most + 1:
            raise HardwareError(f"returned {_short(value)}, which cannot be.")
        return math.floor(number)

    return read


def _percent(value: object) -> float:
    level = _number(value)
    if not -_OFF_PERCENT <= level <= _FULL_PERCENT + _OFF_PERCENT:
        raise HardwareError(f"returned {_short(value)}, which is no percentage.")
    return max(0.0, min(float(level), _FULL_PERCENT))


def _short(value: object) -> str:
    """A short text of a plug-in's object, even if its own methods are broken."""
    try:
        text = f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else repr(value)
    except Exception:  # noqa: BLE001 -- its own __str__ or __repr__
        text = type(value).__name__
    return text[:200]
