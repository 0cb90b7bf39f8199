"""The zoo's sentence encoder with its layers stored one way or another: what experiments on real weights share."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from tercile.quantization.layer_inputs import Recorder
from tercile.quantization.statistics import Statistics
from tercile.zoo.entries import find

#: Texts are cut after this many tokens: enough to fill a layer's statistics, at a third of the time.
LONGEST = 128


class SentenceEncoder:
    """MiniLM, and texts to calibrate on and to be judged by that have nothing in common.

    Parameters
    ----------
    calibrated, judged
        Number of texts.
    seed
        Which ones.
    blocks
        Which of the six blocks take part; the others stay as they are.
    """

    def __init__(self, calibrated: int, judged: int, seed: int, blocks: tuple[int, ...] = tuple(range(6))) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        entry = find("minilm")
        self.tokenizer = AutoTokenizer.from_pretrained(entry.source)
        self.model: nn.Module = AutoModel.from_pretrained(entry.source).eval().requires_grad_(False)
        with gzip.open(entry.sample, "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in lines]
        chosen = np.random.default_rng(seed).permutation(len(texts))[: calibrated + judged]
        self.calibration = [texts[i] for i in chosen[:calibrated]]
        self.texts = [texts[i] for i in chosen[calibrated:]]
        self.layers: dict[str, nn.Linear] = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and any(f"layer.{block}." in name for block in blocks)
        }
        self.weights = {name: module.weight.numpy().copy() for name, module in self.layers.items()}
        self.truth = self._embeddings() if judged else torch.empty(0)

    def statistics(self) -> dict[str, Statistics]:
        """Of the inputs of every layer that takes part, on the calibration texts."""
        recorder = Recorder(self.layers)
        with recorder.attached():
            for inputs in self.batches(self.calibration):
                recorder.mask = inputs["attention_mask"].bool()
                self.run(inputs)
        return recorder.statistics()

    def loss(self, stored: Mapping[str, np.ndarray]) -> float:
        """Mean of 1 - cosine between the embeddings with these weights and those of the original."""
        self._put(stored)
        lost = 1 - cosine_similarity(self.truth, self._embeddings(), dim=1)
        self._put(self.weights)
        return float(lost.mean())

    def each(self, solve: Callable[[str, np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
        """The weight of every layer as (name, weight) -> weight makes it."""
        return {name: solve(name, weight) for name, weight in self.weights.items()}

    def _put(self, stored: Mapping[str, np.ndarray]) -> None:
        for name, weight in stored.items():
            self.layers[name].weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))

    def _embeddings(self) -> torch.Tensor:
        found = []
        for inputs in self.batches(self.texts):
            hidden, keep = self.run(inputs), inputs["attention_mask"][..., None]
            found.append((hidden * keep).sum(1) / keep.sum(1))
        return torch.cat(found)

    @torch.no_grad()
    def run(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Hidden states of the last block."""
        hidden: torch.Tensor = self.model(**inputs).last_hidden_state
        return hidden

    def batches(self, texts: list[str]) -> list[Mapping[str, torch.Tensor]]:
        """Sixteen texts at a time."""
        return [
            self.tokenizer(
                texts[start : start + 16], padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
            )
            for start in range(0, len(texts), 16)
        ]
