"""The zoo's vision transformer with weights and activations rounded: what four papers on such models share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from tercile.papers.digits_network import pictures
from tercile.quantization import Scheme
from tercile.quantization.activations import Quantizer, Seen, Site, attached, calibrate, observe
from tercile.quantization.activations.power_law import capture
from tercile.quantization.calibration import collect
from tercile.quantization.families import describe
from tercile.quantization.ranges import RangeEstimator, mse
from tercile.quantization.solvers import gptq
from tercile.quantization.statistics import Statistics
from tercile.zoo.entries import find

#: From probabilities and values, as captured, to a quantizer of the probabilities.
Fit = Callable[[torch.Tensor, torch.Tensor], Quantizer]
#: Of the patch embedding and the classifier, as the papers have it.
OUTER = "int8-tensor-asym-f32"


class Transformer:
    """digits-vit, pictures to calibrate on that a seed picks, and held-out pictures to test on.

    Parameters
    ----------
    tested, calibrated
        How many pictures.
    seed
        Which pictures are calibrated on.
    """

    def __init__(self, tested: int, calibrated: int, seed: int) -> None:
        from transformers import ViTForImageClassification
        from transformers.utils import logging

        logging.disable_progress_bar()
        model: nn.Module = ViTForImageClassification.from_pretrained(find("digits-vit").source)
        self.model = model.eval().requires_grad_(False)
        self.family = describe(model)
        images, labels = pictures(0, 2)
        self.images, self.labels = images[:tested], labels[:tested]
        pool = pictures(1, 2)[0]
        chosen = np.random.default_rng(seed).permutation(len(pool))[:calibrated]
        self.calibration = pool[torch.from_numpy(chosen)]
        self.truth = self.logits(self.model, {})
        self.outer = {layer.name for layer in self.family.outside}

    @property
    def blocks(self) -> list[str]:
        """Names of the blocks."""
        return [block.name for block in self.family.blocks]

    def copy(self) -> nn.Module:
        """A model that may be changed."""
        return copy.deepcopy(self.model)

    @torch.no_grad()
    def logits(self, model: nn.Module, quantizers: Mapping[str, Quantizer]) -> torch.Tensor:
        """Logits of the test pictures, (n, 10)."""
        with attached(model, self.family, quantizers):
            return torch.cat([model(part).logits for part in self.images.split(125)])

    def observe(self, model: nn.Module) -> dict[str, Seen]:
        """What every site reads on the calibration pictures."""
        return observe(model, self.family, self.calibration.split(32), forward=forward)

    def captured(self, model: nn.Module, names: Iterable[str], images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Whole activations of some pictures, by name of site."""
        return capture(model, self.family, [images], list(names), forward=forward)

    def probabilities(self, model: nn.Module, fit: Fit) -> dict[str, Quantizer]:
        """A quantizer for softmax's output in each block, fitted to it and the values that it weighs."""
        names = [f"{block}:{each}" for block in self.blocks for each in ("probabilities", "value")]
        seen = self.captured(model, names, self.calibration[: len(self.calibration) // 4])
        return {
            f"{block}:probabilities": fit(seen[f"{block}:probabilities"], seen[f"{block}:value"])
            for block in self.blocks
        }

    def statistics(self, model: nn.Module, quantizers: Mapping[str, Quantizer]) -> dict[str, Statistics]:
        """Of the inputs of every layer, rounded by the quantizers."""
        found: dict[str, Statistics] = {}
        with attached(model, self.family, quantizers):
            for _, part in collect(model, self.family, self.calibration.split(32), forward=forward):
                found |= part
        return found

    def uniform(
        self,
        model: nn.Module,
        seen: Mapping[str, Seen],
        bits: int,
        *,
        ranges: RangeEstimator = mse,
        channels: bool = False,
    ) -> dict[str, Quantizer]:
        """Even steps everywhere: one scale for each layer's input (one a channel after norms if `channels`), one a head
        for query, key and value, and probabilities of softmax with one as well."""
        after_norm = {reader for scaling in self.family.all_scalings if scaling.kind == "norm"
                      for reader in scaling.readers}  # fmt: skip

        def choose(site: Site) -> Scheme:
            if site.module in self.outer:
                return Scheme.parse(OUTER)
            if site.operand in ("query", "key", "value") or (channels and site.module in after_norm):
                return Scheme.parse(f"int{bits}-channel-asym-f32")
            return Scheme.parse(f"int{bits}-tensor-asym-f32")

        return calibrate(model, self.family, choose, seen, ranges=ranges)

    def store_weights(
        self, model: nn.Module, bits: int, quantizers: Mapping[str, Quantizer] | None = None
    ) -> nn.Module:
        """Puts GPTQ's weights in, found for inputs as the quantizers round them; the outer layers have 8 bits.

        Without quantizers the weights are the same for every way to round activations, which is then all that differs.
        """
        statistics = self.statistics(model, quantizers or {})
        for layer in self.family.layers:
            width = 8 if layer.name in self.outer else bits
            weight = model.get_parameter(f"{layer.name}.weight")
            scheme = Scheme.parse(f"int{width}-channel-f32")
            kept = gptq(weight.detach().numpy(), statistics[layer.name], scheme)
            with torch.no_grad():
                weight.copy_(torch.from_numpy(kept.dequantize()).reshape(weight.shape))
        return model

    def scores(self, name: str, model: nn.Module, quantizers: Mapping[str, Quantizer]) -> dict[str, float]:
        """`<name>kl`, mean divergence of the class probabilities from the float model's, and `<name>accuracy`."""
        answers = self.logits(model, quantizers)
        pair = log_softmax(answers, 1), log_softmax(self.truth, 1)
        divergence = float(kl_div(*pair, reduction="batchmean", log_target=True))
        return {f"{name}kl": divergence, f"{name}accuracy": self.accuracy(answers)}

    def accuracy(self, answers: torch.Tensor) -> float:
        """Share of the test pictures that are named rightly."""
        return float((answers.argmax(1).numpy() == self.labels).mean())


@torch.no_grad()
def attention_error(
    quantizers: Mapping[str, Quantizer], seen: Mapping[str, torch.Tensor], blocks: Iterable[str]
) -> float:
    """Squared change of attention's outputs by rounded probabilities, as a share of the outputs' squares."""
    change = total = 0.0
    for block in blocks:
        weights, value = seen[f"{block}:probabilities"], seen[f"{block}:value"]
        change += float(((quantizers[f"{block}:probabilities"](weights) - weights) @ value).square().sum())
        total += float((weights @ value).square().sum())
    return change / total


def forward(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Runs the model on pictures."""
    logits: torch.Tensor = model(batch).logits
    return logits
