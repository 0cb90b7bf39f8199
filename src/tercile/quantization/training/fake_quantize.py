"""Training a convolutional network with its rounding in the loop: weights by channel, activations by tensor.

Krishnamoorthi (2018), "Quantizing deep convolutional networks for efficient inference: A whitepaper",
arXiv:1806.08342: forward passes see rounded values, gradients pass straight through. Batch norms are folded into the
weights *before* these are rounded, since that is what is stored; while training, a batch's own mean and spread take the
place of the running ones, in such a way that the rounded weight itself does not jump from batch to batch.

Nagel, Fournarakis, Amjad, Bondarenko, van Baalen and Blankevoort (2021), "A White Paper on Neural Network
Quantization", arXiv:2106.08295: scales can be learnt with the weights (`learn_ranges`).
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d, linear

from tercile.quantization.activations import fake_quantize
from tercile.quantization.families.steps import INPUT, Step, network_steps
from tercile.quantization.ranges import RangeEstimator, min_max, mse
from tercile.quantization.scheme import Scheme


class RoundedActivations(nn.Module):
    """One value of the network, rounded by tensor with a zero point.

    Attributes
    ----------
    scheme
        An asymmetric integer scheme.
    log_scale, low
        Parameters: logarithm of the step, and the value of code 0. Zero has a code of its own.
    watching
        While true, values pass unchanged and the range is gathered.
    """

    low: torch.Tensor

    def __init__(self, scheme: Scheme, fixed: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.scheme = scheme
        self.top = len(scheme.scalar_grid.table) - 1
        self.fixed = fixed is not None
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.low = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.watching = False
        self._seen: list[np.ndarray] = []
        if fixed is not None:
            self._set(fixed[0], fixed[1])

    def _set(self, scale: float, low: float) -> None:
        with torch.no_grad():
            self.log_scale.fill_(float(np.log(max(scale, 1e-12))))
            self.low.fill_(low)

    def settle(self, estimator: RangeEstimator = mse) -> None:
        """Takes the range of what was watched."""
        if not self.fixed and self._seen:
            ranges = estimator(np.concatenate(self._seen)[None], self.scheme)
            self._set(float(ranges.scale[0, 0]), float(ranges.offset[0, 0]))
        self._seen = []

    @property
    def scale(self) -> torch.Tensor:
        """The step."""
        return self.log_scale.exp()

    @property
    def zero(self) -> torch.Tensor:
        """The code of zero, whole; its gradient passes straight through."""
        place = -self.low / self.scale
        return (place + (place.round() - place).detach()).clamp(0, self.top)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x as it is stored."""
        if self.watching:
            flat = x.detach().flatten()
            some = flat if len(flat) <= 20_000 else flat[torch.randint(len(flat), (20_000,))]
            self._seen.append(torch.cat([some, flat.min()[None], flat.max()[None]]).numpy())
            return x
        scale = self.scale
        return fake_quantize(x, self.scheme, scale, -self.zero * scale)


class RoundedLayer(nn.Module):
    """A convolution or linear layer whose weight is rounded by channel, its batch norm folded in.

    Attributes
    ----------
    weight, gain, shift, mean, variance
        As the layer and its norm had them; a layer without a norm has none of the last four but `shift`, its bias.
    log_scale
        Logarithm of the step of each channel. Not learnt, it follows the largest folded weight.
    rounding
        Whether weights are rounded.
    settled
        Whether running statistics are used in training too, as at inference: towards the end they should be.
    """

    mean: torch.Tensor
    variance: torch.Tensor

    def __init__(self, layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | None, scheme: Scheme) -> None:
        super().__init__()
        self.scheme, self.convolution = scheme, isinstance(layer, nn.Conv2d)
        self.stride = layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
        self.padding = cast(int, layer.padding[0]) if isinstance(layer, nn.Conv2d) else 0
        self.weight = nn.Parameter(layer.weight.detach().clone())
        outputs = len(self.weight)
        bias = torch.zeros(outputs) if layer.bias is None else layer.bias.detach().clone()
        self.normed = norm is not None
        self.epsilon, self.momentum = 0.0, 0.01
        if norm is None:
            self.shift = nn.Parameter(bias)
        else:
            if norm.running_mean is None or norm.running_var is None:
                raise ValueError("a batch norm without running statistics cannot be folded; track them first")
            one = torch.ones(outputs)
            self.gain = nn.Parameter(one if norm.weight is None else norm.weight.detach().clone())
            self.shift = nn.Parameter(torch.zeros(outputs) if norm.bias is None else norm.bias.detach().clone())
            self.register_buffer("mean", norm.running_mean.detach() - bias)
            self.register_buffer("variance", norm.running_var.detach().clone())
            self.epsilon = norm.eps
        self.log_scale = nn.Parameter(torch.zeros(outputs), requires_grad=False)
        self.rounding, self.settled = True, False
        self.settle()

    @torch.no_grad()
    def settle(self, estimator: RangeEstimator = min_max) -> None:
        """Takes the range of the folded weight as it is."""
        scale = estimator(self.folded().flatten(1).numpy(), self.scheme).scale[:, 0]
        # A grid used the other way round means nothing to integer arithmetic: the larger side decides.
        self.log_scale.copy_(torch.from_numpy(np.abs(scale).clip(1e-12)).log())

    def folded(self) -> torch.Tensor:
        """The weight with the running scale of its norm."""
        if not self.normed:
            return self.weight
        factor = self.gain / (self.variance + self.epsilon).sqrt()
        return self.weight * factor.reshape(-1, *[1] * (self.weight.dim() - 1))

    def stored(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Folded weight as it is stored, and its bias: what is used at inference."""
        bias: torch.Tensor = self.shift
        if self.normed:
            bias = self.shift - self.gain * self.mean / (self.variance + self.epsilon).sqrt()
        return self._rounded(self.folded()), bias

    @property
    def scale(self) -> torch.Tensor:
        """The step of each channel."""
        return self.log_scale.exp()

    def _rounded(self, folded: torch.Tensor) -> torch.Tensor:
        if not self.rounding:
            return folded
        if not self.log_scale.requires_grad and self.training:
            top = -float(self.scheme.grid.levels[0]) - 1
            with torch.no_grad():
                self.log_scale.copy_((folded.flatten(1).abs().amax(1) / top).clamp(min=1e-12).log())
        return fake_quantize(folded, self.scheme, self.scale.reshape(-1, *[1] * (folded.dim() - 1)))

    def _apply_weight(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self.convolution:
            return conv2d(x, weight, stride=self.stride, padding=self.padding)
        return linear(x, weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs from rounded weights."""
        if self.normed and self.training and not self.settled:
            with torch.no_grad():
                plain = self._apply_weight(x, self.weight)
                mean, variance = plain.mean((0, 2, 3)), plain.var((0, 2, 3), correction=0)
            running = (self.variance + self.epsilon).sqrt()
            spread = (variance + self.epsilon).sqrt()
            out = self._apply_weight(x, self._rounded(self.folded()))
            # The weight was folded with the running spread; this puts the batch's in its place, after rounding.
            out = out * (running / spread).reshape(-1, 1, 1)
            bias = self.shift - self.gain * mean / spread
            with torch.no_grad():
                count = x.shape[0] * out.shape[2] * out.shape[3]
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(variance * count / max(count - 1, 1), self.momentum)
            return out + bias.reshape(-1, 1, 1)
        weight, bias = self.stored()
        out = self._apply_weight(x, weight)
        return out + (bias.reshape(-1, 1, 1) if self.convolution else bias)


class RoundedNetwork(nn.Module):
    """A convolutional network in which every value between two steps is rounded, and every weight.

    Parameters
    ----------
    model
        What `network_steps` can read. It is not changed.
    weights, inputs
        Spellings of a symmetric scheme by channel and an asymmetric one by tensor, of integers up to 8 bits.
    outer
        Spellings for the first and the last layer's weights and inputs, if they differ.

    Raises
    ------
    ValueError
        If the schemes are not of these kinds, or the model does what cannot be followed.

    Examples
    --------
    >>> from tercile.zoo.digits_cnn import build
    >>> model, pictures = build(), torch.rand(8, 1, 28, 28)
    >>> rounded = RoundedNetwork(model).watch(pictures)
    >>> bool((rounded(pictures) - model(pictures)).abs().mean() < 0.2)
    True
    """

    def __init__(
        self,
        model: nn.Module,
        weights: str = "int8-channel-f32",
        inputs: str = "int8-tensor-asym-f32",
        outer: tuple[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.steps = network_steps(model)
        with_weight = [step for step in self.steps if step.module]
        ends = {with_weight[0].name, with_weight[-1].name} if outer else set()
        wide = outer or (weights, inputs)
        for spelling in (weights, wide[0]):
            scheme = Scheme.parse(spelling)
            if scheme.asymmetric or scheme.blocks.spelling != "channel" or not scheme.grid.spelling.startswith("int"):
                raise ValueError(f"weights must be integers by channel without zero point, got {spelling!r}")
        for spelling in (inputs, wide[1]):
            scheme = Scheme.parse(spelling)
            if not scheme.asymmetric or scheme.blocks.spelling != "tensor":
                raise ValueError(f"inputs must be integers by tensor with a zero point, got {spelling!r}")
        read_by = {read: step for step in self.steps for read in step.reads}
        self.layers = nn.ModuleDict()
        self.values = nn.ModuleDict()
        for step in self.steps:
            if step.module:
                layer = model.get_submodule(step.module)
                norm = model.get_submodule(step.norm) if step.norm else None
                scheme = Scheme.parse(wide[0] if step.name in ends else weights)
                self.layers[key(step.name)] = RoundedLayer(cast(nn.Conv2d, layer), cast(nn.BatchNorm2d, norm), scheme)
            if step.name in read_by:
                scheme = Scheme.parse(wide[1] if read_by[step.name].name in ends else inputs)
                self.values[key(step.name)] = RoundedActivations(scheme)
        # Bytes divided by 255, exactly as pictures come; at other widths they are rounded like everything else.
        first = Scheme.parse(wide[1])
        byte = len(first.scalar_grid.table) == 256
        self.values[INPUT] = RoundedActivations(first, (1 / 255, 0.0) if byte else None)
        self.rounds_values = True
        self.train(False)

    def value_of(self, name: str) -> RoundedActivations:
        """What rounds the value of that name."""
        return cast(RoundedActivations, self.values[key(name)])

    def layer_of(self, name: str) -> RoundedLayer:
        """The layer of the step of that name."""
        return cast(RoundedLayer, self.layers[key(name)])

    @torch.no_grad()
    def watch(
        self, pictures: torch.Tensor, values: RangeEstimator = mse, weights: RangeEstimator = min_max
    ) -> RoundedNetwork:
        """Sets every range from the weights and from what the float network computes on some pictures."""
        rounding = {name: layer.rounding for name, layer in self.layers.items()}  # type: ignore[union-attr]
        for name in rounding:
            self.layers[name].rounding = False  # type: ignore[assignment]
        for value in self.values.values():
            value.watching = True  # type: ignore[assignment]
        self.train(False)
        for start in range(0, len(pictures), 100):
            self(pictures[start : start + 100])
        for value in self.values.values():
            value.watching = False  # type: ignore[assignment]
            cast(RoundedActivations, value).settle(values)
        for name, was in rounding.items():
            self.layers[name].rounding = was  # type: ignore[assignment]
            cast(RoundedLayer, self.layers[name]).settle(weights)
        return self

    def learn_ranges(self, learnt: bool = True) -> RoundedNetwork:
        """Makes every range a parameter that is trained with the weights, but for pictures that are bytes."""
        for value in self.values.values():
            one = cast(RoundedActivations, value)
            one.log_scale.requires_grad_(learnt and not one.fixed)
            one.low.requires_grad_(learnt and not one.fixed)
        for layer in self.layers.values():
            cast(RoundedLayer, layer).log_scale.requires_grad_(learnt)
        return self

    def settle_norms(self) -> RoundedNetwork:
        """From here on batch norms use their running statistics in training too."""
        for layer in self.layers.values():
            cast(RoundedLayer, layer).settled = True
        return self

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits in float of what integers would compute."""
        found = {INPUT: self._rounded(INPUT, pictures)}
        for step in self.steps:
            out = self._take(step, [found[read] for read in step.reads])
            out = out.relu() if step.relu else out
            found[step.name] = self._rounded(step.name, out) if key(step.name) in self.values else out
        return found[self.steps[-1].name]

    def _rounded(self, name: str, x: torch.Tensor) -> torch.Tensor:
        value = self.value_of(name)
        return cast(torch.Tensor, value(x)) if self.rounds_values or value.watching else x

    def _take(self, step: Step, reads: list[torch.Tensor]) -> torch.Tensor:
        if step.kind == "sum":
            return reads[0] + reads[1]
        if step.kind == "mean":
            return reads[0].mean((2, 3))
        x = reads[0].flatten(1) if step.kind == "linear" else reads[0]
        return cast(torch.Tensor, self.layer_of(step.name)(x))


def key(name: str) -> str:
    """A step's name as a key of a ModuleDict, which takes no dots."""
    return name.replace(".", "/")
