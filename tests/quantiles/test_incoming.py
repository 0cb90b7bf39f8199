"""What sketches take: arrays of other packages, read where they lie, nulls and NaN by policy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tercile.quantiles.sketch import KLL, DDSketch, Exact, KLLIntegers, KLLStrings, TDigest
from tercile.quantiles.sketch.incoming import floats, integers, read

VALUES = np.random.default_rng(0).standard_normal(1000)


def shares(piece: np.ndarray, start: int, stop: int) -> bool:
    return start <= piece.__array_interface__["data"][0] < stop


def test_pyarrow_arrays_are_read_where_they_lie() -> None:
    pa = pytest.importorskip("pyarrow")
    for numpy_type in (np.float64, np.float32, np.int64):
        array = pa.array((100 * VALUES).astype(numpy_type))
        data = array.buffers()[1]
        table = pa.chunked_array([array.slice(3, 200), array.slice(500)])
        taken = integers(table, "raise") if numpy_type is np.int64 else [(p, None) for p in floats(table, "raise")]
        assert [piece.size for piece, _ in taken] == [200, 500]
        assert all(shares(piece, data.address, data.address + data.size) for piece, _ in taken)


def test_polars_series_and_torch_tensors_are_read_where_they_lie() -> None:
    pl, torch = pytest.importorskip("polars"), pytest.importorskip("torch")
    series = pl.Series(VALUES)
    tensor = torch.from_numpy(VALUES.copy())
    assert (
        shares(floats(series, "raise")[0], *np.byte_bounds(series.to_numpy())) if hasattr(np, "byte_bounds") else True
    )
    assert floats(series, "raise")[0].__array_interface__["data"] == series.to_numpy().__array_interface__["data"]
    assert floats(tensor, "raise")[0].ctypes.data == tensor.data_ptr()
    assert floats(tensor.bfloat16(), "raise")[0].dtype == np.float32


def test_numpy_arrays_are_read_where_they_lie() -> None:
    for dtype in (np.float64, np.float32):
        array = VALUES.astype(dtype)
        assert floats(array, "raise")[0].ctypes.data == array.ctypes.data
        assert floats(array.reshape(10, 100), "raise")[0].ctypes.data == array.ctypes.data
    assert floats(VALUES[::2], "raise")[0].tolist() == VALUES[::2].tolist()
    assert floats(VALUES.astype(">f8"), "raise")[0].tolist() == VALUES.tolist()


@pytest.mark.parametrize("kind", [KLL, DDSketch, TDigest, Exact])
def test_every_package_gives_the_same_bytes(kind: type) -> None:
    pa, pl, torch = (pytest.importorskip(name) for name in ("pyarrow", "polars", "torch"))
    made = []
    for array in (VALUES, list(VALUES), pa.array(VALUES), pl.Series(VALUES), torch.from_numpy(VALUES)):
        options = {"random_state": 1} if kind is KLL else {}
        sketch = kind(**options)
        sketch.update(array)
        made.append(sketch.to_bytes())
    assert len(set(made)) == 1


@pytest.mark.parametrize("kind", [KLL, DDSketch, TDigest, Exact, KLLIntegers, KLLStrings])
def test_nulls_are_refused_by_index_or_left_out_with_their_weights(kind: type) -> None:
    pa, pl = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    listed: list = ["a", None, "b", "c"] if kind is KLLStrings else [1, None, 2, 3]
    if kind in (KLL, DDSketch, TDigest, Exact):
        listed = [None if value is None else float(value) for value in listed]
    for array in (pa.array(listed), pl.Series(listed), pa.chunked_array([listed[:1], listed[1:]])):
        sketch = kind()
        with pytest.raises(ValueError, match="must not hold nulls, got one at index 1"):
            sketch.update(array)
        assert sketch.count == 0
        sketch.update(array, nan_policy="omit")
        assert sketch.count == 3
        assert sketch.maximum == listed[-1]
        sketch.update(array, [10, 20, 30, 40], nan_policy="omit")
        assert sketch.count == 83
        with pytest.raises(ValueError, match="nan_policy must be 'raise' or 'omit', got 'drop'"):
            sketch.update(array, nan_policy="drop")


@pytest.mark.parametrize("kind", [KLL, DDSketch, TDigest, Exact])
def test_nan_is_refused_by_index_or_left_out_with_its_weight(kind: type) -> None:
    sketch = kind()
    with pytest.raises(ValueError, match="must not hold NaN, got one at index 2; drop them, or say nan_policy='omit'"):
        sketch.update([1.0, 2.0, np.nan, 3.0])
    sketch.update([1.0, 2.0, np.nan, 3.0], nan_policy="omit")
    sketch.update([1.0, 2.0, np.nan, 3.0], [1, 2, 100, 3], nan_policy="omit")
    assert sketch.count == 9
    assert sketch.maximum == 3.0


def test_columns_that_are_no_numbers_are_refused() -> None:
    pa, pl = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    for array in (pa.array(["a"]), pl.Series(["a"]), np.array(["a"]), np.array([1j]), [None], [object()]):
        with pytest.raises(TypeError, match="values must be numbers"):
            KLL().update(array)
    for array in (np.array([1.5]), ["a"], pa.array([1.5])):
        with pytest.raises(TypeError, match="values must be integers"):
            KLLIntegers().update(array)
    with pytest.raises(TypeError, match=r"one column, a polars.Series"):
        KLL().update(pl.DataFrame({"a": [1.0]}))
    with pytest.raises(ValueError, match="values must fit into 64 bits with a sign"):
        KLLIntegers().update(np.array([2**63], dtype=np.uint64))


def test_empty_arrays_change_nothing() -> None:
    pa = pytest.importorskip("pyarrow")
    for kind in (KLL, DDSketch, TDigest, Exact, KLLIntegers, KLLStrings):
        sketch = kind()
        sketch.update([])
        if kind is not KLLStrings:
            sketch.update(pa.array([], pa.int64()))
            sketch.update(pa.chunked_array([], pa.int64()))
        assert sketch.count == 0


def test_an_array_is_left_as_it_was() -> None:
    array = VALUES.copy()
    for kind in (KLL, DDSketch, TDigest, Exact):
        kind().update(array)
        kind().update(array, np.ones(array.size, dtype=int))
    assert (array == VALUES).all()
    assert read(array)[0][0].base is array or read(array)[0][0] is array


def test_importing_quantiles_brings_neither_torch_nor_pyarrow() -> None:
    code = (
        "import sys, tercile.quantiles; print([n for n in ('torch', 'pyarrow', 'polars', 'scipy') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in found.stdout
    assert "pyarrow" not in found.stdout
