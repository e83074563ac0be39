# ruff: noqa: DTZ001 - simulated time is the local clock of the place, as the curves are

import datetime as dt
import json

import pytest

from local_market.community.profiles import FOLDER, QUARTER_HOURS, Profiles
from local_market.parts.places import CHECKOUT

DATA_FILES = ("household_h0.json", "clear_sky_freiburg.json")
PROFILES = Profiles.load()


@pytest.mark.parametrize("name", DATA_FILES)
def test_each_data_file_says_where_it_comes_from(name: str) -> None:
    document = json.loads((FOLDER / name).read_text())
    for key in ("title", "source", "licence", "made_by", "date", "version", "units", "time"):
        assert document[key], key
    dt.date.fromisoformat(document["date"])
    assert (FOLDER / name).stat().st_size < 100_000
    assert (CHECKOUT / document["made_by"]).is_file()


def test_the_household_profile_adds_up_to_the_year_it_is_made_for() -> None:
    quarter = dt.timedelta(minutes=15)
    at = dt.datetime(2025, 1, 1)
    total_mw = 0
    while at.year == 2025:
        total_mw += PROFILES.load_mw(1000, at)
        at += quarter
    assert total_mw / 4 / 1_000_000 == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize(
    ("day", "season"),
    [
        (dt.datetime(2025, 1, 1), "winter"),
        (dt.datetime(2025, 3, 20), "winter"),
        (dt.datetime(2025, 3, 21), "transition"),
        (dt.datetime(2025, 5, 14), "transition"),
        (dt.datetime(2025, 5, 15), "summer"),
        (dt.datetime(2025, 9, 14), "summer"),
        (dt.datetime(2025, 9, 15), "transition"),
        (dt.datetime(2025, 11, 1), "winter"),
        (dt.datetime(2025, 12, 31), "winter"),
    ],
)
def test_the_seasons_are_those_of_the_household_profile(day: dt.datetime, season: str) -> None:
    assert PROFILES.season(day) == season


def test_a_weekend_is_no_weekday() -> None:
    friday, saturday, sunday = (dt.datetime(2025, 6, day, 8) for day in (20, 21, 22))
    assert len({PROFILES.load_mw(3500, day) for day in (friday, saturday, sunday)}) == 3


def test_there_is_no_sun_at_night_and_most_of_it_around_noon() -> None:
    june = dt.datetime(2025, 6, 21)
    for orientation in ("east", "south", "west"):
        day = [PROFILES.sun_mw(1000, orientation, june + dt.timedelta(minutes=15 * n)) for n in range(QUARTER_HOURS)]
        assert day[4] == day[-4] == 0
        assert max(day) <= 1_000_000
        assert 40 < day.index(max(day)) < 68  # between 10:00 and 17:00, summer time


def test_an_eastern_roof_has_its_sun_before_a_western_one() -> None:
    morning, afternoon = dt.datetime(2025, 6, 21, 9), dt.datetime(2025, 6, 21, 18)
    assert PROFILES.sun_mw(1000, "east", morning) > 2 * PROFILES.sun_mw(1000, "west", morning)
    assert PROFILES.sun_mw(1000, "west", afternoon) > 2 * PROFILES.sun_mw(1000, "east", afternoon)


def test_summer_yields_more_than_winter() -> None:
    noon = [PROFILES.sun_mw(1000, "south", dt.datetime(2025, month, 21, 12)) for month in (6, 12)]
    assert noon[0] > noon[1] > 0


def test_a_curve_that_is_not_a_day_long_is_refused() -> None:
    with pytest.raises(ValueError, match="96 quarter hours"):
        Profiles(household_w={"winter_sunday": (1.0,)}, daily_factor=(1.0,), seasons_from=(), yield_w_per_kwp={})
