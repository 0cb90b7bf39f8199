"""An index on disk: generations of rows that never change, and a log of what has changed since.

folder/index.json       which generation counts; replaced in one step
folder/rows-000003/     the rows of a generation
folder/log-000003       changes since
folder/lock             held by the one writer
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tercile.files import read_json
from tercile.filters.search.disk import Disk
from tercile.filters.search.log import MAGIC, Change, read_log, to_record
from tercile.filters.search.rows import Segment
from tercile.filters.search.segment_files import FileArrays, finish, open_segment

Build = Callable[[FileArrays], Segment]


class Store:
    """The folder of an index, as seen by its writer or by a reader."""

    def __init__(self, folder: Path, settings: dict[str, Any], generation: int, disk: Disk, lock: int | None) -> None:
        self.folder, self.settings, self.generation, self.disk = folder, settings, generation, disk
        self._lock = lock
        self._log: int | None = None
        self._end = 0
        self._broken: str | None = None

    @classmethod
    def write(cls, folder: Path, settings: dict[str, Any], build: Build, disk: Disk) -> None:
        """Writes an index to a folder, in place of the one that is there.

        Raises
        ------
        BlockingIOError : another process or object is writing to the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        generation = 0
        lock = _locked(folder)
        try:
            if (folder / "index.json").exists():
                generation = _read_settings(folder)[1]
            store = cls(folder, settings, generation, disk, lock)
            store.next_generation(settings, build)
            store.close()
        finally:
            os.close(lock) if _is_open(lock) else None

    @classmethod
    def open(cls, folder: Path, writable: bool, disk: Disk) -> tuple[Store, Segment, list[Change]]:
        """Opens an index: its settings, the rows of its generation, and what has changed since.

        A reader that meets a writer in the middle of a new generation tries again.

        Raises
        ------
        ValueError : no index, or a damaged one. BlockingIOError : there is a writer already.
        """
        if not (folder / "index.json").is_file():
            raise ValueError(f"{folder} holds no index; write one with index.save({str(folder)!r})")
        lock = _locked(folder) if writable else None
        try:
            for attempt in range(20):
                settings, generation = _read_settings(folder)
                try:
                    segment = open_segment(folder / f"rows-{generation:06d}")
                    changes, end = read_log(folder / f"log-{generation:06d}")
                    break
                except (ValueError, FileNotFoundError) as error:
                    if _read_settings(folder)[1] == generation or attempt == 19:
                        raise ValueError(str(error)) from None
            store = cls(folder, settings, generation, disk, lock)
            store._end = end
            if writable:
                store._tidy()
                store._open_log()
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise
        return store, segment, changes

    @property
    def writable(self) -> bool:
        """Whether this is the writer."""
        return self._lock is not None

    def append(self, change: Change) -> None:
        """Returns when the change is on the disk.

        Raises
        ------
        OSError : it is not; nothing has changed. If that can't be made sure of either, the store takes no more changes.
        """
        if self._broken:
            raise OSError(f"the log could not be written before ({self._broken}); open the index again")
        assert self._log is not None
        record = to_record(change)
        try:
            self.disk.append(self._log, record)
            self.disk.sync(self._log)
        except BaseException as error:
            self._broken = str(error) or type(error).__name__
            if isinstance(error, OSError):
                self.disk.truncate(self._log, self._end)
                self.disk.sync(self._log)
                self._broken = None
            raise
        self._end += len(record)

    def news(self) -> list[Change] | None:
        """What a writer has put into the log since this was last asked; None if there is a new generation."""
        if _read_settings(self.folder)[1] != self.generation:
            return None
        try:
            changes, self._end = read_log(self.folder / f"log-{self.generation:06d}", self._end)
        except FileNotFoundError:
            return None
        return changes

    def next_generation(self, settings: dict[str, Any], build: Build) -> Segment:
        """Writes all rows anew and begins an empty log. A crash at any step leaves the old generation or the new."""
        number = self.generation + 1
        part, rows = self.folder / f".rows-{number:06d}.part", self.folder / f"rows-{number:06d}"
        for leftover in (part, rows, self.folder / f"log-{number:06d}"):
            self.disk.remove(leftover)
        part.mkdir()
        finish(part, build(FileArrays(part)), self.disk)
        self.disk.rename(part, rows)
        self.disk.create(self.folder / f"log-{number:06d}", MAGIC)
        plain = {"format": "tercile-index", "version": 1, "generation": number, "settings": settings}
        text = json.dumps({**plain, "checksum": _checksum(plain)}, indent=1)
        self.disk.create(self.folder / ".index.json.part", text.encode())
        self.disk.rename(self.folder / ".index.json.part", self.folder / "index.json")
        self.settings, self.generation, self._end = settings, number, len(MAGIC)
        segment = open_segment(rows)
        self._tidy()
        self._open_log()
        return segment

    def close(self) -> None:
        """Lets another write."""
        for file in (self._log, self._lock):
            if file is not None and _is_open(file):
                os.close(file)
        self._log = self._lock = None

    def _open_log(self) -> None:
        if self._log is not None:
            os.close(self._log)
        self._log = os.open(self.folder / f"log-{self.generation:06d}", os.O_RDWR | os.O_APPEND)
        if os.fstat(self._log).st_size > self._end:  # a change that was never acknowledged
            self.disk.truncate(self._log, self._end)
            self.disk.sync(self._log)
        if self._end == 0:
            self.disk.append(self._log, MAGIC)
            self.disk.sync(self._log)
            self._end = len(MAGIC)

    def _tidy(self) -> None:
        """Removes what other generations have left."""
        number = f"{self.generation:06d}"
        for path in [*self.folder.glob("rows-*"), *self.folder.glob("log-*"), *self.folder.glob(".*.part")]:
            if path.name not in {f"rows-{number}", f"log-{number}"}:
                self.disk.remove(path)


def _locked(folder: Path) -> int:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise BlockingIOError(
            f"{folder} is being written to already; close the other writer, or open it with writable=False"
        ) from None
    return lock


def _is_open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True


def _read_settings(folder: Path) -> tuple[dict[str, Any], int]:
    path = folder / "index.json"
    plain = read_json(path)
    if not isinstance(plain, dict) or plain.get("format") != "tercile-index":
        raise ValueError(f"{path} is not of an index")
    if plain.get("version") != 1:
        raise ValueError(f"{path} is of version {plain.get('version')}, this reads version 1; update tercile")
    checksum = plain.pop("checksum", None)
    if checksum != _checksum(plain):
        raise ValueError(f"{path} is damaged; restore the index from a copy")
    return plain["settings"], plain["generation"]


def _checksum(plain: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())
