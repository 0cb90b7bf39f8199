"""GPTQ on MiniLM's encoder, one thread: round to nearest, a plain GPTQ in torch, and tercile's, in one run.

    python benchmarks/gptq.py [--repeats 3] [--out benchmarks/results]

Every method gets the same weights, the same second moments of the inputs (256 sentences of the bundled sample) and the
same scheme. What is timed is the solver alone, from weights and second moments to what it stores: packed codes and
scales, rounded weights for torch. Times are processor seconds of the one thread, so that what else runs on the machine
matters little; methods take turns, and the median of the repeats is compared. Quality is 1 - cosine of the sentence
embeddings of 500 other sentences to the original's.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TERCILE_THREADS"), "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import gzip
import json
import statistics as middle
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from tercile import _native
from tercile.papers.machine import code_version, describe_machine
from tercile.quantization import QTensor, Scheme, ranges
from tercile.quantization.solvers import coordinate_descent, gptq, round_to_nearest
from tercile.quantization.statistics import Statistics
from tercile.zoo import find

SEED = 0
SCHEMES = ("int4-g64-asym", "int3-g64-asym", "int2-g64-asym")
CALIBRATION, HELD_OUT = 256, 500
PLAIN = "plain GPTQ in torch"
OURS = "tercile GPTQ"

Solve = Callable[[np.ndarray, Statistics, Scheme], np.ndarray | QTensor]


def plain_gptq(weight: np.ndarray, seen: Statistics, scheme: Scheme) -> np.ndarray:
    """GPTQ as it is usually written in torch: min-max ranges of the weights as they have become, columns in their
    order, blocks of 128, 1% damping."""
    w, h = torch.from_numpy(weight).clone(), torch.from_numpy(seen.second_moment).clone()
    size, top = scheme.blocks.columns, len(scheme.grid.table) - 1
    columns = w.shape[1]
    dead = torch.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    h.diagonal().add_(0.01 * torch.diag(h).mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    inverse = torch.linalg.cholesky(inverse, upper=True)
    result = torch.zeros_like(w)
    for start in range(0, columns, 128):
        stop = min(start + 128, columns)
        block = w[:, start:stop].clone()
        errors = torch.zeros_like(block)
        corner = inverse[start:stop, start:stop]
        for i in range(stop - start):
            if (start + i) % size == 0:
                group = torch.cat([block[:, i:], w[:, stop:]], dim=1)[:, :size]
                low, high = group.amin(dim=1).clamp(max=0), group.amax(dim=1).clamp(min=0)
                scale = ((high - low) / top).clamp(min=1e-9)
                zero = torch.round(-low / scale)
            column = block[:, i]
            stored = scale * (torch.clamp(torch.round(column / scale) + zero, 0, top) - zero)
            result[:, start + i] = stored
            error = (column - stored) / corner[i, i]
            block[:, i:] -= error[:, None] * corner[i, i:]
            errors[:, i] = error
        w[:, stop:] -= errors @ inverse[start:stop, stop:]
    return result.numpy()


METHODS: dict[str, Solve] = {
    "round to nearest, min-max": lambda w, s, scheme: round_to_nearest(w, s, scheme, ranges.min_max),
    "round to nearest, MSE": round_to_nearest,
    PLAIN: plain_gptq,
    "tercile GPTQ, min-max": lambda w, s, scheme: gptq(w, s, scheme, ranges.min_max),
    OURS: gptq,
    "tercile GPTQ, two sweeps of descent": lambda w, s, scheme: coordinate_descent(w, gptq(w, s, scheme), s),
}


class MiniLM:
    """The model, and its embeddings of the held-out sentences."""

    def __init__(self, calibration: int = CALIBRATION, held_out: int = HELD_OUT) -> None:
        entry = find("minilm")
        self.tokenizer = AutoTokenizer.from_pretrained(entry.source)
        self.model = AutoModel.from_pretrained(entry.source).eval()
        with gzip.open(entry.sample, "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in lines]
        picked = np.random.default_rng(SEED).permutation(len(texts))[: calibration + held_out]
        self.calibration = [texts[i] for i in picked[:calibration]]
        # By length, so that batches hold little padding.
        self.held_out = sorted((texts[i] for i in picked[calibration:]), key=len)
        self.linears = {
            name: module for name, module in self.model.encoder.named_modules() if isinstance(module, torch.nn.Linear)
        }
        self.weights = {name: module.weight.detach().numpy().copy() for name, module in self.linears.items()}
        self.original = self.embed(self.held_out)

    def batches(self, texts: Sequence[str]):
        for i in range(0, len(texts), 32):
            yield self.tokenizer(
                list(texts[i : i + 32]), padding=True, truncation=True, max_length=128, return_tensors="pt"
            )

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        found = []
        with torch.inference_mode():
            for batch in self.batches(texts):
                hidden, keep = self.model(**batch).last_hidden_state, batch["attention_mask"][..., None].float()
                found.append(torch.nn.functional.normalize((hidden * keep).sum(1) / keep.sum(1), dim=1))
        return torch.cat(found)

    def statistics(self) -> dict[str, Statistics]:
        seen = {name: Statistics(module.in_features) for name, module in self.linears.items()}
        keep: list[torch.Tensor] = []

        def hook(name: str, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[name].update(inputs[0][keep[-1]].numpy())

        handles = [m.register_forward_pre_hook(partial(hook, name)) for name, m in self.linears.items()]
        with torch.inference_mode():
            for batch in self.batches(self.calibration):
                keep.append(batch["attention_mask"].bool())
                self.model(**batch)
        for handle in handles:
            handle.remove()
        return seen

    def loss(self, stored: dict[str, np.ndarray | QTensor]) -> float:
        """Mean 1 - cosine on the held-out sentences with other weights."""
        for name, module in self.linears.items():
            made = stored[name]
            module.weight.data.copy_(torch.from_numpy(made.dequantize() if isinstance(made, QTensor) else made))
        cosine = (self.embed(self.held_out) * self.original).sum(1)
        for name, module in self.linears.items():
            module.weight.data.copy_(torch.from_numpy(self.weights[name]))
        return float((1 - cosine).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = MiniLM()
    seen = model.statistics()

    rows = []
    for spelling in SCHEMES:
        scheme = Scheme.parse(spelling)
        seconds: dict[str, list[float]] = {name: [] for name in METHODS}
        stored: dict[str, dict[str, np.ndarray | QTensor]] = {}
        for _ in range(arguments.repeats):
            for name, solve in METHODS.items():
                begin = time.process_time()
                stored[name] = {layer: solve(w, seen[layer], scheme) for layer, w in model.weights.items()}
                seconds[name].append(time.process_time() - begin)
        for name in METHODS:
            rows.append(
                {
                    "scheme": spelling,
                    "method": name,
                    "loss": model.loss(stored[name]),
                    "seconds": middle.median(seconds[name]),
                    "seconds_least": min(seconds[name]),
                    "seconds_most": max(seconds[name]),
                }
            )
        peer = next(row for row in rows if row["scheme"] == spelling and row["method"] == PLAIN)
        for row in rows[-len(METHODS) :]:
            row["times_faster"] = peer["seconds"] / row["seconds"]
            row["loss_ratio"] = row["loss"] / peer["loss"]

    commit, changed = code_version(Path(__file__).parent.parent)
    made = {
        "benchmark": "gptq",
        "what": "36 linear layers of all-MiniLM-L6-v2's encoder, one thread",
        "seed": SEED,
        "calibration_sentences": CALIBRATION,
        "held_out_sentences": HELD_OUT,
        "repeats": arguments.repeats,
        "kernels": _native.kernels(),
        "commit": commit,
        "code_changed_since": changed,
        "machine": describe_machine(),
        "rows": rows,
    }
    text = table(made)
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for suffix, content in (("json", json.dumps(made, indent=1) + "\n"), ("md", text)):
        unfinished = arguments.out / f"gptq.{suffix}.part"
        unfinished.write_text(content, encoding="utf-8")
        os.replace(unfinished, arguments.out / f"gptq.{suffix}")


def table(made: dict) -> str:
    """The same as Markdown."""
    machine = made["machine"]
    lines = [
        "# GPTQ on MiniLM's encoder, one thread",
        "",
        f"{made['what']}; {made['calibration_sentences']} sentences to calibrate, mean 1 - cosine on "
        f"{made['held_out_sentences']} others. Seconds are processor time of the solver, median of {made['repeats']} "
        "(least to most). Ratios are to the plain GPTQ in torch of the same run.",
        "",
        "| scheme | method | 1 - cosine | ratio | seconds | times faster |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in made["rows"]:
        spread = f"{row['seconds']:.2f} ({row['seconds_least']:.2f} to {row['seconds_most']:.2f})"
        lines.append(
            f"| {row['scheme']} | {row['method']} | {row['loss']:.4f} | {row['loss_ratio']:.2f} | {spread} | "
            f"{row['times_faster']:.1f} |"
        )
    lines += [
        "",
        f"{machine['cpu']}, {made['kernels']} kernels, torch {machine['torch']}, numpy {machine['numpy']}, "
        f"commit {(made['commit'] or 'unknown')[:12]}{' with changes' if made['code_changed_since'] else ''}, "
        f"seed {made['seed']}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
