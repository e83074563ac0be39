"""The time on the street."""

import datetime as dt
import time
from collections.abc import Callable
from typing import Final

START: Final = dt.datetime(2025, 5, 21, 12, 0)  # noqa: DTZ001 - the local clock of the place; a clear Wednesday in May


class SimulatedClock:
    """Time on the street: stands at `start` until it is set going, then runs `speed` times as fast as ours."""

    def __init__(self, start: dt.datetime, *, speed: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Standing."""
        if speed <= 0:
            raise ValueError("time must go forward")
        self.start = start
        self.speed = speed
        self._monotonic = monotonic
        self._began: float | None = None

    def go(self) -> None:
        """From now on time passes."""
        self._began = self._monotonic()

    def now(self) -> dt.datetime:
        """The time on the street, in whole seconds."""
        passed_s = 0.0 if self._began is None else self._monotonic() - self._began
        return self.start + dt.timedelta(seconds=int(passed_s * self.speed))
