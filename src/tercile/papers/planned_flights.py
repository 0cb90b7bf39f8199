"""What is known before a flight, as a table with missing values: its plan, the weather, the aircraft."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

import tercile.zoo
from tercile.papers.flights import flights

SAMPLE = Path(tercile.zoo.__file__).parent / "samples" / "flight_weather.npz"
_PLAN = ("day", "weekday", "hour", "airport", "route", "miles")


@cache
def planned_flights() -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names of columns; the table, float32 with NaN where nothing is known; and the delays in minutes.

    The day counts from new year 2013, a Tuesday. The weather is that of the airport at the scheduled hour
    (`zoo.make_flight_weather`).

    >>> names, table, delay = planned_flights()
    >>> table.shape, names[:6], delay.size
    ((327346, 17), ('day', 'weekday', 'hour', 'airport', 'route', 'miles'), 327346)
    """
    known = flights()
    with np.load(SAMPLE) as packed:
        weather, airports, measured, aircraft = (packed[key] for key in ("weather", "airports", "measured", "aircraft"))
    day, hour, route = (known[name].astype(np.int64) for name in ("day", "hour", "route"))
    airport = np.array([airports.tolist().index(name[:3]) for name in known["routes"].tolist()])[route]
    plan = [day, (day + 1) % 7, hour, airport, route, known["miles"][route]]
    rest = weather[airport, day, hour], aircraft[known["aircraft"]]
    table = np.concatenate([np.stack(plan, axis=1).astype(np.float32), *rest], axis=1)
    return (*_PLAN, *measured.tolist(), "built", "seats"), table, known["arrival_delay"].astype(np.float64)
