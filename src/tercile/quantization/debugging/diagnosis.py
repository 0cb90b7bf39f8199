"""Finds out why a quantized model is worse than the original: layer, weights or inputs, range or rounding.

The debugging flow of Nagel, Fournarakis, Amjad, Bondarenko, van Baalen and Blankevoort (2021), "A White Paper on Neural
Network Quantization", arXiv:2106.08295:

1. with everything attached that rounds, but at widths where rounding is nothing, the model must still be itself;
2. weights alone, and inputs alone: which of the two costs more;
3. one layer's weights, or its inputs, at a time: who is to blame;
4. for each of those, whether another range would have done much better (the range is to blame: outliers stretch it, or
   it clips), or no range would (the rounding is: too few bits, or the wrong way of rounding).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from tercile.quantization.activations import Quantizer, Seen, Site, attached, from_values, observe, sites
from tercile.quantization.block_inputs import Forward, quiet
from tercile.quantization.families import Family
from tercile.quantization.qtensor import QTensor
from tercile.quantization.ranges import RangeEstimator, min_max, mse, quantile
from tercile.quantization.scheme import Scheme

Part = Literal["weights", "inputs"]
Blame = Literal["range", "rounding"]

#: A range that leaves less than this share of the squared error is worth changing to.
WORTH_CHANGING = 0.7
RANGES: Mapping[str, RangeEstimator] = {"min_max": min_max, "mse": mse, "quantile": quantile}


@dataclass(frozen=True)
class Fault:
    """What one layer's weights, or inputs, cost when nothing else is quantized.

    Attributes
    ----------
    layer, part
        Whose, and what.
    rise
        Of the loss.
    noise
        Squared error over squared values, of what is rounded.
    blame
        "range" if another range would leave less than `WORTH_CHANGING` of that error, else "rounding".
    better_range
        Name of the range that does best.
    better_noise
        What it leaves.
    """

    layer: str
    part: Part
    rise: float
    noise: float
    blame: Blame
    better_range: str
    better_noise: float


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes
    ----------
    weights, inputs
        Spellings of the schemes that were tried.
    loss
        Of the model as it is.
    unrounded
        Rise of the loss with everything attached and nothing rounded. Far from 0, the fault is not one of rounding.
    both, only_weights, only_inputs
        Rise of the loss with everything quantized, and with either part alone.
    faults
        One a layer and part, worst first.
    """

    weights: str
    inputs: str
    loss: float
    unrounded: float
    both: float
    only_weights: float
    only_inputs: float
    faults: tuple[Fault, ...]

    @property
    def worse_part(self) -> Part:
        """The part that costs more by itself."""
        return "weights" if self.only_weights >= self.only_inputs else "inputs"

    def as_dict(self) -> dict[str, Any]:
        """Everything in JSON's types."""
        return {
            "weights": self.weights,
            "inputs": self.inputs,
            "loss": self.loss,
            "unrounded_rise": self.unrounded,
            "rise": {"both": self.both, "weights": self.only_weights, "inputs": self.only_inputs},
            "worse_part": self.worse_part,
            "faults": [vars(fault) for fault in self.faults],
        }


def diagnose(
    model: nn.Module,
    family: Family,
    batches: Iterable[Any],
    score: Callable[[], float],
    *,
    forward: Forward,
    keep: Callable[[Any], torch.Tensor] | None = None,
    weights: str = "int8-channel",
    inputs: str = "int8-tensor-asym-f32",
    ranges: RangeEstimator = min_max,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Quantizes one thing at a time and says what it costs.

    Parameters
    ----------
    model, family
        The model and what `describe` says of it. It is changed meanwhile, and as it was afterwards.
    batches, forward, keep
        What activations are observed on, as for `tercile.quantization.calibration.collect`.
    score
        Runs the model as it is and returns its loss on some data.
    weights, inputs
        Schemes of weights, and of inputs of linear layers and convolutions (by tensor).
    ranges
        The range that is tried; others are compared with it.
    progress
        Called with (runs done, runs in all).

    Raises
    ------
    ValueError
        If inputs is no scheme by tensor, or the loss is not finite.

    Notes
    -----
    Costs 5 + 2 * layers calls of `score`.

    Examples
    --------
    >>> from tercile.quantization.families import describe
    >>> _ = torch.manual_seed(0)
    >>> model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(64, 8)
    >>> with torch.no_grad(): model[2].weight *= 50
    >>> wanted = model(x).detach()
    >>> found = diagnose(model, describe(model), [x], lambda: float((model(x) - wanted).square().mean()),
    ...     forward=lambda model, batch: model(batch), weights="int4-channel", inputs="int8-tensor-asym-f32")
    >>> found.worse_part, found.faults[0].layer, found.faults[0].part
    ('weights', '0', 'weights')
    """
    input_scheme = Scheme.parse(inputs)
    if input_scheme.blocks.spelling != "tensor":
        raise ValueError(f"inputs must be a scheme by tensor, such as int8-tensor-asym-f32, got {inputs!r}")
    seen = observe(model, family, batches, forward=forward, keep=keep, attention=False)
    trial = _Trial(model, family, seen, score, (Scheme.parse(weights), input_scheme), ranges, progress)
    layers, read = list(trial.modules), list(trial.quantizers)
    loss = trial.measured()
    unrounded = trial.unrounded() - loss
    both, only_weights, only_inputs = (
        trial.loss(*parts) - loss for parts in ((layers, read), (layers, ()), ((), read))
    )
    faults = []
    for name in layers:
        rise = trial.loss([name], ()) - loss
        rows = trial.original[name].reshape(len(trial.original[name]), -1).numpy()
        faults.append(_fault(name, "weights", rise, rows, trial.schemes[0], ranges))
        if name in trial.quantizers:
            rise = trial.loss((), [name]) - loss
            faults.append(_fault(name, "inputs", rise, seen[name].sample.reshape(1, -1), input_scheme, ranges))
    faults.sort(key=lambda fault: -fault.rise)
    return Diagnosis(weights, inputs, loss, unrounded, both, only_weights, only_inputs, tuple(faults))


class _Trial:
    """A model that is measured with some of its weights stored and some of its inputs rounded."""

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        seen: Mapping[str, Seen],
        score: Callable[[], float],
        schemes: tuple[Scheme, Scheme],
        ranges: RangeEstimator,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.model, self.family, self.score, self.schemes, self.progress = model, family, score, schemes, progress
        names = [layer.name for layer in family.layers if layer.kind != "embedding"]
        self.modules = {name: model.get_submodule(name) for name in names}
        self.original = {name: _weight(module).detach().clone() for name, module in self.modules.items()}
        self.stored = {name: _stored(weight, schemes[0], ranges) for name, weight in self.original.items()}
        watched = {site.name: site for site in sites(model, family, attention=False)}
        self.quantizers = {name: _quantizer(watched[name], one, schemes[1], ranges) for name, one in seen.items()}
        self.done, self.total = 0, 5 + len(self.modules) + len(self.quantizers)

    def measured(self) -> float:
        """The loss as the model stands."""
        with quiet(self.model):
            value = float(self.score())
        if not np.isfinite(value):
            raise ValueError(f"the loss is {value}; it must be finite, whatever is quantized")
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
        return value

    def loss(self, weights: Sequence[str], inputs: Sequence[str]) -> float:
        """The loss with these layers' weights stored and these layers' inputs rounded."""
        try:
            for name in weights:
                _put(self.modules[name], self.stored[name])
            with attached(self.model, self.family, {name: self.quantizers[name] for name in inputs}):
                return self.measured()
        finally:
            for name in weights:
                _put(self.modules[name], self.original[name])

    def unrounded(self) -> float:
        """The loss with everything attached and nothing rounded."""
        with attached(self.model, self.family, dict.fromkeys(self.quantizers, _unrounded)):
            return self.measured()


def _weight(module: nn.Module) -> torch.Tensor:
    assert isinstance(module.weight, torch.Tensor)
    return module.weight


def _put(module: nn.Module, value: torch.Tensor) -> None:
    with torch.no_grad():
        _weight(module).copy_(value)


def _stored(weight: torch.Tensor, scheme: Scheme, ranges: RangeEstimator) -> torch.Tensor:
    rows = weight.reshape(len(weight), -1).float().numpy()
    value = QTensor.quantize(rows, scheme, ranges(rows, scheme)).dequantize()
    return torch.from_numpy(value).reshape(weight.shape).to(weight.dtype)


def _quantizer(site: Site, seen: Seen, scheme: Scheme, ranges: RangeEstimator) -> Quantizer:
    return from_values(seen.sample, scheme, axis=site.channel_axis, ranges=ranges)


def _unrounded(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


def _fault(name: str, part: Part, rise: float, rows: np.ndarray, scheme: Scheme, ranges: RangeEstimator) -> Fault:
    size = float(np.square(rows, dtype=np.float64).sum()) or 1.0

    def noise(estimator: RangeEstimator) -> float:
        back = QTensor.quantize(rows, scheme, estimator(rows, scheme)).dequantize()
        return float(np.square(back - rows, dtype=np.float64).sum()) / size

    now, others = noise(ranges), {label: noise(estimator) for label, estimator in RANGES.items()}
    best = min(others, key=lambda label: others[label])
    blame: Blame = "range" if others[best] < WORTH_CHANGING * now else "rounding"
    return Fault(name, part, rise, now, blame, best, others[best])
