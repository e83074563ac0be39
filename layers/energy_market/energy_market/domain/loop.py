"""The times of the loop's ticks: every five seconds, on absolute marks (the specification, section 5)."""

from datetime import datetime, timedelta
from typing import Final

STEP: Final = timedelta(seconds=5)
MINUTE: Final = timedelta(minutes=1)


def marks_from(begin: datetime, *, window: timedelta = MINUTE, now: datetime) -> list[datetime]:
    """The five-second marks of the window that starts at `begin`, except those missed by a whole step.

    Marks are multiples of five seconds of the clock. The windows of successive executions therefore meet without a gap
    or an overlap, and a slow step does not delay the next one.
    """
    first = begin - timedelta(seconds=begin.second % 5, microseconds=begin.microsecond)
    if first < begin:
        first += STEP
    marks = [first + STEP * n for n in range(window // STEP)]
    return [mark for mark in marks if not missed(mark, now=now)]


def missed(mark: datetime, *, now: datetime) -> bool:
    """Whether it is too late for this mark: a whole step has passed, so the next mark is due."""
    return now - mark >= STEP
