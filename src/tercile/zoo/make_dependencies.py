"""Writes samples/dependencies.npz: which packages each source of Debian 12 depends on, as a recommender's baskets.

    apt-get update && python -m tercile.zoo.make_dependencies

The source is the package index of Debian's own archive (bookworm, main, amd64), whose entries state names and
relations only. A row is a source package: what its binary packages depend on or recommend, the first of each list of
alternatives, without what it builds itself. Kept are dependencies of at least `FEWEST` sources and sources with at
least as many dependencies. Predicting the next one is third-party library recommendation.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

SAMPLE = Path(__file__).parent / "samples" / "dependencies.npz"
LISTS = Path("/var/lib/apt/lists")
INDEX = "*_debian_dists_bookworm_main_binary-amd64_Packages*"
FIELDS = ("Pre-Depends", "Depends", "Recommends")
FEWEST = 3


def baskets(index: str) -> dict[str, set[str]]:
    """What each source of a package index depends on, without what it builds itself.

    >>> index = "Package: a\\nDepends: b (>= 1) | c, libd:any\\n\\nPackage: libd\\nSource: a (2)\\nDepends: e\\n"
    >>> sorted(baskets(index)["a"])
    ['b', 'e']
    """
    found: dict[str, set[str]] = defaultdict(set)
    built: dict[str, set[str]] = defaultdict(set)
    for entry in index.split("\n\n"):
        fields: dict[str, str] = dict(re.findall(r"^([\w-]+): (.*)$", entry, re.MULTILINE))
        if "Package" not in fields:
            continue
        source = fields.get("Source", fields["Package"]).split(" ")[0]
        built[source].add(fields["Package"])
        for field in FIELDS:
            for alternatives in filter(None, fields.get(field, "").split(",")):
                found[source].add(re.split(r"[\s(|:]", alternatives.strip())[0])
    return {source: wanted - built[source] for source, wanted in found.items()}


def kept(found: dict[str, set[str]]) -> tuple[list[str], list[list[str]]]:
    """Dependencies and baskets that are left once everything rare is gone."""
    rows = list(found.values())
    while True:
        count = Counter(name for row in rows for name in row)
        fewer = [{name for name in row if count[name] >= FEWEST} for row in rows]
        fewer = [row for row in fewer if len(row) >= FEWEST]
        if fewer == rows:
            return sorted(count), [sorted(row) for row in rows]
        rows = fewer


def main() -> None:
    """Read the index that apt keeps and write the sample."""
    files = sorted(LISTS.glob(INDEX))
    if not files:
        raise SystemExit("apt keeps no package index of Debian 12 here; run apt-get update on such a machine")
    command = ["/usr/lib/apt/apt-helper", "cat-file", str(files[0])]
    index = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names, rows = kept(baskets(index))
    number = {name: i for i, name in enumerate(names)}
    order = np.random.default_rng(0).permutation(len(rows))
    items = np.concatenate([[number[name] for name in rows[i]] for i in order]).astype(np.uint16)
    sizes = np.array([len(rows[i]) for i in order], dtype=np.uint16)
    np.savez_compressed(SAMPLE, names=np.frombuffer("\n".join(names).encode(), np.uint8), items=items, sizes=sizes)
    print(f"{SAMPLE}: {len(rows):,} sources, {len(names):,} dependencies, {items.size:,} pairs")
    print(f"{SAMPLE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
