"""Where the l_p centre can be moved by adding and removing records, in exact whole numbers."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from math import comb

import numpy as np

from tercile.quantiles.private.randomness import Integers


class PowerSums:
    """Sums of powers of y - x over ranges of the ordered records x, for any whole y, exactly.

    Parameters
    ----------
    ordered
        (n,) cells, ascending.
    power
        The exponent r = p - 1 of the l_p centre's derivative, 0 to 7.

    Notes
    -----
    (y - x)^r is a polynomial in y whose coefficients are powers of x; their running sums answer any range in r + 1
    products of Python's integers, which do not overflow.
    """

    def __init__(self, ordered: Integers, power: int) -> None:
        self.power = power
        # Sums of small numbers are faster; where they are counted from changes nothing.
        self._origin = int(ordered[0]) if ordered.size else 0
        self._x = [each - self._origin for each in ordered.tolist()]
        #: For each power of y, from the highest: running sums of its coefficient in (y - x)^r.
        self._sums = []
        for exponent in range(power + 1):
            factor = (-1) ** exponent * comb(power, exponent)
            self._sums.append([0, *accumulate(factor * each**exponent for each in self._x)])

    def between(self, y: int, first: int, end: int) -> int:
        """Sum of (y - x_i)^r over first <= i < end; y is counted from the least record."""
        total = 0
        for sums in self._sums:
            total = total * y + sums[end] - sums[first]
        return total

    def least_slope(self, y: int, edits: int, edge: int) -> int:
        """The least that the sum over records of sign(y - x) |y - x|^r can be after `edits` records were added or
        removed, additions being at most at `edge`.

        Dropping x < y takes (y - x)^r off; adding one at the edge takes (edge - y)^r off. The best are taken first:
        those records that are further from y than the edge is, from the least on.
        """
        n, x = len(self._x), self._x
        dropped = min(edits, bisect_left(x, 2 * y - edge))
        # Records equal to y count for nothing, also when r is 0.
        below, above = bisect_left(x, y), bisect_right(x, y)
        dropped = min(dropped, below)
        odd = -1 if self.power % 2 == 0 else 1  # (y - x)^r for x > y has sign (-1)^r; its slope is negative
        slope = self.between(y, dropped, below) + odd * self.between(y, above, n)
        added = edits - dropped
        return slope - added * (edge - y) ** self.power if edge > y else slope

    def upper_edges(self, edge: int, most: int, low: int | None = None) -> Integers:
        """For k = 0, 1, ..., the largest cell that the centre can be at after k edits, up to `edge`.

        Stops at `most` edits, or when the edge is reached. `low` is the least cell there is, for the case that there
        are no records.
        """
        n = len(self._x)
        origin = self._origin
        if n == 0:
            return np.array([edge])
        top = edge - origin
        edges: list[int] = []
        at, stride = 0, max(1, top // 4096)
        for edits in range(most + 1):
            at = self._last_reachable(at, edits, top, stride)
            edges.append(at + origin)
            if at >= top:
                break
            if edits:
                stride = max(1, edges[-1] - edges[-2])
        return np.array(edges)

    def _last_reachable(self, start: int, edits: int, top: int, stride: int) -> int:
        """The largest y up to `top` whose least slope is at most 0; `start` is one such, the stride a guess."""
        low, high = start, min(start + stride + (stride >> 3) + 1, top + 1)
        at_low, at_high = self.least_slope(low, edits, top), 1
        while high <= top and (at_high := self.least_slope(high, edits, top)) <= 0:
            low, high, at_low = high, min(high + 2 * (high - start) + 1, top + 1), at_high
        if high > top:
            at_high = 1
        # Interpolation, which a slope this smooth needs few rounds of; every third round halves, come what may.
        turn = 0
        while high - low > 1:
            turn += 1
            if turn % 3 == 0 or high > top:
                guess = (low + high) // 2
            else:
                guess = low + (high - low) * -at_low // (at_high - at_low)
                guess = min(max(guess, low + 1), high - 1)
            value = self.least_slope(guess, edits, top)
            if value <= 0:
                low, at_low = guess, value
            else:
                high, at_high = guess, value
        return low
