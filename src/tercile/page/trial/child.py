"""One live run in a process of its own: progress goes out as lines of JSON, and the process can be stopped.

python -m tercile.page.trial.child digits-cnn 0.05 FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any


def main(model: str, max_loss: float, folder: Path) -> None:
    """Compress and say how far it is; the last line holds the result or why there is none."""
    os.nice(10)  # readers come first
    from tercile import api
    from tercile.page.trial.runs import run_of

    def tell(**fields: Any) -> None:
        print(json.dumps(fields), flush=True)

    try:
        made = api.compress(
            model,
            max_loss=max_loss,
            out=folder,
            progress=lambda stage, done, total: tell(stage=stage, done=done, total=total),
        )
    except (api.NotCertified, ImportError, MemoryError, OSError, ValueError) as error:
        tell(failed=str(error))
    else:
        tell(run=asdict(run_of(made.certificate, made.details)))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
