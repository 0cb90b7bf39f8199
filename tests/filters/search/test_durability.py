"""An index on disk: whatever was acknowledged is there after any crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fcntl import F_GETFL, fcntl
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercile.filters.search import FlatIndex, Index
from tercile.filters.search.disk import Disk


class Crash(Exception):
    """The machine has stopped."""


class CrashingDisk(Disk):
    """Stops at one step: half of what that step writes is on the disk, and what was never waited for is lost."""

    def __init__(self, stop_at: int, keep_unsynced: bool) -> None:
        self.steps, self.stop_at, self.keep = 0, stop_at, keep_unsynced
        self.synced: dict[int, int] = {}
        self.down = False

    def step(self) -> bool:
        if self.down:
            raise Crash
        self.steps += 1
        self.down = self.steps == self.stop_at
        return self.down

    def append(self, file: int, data: bytes) -> None:
        before = os.fstat(file).st_size
        self.synced.setdefault(file, before)
        if self.step():
            super().append(file, data[: len(data) // 2] if self.keep else b"")
            if not self.keep:
                os.ftruncate(file, self.synced[file])
            raise Crash
        super().append(file, data)

    def sync(self, file: int) -> None:
        if self.step():
            if not self.keep and file in self.synced and fcntl(file, F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
                os.ftruncate(file, self.synced[file])
            raise Crash
        super().sync(file)
        self.synced[file] = os.fstat(file).st_size

    def create(self, path: Path, data: bytes) -> None:
        self.synced.clear()
        super().create(path, data)

    def rename(self, old: Path, new: Path) -> None:
        if self.step():
            if self.keep:
                os.replace(old, new)
            raise Crash
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        if self.step():
            raise Crash
        super().remove(path)

    def truncate(self, file: int, size: int) -> None:
        if self.step():
            raise Crash
        super().truncate(file, size)


def rows(numbers: range | list[int]) -> np.ndarray:
    return np.array([[n, n % 7] for n in numbers], dtype=np.float32)


STEPS: list[Callable[[Index], None]] = [
    lambda i: i.add(range(10, 14), rows(range(10, 14)), {"year": [1, 2, None, 4]}),
    lambda i: i.delete([0, 11]),
    lambda i: i.update([1, 12], rows([101, 112]), {"lang": ["en", None]}),
    lambda i: i.compact(),
    lambda i: i.add([50], rows([50]), {"lang": ["é'"]}),
    lambda i: i.update([50], attributes={"year": [9]}),
    lambda i: i.delete([2]),
    lambda i: i.compact(),
    lambda i: i.add([60, 61], rows([60, 61])),
]


def contents(index: Index) -> dict[int, tuple[Any, ...]]:
    found = index.search(np.zeros(2), 1000, recall=1).ids[0]
    ids = np.sort(found[found >= 0])
    records = index.get(ids)
    return {
        int(number): (
            tuple(vector.tolist()),
            *(records.attributes.get(name, [None] * len(ids))[i] for name in ("year", "lang")),
        )
        for i, (number, vector) in enumerate(zip(ids, records.vectors))
    }


KINDS = [(Index, "float32"), (FlatIndex, "float32")]
KINDS += [(Index, storage) for storage in ("float16", "int8", "pq2", "opq1")]
every_kind = pytest.mark.parametrize(("kind", "storage"), KINDS, ids=lambda one: getattr(one, "__name__", one))


def begun(folder: Path, kind: type[Index] = Index, storage: str = "float32") -> None:
    index = kind(2, "l2", storage=storage)
    index.add(range(8), rows(range(8)), {"year": list(range(2000, 2008))})
    index.save(folder)


@cache
def states(kind: type[Index], storage: str) -> list[dict[int, tuple[Any, ...]]]:
    """What the index must hold after each step, as an index in memory says."""
    index = kind(2, "l2", storage=storage)
    index.add(range(8), rows(range(8)), {"year": list(range(2000, 2008))})
    index.compact()
    held = [contents(index)]
    for step in STEPS:
        step(index)
        held.append(contents(index))
    return held


def test_what_the_steps_leave_is_what_they_say() -> None:
    held = states(Index, "float32")
    assert held[3][1] == ((101.0, 3.0), 2001, "en") and held[3][12][2] is None and 11 not in held[3]
    assert held[-1][50] == ((50.0, 1.0), 9, "é'") and set(held[-1]) == {1, 3, 4, 5, 6, 7, 10, 12, 13, 50, 60, 61}


@every_kind
@pytest.mark.parametrize("keep_unsynced", [True, False], ids=["half a write stays", "what was not waited for is lost"])
def test_a_crash_at_any_write_loses_nothing_that_was_acknowledged(
    keep_unsynced: bool, kind: type[Index], storage: str, tmp_path: Path
) -> None:
    steps, stop_at = states(kind, storage), 1
    while True:
        folder = tmp_path / str(stop_at)
        begun(folder, kind, storage)
        disk, done, crashed = CrashingDisk(stop_at, keep_unsynced), 0, False
        index = None
        try:
            index = kind.open(folder, writable=True, disk=disk)
            for step in STEPS:
                step(index)
                done += 1
        except Crash:
            crashed = True
        if index is not None:
            index.close()
        for writable in (False, True):  # the second opening repairs
            with kind.open(folder, writable=writable) as again:
                held = contents(again)
                # The step that was cut off may be there or not; never a part of it.
                assert held in (steps[done], steps[min(done + 1, len(STEPS))]), (stop_at, done)
        with kind.open(folder, writable=True) as again:
            again.add([99], rows([99]))
        assert 99 in contents(kind.open(folder))
        if not crashed:
            break
        stop_at += 1
    assert stop_at > 40


WRITER = """
import sys
import numpy as np
from tercile.filters.search import Index
index = Index.open(sys.argv[1], writable=True)
for number in range(100, 100000):
    index.add([number], [[number, 1.0]], {"year": [number]})
    if number % 7 == 0:
        index.delete([number - 3])
    if number % 40 == 0:
        index.compact()
    print(number, flush=True)
"""


@pytest.mark.parametrize("seconds", [0.15, 0.4])
def test_a_killed_writer_has_lost_nothing_that_it_acknowledged(seconds: float, tmp_path: Path) -> None:
    begun(tmp_path)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    said = [int(writer.stdout.readline())]
    time.sleep(seconds)
    os.kill(writer.pid, signal.SIGKILL)
    said += [int(line) for line in writer.stdout.read().split("\n")[:-1] if line]
    writer.wait()
    writer.stdout.close()
    with Index.open(tmp_path, writable=True) as index:
        held = contents(index)
        assert index.damaged() == []
    gone = {number - 3 for number in said if number % 7 == 0}
    assert {number for number in range(100, said[-1] + 1) if number not in gone} <= set(held) | {said[-1] - 2}
    assert not gone & set(held)
    assert all(held[number][1] == number for number in held if number >= 100)


def test_there_is_one_writer_and_any_number_of_readers(tmp_path: Path) -> None:
    begun(tmp_path)
    with Index.open(tmp_path, writable=True) as writer:
        with pytest.raises(BlockingIOError, match="being written to already"):
            Index.open(tmp_path, writable=True)
        with pytest.raises(BlockingIOError, match="being written to already"):
            Index(2, "l2").save(tmp_path)
        reader = Index.open(tmp_path)
        with pytest.raises(ValueError, match="open it with writable=True"):
            reader.delete([0])
        writer.add([70], rows([70]))
        assert len(reader) == 8
        reader.refresh()
        assert len(reader) == 9
        writer.delete([70])
        writer.compact()
        writer.add([71], rows([71]))
        assert reader.search([70, 0], 1).ids.tolist() == [[70]]  # files that are gone are still read
        reader.refresh()
        assert reader.search([71, 0], 1).ids.tolist() == [[71]]
    Index.open(tmp_path, writable=True).close()


def test_a_log_that_is_damaged_in_the_middle_is_an_error_and_at_the_end_is_cut(tmp_path: Path) -> None:
    begun(tmp_path)
    with Index.open(tmp_path, writable=True) as index:
        for number in range(20, 25):
            index.add([number], rows([number]))
    (log,) = tmp_path.glob("log-*")
    whole = log.read_bytes()
    for cut in range(len(whole) - 60, len(whole)):
        log.write_bytes(whole[:cut])
        assert len(Index.open(tmp_path)) == 12
    log.write_bytes(whole + b"\0" * 4096)
    assert len(Index.open(tmp_path)) == 13
    log.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(ValueError, match="is damaged at byte"):
        Index.open(tmp_path)
    log.write_bytes(b"something else altogether")
    with pytest.raises(ValueError, match="no log of an index"):
        Index.open(tmp_path)


def test_damaged_or_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no index; write one with index\.save"):
        Index.open(tmp_path)
    begun(tmp_path)
    (rows_folder,) = tmp_path.glob("rows-*")
    vectors = rows_folder / "vectors.npy"
    data = bytearray(vectors.read_bytes())
    data[-3] ^= 1
    vectors.write_bytes(data)
    assert Index.open(tmp_path).damaged() == ["vectors.npy"]
    vectors.write_bytes(data[:-8])
    with pytest.raises(ValueError, match=r"vectors\.npy is missing or truncated"):
        Index.open(tmp_path)
    settings = tmp_path / "index.json"
    settings.write_text(settings.read_text().replace('"dimension": 2', '"dimension": 3'))
    with pytest.raises(ValueError, match="is damaged"):
        Index.open(tmp_path)


class FullDisk(Disk):
    """Has no room for anything more to append."""

    full = False

    def append(self, file: int, data: bytes) -> None:
        if self.full:
            os.write(file, data[:11])
            raise OSError(28, "No space left on device")
        super().append(file, data)


def test_a_full_disk_refuses_a_change_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    begun(tmp_path)
    disk = FullDisk()
    with Index.open(tmp_path, writable=True, disk=disk) as index:
        disk.full = True
        with pytest.raises(OSError, match="No space"):
            index.add([90], rows([90]))
        assert len(index) == 8
        disk.full = False
        index.add([91], rows([91]))
    assert set(contents(Index.open(tmp_path))) == {*range(8), 91}


def test_a_large_index_opens_in_milliseconds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    index = Index(32, "l2")
    index.add(np.arange(60_000), random.normal(size=(60_000, 32)), {"word": [f"w{n}" for n in range(60_000)]})
    index.save(tmp_path)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        opened = Index.open(tmp_path)
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.05
    assert opened.search(opened.get([777]).vectors, 1, "word = 'w777'").ids.tolist() == [[777]]
