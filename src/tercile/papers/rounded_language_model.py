"""The zoo's language model with stored weights and rounded activations, and text to calibrate and to test on."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from tercile.quantization.activations import Quantizer, attached
from tercile.quantization.calibration import collect
from tercile.quantization.families import describe
from tercile.quantization.statistics import Statistics
from tercile.zoo.entries import find

#: (name of a layer, its weight, statistics of its inputs) -> what the weight comes back as.
Store = Callable[[str, np.ndarray, Statistics], np.ndarray]


@dataclass(frozen=True)
class Answers:
    """Log probabilities of every next token of the test text, and which it was."""

    logs: torch.Tensor
    truth: torch.Tensor


class LanguageModel:
    """debian-llama and documents of its sample, which it was not trained on.

    Parameters
    ----------
    tested, calibrated
        How many documents.
    seed
        Which documents.
    """

    def __init__(self, tested: int, calibrated: int, seed: int) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        entry = find("debian-llama")
        model: nn.Module = AutoModelForCausalLM.from_pretrained(entry.source, dtype=torch.float32)
        self.model = model.eval().requires_grad_(False)
        self.family = describe(model)
        tokenizer = AutoTokenizer.from_pretrained(entry.source)
        with gzip.open(entry.sample, "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in lines]
        chosen = np.random.default_rng(seed).permutation(len(texts))[: tested + calibrated]
        documents = [self._tokens(tokenizer, texts[index]) for index in chosen]
        self.tested, self.calibration = documents[:tested], documents[tested:]
        self.layers = [layer.name for block in self.family.blocks for layer in block.layers]
        self.float = self.answers(self.model, {})
        self.statistics = self._statistics()

    @staticmethod
    def _tokens(tokenizer: Any, text: str) -> torch.Tensor:
        ids = tokenizer(text, truncation=True, max_length=256).input_ids
        return torch.tensor([ids])

    def _statistics(self) -> dict[str, Statistics]:
        found: dict[str, Statistics] = {}
        for _, part in collect(self.model, self.family, self.calibration, forward=forward):
            found |= part
        return found

    def stored(self, store: Store) -> nn.Module:
        """A copy with the weights of all layers in blocks as they come back from storage."""
        model = copy.deepcopy(self.model)
        for name in self.layers:
            weight = model.get_parameter(f"{name}.weight")
            kept = store(name, weight.numpy(), self.statistics[name])
            weight.copy_(torch.from_numpy(np.ascontiguousarray(kept, dtype=np.float32)))
        return model

    @torch.no_grad()
    def answers(self, model: nn.Module, quantizers: Mapping[str, Quantizer]) -> Answers:
        """Runs the test documents one by one."""
        logs, truth = [], []
        with attached(model, self.family, quantizers):
            for ids in self.tested:
                logs.append(forward(model, ids)[0, :-1].log_softmax(-1))
                truth.append(ids[0, 1:])
        return Answers(torch.cat(logs), torch.cat(truth))

    def scores(self, name: str, model: nn.Module, quantizers: Mapping[str, Quantizer]) -> dict[str, float]:
        """`<name>kl`, mean divergence of the next token's distribution from the float model's, and `<name>rise` of the
        mean negative log-likelihood."""
        mine, reference = self.answers(model, quantizers), self.float
        divergence = (reference.logs.exp() * (reference.logs - mine.logs)).sum(-1).mean()
        rise = nll(mine) - nll(reference)
        return {f"{name}kl": float(divergence), f"{name}rise": rise}


def nll(answers: Answers) -> float:
    """Mean negative log-likelihood of a token."""
    return -float(answers.logs.gather(1, answers.truth[:, None]).mean())


def forward(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Logits of one document, (1, tokens, vocabulary)."""
    logits: torch.Tensor = model(input_ids=batch, use_cache=False).logits
    return logits
