"""Adam over what a student may change, each kind of thing with a step in its own unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tercile.quantization.training.stored_weight import SoftRounding, StraightThrough
from tercile.quantization.training.student import Student

Optimizer = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Rates:
    """First step of each kind of thing; 0 leaves it as it is.

    Parameters
    ----------
    codes
        In steps of the grid.
    scales
        In parts of each scale.
    offsets
        In scales.
    vectors
        Gains and biases: in parts of their root mean square, of each tensor.
    """

    codes: float = 0.01
    scales: float = 0.002
    offsets: float = 0.01
    vectors: float = 0.002

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (isinstance(value, (int, float)) and 0 <= value < 1):
                raise ValueError(f"rate of {name} must be at least 0 and below 1, got {value!r}")


#: Share of the steps over which the rates rise; after that they fall to 0 as a cosine.
WARM_UP = 0.05
#: How strongly gates of soft rounding are pressed to their ends, as a share of the loss, and the exponent's way.
PRESSURE, EXPONENTS = 1.0, (20.0, 2.0)


class Descent:
    """One run of an optimizer, of a known number of steps.

    Parameters
    ----------
    student
        What is trained.
    stored, small
        Names of the stored weights and of the vectors that change.
    rates, steps, optimizer
        Of the run. The optimizer is any of torch's that takes parameter groups with `lr`.
    """

    def __init__(
        self,
        student: Student,
        stored: Iterable[str],
        small: Iterable[str],
        rates: Rates,
        steps: int,
        optimizer: Optimizer = torch.optim.Adam,
    ) -> None:
        self.stored = [student.stored[name] for name in stored]
        self.steps, self.done = steps, 0
        kinds: dict[float, list[torch.nn.Parameter]] = {}
        for each in self.stored:
            step = float((each.levels[1:] - each.levels[:-1]).mean())
            wanted: list[tuple[float, torch.nn.Parameter]] = [(rates.scales, each.growth)]
            if each.moves:
                # A gate's logit: its sigmoid is steepest in the middle, where a step of 4 is one of the gate.
                unit = 4.0 if isinstance(each, SoftRounding) else step
                assert isinstance(each.position, torch.nn.Parameter)
                wanted.append((rates.codes * unit, each.position))
            if each.scheme.asymmetric:
                wanted.append((rates.offsets, each.shift))
            for rate, parameter in wanted:
                kinds.setdefault(rate, []).append(parameter)
        for name in small:
            parameter = student.small[name]
            size = float(parameter.detach().square().mean().sqrt()) or 0.01
            kinds.setdefault(rates.vectors * size, []).append(parameter)
        self.groups: list[dict[str, Any]] = [
            {"params": found, "lr": rate, "first": rate} for rate, found in kinds.items() if rate > 0
        ]
        fused: dict[str, Any] = (
            {"fused": True} if optimizer in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD) else {}
        )
        self.optimizer = optimizer(self.groups, lr=0.0, **fused) if self.groups else None

    def step(self, loss: torch.Tensor) -> None:
        """One step down a loss."""
        if self.optimizer is None:
            return
        gone = self.done / max(self.steps, 1)
        soft = [each for each in self.stored if isinstance(each, SoftRounding)]
        if soft and gone > 0.2:
            late = (gone - 0.2) / 0.8
            exponent = EXPONENTS[0] + (EXPONENTS[1] - EXPONENTS[0]) * late
            loss = loss + PRESSURE * late * loss.detach() * sum(each.pressure(exponent) for each in soft) / len(soft)
        rate = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["first"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for each in self.stored:
            if isinstance(each, StraightThrough):
                each.clip()
        self.done += 1

    def _rate(self) -> float:
        warm = max(1.0, WARM_UP * self.steps)
        if self.done < warm:
            return (self.done + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (self.done - warm) / max(self.steps - warm, 1.0)))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything that the run needs to go on, as named arrays."""
        arrays: dict[str, np.ndarray] = {"done": np.array([self.done], dtype=np.int64)}
        for index, parameter in enumerate(self._parameters()):
            arrays[f"{index}.value"] = parameter.detach().cpu().numpy()
            state = {} if self.optimizer is None else self.optimizer.state.get(parameter, {})
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    arrays[f"{index}.state.{key}"] = value.detach().cpu().numpy().reshape(value.shape or (1,))
        return arrays

    @torch.no_grad()
    def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on from what `to_arrays` kept of the same run."""
        self.done = int(arrays["done"][0])
        for index, parameter in enumerate(self._parameters()):
            parameter.copy_(torch.from_numpy(np.array(arrays[f"{index}.value"])))
            prefix = f"{index}.state."
            found = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
            if self.optimizer is not None and found:
                self.optimizer.state[parameter] = {
                    key: torch.from_numpy(np.array(value)).reshape(() if key == "step" else parameter.shape)
                    for key, value in found.items()
                }

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.groups for parameter in group["params"]]
