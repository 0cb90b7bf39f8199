"""The KLL sketch of strings."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile import _native
from tercile.quantiles.sketch import incoming, strings
from tercile.quantiles.sketch.any_kll import VERSION, AnyKLL
from tercile.quantiles.sketch.envelope import open_envelope, seal
from tercile.quantiles.sketch.incoming import NanPolicy
from tercile.quantiles.sketch.questions import Floats


class KLLStrings(AnyKLL):
    """A KLL sketch of strings: medians of names, paths or versions, in the order of their characters or of a key.

    Parameters
    ----------
    k, random_state : as for `KLL`. key : function of a string that gives the str, int or float to order by; strings
        of equal key are ordered by themselves.

    >>> sketch = KLLStrings(key=len)
    >>> sketch.update(["pear", "fig", "banana"])
    >>> sketch.quantile([0.0, 0.5, 1.0]).tolist()
    ['fig', 'pear', 'banana']
    """

    __slots__ = ("_key",)
    _kind = b"TKLS"
    _type = _native.KllStrings

    def __init__(self, k: int = 200, *, key: strings.Key | None = None, random_state: int | None = None) -> None:
        if key is not None and not callable(key):
            raise TypeError(f"key must be a function of a string or None, got {key!r}")
        super().__init__(k, random_state=random_state)
        self._key = key

    @property
    def minimum(self) -> str | None:
        """The first of the strings seen; None when empty."""
        return strings.decode(self._native.minimum, self._key is not None) if self.count else None

    @property
    def maximum(self) -> str | None:
        """The last of the strings seen; None when empty."""
        return strings.decode(self._native.maximum, self._key is not None) if self.count else None

    def update(self, values: Any, weights: ArrayLike | None = None, *, nan_policy: NanPolicy = "raise") -> None:
        """Put strings in.

        Parameters
        ----------
        values : a list or a numpy, pyarrow or polars array of strings; pyarrow's are read where they lie when
            there is no key.
        weights : positive integers, one for each. nan_policy : "raise", or "omit" to leave nulls out.

        Raises
        ------
        TypeError, ValueError : something that is no string, a null, weights that are not positive integers;
            nothing was put in.
        """
        if self._key is None and weights is None and (layouts := strings.arrow_layout(values)) is not None:
            self._room_for(sum(offsets.size - 1 for _, offsets in layouts))
            for data, offsets in layouts:
                self._native.update(data, offsets)
            return
        listed, kept = strings.as_list(values, nan_policy)
        items = [strings.encode(value, self._key) for value in listed]
        if weights is None:
            self._room_for(len(items))
            self._native.update(*strings.layout(items))
            return
        weight = incoming.whole_weights(weights, (kept.size,), kept.size)[kept]
        self._room_for(int(weight.sum()))
        self._native.update_weighted(items, weight)

    def merge(self, other: Self) -> Self:
        """As for numbers; the keys must be the same too."""
        if isinstance(other, KLLStrings) and other._key != self._key:
            raise ValueError(f"both sketches must have the same key, got {self._key!r} and {other._key!r}")
        return super().merge(other)

    def copy(self) -> Self:
        """A sketch that goes on independently, in the same state of the random numbers."""
        twin = super().copy()
        twin._key = self._key
        return twin

    def to_bytes(self) -> bytes:
        """The whole state but for the key, of which it only says whether there is one."""
        return seal(self._kind, VERSION, bytes([self._key is not None]) + self._native.save())

    @classmethod
    def from_bytes(cls, data: bytes, key: strings.Key | None = None) -> Self:
        """Read what `to_bytes` wrote; a sketch that had a key needs the same one again.

        Raises
        ------
        ValueError : as for numbers; or a key is missing, or given to a sketch that had none.
        """
        body = open_envelope(cls._kind, VERSION, cls.__name__, data)
        if body[:1] not in (b"\0", b"\1"):
            raise ValueError("the bytes of the sketch are damaged: whether it has a key is not told")
        keyed = body[0] == 1
        if keyed != (key is not None):
            had = "had a key: pass the same one as key" if keyed else "had no key: leave key out"
            raise ValueError(f"the sketch {had}")
        sketch = cls._wrap(cls._type.load(body[1:]))
        sketch._key = key
        if sketch.count:
            kept = [sketch._native.minimum, sketch._native.maximum, *sketch._native.view()[0]]
            for item in kept:
                strings.decode(item, keyed)
        return sketch

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(), self._key)

    def _view(self) -> tuple[NDArray[Any], Floats]:
        if self.count == 0:
            raise ValueError("the sketch is empty; update it first")
        kept, cumulative = self._native.view()
        return _objects(kept), np.asarray(cumulative)

    def _ranks(self, x: Any) -> Floats:
        view, cumulative = self._view()
        kept, padded = view.tolist(), np.concatenate(([0.0], cumulative))
        points = self._points(x)
        share = np.array([padded[bisect.bisect_right(kept, point)] for point in points.reshape(-1)]) / cumulative[-1]
        share = share.reshape(points.shape)
        return np.where(points < self._low(), 0.0, np.where(points >= self._high(), 1.0, share))

    def _points(self, x: Any) -> NDArray[Any]:
        one = isinstance(x, str)
        listed, _ = strings.as_list([x] if one else x, "raise")
        points = _objects([strings.encode(value, self._key) for value in listed])
        return points.reshape(()) if one else points

    def _low(self) -> Any:
        return self._native.minimum

    def _high(self) -> Any:
        return self._native.maximum

    def _answer(self, found: NDArray[Any]) -> Any:
        keyed = self._key is not None
        found = np.asarray(found, dtype=object)
        listed = _objects([strings.decode(item, keyed) for item in found.reshape(-1)]).reshape(found.shape)
        return listed.item() if listed.ndim == 0 else listed


def _objects(items: Sequence[Any]) -> NDArray[Any]:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
