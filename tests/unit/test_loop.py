"""When the loop ticks."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from energy_market.domain.loop import marks_from, missed
from tests.api import load_function

NOON = datetime(2026, 6, 21, 12, 0, 0, tzinfo=UTC)


def test_a_minute_has_twelve_marks_five_seconds_apart() -> None:
    marks = marks_from(NOON, now=NOON)
    assert marks == [NOON + timedelta(seconds=5 * n) for n in range(12)]


def test_the_first_mark_is_the_next_multiple_of_five_seconds() -> None:
    assert marks_from(NOON + timedelta(seconds=13.2), now=NOON)[0] == NOON + timedelta(seconds=15)


def test_two_minutes_meet_without_a_gap_or_an_overlap() -> None:
    begin = NOON + timedelta(seconds=13)
    both = marks_from(begin, now=NOON) + marks_from(begin + timedelta(minutes=1), now=NOON)
    assert both == [NOON + timedelta(seconds=15 + 5 * n) for n in range(24)]


def test_a_late_start_skips_the_marks_it_missed() -> None:
    marks = marks_from(NOON, now=NOON + timedelta(seconds=31))
    assert marks[0] == NOON + timedelta(seconds=30)
    assert len(marks) == 6


def test_a_mark_is_missed_when_the_next_one_has_come() -> None:
    assert not missed(NOON, now=NOON + timedelta(seconds=4.9))
    assert missed(NOON, now=NOON + timedelta(seconds=5))


def test_a_scheduled_execution_takes_the_minute_of_its_schedule_and_another_one_two_minutes() -> None:
    marks = load_function("matching").marks
    now = datetime.now(UTC)
    began = now.isoformat()
    scheduled = {"time": now.isoformat()}
    assert len(marks({"started_at": began, "schedule": scheduled}, None)["marks"]) == 12
    assert len(marks({"started_at": began, "schedule": {}}, None)["marks"]) == 24


def test_a_tick_that_comes_a_step_too_late_does_nothing_when_one_was_just_taken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    matching: Any = load_function("matching")
    matching.sandbox.ticked_at_s = time.monotonic() - 4
    late = (datetime.now(UTC) - timedelta(seconds=6)).isoformat()
    assert matching.tick({"mark": late}, None) == {"trades": 0, "commands": 0}
    assert '"event":"tick.missed"' in capsys.readouterr().out
