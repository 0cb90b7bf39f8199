"""What is read most, lately: every reading counts one when it happens and half as much after each half-life.

The sum over readings of 2^((t_i - t) / half-life) is kept exactly, in one number a paper and the moment at which it
held: all terms shrink by the same factor, so the sum does too. A reading that comes in late counts as if it had come
in time. A new half-life holds from then on; what was counted before is not unmade.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

WEEK = 7 * 86400.0


def weight_now(weight: float, at: float, now: float, half_life: float = WEEK) -> float:
    """A weight that held at one moment, at another.

    >>> weight_now(4.0, 0.0, 2 * WEEK), weight_now(1.0, 5.0, 5.0)
    (1.0, 1.0)
    """
    return float(weight * 2.0 ** ((at - now) / half_life))


def count_reading(rows: sqlite3.Connection, paper: str, now: float, half_life: float = WEEK) -> None:
    """Count one reading of a paper; exact whichever process counts, in whatever order. Inside a transaction."""
    if half_life <= 0:
        raise ValueError(f"half_life must be more than 0 seconds, got {half_life}")
    row = rows.execute("SELECT weight, at FROM readings WHERE paper = ?", (paper,)).fetchone()
    if row is None:
        rows.execute("INSERT INTO readings (paper, weight, at, total) VALUES (?, 1, ?, 1)", (paper, now))
        return
    # As of the later of the two moments, so that no power of two is ever large.
    at = max(now, row[1])
    weight = weight_now(row[0], row[1], at, half_life) + weight_now(1.0, now, at, half_life)
    rows.execute("UPDATE readings SET weight = ?, at = ?, total = total + 1 WHERE paper = ?", (weight, at, paper))


def most_read(rows: sqlite3.Connection, now: float, half_life: float = WEEK) -> dict[str, float]:
    """Weights of all papers that were read, heaviest first; those that have faded below a hundredth are left out."""
    weights = {
        paper: weight_now(weight, at, now, half_life)
        for paper, weight, at in rows.execute("SELECT paper, weight, at FROM readings")
    }
    kept = ((paper, weight) for paper, weight in weights.items() if weight >= 0.01)
    return dict(sorted(kept, key=lambda pair: (-pair[1], pair[0])))


@dataclass
class Visits:
    """Lets a reader's reloads of a paper count once in an hour.

    >>> visits = Visits()
    >>> visits.counts("me", "iqn", 0.0), visits.counts("me", "iqn", 60.0), visits.counts("me", "iqn", 4000.0)
    (True, False, True)
    """

    pause: float = 3600.0
    most: int = 50_000

    def __post_init__(self) -> None:
        self._seen: dict[tuple[str, str], float] = {}

    def counts(self, reader: str, paper: str, now: float) -> bool:
        """Whether this reading is to be counted; remembers it if so."""
        last = self._seen.get((reader, paper))
        if last is not None and 0 <= now - last < self.pause:
            return False
        self._seen.pop((reader, paper), None)
        self._seen[reader, paper] = now
        if len(self._seen) > self.most:
            del self._seen[next(iter(self._seen))]
        return True
