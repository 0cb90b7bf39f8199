"""Train ``debian-llama``, a small Llama with grouped-query attention, on the Debian corpus.

    python -m tercile.zoo.train_language_model --minutes 120

writes checkpoints and a log to ``--work`` and, at the end, a Transformers folder there under ``model/``.
The schedule follows the clock, not a step count: the learning rate warms up, stays, and falls to zero over
the last half of the given minutes, whatever else the machine does meanwhile. Killed and started again, it
goes on from its last checkpoint with the minutes that are left. ``--start-from`` begins a new schedule on
what an earlier one learnt.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .corpus import Document, documents, split

VOCABULARY = 4096
CONTEXT = 384
BATCH = 12
# Of Muon for the matrices inside the layers and of AdamW for the rest.
PEAK_RATES = (0.02, 2e-3)
END_OF_TEXT = "<|endoftext|>"
# How often a source is read in one pass over the corpus: running prose counts double beside dictionaries.
PASSES = {"python": 2, "kjv": 2, "fortune": 2, "state": 2, "wordnet": 1, "webster": 1}


def train_tokenizer(train: list[Document]) -> Any:
    """Fit a byte-level BPE whose encodings start with the end-of-text token, as the model is trained."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (document.text for document in train for _ in range(PASSES[document.source]))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)]
    )
    wrap: Any = PreTrainedTokenizerFast
    return wrap(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT,
    )


def new_model(seed: int) -> LlamaForCausalLM:
    """Build the untrained model: 5.5 million weights, 4 heads that share 2 key/value heads."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


@dataclass
class Stream:
    """The training text as one endless row of tokens, reshuffled by document at every pass."""

    encoded: list[np.ndarray]
    seed: int
    passes: int = 0
    at: int = 0

    def __post_init__(self) -> None:
        self._row = self._shuffled()

    def _shuffled(self) -> np.ndarray:
        order = np.random.default_rng([self.seed, self.passes]).permutation(len(self.encoded))
        return np.concatenate([self.encoded[i] for i in order])

    def batch(self) -> torch.Tensor:
        """Return the next ``BATCH`` rows of ``CONTEXT + 1`` tokens."""
        size = BATCH * CONTEXT
        if self.at + size + 1 > len(self._row):
            self.passes, self.at = self.passes + 1, 0
            self._row = self._shuffled()
        piece = self._row[self.at : self.at + size + 1].astype(np.int64)
        self.at += size
        starts = np.arange(BATCH)[:, None] * CONTEXT + np.arange(CONTEXT + 1)[None]
        return torch.from_numpy(piece[starts])


@torch.no_grad()
def bits_per_byte(model: Any, tokenizer: Any, held: list[Document], batch: int = 8) -> dict[str, float]:
    """Score documents: bits that the model needs for a byte of their text, for each source and for all.

    Every document is read on its own, from the end-of-text token on, and cut at ``CONTEXT`` tokens; the bytes
    counted are those of the tokens that are scored.
    """
    bits: dict[str, float] = {}
    size: dict[str, int] = {}
    order = sorted(held, key=lambda document: len(document.text))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        rows = [tokenizer(document.text)["input_ids"][:CONTEXT] for document in part]
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        logits = model(input_ids=ids, use_cache=False).logits.float()
        cost = torch.nn.functional.cross_entropy(
            logits[:, :-1].reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1), reduction="none"
        ).view(len(rows), -1)
        for i, (document, row) in enumerate(zip(part, rows, strict=True)):
            spent = cost[i, : len(row) - 1].sum().item() / math.log(2)
            length = len(tokenizer.decode(row[1:]).encode())
            for key in (document.source, "all"):
                bits[key] = bits.get(key, 0.0) + spent
                size[key] = size.get(key, 0) + length
    return {key: bits[key] / size[key] for key in sorted(bits)}


def rate(progress: float) -> float:
    """Share of the peak rate at a fraction of the time: 2% warm-up, level until 50%, then down to zero."""
    if progress < 0.02:
        return max(progress, 1e-4) / 0.02
    return min(1.0, max(0.0, (1 - progress) / 0.5))


def optimizers_of(model: torch.nn.Module) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside the layers, which learns from fewer tokens, AdamW for all else."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    outer = [p for name, p in model.named_parameters() if p.ndim < 2 or ".layers." not in name]
    return (
        torch.optim.Muon(inner, lr=PEAK_RATES[0], momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(outer, lr=PEAK_RATES[1], betas=(0.9, 0.95), weight_decay=0.01, fused=True),
    )


@dataclass
class Pace:
    """Finds how many threads are fastest now, by trying another count for two steps out of every twenty.

    On a machine that others use too, threads that wait for each other can be slower together than one alone.
    """

    most: int
    best: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        self.best = self.most
        self._seconds: dict[int, list[float]] = {count: [] for count in range(1, self.most + 1)}

    def threads(self) -> int:
        """Return the number of threads for the next step."""
        if self.steps % 20 < 2:
            return 1 + (self.steps // 20) % self.most
        return self.best

    def took(self, seconds: float, threads: int) -> None:
        """Take note of a step's time; the quickest count of the last few steps of each is the best."""
        self._seconds[threads] = [*self._seconds[threads][-3:], seconds]
        self.steps += 1
        self.best = min(
            (count for count, times in self._seconds.items() if times),
            key=lambda count: sorted(self._seconds[count])[len(self._seconds[count]) // 2],
        )


def save_atomically(state: object, path: Path) -> None:
    """Write a checkpoint beside its place, then move it there."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def export(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a Transformers folder with bfloat16 weights."""
    small = copy.deepcopy(model).to(torch.bfloat16)
    small.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def export_checkpoint(work: Path, folder: Path) -> None:
    """Write the Transformers folder of the last checkpoint while the training goes on."""
    model = new_model(0)
    model.load_state_dict(torch.load(work / "checkpoint.pt", weights_only=True)["model"])
    export(model, PreTrainedTokenizerFast.from_pretrained(work / "tokenizer"), folder)


def train(minutes: float, work: Path, seed: int, threads: int, start_from: Path | None = None) -> None:
    """Train for `minutes` of wall-clock time and export to ``work/model``."""
    work.mkdir(parents=True, exist_ok=True)
    if start_from is not None and not (work / "checkpoint.pt").exists():
        shutil.copytree(start_from / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
        earlier = torch.load(start_from / "checkpoint.pt", weights_only=True)
        save_atomically(earlier | {"seconds": 0.0}, work / "checkpoint.pt")
    trained, held = split(documents())
    if not (work / "tokenizer" / "tokenizer.json").exists():
        train_tokenizer(trained).save_pretrained(work / "tokenizer")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    texts = [d.text for d in trained for _ in range(PASSES[d.source])]
    rows = tokenizer.backend_tokenizer.encode_batch_fast(texts)
    stream = Stream([np.array(row.ids, dtype=np.uint16) for row in rows], seed)
    del rows, texts
    watched = held[:: max(1, len(held) // 80)]

    model: Any = new_model(seed)
    optimizers = optimizers_of(model)
    step, spent = 0, 0.0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        step, spent = state["step"], state["seconds"]
        stream = Stream(stream.encoded, seed, state["passes"], state["at"])

    def note(**what: object) -> None:
        with open(work / "log.jsonl", "a") as log:
            log.write(json.dumps(what) + "\n")

    note(event="start", step=step, tokens_in_a_pass=len(stream._row), held=len(held), seed=seed)
    total, began, saved, loss_sum, loss_count = minutes * 60, time.time() - spent, time.time(), 0.0, 0
    saves = 0
    pace = Pace(threads)
    model.train()
    while (spent := time.time() - began) < total:
        ids = stream.batch()
        torch.set_num_threads(now := pace.threads())
        started = time.time()
        for optimizer, peak in zip(optimizers, PEAK_RATES, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(spent / total)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            loss: Any = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        pace.took(time.time() - started, now)
        step, loss_sum, loss_count = step + 1, loss_sum + loss.item(), loss_count + 1
        if step % 20 == 0:
            mean = round(loss_sum / loss_count, 4)
            note(step=step, seconds=round(spent), loss=mean, passes=stream.passes, threads=pace.best)
            loss_sum, loss_count = 0.0, 0
        if time.time() - saved > 300:
            _save(model, optimizers, stream, step, spent, checkpoint)
            saves += 1
            if saves % 2 == 0:
                model.eval()
                with torch.autocast("cpu", torch.bfloat16):
                    score = bits_per_byte(model, tokenizer, watched)
                model.train()
                note(step=step, seconds=round(spent), held_out={k: round(v, 4) for k, v in score.items()})
            saved = time.time()
    _save(model, optimizers, stream, step, spent, checkpoint)
    model.eval()
    export(model, tokenizer, work / "model")
    tokens = step * BATCH * CONTEXT
    note(event="end", step=step, seconds=round(spent), tokens=tokens, passes=stream.passes)


def _save(
    model: torch.nn.Module,
    optimizers: tuple[torch.optim.Optimizer, ...],
    stream: Stream,
    step: int,
    spent: float,
    path: Path,
) -> None:
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
    save_atomically(state | {"step": step, "seconds": spent, "passes": stream.passes, "at": stream.at}, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the small Llama of the zoo on Debian's texts.")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--work", type=Path, default=Path("language-model-training"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start-from", type=Path, help="work folder of an earlier schedule to go on from")
    parser.add_argument("--export", type=Path, help="only write the last checkpoint to this folder")
    given = parser.parse_args()
    if given.export:
        export_checkpoint(given.work, given.export)
    else:
        train(given.minutes, given.work, given.seed, given.threads, given.start_from)
