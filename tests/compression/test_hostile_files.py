"""Damaged and hostile files are refused with a message that names them; tests/fuzz_formats.py does it for longer."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tercile.arrays import load_arrays, map_arrays, save_arrays
from tercile.compression.package import DESCRIPTION, WEIGHTS, read_package
from tercile.quantization import QTensor, Scheme
from tests.fuzz_formats import Target, failures, make_targets


@pytest.fixture(scope="module")
def targets(tmp_path_factory) -> list[Target]:
    for package in ("gguf", "onnx", "onnxruntime", "onnxscript", "compressed_tensors"):
        pytest.importorskip(package)
    return make_targets(tmp_path_factory.mktemp("good"))


def test_damaged_files_of_every_kind_are_opened_or_refused_and_nothing_else(targets) -> None:
    counts: Counter[str] = Counter()
    assert not list(failures(targets, iter(range(1000, 1015)), time.monotonic() + 300, counts))
    assert sum(counts.values()) == 15 * len(targets)
    assert all(counts[f"{target.name} refused"] > 3 for target in targets)


def rewritten(packed: Path, place: Path, change) -> Path:
    shutil.copytree(packed, place)
    description = json.loads((place / DESCRIPTION).read_text())
    change(description)
    (place / DESCRIPTION).write_text(json.dumps(description))
    return place


@pytest.mark.parametrize(
    "shape",
    [[2**31, 2**31], [2**62, 4], [2**64, 1], [1, 2**40], [2**40, 1], [-1, 32], [0, 32], [], [1.5, 2], ["a"], None],
    ids=str,
)
def test_shapes_that_overflow_are_refused_before_room_is_made(targets, tmp_path, shape) -> None:
    for name in read_package(targets[0].good).quantized:
        bad = rewritten(targets[0].good, tmp_path / name, lambda d, name=name: d["quantized"][name].update(shape=shape))
        start = time.perf_counter()
        with pytest.raises(ValueError, match=f"{name}"):
            read_package(bad)
        assert time.perf_counter() - start < 2


def test_weights_cut_off_at_any_tensor_are_refused_by_both_readers(targets, tmp_path) -> None:
    data = (targets[0].good / WEIGHTS).read_bytes()
    size = int.from_bytes(data[:8], "little")
    ends = {about["data_offsets"][1] for name, about in json.loads(data[8 : 8 + size]).items() if name[:2] != "__"}
    cuts = [0, 1, 7, 8, 9, 8 + size - 1, *(8 + size + end + by for end in ends for by in (-1, 0, 1))]
    path = tmp_path / "cut.safetensors"
    for cut in cuts:
        path.write_bytes(data[:cut] if cut <= len(data) else data + b"\x00")
        for read in (load_arrays, map_arrays):
            if cut == len(data):
                read(path)
                continue
            with pytest.raises(ValueError, match=r"cut\.safetensors is no valid safetensors"):
                read(path)


def test_mapped_arrays_are_those_that_are_loaded_also_where_they_are_not_aligned(tmp_path) -> None:
    arrays = {
        "a": np.arange(5, dtype=np.float16),
        "b": np.ones((2, 3)),
        "c": np.zeros((0, 4), np.int8),
        "d": np.uint32(7),
    }
    path = tmp_path / "a.safetensors"
    save_arrays(path, arrays, {"k": "v"})
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    odd = tmp_path / "odd.safetensors"
    header = data[8 : 8 + size].rstrip() + b" "
    header += b" " * (len(header) % 2 == 0)  # an odd length: nothing that follows is aligned
    odd.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    for place in (path, odd):
        mapped, about = map_arrays(place)
        loaded, other = load_arrays(place)
        assert about == other == {"k": "v"} and mapped.keys() == loaded.keys() == arrays.keys()
        for name, array in mapped.items():
            assert array.dtype == loaded[name].dtype and array.shape == loaded[name].shape and array.flags.aligned
            np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize("spelling", ["int4-g32", "int4-g32-asym-k6", "fp4-e2m1-g32-e8m0", "trellis2-channel-rot"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scales_that_are_no_numbers_are_refused(spelling, value) -> None:
    from tercile.quantization.solvers import round_to_nearest

    scheme = Scheme.parse(spelling)
    weight = np.random.default_rng(0).normal(size=(32, 256)).astype(np.float32)
    arrays = round_to_nearest(weight, None, scheme).to_arrays("w")
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            bad = array.copy()
            bad.flat[-1] = value
            with pytest.raises(ValueError, match=r"w: scales of .* the file is damaged"):
                QTensor.from_arrays("w", scheme, weight.shape, arrays | {name: bad})
