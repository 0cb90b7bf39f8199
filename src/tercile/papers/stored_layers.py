"""A network whose layers can be stored one way or another: what experiments on bit settings share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from tercile.quantization import QTensor, Ranges, Scheme
from tercile.quantization.ranges import mse
from tercile.quantization.solvers import round_to_nearest

Store = Callable[[str, np.ndarray, Scheme], QTensor]


def rounded(name: str, weight: np.ndarray, scheme: Scheme) -> QTensor:
    """The weight rounded to nearest, with the range of least squared error."""
    return round_to_nearest(weight, None, scheme)


class StoredLayers:
    """The weights of some layers under every scheme on offer.

    Parameters
    ----------
    model
        Its weights are replaced by `put`.
    layers
        Names of modules with a `weight`.
    schemes
        Spellings.
    store
        (name, weight, scheme) -> QTensor.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], schemes: Sequence[str], store: Store = rounded) -> None:
        self.modules = {name: model.get_submodule(name) for name in layers}
        self.float = {name: weight_of(module).detach().clone() for name, module in self.modules.items()}
        self._kept: dict[str, dict[str, torch.Tensor]] = {}
        self.nbytes: dict[str, dict[str, int]] = {}
        self.changes: dict[str, dict[str, float]] = {}
        for name, weight in self.float.items():
            rows = weight.numpy().reshape(len(weight), -1)
            self._kept[name], self.nbytes[name], self.changes[name] = {}, {}, {}
            for scheme in schemes:
                stored = store(name, rows, Scheme.parse(scheme))
                value = torch.from_numpy(stored.dequantize()).reshape(weight.shape)
                self._kept[name][scheme] = value
                self.nbytes[name][scheme] = stored.nbytes
                self.changes[name][scheme] = float((value - weight).square().sum(dtype=torch.float64))

    def value(self, layer: str, scheme: str) -> torch.Tensor:
        """The weight of a layer as it comes back from storage."""
        return self._kept[layer][scheme]

    @torch.no_grad()
    def put(self, choice: Mapping[str, str] | str) -> None:
        """Puts a scheme into each layer named, or one into all; other layers get their own weights back."""
        for name, module in self.modules.items():
            scheme = choice if isinstance(choice, str) else choice.get(name)
            weight_of(module).copy_(self.float[name] if scheme is None else self._kept[name][scheme])

    def bytes_of(self, choice: Mapping[str, str] | str) -> int:
        """Bytes of all layers together."""
        return sum(of[choice if isinstance(choice, str) else choice[name]] for name, of in self.nbytes.items())


class RoundedInputs:
    """Inputs of layers rounded to one range a tensor, found on calibration examples.

    Parameters
    ----------
    model, layers
        Whose inputs.
    run
        Runs the model on the calibration examples.
    schemes
        Spellings, by tensor.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        run: Callable[[], object],
        schemes: Sequence[str],
        sample: int = 20_000,
    ) -> None:
        self.modules = {name: model.get_submodule(name) for name in layers}
        seen: dict[str, torch.Tensor] = {}
        generator = torch.Generator().manual_seed(0)

        def keep(name: str, x: torch.Tensor) -> None:
            flat = x.detach().flatten()
            some = flat[torch.randint(flat.numel(), (min(sample, flat.numel()),), generator=generator)]
            ends = torch.stack([flat.min(), flat.max()])
            seen[name] = torch.cat([seen[name], some, ends]) if name in seen else torch.cat([some, ends])

        handles = [
            module.register_forward_pre_hook(lambda _, args, name=name: keep(name, args[0]))
            for name, module in self.modules.items()
        ]
        with torch.no_grad():
            run()
        for handle in handles:
            handle.remove()
        self._ranges: dict[str, dict[str, tuple[Scheme, Ranges]]] = {}
        self.changes: dict[str, dict[str, float]] = {}
        self.power = {name: float(values.square().mean()) for name, values in seen.items()}
        for name, values in seen.items():
            self._ranges[name], self.changes[name] = {}, {}
            row = values.numpy()[None]
            for spelling in schemes:
                scheme = Scheme.parse(spelling)
                ranges = mse(row, scheme)
                error = scheme.decode(scheme.encode(row, ranges), ranges) - row
                self._ranges[name][spelling] = scheme, ranges
                self.changes[name][spelling] = float(np.square(error, dtype=np.float64).mean())

    @contextmanager
    def rounding(self, choice: Mapping[str, str] | str) -> Iterator[None]:
        """Rounds the inputs of the layers named, or of all."""
        handles = []
        for name, module in self.modules.items():
            scheme = choice if isinstance(choice, str) else choice.get(name)
            if scheme is not None:
                pair = self._ranges[name][scheme]
                handles.append(
                    module.register_forward_pre_hook(lambda _, args, pair=pair: (_through(args[0], *pair), *args[1:]))
                )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _through(x: torch.Tensor, scheme: Scheme, ranges: Ranges) -> torch.Tensor:
    """Rounds to evenly spaced levels of one range."""
    scale, offset = float(ranges.scale[0, 0]), float(ranges.offset[0, 0])
    levels = scheme.grid.levels
    return ((x - offset) / scale).round().clamp(float(levels[0]), float(levels[-1])) * scale + offset


def weight_of(module: nn.Module) -> torch.Tensor:
    """The weight of a layer."""
    assert isinstance(module.weight, torch.Tensor)
    return module.weight


def divergence(truth: torch.Tensor, answers: torch.Tensor) -> float:
    """Mean KL divergence of the answers' class probabilities from the truth's."""
    pair = log_softmax(answers, 1), log_softmax(truth, 1)
    return float(kl_div(*pair, reduction="batchmean", log_target=True))


def accuracy(answers: torch.Tensor, labels: np.ndarray) -> float:
    """Share of answers that are right."""
    return float((answers.argmax(1).numpy() == labels).mean())
