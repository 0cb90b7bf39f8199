"""Nine private deciles, one thread: OpenDP with its candidates, and tercile without, in one run.

    python benchmarks/private_quantiles.py [--repeats 40] [--out benchmarks/results]

Both get the same values, the same domain and the same budget under the same relation of neighbours (one record added or
removed). OpenDP 0.16 has one quantile a mechanism, so each of nine gets a ninth of epsilon (at
the least scale that costs that), and needs a list of candidates. Times are processor seconds of one release of all
nine from an array of numpy, turn by turn; the least and the median of the repeats are compared. The peer is optional
(`pip install opendp`).
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "RAYON_NUM_THREADS"), "1")

import argparse
import json
import statistics as middle
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from tercile.papers.machine import code_version, describe_machine
from tercile.quantiles.private import private_histogram, private_quantile, private_quantiles

SEED = 20261125
EPSILON = 1.0
LEVELS = np.arange(1, 10) / 10
#: What is drawn, and the domain that everybody is told.
CASES: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], tuple[float, float]]] = {
    "normal in [-10, 10]": (lambda rng, n: rng.standard_normal(n), (-10.0, 10.0)),
    "normal in [-10000, 10000]": (lambda rng, n: rng.standard_normal(n), (-1e4, 1e4)),
    "lognormal in [0, 1000]": (lambda rng, n: rng.lognormal(0, 1, n), (0.0, 1e3)),
}
Release = Callable[[np.ndarray, int], np.ndarray]


def opendp(domain: tuple[float, float], candidates: int) -> Release | None:
    """Nine mechanisms of the peer, made ready."""
    try:
        import opendp.prelude as dp
    except ImportError:
        return None
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=float, nan=False)), dp.symmetric_distance()
    grid = np.linspace(*domain, candidates).tolist()

    def made(level: float) -> Callable[[list[float]], float]:
        # The least scale for a ninth of the budget; what it costs is asked of the peer.
        scale = 2 * max(level, 1 - level) * LEVELS.size / EPSILON
        mechanism = dp.m.make_private_quantile(*space, dp.max_divergence(), candidates=grid, alpha=level, scale=scale)
        cost = mechanism.map(1)
        if not 0.999 * EPSILON / LEVELS.size <= cost <= 1.001 * EPSILON / LEVELS.size:
            raise SystemExit(f"OpenDP's quantile at {level} costs {cost}, not a ninth of {EPSILON}")
        return mechanism  # type: ignore[return-value]

    mechanisms = [made(level) for level in LEVELS]

    def release(x: np.ndarray, seed: int) -> np.ndarray:
        values = x.tolist()
        return np.array([mechanism(values) for mechanism in mechanisms])

    return release


def ways(domain: tuple[float, float]) -> dict[str, Release]:
    """Everything that is compared on one domain; the peer first."""
    found: dict[str, Release] = {}
    for candidates in (2001, 20_001):
        peer = opendp(domain, candidates)
        if peer is not None:
            found[f"OpenDP {metadata.version('opendp')}, {candidates:,} candidates"] = peer
    found["tercile, recursion"] = lambda x, seed: private_quantiles(
        x, LEVELS, domain, epsilon=EPSILON, random_state=seed
    )
    found["tercile, nine single ones"] = lambda x, seed: np.array(
        [private_quantile(x, q, domain, epsilon=EPSILON / 9, random_state=seed * 9 + i) for i, q in enumerate(LEVELS)]
    )
    found["tercile, histogram"] = lambda x, seed: private_histogram(
        x, domain, epsilon=EPSILON, random_state=seed
    ).quantile(LEVELS)
    return found


def measured(case: str, n: int, repeats: int) -> list[dict]:
    """One row a way: mean error in rank with its standard error, and seconds."""
    draw, domain = CASES[case]
    compared = ways(domain)
    errors: dict[str, list[float]] = {name: [] for name in compared}
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    rng = np.random.default_rng(SEED)
    for repeat in range(repeats):
        x = np.clip(draw(rng, n), *domain)
        ordered = np.sort(x)
        for name, release in compared.items():
            began = time.process_time()
            answers = release(x, repeat)
            seconds[name].append(time.process_time() - began)
            errors[name].append(float(np.abs(np.searchsorted(ordered, answers) / n - LEVELS).mean()))
    peer = next(iter(compared))
    return [
        {
            "case": case,
            "records": n,
            "way": name,
            "error": middle.mean(errors[name]),
            "error_spread": middle.stdev(errors[name]) / repeats**0.5,
            "seconds": middle.median(seconds[name]),
            "seconds_least": min(seconds[name]),
            "error_ratio": middle.mean(errors[name]) / middle.mean(errors[peer]),
            "times_faster": min(seconds[peer]) / min(seconds[name]),
        }
        for name in compared
    ]


def table(made: dict) -> str:
    """The same as Markdown."""
    machine = made["machine"]
    lines = [
        "# Nine private deciles at epsilon 1, one thread",
        "",
        f"Mean error in rank over nine deciles, mean of {made['repeats']} data sets (standard error); processor time "
        "of one release, median (least). Ratios are to the first row of each case. Candidates are told to OpenDP only.",
        "",
        "| case | records | way | error in rank | ratio | milliseconds | times faster |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in made["rows"]:
        lines.append(
            f"| {row['case']} | {row['records']:,} | {row['way']} | {row['error']:.5f} ({row['error_spread']:.5f}) | "
            f"{row['error_ratio']:.2f} | {1e3 * row['seconds']:.1f} ({1e3 * row['seconds_least']:.1f}) | "
            f"{row['times_faster']:.1f} |"
        )
    lines += [
        "",
        f"{machine['cpu']}, numpy {machine['numpy']}, commit {(made['commit'] or 'unknown')[:12]}"
        f"{' with changes' if made['code_changed_since'] else ''}, seed {made['seed']}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares private deciles with OpenDP.")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    rows = []
    for case in CASES:
        rows += measured(case, 10_000, arguments.repeats)
    rows += measured("normal in [-10, 10]", 1000, arguments.repeats)
    commit, changed = code_version(Path(__file__).parent.parent)
    made = {
        "benchmark": "private_quantiles",
        "seed": SEED,
        "repeats": arguments.repeats,
        "commit": commit,
        "code_changed_since": changed,
        "machine": describe_machine(),
        "rows": rows,
    }
    text = table(made)
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for suffix, content in (("json", json.dumps(made, indent=1) + "\n"), ("md", text)):
        unfinished = arguments.out / f"private_quantiles.{suffix}.part"
        unfinished.write_text(content, encoding="utf-8")
        os.replace(unfinished, arguments.out / f"private_quantiles.{suffix}")


if __name__ == "__main__":
    main()
