"""The other side of `Elsewhere`: loads the encoder, says so, and answers lines of texts by rows of float32.

python -m tercile.page.search.child FOLDER THREADS
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import IO

from tercile.page.search.encoder import Encoder, SmallBert


def serve(encoder: Encoder, lines: IO[bytes], out: IO[bytes]) -> None:
    """Answer each line until there are no more."""
    for line in lines:
        out.write(encoder.encode(json.loads(line)).astype("<f4").tobytes())
        out.flush()


def main(folder: Path, threads: int) -> None:
    """Load and serve; what libraries print goes nowhere."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the page ends this one by its input
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        encoder = SmallBert(folder, threads=threads)
        told: dict[str, object] = {"width": encoder.width}
    except (ImportError, OSError, ValueError) as error:
        told = {"failed": str(error)}
    out.write(json.dumps(told).encode() + b"\n")
    out.flush()
    if "width" in told:
        serve(encoder, sys.stdin.buffer, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
