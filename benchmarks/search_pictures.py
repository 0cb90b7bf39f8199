"""Draws docs/guide/figures/search.svg from evidence/fanns_benchmark.json: speed over the share that passes, by entry.

    python benchmarks/search_pictures.py

Hollow where an entry finds less than 0.99 of the nearest at its most thorough setting.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE, FILE = ROOT / "evidence" / "fanns_benchmark.json", ROOT / "docs" / "guide" / "figures" / "search.svg"
OURS = "#0b6e99"
ENTRIES = {
    "numpy_brute_force": ("numpy, filter first", "#b9bec5", "o"),
    "faiss_brute_force": ("faiss, filter first", "#8a8f98", "s"),
    "faiss_ivf_512": ("faiss IVF-512", "#d08c60", "v"),
    "faiss_ivf_1024": ("faiss IVF-1024", "#b3541e", "^"),
    "faiss_hnsw": ("faiss HNSW", "#7a9e7e", "D"),
    "hnswlib": ("hnswlib", "#a98bb8", "P"),
    "usearch": ("usearch, filter last", "#c9a227", "X"),
}
STORED = {"int8": 256, "opq64": 64, "opq32": 32}


def over_shares(axes: Axes, of: dict[str, float]) -> None:
    names = sorted(
        (name.removeprefix("share_") for name in of if name.startswith("share_")), key=lambda n: of[f"share_{n}"]
    )
    share = np.array([of[f"share_{name}"] for name in names])
    for entry, (label, colour, marker) in ENTRIES.items():
        speed = np.array([of[f"{entry}_speed_{name}"] for name in names])
        reached = np.array([of[f"{entry}_recall_{name}"] for name in names]) >= 0.99
        axes.plot(share, speed, color=colour, linewidth=0.7)
        axes.plot(share[reached], speed[reached], marker, color=colour, markersize=4.5, label=label)
        axes.plot(share[~reached], speed[~reached], marker, color=colour, markersize=4.5, markerfacecolor="white")
    speed = [of[f"speed_{name}"] for name in names]
    axes.plot(share, speed, "o-", color=OURS, linewidth=2, markersize=6, label="tercile")
    axes.set(xscale="log", yscale="log", xlabel="share of the texts that passes", ylabel="queries a second, one thread")
    axes.set_title("Ten filters on what is known of 104,000 texts", fontsize=9.5, loc="left")
    axes.legend(fontsize=7.5, frameon=False, ncols=2)


def over_bytes(axes: Axes, of: dict[str, float]) -> None:
    sizes = [1024, *STORED.values()]
    found = [np.mean([v for k, v in of.items() if k.startswith("recall_") and "_in_" not in k])]
    found += [of[f"recall_in_{name}"] for name in STORED]
    for name, size, recall in zip(("float32", *STORED), sizes, found):
        axes.plot(size, recall, "o" if "pq" not in name else "s", color=OURS, markersize=6)
        axes.annotate(name, (size, recall), (0, 7), textcoords="offset points", fontsize=8, ha="center")
    axes.set(xscale="log", xlabel="bytes a vector of 256 dimensions", ylabel="share of the true ten nearest")
    axes.set_xticks(sorted(set(sizes)), [str(size) for size in sorted(set(sizes))])
    axes.minorticks_off()
    axes.set(xlim=(20, 1500), ylim=(min(found) - 0.1, 1.05))
    axes.set_title("What smaller vectors find, over the ten filters", fontsize=9.5, loc="left")


def main() -> None:
    measured = json.loads(EVIDENCE.read_text())["measured"]
    of = {name: float(np.mean(quantity["values"])) for name, quantity in measured.items()}
    style = {"svg.fonttype": "none", "svg.hashsalt": "search", "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10.5, 4.4), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
        over_shares(left, of)
        over_bytes(right, of)
        figure.savefig(FILE, format="svg", metadata={"Date": None, "Creator": None})
    print(FILE)


if __name__ == "__main__":
    main()
