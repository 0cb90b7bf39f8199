"""Keep what finished runs said, for the slider.

for loss in 0.005 0.01 0.02 0.05 0.1; do tercile compress minilm --max-loss $loss --out runs/$loss; done
python -m tercile.page.trial.keep_runs runs/*
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from tercile.files import read_json, write_json
from tercile.page.trial.runs import FILE, run_of


def main(folders: list[Path]) -> None:
    """Write the runs of folders that `tercile compress` made, the strictest first."""
    runs = []
    for folder in folders:
        certificate = read_json(folder / "certificate.json")
        if certificate["original"]["source"] != "minilm":
            raise ValueError(f"{folder} is no run on minilm")
        runs.append(run_of(certificate, read_json(folder / "details.json")))
    runs.sort(key=lambda run: run.max_loss)
    write_json(FILE, {"model": "minilm", "runs": [asdict(run) for run in runs]})
    print(f"{len(runs)} runs in {FILE}")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
