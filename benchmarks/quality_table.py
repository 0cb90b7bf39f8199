"""docs/guide/quality.md from the files of benchmarks/quality.py."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quality_steps import STEPS

from tercile.files import read_json, write_atomically

Row = dict[str, Any]

INTRODUCTION = """# How few bits, and at what loss

Every line below is one method at about the same number of stored bits, scales and zero points counted. All of a model's
lines have the same weights, the same calibration text and the same text to be measured on, which none of them saw
before. Only the linear layers of the blocks are stored in few bits. Seconds are processor seconds on one thread, each
step's own: a step goes on from what the line it names left.

This page is written by `python benchmarks/quality.py` from the files in `benchmarks/results/quality/`.
"""
STEPS_IN_WORDS = """
## What the steps are

- **GPTQ** rounds a weight column by column and makes each error good in the columns still to come; **coordinate
  descent** then looks at every weight again. Both see the inputs of the original model.
- **In sequence**: a layer reads what the stored layers before it give, and is asked for the outputs that the original
  gave. `tercile.quantization.block_solving.solve_blocks`.
- **Trellis codes**: the bits of a code are pushed into a register of 12 bits whose content picks the value, so that a
  weight of two bits has 4,096 values at hand. Weights are rotated first, which makes them look normal and needs no
  groups; any number of bits in steps of an eighth. `trellis4.25-channel-rot` among the [schemes](schemes.md).
- **Block reconstruction** trains codes, scales, minima, gains and biases of one block at a time to give the block's old
  outputs; `tercile.quantization.training.reconstruct`.
- **Distilled as a whole**: the same parameters of all blocks together, towards the model's own answers and what its
  blocks hand on; `tercile.quantization.training.distil`. `repair` does the last two in one call and can be stopped and
  taken up again.
"""


def write_guide(results: Path, guide: Path) -> None:
    """Writes the page from what has been measured."""
    rows = [read_json(path) for path in sorted(results.glob("*.json"))]
    if rows:
        write_atomically(guide, page(rows).encode())


def page(rows: Iterable[Row]) -> str:
    """The page, in Markdown."""
    rows = list(rows)
    parts = [INTRODUCTION]
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        parts.append(f"\n## {TITLES[model]}\n")
        parts.append(
            f"Calibrated on {own[0]['calibration']}, measured on {own[0]['held_out']}: {own[0]['measure']}. "
            f"{YARDSTICKS[model]}\n"
        )
        for width in sorted({row["width"] for row in own}, reverse=True):
            parts.append(_table([row for row in own if row["width"] == width], width))
    parts.append(STEPS_IN_WORDS)
    machine, commits = rows[-1]["machine"], sorted({(row["commit"] or "unknown")[:12] for row in rows})
    parts.append(f"\n{machine['cpu']}, torch {machine['torch']}, commits {', '.join(commits)}.\n")
    return "\n".join(parts)


TITLES = {"minilm": "MiniLM's encoder", "debian-llama": "The zoo's language model"}
YARDSTICKS = {
    "minilm": "Ratios are to the plain GPTQ in torch.",
    "debian-llama": "Ratios are to the best peer that ran.",
}


def _table(rows: list[Row], width: int) -> str:
    order = list(STEPS)
    rows = sorted((row for row in rows if row["entry"] in STEPS), key=lambda row: order.index(row["entry"]))
    peers = [row["loss"] for row in rows if row["peer"] and "loss" in row]
    yardstick = min(peers) if peers else None
    lines = [f"| {width} bits | stored bits | loss | ratio | seconds |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        what = STEPS[row["entry"]].what
        if "failed" in row:
            lines.append(f"| {what} | | did not run: {row['failed']} | | |")
            continue
        ratio = f"{row['loss'] / yardstick:.2f}" if yardstick else ""
        lines.append(f"| {what} | {row['bits']:.2f} | {row['loss']:.4f} | {ratio} | {row['seconds']:.1f} |")
    return "\n".join(lines) + "\n"
