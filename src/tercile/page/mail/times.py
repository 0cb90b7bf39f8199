"""When a digest is due: at an hour of the reader's day, in the reader's time zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

#: Regions whose zones people choose from; the rest are old names for the same.
_REGIONS = ("Africa", "America", "Antarctica", "Arctic", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific")


@dataclass(frozen=True)
class Today:
    """A reader's day at some moment: its date, and since when the digest of that day is due (Unix time)."""

    day: str
    due: float


def today(now: float, zone: str, hour: int) -> Today:
    """The day it is for a reader.

    Parameters
    ----------
    now
        Unix time.
    zone
        A name of the IANA database.
    hour
        Of the reader's clock. Where the clock skips this hour, the digest is due when it has skipped it; where the
        hour comes twice, at the first.

    >>> today(1_700_000_000, "Asia/Tokyo", 7).day, today(1_700_000_000, "America/New_York", 7).day
    ('2023-11-15', '2023-11-14')
    """
    here = ZoneInfo(zone)
    day = datetime.fromtimestamp(now, here).date()
    # fold=0: of a repeated hour the first; of a skipped one the offset before, which puts it right after the gap.
    due = datetime.combine(day, time(hour), here).timestamp()
    return Today(day.isoformat(), due)


def day_of(now: float, zone: str) -> str:
    """The date in a time zone."""
    return datetime.fromtimestamp(now, ZoneInfo(zone)).date().isoformat()


def utc_day(now: float) -> str:
    """The date in UTC."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def long_date(day: str) -> str:
    """A date for people.

    >>> long_date("2026-11-05")
    '5 November 2026'
    """
    when = date.fromisoformat(day)
    return f"{when.day} {when:%B %Y}"


@cache
def zones() -> tuple[str, ...]:
    """Names of time zones to choose from, UTC first.

    >>> zones()[0], "Europe/Berlin" in zones(), "US/Pacific" in zones()
    ('UTC', True, False)
    """
    return ("UTC", *sorted(name for name in available_timezones() if name.split("/")[0] in _REGIONS))
