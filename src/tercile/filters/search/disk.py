"""What the index asks of a file system; tests put one in its place that fails where they like."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


class Disk:
    """Files and folders, each step one that either is on the disk or is not."""

    def append(self, file: int, data: bytes) -> None:
        """Writes at the end of an open file."""
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]

    def sync(self, file: int) -> None:
        """Returns when all that was written to an open file is on the disk."""
        os.fsync(file)

    def sync_path(self, path: Path) -> None:
        """The same for a file or a folder by name."""
        file = os.open(path, os.O_RDONLY)
        try:
            self.sync(file)
        finally:
            os.close(file)

    def create(self, path: Path, data: bytes) -> None:
        """Writes a new file, and waits for the disk."""
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            self.append(file, data)
            self.sync(file)
        finally:
            os.close(file)

    def rename(self, old: Path, new: Path) -> None:
        """Gives a file or folder another name, in place of what had it, and waits for the disk."""
        os.replace(old, new)
        self.sync_path(new.parent)

    def remove(self, path: Path) -> None:
        """Removes a file or a folder with all in it."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def truncate(self, file: int, size: int) -> None:
        """Cuts an open file off."""
        os.ftruncate(file, size)
