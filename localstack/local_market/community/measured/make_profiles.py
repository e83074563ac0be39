"""Make the two data files in `profiles/`: what a household draws, and what a roof yields under a clear sky.

Development only. The packages it reads from weigh 400 MB and want an old pandas, so they are in no lock of the
project; the files they make are small and committed. To make them again:

    python -m venv /tmp/profiles
    /tmp/profiles/bin/pip install demandlib==0.2.2 pvlib==0.16.1 "pandas<3"
    /tmp/profiles/bin/python localstack/local_market/community/measured/make_profiles.py

The same versions make the same bytes, the date apart.
"""

import csv
import datetime as dt
import json
from importlib import metadata, resources
from pathlib import Path

FOLDER = Path(__file__).parent
QUARTER_HOURS = 96
SCRIPT = "localstack/local_market/community/measured/make_profiles.py"
DAY_TYPES = {"1": "weekday", "6": "saturday", "7": "sunday"}  # 2 to 5 repeat 1; the script checks that they do

PLACE = {"name": "Freiburg im Breisgau", "latitude": 47.9990, "longitude": 7.8421, "altitude_m": 278}
TIME_ZONE = "Europe/Berlin"
YEAR = 2025
TILT_DEGREES = 30
ORIENTATIONS = {"east": 90, "south": 180, "west": 270}  # azimuth in degrees
AIR_TEMPERATURE_C = 20.0
WIND_M_PER_S = 2.0
GAMMA_PER_K = -0.0035  # a common crystalline module
SYSTEM_LOSSES = 0.14  # PVWatts' default: soiling, wiring, mismatch, ageing
INVERTER_LIMIT_W_PER_KWP = 1000.0


def household() -> dict[str, object]:
    """The BDEW standard load profile H0, all seasons and types of day, as demandlib carries it."""
    table = resources.files("demandlib") / "bdew" / "bdew_data" / "selp_series.csv"
    curves: dict[str, list[float]] = {}
    weekdays: dict[str, list[list[float]]] = {}
    with table.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            watts = round(float(row["h0"]) * 1000, 2)
            if row["weekday"] in DAY_TYPES:
                curves.setdefault(f"{row['period']}_{DAY_TYPES[row['weekday']]}", []).append(watts)
            days = weekdays.setdefault(row["period"], [[] for _ in range(5)])
            if int(row["weekday"]) <= 5:  # noqa: PLR2004 - Monday to Friday
                days[int(row["weekday"]) - 1].append(watts)
    for period, days in weekdays.items():
        if any(day != days[0] for day in days):
            raise ValueError(f"the weekdays of {period} differ, but one curve stands for all five")
    return {
        "title": "BDEW standard load profile H0 (household)",
        "source": (
            "VDEW, 'Repraesentative VDEW-Lastprofile', 1999, published today by BDEW (bdew.de, "
            f"Standardlastprofile Strom); read from PyPI demandlib {metadata.version('demandlib')}, "
            "bdew_data/selp_series.csv, column h0"
        ),
        "licence": "demandlib: MIT, Copyright (c) oemof developer group (text in LICENSES.md beside this file)",
        "made_by": SCRIPT,
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "version": 1,
        "units": "W, mean over the quarter hour, of a household that uses 1,000 kWh a year, before the daily factor",
        "time": f"96 quarter hours from 00:00 local clock time ({TIME_ZONE})",
        "seasons": {
            "winter": "11-01 to 03-20",
            "transition": "03-21 to 05-14 and 09-15 to 10-31",
            "summer": "05-15 to 09-14",
        },
        "daily_factor": {
            "meaning": "multiply by c4*t^4 + c3*t^3 + c2*t^2 + c1*t + c0, t the day of the year",
            "coefficients_c4_to_c0": [-3.92e-10, 3.2e-07, -7.02e-05, 2.1e-03, 1.24],
        },
        "curves": curves,
    }


def clear_sky() -> dict[str, object]:
    """Irradiance and yield of the 21st of every month under a clear sky (Ineichen), for roofs of three orientations."""
    # Here, so that the household file can be read and checked without the large packages.
    import pandas  # type: ignore[import-untyped]  # noqa: ICN001, PLC0415
    import pvlib  # type: ignore[import-not-found]  # noqa: PLC0415

    place = pvlib.location.Location(
        PLACE["latitude"], PLACE["longitude"], tz=TIME_ZONE, altitude=PLACE["altitude_m"], name=PLACE["name"]
    )
    days: dict[str, dict[str, list[int]]] = {}
    for month in range(1, 13):
        midnight = pandas.Timestamp(YEAR, month, 21, tz=TIME_ZONE)
        middles = pandas.date_range(midnight + pandas.Timedelta(minutes=7.5), periods=QUARTER_HOURS, freq="15min")
        sun = place.get_solarposition(middles)
        sky = place.get_clearsky(middles, model="ineichen")
        curves = {"global_horizontal": [round(value) for value in sky.ghi]}
        for orientation, azimuth in ORIENTATIONS.items():
            plane = pvlib.irradiance.get_total_irradiance(
                TILT_DEGREES, azimuth, sun.apparent_zenith, sun.azimuth, sky.dni, sky.ghi, sky.dhi
            ).poa_global.fillna(0.0)
            cell = pvlib.temperature.sapm_cell(
                plane,
                AIR_TEMPERATURE_C,
                WIND_M_PER_S,
                **pvlib.temperature.TEMPERATURE_MODEL_PARAMETERS["sapm"]["close_mount_glass_glass"],
            )
            direct = pvlib.pvsystem.pvwatts_dc(plane, cell, 1000.0, GAMMA_PER_K) * (1 - SYSTEM_LOSSES)
            alternating = pvlib.inverter.pvwatts(direct, INVERTER_LIMIT_W_PER_KWP).fillna(0.0).clip(lower=0.0)
            curves[f"pv_{orientation}"] = [round(value) for value in alternating]
        days[f"{YEAR}-{month:02}-21"] = curves
    return {
        "title": f"Clear-sky irradiance and photovoltaic yield, {PLACE['name']}",
        "source": (
            f"computed with PyPI pvlib {metadata.version('pvlib')}: Ineichen clear sky with pvlib's Linke "
            f"turbidity table, isotropic sky on a plane of {TILT_DEGREES} degrees, SAPM cell temperature at "
            f"{AIR_TEMPERATURE_C:g} degrees C and {WIND_M_PER_S:g} m/s, PVWatts modules "
            f"({GAMMA_PER_K:g}/K), {SYSTEM_LOSSES:.0%} losses, PVWatts inverter"
        ),
        "licence": "pvlib: BSD-3-Clause (see LICENSES.md beside this file); the numbers are computed by us",
        "made_by": SCRIPT,
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "version": 1,
        "units": {"global_horizontal": "W/m2", "pv_east, pv_south, pv_west": "W of alternating current per kWp"},
        "time": f"96 quarter hours from 00:00 local clock time ({TIME_ZONE}), the value at the middle of each",
        "place": PLACE,
        "days": days,
    }


def _text(document: dict[str, object]) -> str:
    """JSON, indented, but each curve on a line of its own so that a diff of two versions can be read."""
    slots: list[str] = []

    def shorten(value: object) -> object:
        if isinstance(value, list):
            slots.append(json.dumps(value, separators=(",", ":")))
            return f"\0{len(slots) - 1}\0"
        if isinstance(value, dict):
            return {key: shorten(inner) for key, inner in value.items()}
        return value

    text = json.dumps(shorten(document), indent=1, ensure_ascii=True)
    for number, line in enumerate(slots):
        text = text.replace(f'"\\u0000{number}\\u0000"', line)
    return text + "\n"


def main() -> None:
    """Write both files."""
    for name, document in (("household_h0.json", household()), ("clear_sky_freiburg.json", clear_sky())):
        (FOLDER / name).write_text(_text(document), encoding="utf-8")
        print(f"{name}: {(FOLDER / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
