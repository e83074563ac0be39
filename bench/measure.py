"""What every section is made of: fair timing, and rows that say what was measured and what was to be reached."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One promise: a ratio (or a count), and what it is to reach. Absolute times belong into `shown` only.

    `measured` is None if it could not be measured; `shown` then says why.
    """

    name: str
    measured: float | None
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "times"
    shown: str = ""  # the times and counts behind the ratio, or why there is none

    @property
    def reached(self) -> bool | None:
        """Whether the promise is kept; None if nothing was promised."""
        if self.at_least is None and self.at_most is None:
            return None
        if self.measured is None:
            return False
        return (self.at_least is None or self.measured >= self.at_least) and (
            self.at_most is None or self.measured <= self.at_most
        )

    @property
    def reach(self) -> str:
        """The promise in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:,g}"
        return "" if self.at_most is None else f"at most {self.at_most:,g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What stands behind a row: who was compared, with what result."""

    title: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str | float | int | None]] = field(default_factory=list)


def timed(work: Callable[[], object], *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that `work` takes, once, with the garbage collector out of the way.

    What lives already is frozen: a collection during the work would otherwise walk all that the bench itself keeps.
    Work that only computes, in one thread, is best timed by `time.process_time`, to which others on the machine add
    little.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        began = clock()
        result = work()
        took_s = clock() - began
        del result  # after the clock has stopped
    finally:
        gc.enable()
        gc.unfreeze()
    return took_s


def alternated(measures: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """Let each measure itself (seconds) in turn, `rounds` times: what slows the machine for a while slows all."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            taken[name].append(measure())
    return taken


def median(seconds: Sequence[float]) -> float:
    """The median, which one slow round does not move."""
    return statistics.median(seconds)


def ms(seconds: float) -> str:
    """Seconds as milliseconds with three digits: "0.0912 ms", "41.2 ms", "40,100 ms"."""
    value = seconds * 1000
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 4  # noqa: PLR2004 - three digits
    return f"{value:,.{digits}f} ms"
