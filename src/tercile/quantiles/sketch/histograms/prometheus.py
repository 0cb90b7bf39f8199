"""Prometheus' native histograms: bins that grow by a fixed factor, of which only the filled ones are kept.

The layout is that of the Prometheus specification: at schema n, the bucket of number i holds the values above
2^((i - 1) / 2^n) up to 2^(i / 2^n); negative values have buckets of their own, mirrored; what is within the zero
threshold has one bucket. Runs of consecutive buckets are spans, (gap to the span before, length), and their counts
follow one another as differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile.quantiles.sketch import questions
from tercile.quantiles.sketch.histograms.histogram import Histogram

Spans = tuple[tuple[int, int], ...]
Deltas = tuple[int, ...]
LOWEST_SCHEMA, HIGHEST_SCHEMA = -4, 8
#: What client libraries take as zero unless told otherwise.
ZERO_THRESHOLD = 2.0**-128
#: So many empty buckets are written out rather than starting a new span.
_SMALL_GAP = 2
_MOST_BUCKETS = 2**20


@dataclass(frozen=True)
class NativeHistogram:
    """One sample of a native histogram with integer counts.

    Parameters
    ----------
    schema : -4 to 8; each power of two is cut into 2^schema buckets.
    zero_threshold, zero_count : how far from 0 counts as zero, and how many values did.
    sum : of all values.
    positive_spans, negative_spans : pairs of the gap to the span before (for the first its bucket's number) and length.
    positive_deltas, negative_deltas : of each bucket in the spans, how many more it counts than the one before.

    Raises
    ------
    ValueError : it breaks the layout; the message says where.

    Examples
    --------
    >>> h = NativeHistogram.from_values([1.0, 1.5, 3.0, 3.5, 100.0], schema=0)
    >>> h.positive_spans, h.positive_deltas
    (((0, 3), (4, 1)), (1, 0, 1, -1))
    >>> h.to_histogram().quantile_bounds(0.5)
    (2.0, 4.0)
    """

    schema: int
    zero_threshold: float = ZERO_THRESHOLD
    zero_count: int = 0
    sum: float = 0.0
    positive_spans: Spans = ()
    positive_deltas: Deltas = ()
    negative_spans: Spans = ()
    negative_deltas: Deltas = ()

    def __post_init__(self) -> None:
        if isinstance(self.schema, bool) or not isinstance(self.schema, (int, np.integer)):
            raise TypeError(f"schema must be an integer, got {self.schema!r}")
        if not LOWEST_SCHEMA <= self.schema <= HIGHEST_SCHEMA:
            raise ValueError(f"schema must be {LOWEST_SCHEMA} to {HIGHEST_SCHEMA}, got {self.schema}")
        if not 0.0 <= self.zero_threshold < np.inf:
            raise ValueError(f"zero_threshold must be finite and not negative, got {self.zero_threshold}")
        if self.zero_count < 0:
            raise ValueError(f"zero_count must not be negative, got {self.zero_count}")
        for sign, spans, deltas in (
            ("positive", self.positive_spans, self.positive_deltas),
            ("negative", self.negative_spans, self.negative_deltas),
        ):
            _check_layout(sign, spans, deltas)

    @classmethod
    def from_values(cls, values: ArrayLike, schema: int = 3, zero_threshold: float = ZERO_THRESHOLD) -> Self:
        """Count finite values of any shape; ValueError for NaN and infinities."""
        array = np.asarray(values, dtype=np.float64).reshape(-1)
        if not np.isfinite(array).all():
            raise ValueError(f"values must be finite, got {array[~np.isfinite(array)][0]}")
        empty = cls(schema, zero_threshold)
        zero = np.abs(array) <= zero_threshold
        counts = {}
        for sign, some in (("positive", array > 0.0), ("negative", array < 0.0)):
            number, count = np.unique(bucket_numbers(np.abs(array[some & ~zero]), empty.schema), return_counts=True)
            counts[sign] = dict(zip(number.tolist(), count.tolist()))
        return cls._of(
            schema, zero_threshold, int(zero.sum()), float(array.sum()), counts["positive"], counts["negative"]
        )

    @classmethod
    def from_histogram(
        cls, histogram: Histogram, schema: int = 3, zero_threshold: float = ZERO_THRESHOLD, total: float | None = None
    ) -> Self:
        """A native histogram from one whose filled bins are buckets of it.

        Parameters
        ----------
        histogram : Histogram with integer counts. schema, zero_threshold : of the result.
        total : the sum of the values; by default what it is if they lie evenly in each bin.

        Raises
        ------
        ValueError : a filled bin is neither one bucket of this schema nor the zero bucket.
        """
        zero, counts = 0, {1: {}, -1: {}}  # type: ignore[var-annotated]
        if (histogram.counts != np.floor(histogram.counts)).any():
            raise ValueError("counts must be whole numbers in a native histogram of this kind")
        for low, high, count in zip(histogram.breaks[:-1], histogram.breaks[1:], histogram.counts.tolist()):
            if count == 0:
                continue
            if high <= max(zero_threshold, np.nextafter(0.0, 1.0)) and low >= -max(
                zero_threshold, np.nextafter(0.0, 1.0)
            ):
                zero += int(count)
                continue
            sign = 1 if high > 0.0 else -1
            near, far = (low, high) if sign > 0 else (-high, -low)
            number = int(bucket_numbers(np.array([far]), schema)[0])
            lower, upper = bucket_bounds(np.array([number]), schema)
            if upper[0] != far or max(lower[0], zero_threshold) != max(near, zero_threshold) or near < 0.0:
                raise ValueError(f"the bin from {low:g} to {high:g} is no bucket of schema {schema}")
            counts[sign][number] = int(count)
        mean = 0.0 if histogram.count == 0 else histogram.mean()
        return cls._of(
            schema, zero_threshold, zero, histogram.count * mean if total is None else total, counts[1], counts[-1]
        )

    @property
    def count(self) -> int:
        """How many values."""
        return self.zero_count + sum(self.buckets(1).values()) + sum(self.buckets(-1).values())

    def buckets(self, sign: int) -> dict[int, int]:
        """Counts by bucket number, of positive values for sign 1, of negative for -1; empty ones are left out."""
        spans, deltas = (
            (self.positive_spans, self.positive_deltas) if sign > 0 else (self.negative_spans, self.negative_deltas)
        )
        found, number, count, at = {}, 0, 0, 0
        for gap, length in spans:
            number += gap
            for _ in range(length):
                count += deltas[at]
                at += 1
                if count:
                    found[number] = count
                number += 1
        return found

    def to_histogram(self, name: str | None = None) -> Histogram:
        """The same counts as breaks and counts; gaps become empty bins.

        With negative buckets, which hold their ends the other way round, the result is closed on the left: its bounds
        then allow for either.

        Raises
        ------
        ValueError : it is empty, or a bucket reaches beyond the largest float64.
        """
        pieces = []
        for sign in (-1, 1):
            numbers = np.array(sorted(self.buckets(sign)), dtype=np.int64)
            lower, upper = bucket_bounds(numbers, self.schema)
            upper = np.where(np.isinf(upper), np.finfo(np.float64).max, upper)
            for low, high, number in zip(np.maximum(lower, self.zero_threshold), upper, numbers.tolist()):
                count = self.buckets(sign)[number]
                pieces.append((low, high, count) if sign > 0 else (-high, -low, count))
        if self.zero_count:
            wide = max(self.zero_threshold, np.nextafter(0.0, 1.0))
            pieces.append((-wide, wide, self.zero_count))
        if not pieces:
            raise ValueError("the histogram is empty")
        pieces.sort()
        breaks, counts = [pieces[0][0]], []
        for low, high, count in pieces:
            if low > breaks[-1]:
                breaks.append(low)
                counts.append(0)
            breaks.append(high)
            counts.append(count)
        closed: Any = "left" if self.negative_spans else "right"
        return Histogram(np.array(breaks), np.array(counts), closed, name)

    def quantile(self, q: ArrayLike) -> Any:
        """The q-quantile as Prometheus estimates it: along an exponential curve in each bucket, evenly in the zero one.

        Raises
        ------
        ValueError : q outside [0, 1], or it is empty.
        """
        histogram, levels = self.to_histogram(), questions.as_levels(q)
        low, high = map(np.asarray, histogram.quantile_bounds(levels))
        even = np.asarray(histogram.quantile(levels))
        part = np.clip((even - low) / (high - low), 0.0, 1.0)
        curved = low * high > 0.0  # all but the bucket around zero
        start, end = np.where(curved, low, 1.0), np.where(curved, high, 1.0)
        if not self.negative_spans:  # Prometheus then takes what counts as zero for positive
            even = part * high
        return questions.as_answer(np.where(curved, start * (end / start) ** part, even))

    def coarser(self, schema: int) -> Self:
        """The same with fewer buckets: what was counted in bucket i is counted in the one that holds it.

        Raises
        ------
        ValueError : the schema is above this one.
        """
        if not LOWEST_SCHEMA <= schema <= self.schema:
            raise ValueError(f"schema must be {LOWEST_SCHEMA} to {self.schema}, got {schema}")
        shift = self.schema - schema
        made = []
        for sign in (1, -1):
            merged: dict[int, int] = {}
            for number, count in self.buckets(sign).items():
                target = (number + (1 << shift) - 1) >> shift
                merged[target] = merged.get(target, 0) + count
            made.append(merged)
        return self._of(schema, self.zero_threshold, self.zero_count, self.sum, made[0], made[1])

    def __or__(self, other: Self) -> Self:
        """All that both have counted, at the coarser schema of the two; ValueError unless the zero thresholds agree."""
        if not isinstance(other, NativeHistogram):
            return NotImplemented
        if self.zero_threshold != other.zero_threshold:
            raise ValueError(
                "both histograms must have the same zero_threshold, "
                f"got {self.zero_threshold} and {other.zero_threshold}"
            )
        schema = min(self.schema, other.schema)
        one, two = self.coarser(schema), other.coarser(schema)
        made = []
        for sign in (1, -1):
            a, b = one.buckets(sign), two.buckets(sign)
            made.append({number: a.get(number, 0) + b.get(number, 0) for number in a.keys() | b.keys()})
        return self._of(
            schema, self.zero_threshold, self.zero_count + other.zero_count, self.sum + other.sum, made[0], made[1]
        )

    @classmethod
    def _of(
        cls, schema: int, zero_threshold: float, zero_count: int, total: float, positive: Mapping[int, int],
        negative: Mapping[int, int],
    ) -> Self:  # fmt: skip
        return cls(schema, zero_threshold, zero_count, total, *_layout(positive), *_layout(negative))


def bucket_numbers(values: NDArray[np.float64], schema: int) -> NDArray[np.int64]:
    """The bucket of each positive value: the least i with value at most 2^(i / 2^schema).

    Exact at the bounds: the fraction of the value is looked up among the bounds between 1/2 and 1.

    Examples
    --------
    >>> bucket_numbers(np.array([1.0, 1.1, 2.0, 2.1]), schema=0)
    array([0, 1, 1, 2])
    """
    fraction, exponent = np.frexp(values)
    exponent = exponent.astype(np.int64)
    if schema > 0:
        inside = 0.5 * np.exp2(np.arange(2**schema) / 2**schema)
        return np.searchsorted(inside, fraction, side="left") + (exponent - 1) * 2**schema
    whole = np.where(fraction == 0.5, exponent - 1, exponent)
    return -((-whole) >> -schema) if schema else whole


def bucket_bounds(numbers: NDArray[np.int64], schema: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Between which values each bucket lies; beyond the largest float64 is infinity.

    Examples
    --------
    >>> bucket_bounds(np.array([0, 1]), schema=0)
    (array([0.5, 1. ]), array([1., 2.]))
    """
    found = []
    for number in (numbers - 1, numbers):
        if schema > 0:
            inside = 0.5 * np.exp2(np.arange(2**schema) / 2**schema)
            power, part = np.divmod(number, 2**schema)
            with np.errstate(over="ignore"):
                found.append(np.ldexp(inside[part], (power + 1).astype(np.int32)))
        else:
            with np.errstate(over="ignore"):
                found.append(np.ldexp(1.0, np.clip(number << -schema, -5000, 5000).astype(np.int32)))
    return found[0], found[1]


def _layout(buckets: Mapping[int, int]) -> tuple[Spans, Deltas]:
    """Spans and differences of counts by bucket number."""
    spans: list[tuple[int, int]] = []
    deltas: list[int] = []
    after, count = 0, 0  # the number after the last bucket, and what that one counts
    for number in sorted(buckets):
        if not spans or number - after > _SMALL_GAP:
            spans.append((number - after, 0))
        else:
            for _ in range(number - after):
                deltas.append(-count)
                count = 0
            spans[-1] = (spans[-1][0], spans[-1][1] + number - after)
        deltas.append(buckets[number] - count)
        spans[-1] = (spans[-1][0], spans[-1][1] + 1)
        after, count = number + 1, buckets[number]
    return tuple(spans), tuple(deltas)


def _check_layout(sign: str, spans: Spans, deltas: Deltas) -> None:
    for i, (gap, length) in enumerate(spans):
        if length < 0 or (i > 0 and gap < 0) or abs(gap) > _MOST_BUCKETS:
            raise ValueError(f"{sign}_spans must have lengths and gaps that are not negative, got {(gap, length)}")
    total = sum(length for _, length in spans)
    if total != len(deltas):
        raise ValueError(
            f"{sign}_deltas must be one for each of the {total} buckets in {sign}_spans, got {len(deltas)}"
        )
    if (np.cumsum(np.array(deltas, dtype=object)) < 0).any():
        raise ValueError(f"{sign}_deltas must never take a count below 0")
