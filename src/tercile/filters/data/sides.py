"""Which unit calibrates, which selects, which certifies: decided by a keyed hash of the content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Share = int | float | None
SIDES = ("calibration", "selection", "certification")


def split(
    keys: Sequence[bytes],
    *,
    seed: int,
    calibration: Share = 0.25,
    selection: Share = 0.25,
    certification: Share = 0.5,
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Deal distinct units to three sides by a seeded hash of what they are.

    Each key gets the 64-bit number ``BLAKE2b(key, keyed with seed)``, uniform and unknowable without
    computing it. Read as a fraction of 2^64 it says on which side the unit falls.

    What never matters: the order of the units. With fractions nor does the rest of the pool: adding or
    removing units moves no other unit. With counts (or a None beside counts) units are ranked by their
    number and cut at the counts, so a changed pool can move units across a cut, a changed order cannot.

    Parameters
    ----------
    keys : sequence of bytes
        One key a unit, all distinct; near-duplicates must share one unit (see `near_duplicates`).
    seed : int
        Another seed deals anew.
    calibration, selection, certification : int, float or None
        All fractions (floats in [0, 1], sum at most 1; what is over stays unused), or all counts (ints).
        Beside counts one may be None: whatever the others leave.

    Returns
    -------
    three arrays of int
        Indices into `keys`, each in the order of the units' numbers: certification gets the lowest, then
        selection, then calibration. O(n log n).

    Raises
    ------
    ValueError
        Fractions above 1, mixed kinds, more counted than there is, or a key twice.

    >>> keys = [bytes([i]) for i in range(8)]
    >>> split(keys, seed=1, calibration=2, selection=2, certification=3)
    (array([3, 6]), array([2, 0]), array([1, 7, 4]))
    """
    check_shares(calibration, selection, certification)
    if len(set(keys)) != len(keys):
        raise ValueError("keys must be distinct, one a unit; merge duplicates before the split")
    numbers = np.fromiter((_number(key, seed) for key in keys), np.uint64, len(keys))
    order = np.argsort(numbers, kind="stable")
    # Certification takes the lowest numbers, so that it stays what it is when another share changes.
    shares = (certification, selection, calibration)
    if any(isinstance(share, float) for share in shares):
        edges = np.cumsum(np.array(shares, np.float64)) * 2.0**64
        edges[edges > (1 - 1e-9) * 2.0**64] = np.inf  # shares like 0.7, 0.2, 0.1 add up to 0.99999...
        cuts = np.searchsorted(numbers[order].astype(np.float64), edges, side="left")
    else:
        cuts = np.cumsum(_counts(shares, len(keys)))
    third, second, first = order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] : cuts[2]]
    return first, second, third


def _number(key: bytes, seed: int) -> int:
    keyed = hashlib.blake2b(key, digest_size=8, key=str(seed).encode()[:64], person=b"tercile.split")
    return int.from_bytes(keyed.digest(), "big")


def _counts(shares: tuple[Share, ...], available: int) -> list[int]:
    asked = sum(int(share) for share in shares if share is not None)
    if asked > available:
        raise ValueError(
            f"{asked} units are asked for calibration, selection and certification, but only {available} are "
            "there; give more data or ask for fewer"
        )
    return [available - asked if share is None else int(share) for share in shares]


def check_shares(*shares: Share) -> None:
    """Raise what `split` would for shares that make no sense, before any data is read.

    >>> check_shares(0.5, 0.4, 0.3)
    Traceback (most recent call last):
    ValueError: the three fractions must add up to 1 at most, got [0.5, 0.4, 0.3]: 1.2
    """
    for name, share in zip(SIDES, shares):
        if share is None:
            continue
        if isinstance(share, bool) or not isinstance(share, (int, float, np.integer, np.floating)):
            raise TypeError(f"{name} must be a fraction, a count or None, got {share!r}")
        if not share >= 0:
            raise ValueError(f"{name} must not be negative, got {share!r}")
    fractions = [share for share in shares if isinstance(share, (float, np.floating))]
    if fractions and len(fractions) != len(shares):
        raise ValueError(
            f"calibration, selection and certification must be all fractions or all counts, got {shares}; "
            "write 0.5 for a half, 500 for a count"
        )
    if fractions and sum(fractions) > 1 + 1e-9:
        raise ValueError(f"the three fractions must add up to 1 at most, got {fractions}: {sum(fractions):g}")
    if sum(share is None for share in shares) > 1:
        raise ValueError("only one of calibration, selection and certification can be None (the rest)")
