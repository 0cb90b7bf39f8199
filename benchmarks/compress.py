"""The main job on all-MiniLM-L6-v2: size, time and memory, beside what a user gets from 8 bits everywhere.

    python benchmarks/compress.py

Peers let a user fix a size and give no statement about the loss; the alternative that a careful user picks for a mean
loss of 0.02 is 8-bit integers everywhere, which is the first rung of the same ladder, measured in the same run on the
same units.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import tercile
from tercile.files import write_atomically, write_json
from tercile.papers.machine import code_version, describe_machine

HERE = Path(__file__).parent / "results"
MAX_LOSS, CONFIDENCE = 0.02, 0.95


def main() -> None:
    """Compresses, prints the table and writes it."""
    stages: dict[str, float] = {}
    start = now = time.perf_counter()
    current = "loading the model"

    def tell(stage: str, done: int, total: int | None) -> None:
        nonlocal current, now
        name = stage.split(",")[0].rstrip(" 0123456789")
        if name != current:
            stages[current] = stages.get(current, 0.0) + time.perf_counter() - now
            current, now = name, time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "small"
        small = tercile.compress("minilm", max_loss=MAX_LOSS, confidence=CONFIDENCE, out=out, progress=tell)
    seconds = time.perf_counter() - start
    stages[current] = stages.get(current, 0.0) + time.perf_counter() - now
    commit, changed = code_version(Path(__file__).parents[1])
    certificate, first = small.certificate, small.certificate["walk"][0]
    made = {
        "max_loss": MAX_LOSS,
        "confidence": CONFIDENCE,
        "original_nbytes": certificate["original"]["nbytes"],
        "small_nbytes": certificate["small"]["nbytes"],
        "int8_nbytes": first["nbytes"],
        "risk": certificate["risk"],
        "bound": certificate["bound"],
        "int8_risk": first["risk"],
        "units": certificate["units"],
        "seconds": seconds,
        "stages": stages,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "seed": certificate["seed"],
        "machine": describe_machine(),
        "commit": commit,
        "code_changed_since": changed,
    }
    HERE.mkdir(exist_ok=True)
    write_json(HERE / "compress.json", made)
    write_atomically(HERE / "compress.md", table(made).encode())
    print(table(made))


def table(made: dict) -> str:
    """The result as Markdown."""
    machine = made["machine"]
    before, after, int8 = (made[key] / 1e6 for key in ("original_nbytes", "small_nbytes", "int8_nbytes"))
    rows = [
        ("original", before, 1.0, 0.0),
        ("8 bits everywhere", int8, before / int8, made["int8_risk"]),
        (f"tercile, certified at {made['max_loss']:g}", after, before / after, made["risk"]),
    ]
    lines = [
        "# The main job on all-MiniLM-L6-v2",
        "",
        f"The whole model, word embedding too; mean 1 - cosine on {made['units']:,} units that had no part in making "
        f"it; the certificate says at most {made['max_loss']:g} with {100 * made['confidence']:g}% confidence.",
        "",
        "| model | MB | times smaller | mean 1 - cosine |",
        "| --- | --- | --- | --- |",
        *(f"| {name} | {size:.1f} | {ratio:.2f} | {risk:.4f} |" for name, size, ratio, risk in rows),
        "",
        f"{made['seconds']:.0f} s in all, {made['peak_bytes'] / 1e9:.2f} GB at most. "
        + "; ".join(f"{name} {seconds:.0f} s" for name, seconds in made["stages"].items())
        + ".",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, commit "
        f"{(made['commit'] or 'unknown')[:12]}{' with changes' if made['code_changed_since'] else ''}, "
        f"seed {made['seed']}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
