"""The post-quantization integral as a forecast of the loss, and as a guide to the weights worth float16."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import one_thread
from tercile.quantization import QTensor, Scheme
from tercile.quantization.allocation import (
    detach_significant,
    outlier_counts,
    post_quantization_integral,
)
from tercile.quantization.calibration import collect
from tercile.quantization.families import describe
from tercile.quantization.outliers import OutlierTensor
from tercile.quantization.solvers import gptq
from tercile.quantization.statistics import Statistics
from tercile.zoo.entries import find

PAPER = paper("requant_pqi", authors="Hu, Huang, Liang, Chen, Zhang, Zhu, Chen", year=2025, source="arXiv:2503.01901")
MEASURED_ON = (
    "the zoo's debian-llama, every linear layer by GPTQ at 3 and 2 bits in groups of 64: the rise of the loss on the "
    "calibration documents against what is forecast, and nats a token on other documents when half a percent of the "
    "weights are kept in float16 on top, 48 bits each counted"
)
BASELINE = (
    "first and second order of the Taylor series at the original weights for the forecast; for the weights kept: the "
    "largest, the same share of every layer, taken out before rounding; those of the largest (gradient * error)^2 at "
    "the original weights, put back after it; and none"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"calibration documents": 4, "test documents": 2, "tokens": 48, "points": 2, "steps": 1},
    "full": {
        "calibration documents": 64,
        "test documents": 48,
        "tokens": 192,
        "points": 3,
        "steps": 2,
        "seeds": "documents",
    },
}
SEEDS = (0, 1)
WIDTHS = (3, 2)
RULE = (
    *(
        check
        for bits in WIDTHS
        for check in (
            Check(
                f"integral_error_{bits}bit",
                at_most=f"0.1 * min(first_error_{bits}bit, second_error_{bits}bit)",
                quick=False,
            ),
            Check(f"loss_{bits}bit", at_most=f"plain_loss_{bits}bit", quick=False),
            Check(f"loss_{bits}bit", at_most=f"min(largest_loss_{bits}bit, fisher_loss_{bits}bit)", quick=False),
            Check(f"bytes_{bits}bit", at_most=f"largest_bytes_{bits}bit"),
        )
    ),
)
FRACTION = 0.005
#: Of the weights kept, how many are taken out before rounding; the others are put back afterwards.
OUTLIERS = 0.9

LossOf = Callable[[Mapping[str, torch.Tensor], torch.Tensor], float]


def documents(count: int, seed: int, tokens: int) -> list[torch.Tensor]:
    """Held-out documents of at least so many tokens, cut to that length: (1, tokens) each."""
    from transformers import AutoTokenizer

    entry = find("debian-llama")
    tokenizer = AutoTokenizer.from_pretrained(entry.source)
    with gzip.open(entry.sample, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    found: list[torch.Tensor] = []
    for index in np.random.default_rng(seed).permutation(len(texts)):
        ids = tokenizer(texts[index], return_tensors="pt")["input_ids"]
        if ids.shape[1] >= tokens:
            found.append(ids[:, :tokens])
        if len(found) == count:
            break
    return found


def language_model() -> nn.Module:
    """The zoo's debian-llama in float32, with attention that can be differentiated twice."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        find("debian-llama").source, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval().requires_grad_(False)


def nats(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of a token."""
    out = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return cross_entropy(out.flatten(0, 1), ids[:, 1:].flatten())


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """Forecast and repair at both widths."""
    given = {key: value for key, value in SIZES[size].items() if isinstance(value, int)}
    model = language_model()
    family = describe(model)
    count = given["calibration documents"]
    texts = documents(count + given["test documents"], seed, given["tokens"])
    calibration, test = torch.cat(texts[:count]), torch.cat(texts[count:])
    layers = {layer.name: model.get_submodule(layer.name) for layer in family.layers if layer.kind == "linear"}
    tensors = {name: module.weight for name, module in layers.items() if isinstance(module.weight, torch.Tensor)}
    seen = collect(model, family, list(calibration.split(4)), forward=lambda m, ids: m(input_ids=ids, use_cache=False))
    statistics: dict[str, Statistics] = {}
    for _, of_block in seen:
        statistics |= of_block
    losses = [lambda ids=ids: nats(model, ids) for ids in calibration.split(2)]
    original = {name: tensor.clone() for name, tensor in tensors.items()}

    def put(values: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            tensor.copy_(values[name])

    @torch.no_grad()
    def loss_of(values: Mapping[str, torch.Tensor], ids: torch.Tensor) -> float:
        put(values)
        value = float(np.mean([float(nats(model, some)) for some in ids.split(4)]))
        put(original)
        return value

    found: dict[str, float] = {"float_loss": loss_of(original, test)}
    before = loss_of(original, calibration)
    for bits in WIDTHS[: 1 if size == "quick" else 2]:
        scheme = Scheme.parse(f"int{bits}-g64-asym")

        def solved(values: Mapping[str, torch.Tensor], scheme: Scheme = scheme) -> dict[str, QTensor]:
            return {name: gptq(value.numpy(), statistics[name], scheme) for name, value in values.items()}

        dense = solved(original)
        plain = decoded(dense)
        actual = loss_of(plain, calibration) - before
        integral = post_quantization_integral(losses, tensors, plain, points=given["points"])
        change = {name: plain[name] - original[name] for name in tensors}
        straight, bent, first = taylor(losses, tensors, change)
        curved = straight + bent
        found |= {
            f"rise_{bits}bit": actual,
            f"integral_{bits}bit": integral.total,
            f"first_{bits}bit": straight,
            f"second_{bits}bit": curved,
            f"integral_error_{bits}bit": abs(integral.total - actual),
            f"first_error_{bits}bit": abs(straight - actual),
            f"second_error_{bits}bit": abs(curved - actual),
            f"plain_loss_{bits}bit": loss_of(plain, test),
        }

        # ReQuant: outliers out, what is left rounded, significant weights put back in steps.
        counts = outlier_counts(integral, OUTLIERS * FRACTION)
        thinned, taken_out = without_largest(original, counts, solved)
        mended = {name: value + taken_out[name] for name, value in decoded(thinned).items()}
        every = sum(tensor.numel() for tensor in tensors.values())
        total = round(FRACTION * every)
        rest = (total - sum(counts.values())) / every
        significant = detach_significant(losses, tensors, mended, rest, steps=given["steps"])
        back = {
            name: torch.where(torch.from_numpy(significant[name]), original[name] - mended[name], 0.0)
            for name in tensors
        }
        found |= result("", bits, thinned, {name: taken_out[name] + back[name] for name in tensors}, loss_of, test)

        even = {name: round(FRACTION * value.numel()) for name, value in original.items()}
        found |= result("largest_", bits, *without_largest(original, even, solved), loss_of, test)
        worth = torch.cat([(first[name] * change[name]).square().flatten() for name in tensors])
        flat = largest(worth, total)
        parts = flat.split([tensor.numel() for tensor in tensors.values()])
        fisher = {
            name: torch.where(part.reshape(change[name].shape), -change[name], 0.0)
            for name, part in zip(tensors, parts, strict=True)
        }
        found |= result("fisher_", bits, dense, fisher, loss_of, test)
    if size == "quick":
        found |= {name.replace("3bit", "2bit"): value for name, value in found.items() if name.endswith("3bit")}
    return found


def decoded(stored: Mapping[str, QTensor]) -> dict[str, torch.Tensor]:
    """Weights as they come back from storage."""
    return {name: torch.from_numpy(value.dequantize()) for name, value in stored.items()}


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """True at the largest values, exactly so many of them."""
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[torch.topk(values.flatten(), count).indices] = True
    return mask.reshape(values.shape)


def without_largest(
    original: Mapping[str, torch.Tensor],
    counts: Mapping[str, int],
    solved: Callable[[Mapping[str, torch.Tensor]], dict[str, QTensor]],
) -> tuple[dict[str, QTensor], dict[str, torch.Tensor]]:
    """Each layer solved without its largest weights, and these, to be added to what comes back.

    They are added, not put in place of what the solver made of the zeros they left: that makes good the rounding of
    other weights.
    """
    masks = {name: largest(value.abs(), counts[name]) for name, value in original.items()}
    thinned = solved({name: torch.where(masks[name], 0.0, value) for name, value in original.items()})
    return thinned, {name: torch.where(masks[name], value, 0.0) for name, value in original.items()}


def result(
    prefix: str,
    bits: int,
    dense: Mapping[str, QTensor],
    sparse: Mapping[str, torch.Tensor],
    loss_of: LossOf,
    test: torch.Tensor,
) -> dict[str, float]:
    """Loss and bytes of codes with float16 values added to some of them."""
    stored = {name: OutlierTensor.from_matrix(one, sparse[name].numpy()) for name, one in dense.items()}
    values = {name: torch.from_numpy(one.dequantize()) for name, one in stored.items()}
    return {
        f"{prefix}loss_{bits}bit": loss_of(values, test),
        f"{prefix}bytes_{bits}bit": sum(one.nbytes for one in stored.values()),
    }


def taylor(
    losses: Sequence[Callable[[], torch.Tensor]],
    tensors: Mapping[str, torch.Tensor],
    change: Mapping[str, torch.Tensor],
) -> tuple[float, float, dict[str, torch.Tensor]]:
    """First order of a change, half the second, and the gradient itself."""
    for tensor in tensors.values():
        tensor.requires_grad_(True)
    straight, curved = 0.0, 0.0
    whole = {name: torch.zeros_like(value) for name, value in change.items()}
    with torch.enable_grad():
        for loss in losses:
            gradients = torch.autograd.grad(loss(), list(tensors.values()), create_graph=True)
            pairs = list(zip(gradients, change.values(), strict=True))
            along = torch.stack([(gradient * moved).sum() for gradient, moved in pairs]).sum()
            products = torch.autograd.grad(along, list(tensors.values()))
            straight += float(along.detach()) / len(losses)
            halves = zip(products, change.values(), strict=True)
            curved += 0.5 * float(sum((product * moved).sum() for product, moved in halves)) / len(losses)
            for name, gradient in zip(tensors, gradients, strict=True):
                whole[name] += gradient.detach() / len(losses)
    for tensor in tensors.values():
        tensor.requires_grad_(False)
    return straight, curved, whole
