"""The encoder in a process of its own, so that embedding and answering do not wait for each other's lock.

Between the two go lines of JSON with texts, and rows of float32; neither side runs what the other sends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: Seconds that the process has to end once it is told, and between two attempts to start it anew.
PATIENCE, PAUSE = 5.0, 30.0
#: How much of what it complained about is told, in bytes.
LAST = 2000


class Elsewhere:
    """An encoder that loads and runs in another process, which ends when this one does, however that comes about.

    It is started by `start` or by the first call, and a process that died by a later one.

    Parameters
    ----------
    folder
        As for `SmallBert`.
    threads
        Of the layers.
    command
        What starts the process; by default `tercile.page.search.child`.
    """

    def __init__(self, folder: Path, *, threads: int = 1, command: Sequence[str] | None = None) -> None:
        child = (sys.executable, "-m", "tercile.page.search.child", str(folder), str(threads))
        self._command = tuple(command or child)
        self._one_at_a_time = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._started = -PAUSE
        self._width = 0  # of a vector; 0 while the process has yet to say that it is ready

    def start(self) -> None:
        """Start the process and wait until it has loaded the model, a few seconds.

        Raises
        ------
        ValueError
            It could not; the message says why.
        """
        self.close()
        self._started = time.monotonic()
        # Each has one thread for texts of a few words; more would take turns with the page's own.
        alone = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
        with tempfile.TemporaryFile() as errors:
            process = self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=alone
            )
            assert process.stdout is not None
            told = json.loads(process.stdout.readline() or "{}")
            if "width" not in told:
                self.close()
                errors.seek(0)
                said = errors.read()[-LAST:].decode(errors="replace").strip()
                raise ValueError(told.get("failed") or f"the process ended while it loaded: {said}")
        self._width = int(told["width"])

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, float32 (n, width) of unit length.

        Raises
        ------
        OSError
            The process has died.
        ValueError
            It could not be started.
        """
        with self._one_at_a_time:
            if self._process is None or self._process.poll() is not None:
                if time.monotonic() - self._started < PAUSE:
                    raise OSError("the process that embeds texts has died; it will be started anew")
                self.start()
            assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.write(json.dumps(list(texts)).encode() + b"\n")
            self._process.stdin.flush()
            size = 4 * self._width * len(texts)
            rows = self._process.stdout.read(size)
            if len(rows) < size:
                raise OSError("the process that embeds texts has died")
        return np.frombuffer(rows, dtype="<f4").reshape(len(texts), self._width)

    def close(self) -> None:
        """End the process; one that still loads is not waited for."""
        process, self._process = self._process, None
        if process is None or process.stdin is None or process.stdout is None:
            return
        if not self._width:
            process.kill()
        self._width = 0
        try:
            process.stdin.close()  # it ends at the end of its input
            process.wait(PATIENCE)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        process.stdout.close()
