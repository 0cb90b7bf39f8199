"""What goes into a sketch: numpy, pyarrow, polars and torch arrays, read where they lie when their layout allows.

None of these packages but numpy is imported here: an array brings its own along.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile import _native

NanPolicy = Literal["raise", "omit"]
Missing = NDArray[np.bool_] | None
MOST_COUNT = 2**53


def read(values: Any, name: str = "values") -> list[tuple[NDArray[Any], Missing]]:
    """The pieces of an array as flat numpy arrays, each with a mask of its nulls or None.

    A float32, float64 or int64 array without nulls is not copied if it lies in one stretch (each chunk of a
    pyarrow.ChunkedArray counts for itself).
    """
    package = type(values).__module__.partition(".")[0]
    if package == "pyarrow":
        chunks = values.chunks if hasattr(values, "chunks") else [values]
        return [_arrow(chunk, name) for chunk in chunks]
    if package == "polars":
        if not hasattr(values, "is_null"):
            raise TypeError(f"{name} must be one column, a polars.Series, got {type(values).__name__}")
        missing = values.is_null().to_numpy() if values.null_count() else None
        whole = values if missing is None else values.fill_null(strategy="zero")
        return [(np.ascontiguousarray(whole.to_numpy()), missing)]
    if package == "torch":
        values = values.detach().cpu()
        values = values.numpy() if str(values.dtype) != "torch.bfloat16" else values.float().numpy()
    array = np.asarray(values)
    return [(np.ascontiguousarray(array).reshape(-1), None)]


def _arrow(chunk: Any, name: str) -> tuple[NDArray[Any], Missing]:
    kind = str(chunk.type)
    if not (kind == "bool" or kind.startswith(("int", "uint", "float", "double", "halffloat"))):
        raise TypeError(f"{name} must be numbers, got a pyarrow array of {kind}")
    missing = None
    if chunk.null_count:
        missing = chunk.is_null().to_numpy(zero_copy_only=False)
        chunk = chunk.fill_null(False if kind == "bool" else 0)
    return chunk.to_numpy(zero_copy_only=False), missing


def check_policy(nan_policy: str) -> None:
    """ValueError unless it is one of the two."""
    if nan_policy not in ("raise", "omit"):
        raise ValueError(f"nan_policy must be 'raise' or 'omit', got {nan_policy!r}")


def floats(values: Any, nan_policy: NanPolicy, name: str = "values") -> list[NDArray[Any]]:
    """The pieces as float32 or float64 without NaN and nulls.

    Raises
    ------
    TypeError : not numbers. ValueError : NaN or a null (named by its index) under nan_policy "raise".
    """
    return [piece for piece, _ in _complete(values, nan_policy, name)]


def integers(values: Any, nan_policy: NanPolicy) -> list[tuple[NDArray[np.int64], Missing]]:
    """The pieces as int64 without nulls, each with a mask of what was kept, or None when all was.

    Raises
    ------
    TypeError : anything that is not whole by its type. ValueError : a null under nan_policy "raise".
    """
    check_policy(nan_policy)
    pieces: list[tuple[NDArray[np.int64], Missing]] = []
    start = 0
    for piece, missing in read(values):
        if piece.dtype.kind not in "biu" and piece.size:
            raise TypeError(f"values must be integers, got an array of {piece.dtype}")
        if piece.dtype == np.uint64 and piece.size and piece.max() > np.iinfo(np.int64).max:
            raise ValueError(f"values must fit into 64 bits with a sign, got {piece.max()}")
        kept: Missing = None
        if missing is not None:
            _refuse_null(missing, nan_policy, start, "values")
            kept = ~missing
        start += piece.size
        whole = np.ascontiguousarray(piece, dtype=np.int64)
        pieces.append((whole if kept is None else whole[kept], kept))
    return pieces


def weighted(
    values: Any, weights: ArrayLike, nan_policy: NanPolicy, *, whole: bool
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Values as float64 and their weights, as int64 where they must be whole numbers, else as float64."""
    pieces = _complete(values, nan_policy, "values")
    kept = kept_of(pieces)
    weigh = whole_weights if whole else real_weights
    weight = weigh(weights, _shape(values), kept.size)[kept]
    empty = np.empty(0, dtype=np.float64)
    return np.concatenate([empty, *(piece.astype(np.float64) for piece, _ in pieces)]), weight


def kept_of(pieces: list[tuple[NDArray[Any], Missing]]) -> NDArray[np.bool_]:
    """Which of all values that came were kept."""
    masks = [np.ones(piece.size, np.bool_) if kept is None else kept for piece, kept in pieces]
    return np.concatenate([np.empty(0, np.bool_), *masks])


def whole_weights(weights: ArrayLike, shape: tuple[int, ...], total: int) -> NDArray[np.int64]:
    """Weights that are positive integers."""
    weight = _weights(weights, shape, total)
    if weight.dtype.kind not in "iu" and weight.size:
        raise TypeError(f"weights must be integers, got an array of {weight.dtype}")
    if weight.size and weight.min() < 1:
        raise ValueError(f"weights must be positive, got {weight.min()}")
    if math.fsum(weight.astype(np.float64)) > MOST_COUNT:
        raise ValueError(f"weights must not take the count past {MOST_COUNT}")
    return np.ascontiguousarray(weight, dtype=np.int64)


def real_weights(weights: ArrayLike, shape: tuple[int, ...], total: int) -> NDArray[np.float64]:
    """Weights that are positive finite numbers."""
    weight = _weights(weights, shape, total)
    if weight.dtype.kind not in "biuf":
        raise TypeError(f"weights must be numbers, got an array of {weight.dtype}")
    weight = np.ascontiguousarray(weight, dtype=np.float64)
    bad = ~((weight > 0.0) & (weight <= MOST_COUNT))
    if bad.any():
        raise ValueError(f"weights must be positive and at most {MOST_COUNT}, got {weight[bad][0]}")
    return weight


def _weights(weights: Any, shape: tuple[int, ...], total: int) -> NDArray[Any]:
    parts = read(weights, "weights")
    if any(missing is not None for _, missing in parts):
        raise ValueError("weights must not hold nulls")
    weight = np.concatenate([part for part, _ in parts]) if parts else np.empty(0, dtype=np.int64)
    if weight.size != total or (len(shape) > 1 and _shape(weights) not in (shape, (total,))):
        raise ValueError(f"weights must have the shape of values {shape}, got {_shape(weights)}")
    return weight


def _shape(values: Any) -> tuple[int, ...]:
    return (len(values),) if hasattr(values, "chunks") else tuple(np.shape(values))


def _complete(values: Any, nan_policy: NanPolicy, name: str) -> list[tuple[NDArray[Any], Missing]]:
    """Pieces without NaN and nulls, each with a mask of what was kept, or None when all was."""
    check_policy(nan_policy)
    pieces: list[tuple[NDArray[Any], Missing]] = []
    start = 0
    for piece, missing in read(values, name):
        if piece.dtype.kind not in "biuf" and piece.size:
            raise TypeError(f"{name} must be numbers, got an array of {piece.dtype}")
        if piece.dtype not in (np.float32, np.float64) or not piece.dtype.isnative:
            piece = piece.astype(np.float64)
        kept: Missing = None
        if missing is not None:
            _refuse_null(missing, nan_policy, start, name)
            kept = ~missing
        nan = _native.first_nan(piece)
        if nan >= 0:
            if nan_policy == "raise":
                raise ValueError(
                    f"{name} must not hold NaN, got one at index {start + nan}; drop them, or say nan_policy='omit'"
                )
            whole = ~np.isnan(piece)
            kept = whole if kept is None else kept & whole
        start += piece.size
        pieces.append((piece if kept is None else piece[kept], kept))
    return pieces


def _refuse_null(missing: NDArray[np.bool_], nan_policy: NanPolicy, start: int, name: str) -> None:
    if nan_policy == "raise":
        at = start + int(missing.argmax())
        raise ValueError(f"{name} must not hold nulls, got one at index {at}; drop them, or say nan_policy='omit'")
