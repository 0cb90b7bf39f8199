"""How little is lost at 4, 3 and 2 bits: MiniLM's encoder and the zoo's language model, step by step, beside peers.

    python benchmarks/quality.py [--model minilm debian-llama] [--entry NAME ...] [--work FOLDER]

Each entry is one method at one number of bits. It is measured once and kept in benchmarks/results/quality/, so that the
benchmark can be finished in pieces; delete a file to measure it again. What a step leaves for the next one is kept in
the work folder. At the end docs/guide/quality.md is written from what is there.

All methods of a model get the same weights, the same calibration text and the same number of stored bits, scales and
zero points counted; the text that they are measured on played no part in any of them. Seconds are processor time.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TERCILE_THREADS"), "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from quality_models import MODELS, Subject
from quality_steps import STEPS, Made, load, save
from quality_table import write_guide

from tercile.files import read_json, write_json
from tercile.papers.machine import code_version, describe_machine

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "quality"
GUIDE = HERE.parent / "docs" / "guide" / "quality.md"
BITS = (4, 3, 2)


def measure(subject: Subject, bits: int, entry: str, work: Path) -> dict:
    """One entry, and those that it builds on where they are not there yet."""
    path = RESULTS / f"{subject.name}-{bits}-{entry}.json"
    step = STEPS[entry]
    kept = work / f"{subject.name}-{bits}-{entry}.safetensors"
    if path.is_file() and (kept.is_file() or not step.kept):
        return read_json(path)
    before: Made | None = None
    if step.after is not None:
        measure(subject, bits, step.after, work)
        before = load(work / f"{subject.name}-{bits}-{step.after}.safetensors")
    begin = time.process_time()
    try:
        made = step.make(subject, bits, before)
    except Exception as error:  # a peer that does not run is a result
        if not step.peer:
            raise
        row = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"}
    else:
        seconds = time.process_time() - begin
        row = {"loss": subject.loss(made), "bits": subject.bits(made), "seconds": seconds} | made.notes
        if step.kept:
            save(kept, made)
    commit, changed = code_version(HERE.parent)
    row = {
        "model": subject.name, "width": bits, "entry": entry, "what": step.what, "peer": step.peer,
        **row, "calibration": subject.calibrated_on, "held_out": subject.measured_on, "measure": subject.measure,
        "machine": describe_machine(), "commit": commit, "code_changed_since": changed,
    }  # fmt: skip
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(path, row)
    print(json.dumps({key: row.get(key) for key in ("model", "width", "entry", "loss", "bits", "seconds", "failed")}))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--bits", nargs="*", type=int, default=list(BITS))
    parser.add_argument("--entry", nargs="*", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tercile-quality")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name in arguments.model:
        subject = MODELS[name]()
        subject.observe()  # before anything is timed
        for bits in arguments.bits:
            for entry in arguments.entry:
                if name in STEPS[entry].models:
                    measure(subject, bits, entry, arguments.work)
    write_guide(RESULTS, GUIDE)


if __name__ == "__main__":
    main()
