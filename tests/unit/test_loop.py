"""When the loop ticks."""

from datetime import UTC, datetime, timedelta

from energy_market.domain.loop import marks_from, missed

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
