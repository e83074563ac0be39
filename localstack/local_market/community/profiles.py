"""What a household draws and what a roof yields at a time of a day: the curves in `measured/`.

The files say where their numbers come from; `measured/make_profiles.py` makes them.
"""

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

FOLDER: Final = Path(__file__).parent / "measured"
QUARTER_HOUR_S: Final = 900
QUARTER_HOURS: Final = 96
SATURDAY: Final = 5
SUNDAY: Final = 6
REFERENCE_KWH: Final = 1000  # the household curves are for a household of this annual consumption


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiles:
    """Curves of 96 quarter hours: power in watts, by season and type of day, and by orientation and day."""

    household_w: dict[str, tuple[float, ...]]
    daily_factor: tuple[float, ...]
    seasons_from: tuple[tuple[tuple[int, int], str], ...]
    yield_w_per_kwp: dict[str, tuple[tuple[float, ...], ...]]

    def __post_init__(self) -> None:
        """Refuse curves that are not a day long."""
        curves = [*self.household_w.values(), *(day for days in self.yield_w_per_kwp.values() for day in days)]
        if any(len(curve) != QUARTER_HOURS for curve in curves):
            raise ValueError(f"every curve must have {QUARTER_HOURS} quarter hours")

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Self:
        """Read both data files."""
        household = json.loads((folder / "household_h0.json").read_text(encoding="utf-8"))
        sky = json.loads((folder / "clear_sky_freiburg.json").read_text(encoding="utf-8"))
        starts = [
            (_month_and_day(span.split(" to ")[0]), season)
            for season, spans in household["seasons"].items()
            for span in spans.split(" and ")
        ]
        days = [sky["days"][name] for name in sorted(sky["days"])]  # one of each month, January first
        return cls(
            household_w={name: tuple(curve) for name, curve in household["curves"].items()},
            daily_factor=tuple(household["daily_factor"]["coefficients_c4_to_c0"]),
            seasons_from=tuple(sorted(starts)),
            yield_w_per_kwp={
                orientation: tuple(tuple(day[f"pv_{orientation}"]) for day in days)
                for orientation in ("east", "south", "west")
            },
        )

    def load_mw(self, annual_kwh: int, at: dt.datetime) -> int:
        """What a household of this annual consumption draws in the quarter hour of `at`, in milliwatts."""
        curve = self.household_w[f"{self.season(at)}_{_day_type(at)}"]
        day = at.timetuple().tm_yday
        factor = 0.0
        for coefficient in self.daily_factor:
            factor = factor * day + coefficient
        return round(curve[_quarter(at)] * factor * annual_kwh * 1000 / REFERENCE_KWH)

    def sun_mw(self, peak_w: int, orientation: str, at: dt.datetime) -> int:
        """What a roof of this peak power and orientation yields in the quarter hour of `at`, in milliwatts."""
        return round(self.yield_w_per_kwp[orientation][at.month - 1][_quarter(at)] * peak_w)

    def season(self, at: dt.datetime) -> str:
        """`winter`, `transition` or `summer`, as the household profile divides the year."""
        before = [season for start, season in self.seasons_from if start <= (at.month, at.day)]
        return before[-1] if before else self.seasons_from[-1][1]  # January belongs to the winter of November


def _month_and_day(text: str) -> tuple[int, int]:
    month, day = text.split("-")
    return int(month), int(day)


def _day_type(at: dt.datetime) -> str:
    return {SATURDAY: "saturday", SUNDAY: "sunday"}.get(at.weekday(), "weekday")


def _quarter(at: dt.datetime) -> int:
    return (at.hour * 3600 + at.minute * 60 + at.second) // QUARTER_HOUR_S
