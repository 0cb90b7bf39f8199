"""A segment in a folder: one file an array, opened by memory map, and what is small in two more."""

from __future__ import annotations

import json
import mmap
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tercile.arrays import load_arrays, save_arrays
from tercile.files import read_json
from tercile.filters.search.columns import Column, SortedTexts
from tercile.filters.search.disk import Disk
from tercile.filters.search.lists import Lists, Reach
from tercile.filters.search.rows import Segment
from tercile.filters.search.selectivity import ColumnShares
from tercile.filters.search.summaries import ListSummary
from tercile.filters.search.vectors import opened

_LIST_ARRAYS = ("begins", "packed", "center_norms", "spread", "variance", "lateral")


class FileArrays:
    """Makes arrays that are files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: list[np.memmap] = []

    def __call__(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array to write to, in the file of its name."""
        path = self.folder / f"{name}.npy"
        if 0 in shape:
            np.save(path, np.empty(shape, dtype=dtype), allow_pickle=False)
            return np.empty(shape, dtype=dtype)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        self._made.append(array)
        return array

    def relax(self) -> None:
        """Lets go of pages that were written; the kernel takes them to the disk when it likes."""
        for array in self._made:
            _advise(array, mmap.MADV_DONTNEED)


def _advise(array: np.memmap, advice: int) -> None:
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap):
        mapped.madvise(advice)


def finish(folder: Path, segment: Segment, disk: Disk) -> None:
    """Writes what is not in the folder yet and waits for the disk. `segment` was built by `FileArrays(folder)`."""
    small: dict[str, np.ndarray] = {"rows": np.array(len(segment))}
    small |= {f"codec.{name}": array for name, array in segment.codec.arrays().items()}
    columns = []
    for i, (name, column) in enumerate(segment.columns.items()):
        columns.append([name, column.kind, column.missing is not None])
        if column.missing is not None:
            np.save(folder / f"missing-{i}.npy", column.missing, allow_pickle=False)
        if isinstance(column.texts, SortedTexts):
            np.save(folder / f"texts-{i}.npy", column.texts.data, allow_pickle=False)
            np.save(folder / f"text-ends-{i}.npy", column.texts.ends, allow_pickle=False)
    lists = segment.lists
    if lists is not None:
        small |= {f"lists.{name}": np.asarray(getattr(lists, name)) for name in _LIST_ARRAYS}
        for i, name in enumerate(segment.columns):
            if name in lists.summaries:
                small |= {f"summary.{i}.{part}": array for part, array in lists.summaries[name].arrays().items()}
    save_arrays(folder / "small.safetensors", small)
    plain = {
        "rows": len(segment),
        "codec": segment.codec.name,
        "columns": columns,
        "shares": {name: share.to_plain() for name, share in segment.shares.items()},
        "reach": None if lists is None or lists.reach is None else asdict(lists.reach),
        "files": {path.name: _check(path) for path in sorted(folder.iterdir())},
    }
    disk.create(folder / "segment.json", json.dumps(plain, indent=1).encode())
    for path in sorted(folder.iterdir()):
        disk.sync_path(path)
    disk.sync_path(folder)


def _check(path: Path) -> list[int]:
    crc, size = 0, 0
    with path.open("rb") as file:
        while data := file.read(1 << 22):
            crc, size = zlib.crc32(data, crc), size + len(data)
    return [size, crc]


def damaged(folder: Path) -> list[str]:
    """Names of files that differ from what was written. Cost: reads all of them."""
    plain = read_json(folder / "segment.json")
    return [
        name
        for name, check in plain["files"].items()
        if not (folder / name).is_file() or _check(folder / name) != check
    ]


def open_segment(folder: Path) -> Segment:
    """The segment in a folder; large arrays stay on the disk and are read where they are used.

    Raises
    ------
    ValueError : a file is missing, truncated or not what it should be; the message names it.

    Cost: a few milliseconds, whatever the size.
    """
    plain = read_json(folder / "segment.json")
    for name, (size, crc) in plain["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise ValueError(f"{path} is missing or truncated; restore the index from a copy")
        if name == "small.safetensors" and _check(path)[1] != crc:
            raise ValueError(f"{path} is damaged; restore the index from a copy")
    small, _ = load_arrays(folder / "small.safetensors")
    columns: dict[str, Column] = {}
    for i, (name, kind, has_missing) in enumerate(plain["columns"]):
        texts = (
            SortedTexts(_mapped(folder, f"texts-{i}"), _mapped(folder, f"text-ends-{i}")) if kind == "text" else None
        )
        missing = _mapped(folder, f"missing-{i}") if has_missing else None
        columns[name] = Column(kind, _mapped(folder, f"column-{i}"), missing, texts)
    codec = opened(
        plain["codec"],
        {name.removeprefix("codec."): array for name, array in small.items() if name.startswith("codec.")},
    )
    segment = Segment(
        _mapped(folder, "ids"),
        _mapped(folder, "vectors"),
        codec,
        columns,
        _mapped(folder, "sorted_ids"),
        _mapped(folder, "sorted_rows"),
        shares={name: ColumnShares.from_plain(share) for name, share in plain["shares"].items()},
    )
    if len({plain["rows"], *map(len, (segment.ids, segment.vectors, segment.sorted_ids, *columns.values()))}) > 1:  # type: ignore[arg-type]
        raise ValueError(f"{folder} holds arrays of different lengths; restore the index from a copy")
    if "lists.begins" not in small:
        return segment
    lists = Lists(
        **{name: small[f"lists.{name}"] for name in _LIST_ARRAYS},  # type: ignore[arg-type]
        reach=_reach(plain["reach"]),
        summaries={
            name: ListSummary(kind, *(small[f"summary.{i}.{part}"] for part in ("low", "high", "codes", "nulls")))
            for i, (name, kind, _) in enumerate(plain["columns"])
            if f"summary.{i}.low" in small
        },
    )
    return replace(segment, lists=lists)


def _reach(plain: dict[str, Any] | None) -> Reach | None:
    if plain is None:
        return None
    return Reach(tuple(plain["deviations"]), tuple(plain["shares"]), tuple(map(tuple, plain["read"])))


def _mapped(folder: Path, name: str) -> np.ndarray:
    path = folder / f"{name}.npy"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False) if path.stat().st_size > 4096 else np.load(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no array of an index ({error}); restore the index from a copy") from None
    return array.view(np.ndarray)
