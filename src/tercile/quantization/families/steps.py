"""What a convolutional network does, step by step: convolutions, sums, pooling, and the ReLU that ends a step.

The steps are what integers are computed in, and what training with rounding rounds between. They are read off the code
by torch.fx, as the batch norms of a family are.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.fx
from torch import nn

#: Steps that read one value without changing any element of it.
_SAME = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)
INPUT = "input"


@dataclass(frozen=True)
class Step:
    """One step: reads values by name, gives one.

    Attributes
    ----------
    name
        Of the value it gives.
    kind
        "convolution" and "linear" run `module`; "sum" adds two values; "mean" takes the mean over height and width.
    reads
        Names of values: `INPUT` or earlier steps.
    module
        Name of the module with the weight.
    norm
        Name of the batch norm that follows it, if any.
    relu
        Whether a ReLU ends the step.
    """

    name: str
    kind: Literal["convolution", "linear", "sum", "mean"]
    reads: tuple[str, ...]
    module: str = ""
    norm: str = ""
    relu: bool = False


def network_steps(model: nn.Module) -> tuple[Step, ...]:
    """The steps of a network from one picture to one vector, in an order in which they can be taken.

    Parameters
    ----------
    model
        Of convolutions (one group, zeros as padding), batch norms right after them, ReLUs, sums of two values, mean
        pooling down to one place, flattening, and linear layers.

    Raises
    ------
    ValueError
        If it does anything else; the message says what and where.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
    >>> network_steps(model)
    (Step(name='0', kind='convolution', reads=('input',), module='0', norm='1', relu=True),)
    """
    try:
        graph = torch.fx.Tracer().trace(model)
    except Exception as error:  # tracing runs the model's own code, which may raise anything on symbols
        raise ValueError(f"the code of {type(model).__name__} cannot be followed: {error}") from None
    reader = _Reader(dict(model.named_modules()), graph)
    for node in graph.nodes:
        reader.read(node)
    if not reader.steps:
        raise ValueError(f"{type(model).__name__} has no convolution or linear layer")
    return tuple(reader.steps.values())


class _Reader:
    def __init__(self, modules: dict[str, nn.Module], graph: torch.fx.Graph) -> None:
        self.modules = modules
        self.steps: dict[str, Step] = {}
        self.value: dict[Any, str] = {}  # which value each node stands for
        self.calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")

    def read(self, node: torch.fx.Node) -> None:
        if node.op == "placeholder":
            if INPUT in self.value.values():
                raise ValueError(f"the network reads a second input, {node.name}; one picture is all it may read")
            self.value[node] = INPUT
        elif node.op == "call_module":
            self._module(node, str(node.target))
        elif node.op in ("call_function", "call_method"):
            self._function(node, str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", ""))
        elif node.op != "output":
            raise ValueError(f"{node.name}: {node.op} of {node.target} is no step that is known")

    def _module(self, node: torch.fx.Node, name: str) -> None:
        module, source = self.modules[name], self._source(node)
        if isinstance(module, nn.Conv2d):
            if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
                raise ValueError(f"{name}: a convolution must have one group and a number of zeros as padding")
            if len({*module.stride}) > 1 or len({*module.padding}) > 1 or {*module.dilation} != {1}:
                raise ValueError(f"{name}: stride and padding must be the same both ways, and dilation 1")
            self._add(node, Step(name, "convolution", (source,), name))
        elif isinstance(module, nn.Linear):
            self._add(node, Step(name, "linear", (source,), name))
        elif isinstance(module, nn.BatchNorm2d):
            step = self._alone(node, source, name)
            if step.kind != "convolution" or step.norm or step.relu:
                raise ValueError(f"{name}: a batch norm must stand right after a convolution")
            self.steps[source], self.value[node] = replace(step, norm=name), source
        elif isinstance(module, nn.ReLU):
            self._relu(node, source, name)
        elif isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            self._add(node, Step(name, "mean", (source,)))
        elif isinstance(module, _SAME):
            self.value[node] = source
        else:
            raise ValueError(f"{name}: {type(module).__name__} is no step that is known")

    def _function(self, node: torch.fx.Node, name: str) -> None:
        operands = [each for each in node.args if isinstance(each, torch.fx.Node)]
        if node.target in (operator.add, torch.add) or name in ("add", "add_", "iadd"):
            if len(operands) != 2:
                raise ValueError(f"{node.name}: a sum must be of two values")
            self._add(node, Step(node.name, "sum", tuple(self.value[each] for each in operands)))
        elif name in ("relu", "relu_"):
            self._relu(node, self._source(node), node.name)
        elif name == "flatten":
            self.value[node] = self._source(node)
        else:
            raise ValueError(f"{node.name}: {name or node.target} is no step that is known")

    def _source(self, node: torch.fx.Node) -> str:
        if not node.args or not isinstance(node.args[0], torch.fx.Node):
            raise ValueError(f"{node.name} reads no value")
        return self.value[node.args[0]]

    def _alone(self, node: torch.fx.Node, source: str, name: str) -> Step:
        """The step that gives what is read here, if nobody else reads it."""
        if source not in self.steps or len(node.args[0].users) != 1:  # type: ignore[union-attr]
            raise ValueError(f"{name}: what it reads must come from a step, and be read by nobody else")
        return self.steps[source]

    def _relu(self, node: torch.fx.Node, source: str, name: str) -> None:
        step = self._alone(node, source, name)
        self.steps[source], self.value[node] = replace(step, relu=True), source

    def _add(self, node: torch.fx.Node, step: Step) -> None:
        if step.module and self.calls[step.module] != 1:
            raise ValueError(f"{step.module} is run {self.calls[step.module]} times; each layer may run once")
        self.steps[step.name], self.value[node] = step, step.name
