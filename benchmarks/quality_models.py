"""What benchmarks/quality.py measures on: a model, its calibration text, and what is lost on text it has not seen."""

from __future__ import annotations

import copy
import gzip
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gptq import MiniLM
from quality_steps import Made
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tercile.quantization import QTensor
from tercile.quantization.calibration import collect
from tercile.quantization.families import describe
from tercile.quantization.statistics import Statistics
from tercile.zoo import find

#: Examples in a batch that is trained on.
BATCH = 16


class Subject:
    """A model, described, with batches to calibrate on and a loss of what was made of it.

    Attributes
    ----------
    names
        Layers that are stored: the linear layers of its blocks.
    calibrated_on, measured_on, measure
        In words.
    apart
        Layers in sequence are shown one batch in so many.
    """

    name: str
    model: nn.Module
    batches: list[dict[str, torch.Tensor]]
    calibrated_on: str
    measured_on: str
    measure: str
    apart = 1

    def prepare(self) -> None:
        """Describes the model."""
        self.family = describe(self.model)
        self.names = [layer.name for block in self.family.blocks for layer in block.layers]

    def observe(self) -> None:
        """Statistics of every layer's inputs: all solvers read the same."""
        self.statistics: dict[str, Statistics] = {}
        for _, found in collect(self.model, self.family, self.batches, forward=self.forward, keep=self.keep):
            self.statistics |= {name: seen for name, seen in found.items() if name in self.names}

    def forward(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> Any:
        """Runs a model."""
        return model(**batch)

    def keep(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Which tokens are text."""
        return batch["attention_mask"] > 0

    def outputs(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What is compared."""
        raise NotImplementedError

    def losses(self, wanted: torch.Tensor, got: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """How, for training."""
        raise NotImplementedError

    def score(self, model: nn.Module) -> float:
        """The loss on the held-out text."""
        raise NotImplementedError

    def put(self, made: Made) -> nn.Module:
        """A model that runs on what was made."""
        if made.model is not None:
            return made.model
        small = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, stored in made.weights.items():
                decoded = stored.dequantize() if isinstance(stored, QTensor) else stored
                small.get_submodule(name).weight.copy_(torch.from_numpy(np.array(decoded)))
            for name, value in made.vectors.items():
                small.get_parameter(name).copy_(torch.from_numpy(np.array(value)))
        return small

    def loss(self, made: Made) -> float:
        """What is lost."""
        return self.score(self.put(made))

    def bits(self, made: Made) -> float:
        """Stored bits for each weight of the layers; gains and biases are float32 in every entry."""
        if made.bits is not None:
            return made.bits
        stored = [tensor for tensor in made.weights.values() if isinstance(tensor, QTensor)]
        return 8 * sum(t.nbytes for t in stored) / sum(math.prod(t.shape) for t in stored)


class Embeddings(Subject):
    """MiniLM's encoder: 1 - cosine of sentence embeddings."""

    name = "minilm"
    calibrated_on = "1,024 sentences of the bundled sample"
    measured_on = "400 others"
    measure = "1 - cosine of the sentence embeddings to the original's"
    apart = 4

    def __init__(self) -> None:
        self.data = MiniLM(1024, 400)
        self.model = self.data.model
        lines = sorted(self.data.calibration, key=len)
        self.batches = [
            dict(
                self.data.tokenizer(
                    lines[i : i + BATCH], padding=True, truncation=True, max_length=128, return_tensors="pt"
                )
            )
            for i in range(0, len(lines), BATCH)
        ]
        self.prepare()

    def outputs(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        hidden, keep = model(**batch).last_hidden_state, batch["attention_mask"][..., None].float()
        return torch.nn.functional.normalize((hidden * keep).sum(1) / keep.sum(1), dim=1)

    def losses(self, wanted: torch.Tensor, got: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return 1 - (wanted * got).sum(1)

    def score(self, model: nn.Module) -> float:
        own, self.data.model = self.data.model, model
        try:
            return float((1 - (self.data.embed(self.data.held_out) * self.data.original).sum(1)).mean())
        finally:
            self.data.model = own


class LanguageModel(Subject):
    """The zoo's language model: rise of perplexity."""

    name = "debian-llama"
    calibrated_on = "96 documents of the bundled sample"
    measured_on = "48 others"
    measure = "rise of the perplexity"
    documents, held_out, context = 96, 48, 384

    def __init__(self) -> None:
        entry = find(self.name)
        self.folder = entry.source
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()
        with gzip.open(entry.sample, "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in lines]
        picked = np.random.default_rng(0).permutation(len(texts))
        self.texts = [texts[i] for i in picked[: self.documents]]
        self._held = [texts[i] for i in picked[self.documents : self.documents + self.held_out]]
        self.batches = list(self._batches(self.texts, 4))
        self.prepare()
        self.perplexity = self._perplexity(self.model)

    def _batches(self, texts: Sequence[str], size: int) -> Iterator[dict[str, torch.Tensor]]:
        rows = sorted((self.tokenizer(text)["input_ids"][: self.context] for text in texts), key=len)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            width = len(part[-1])
            ids = torch.tensor([row + [0] * (width - len(row)) for row in part])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in part])
            yield {"input_ids": ids, "attention_mask": mask}

    def outputs(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return model(**batch, use_cache=False).logits

    def losses(self, wanted: torch.Tensor, got: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        keep = batch["attention_mask"].float()
        divergence = torch.nn.functional.kl_div(
            got.log_softmax(-1), wanted.log_softmax(-1), reduction="none", log_target=True
        ).sum(-1)
        return (divergence * keep).sum(1) / keep.sum(1)

    @torch.inference_mode()
    def _perplexity(self, model: nn.Module) -> float:
        total, count = 0.0, 0
        for batch in self._batches(self._held, 8):
            logits = model(**batch).logits[:, :-1].float()
            keep = batch["attention_mask"][:, 1:].bool()
            losses = torch.nn.functional.cross_entropy(logits[keep], batch["input_ids"][:, 1:][keep], reduction="sum")
            total, count = total + float(losses), count + int(keep.sum())
        return math.exp(total / count)

    def score(self, model: nn.Module) -> float:
        return self._perplexity(model) - self.perplexity


MODELS: dict[str, Callable[[], Subject]] = {"minilm": Embeddings, "debian-llama": LanguageModel}
