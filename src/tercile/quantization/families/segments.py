"""Which stretches of a linear layer's outputs and inputs go different ways, read off the model's graph.

A layer whose outputs are cut apart (by chunk, split, slices, or a reshape and unbind) computes several things at once,
whose weights need not be alike. One whose inputs are put together (by cat or stack) reads several things at once. Both
are found in the graph that `torch.export` makes of the model, by moving numbers of channels through whatever lies
between: operations that only move elements, and those that work on each by itself.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.fx import Node

Labels = torch.Tensor | tuple[torch.Tensor, ...]
_JOINS = (torch.ops.aten.cat.default, torch.ops.aten.stack.default)
#: Neither a view nor tagged as working on each element.
_KEEPS = (torch.ops.aten.clone.default, torch.ops.aten.dropout.default, torch.ops.aten.contiguous.default)


@dataclass(frozen=True)
class Segments:
    """How a linear layer falls into parts.

    Attributes
    ----------
    outputs, inputs
        Sizes of neighbouring stretches of its rows and of its columns, in order; a single one where nothing is cut.

    Examples
    --------
    >>> Segments((4, 2), (3,)).rows
    (slice(0, 4, None), slice(4, 6, None))
    """

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]

    @property
    def rows(self) -> tuple[slice, ...]:
        """The stretches of outputs."""
        return _slices(self.outputs)

    @property
    def columns(self) -> tuple[slice, ...]:
        """The stretches of inputs."""
        return _slices(self.inputs)


def find_segments(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> dict[str, Segments]:
    """The linear layers of a model whose outputs are cut apart or whose inputs are put together.

    Parameters
    ----------
    model
        Any module that `torch.export` can follow.
    args, kwargs
        What it is called with, as an example; values do not matter, shapes and types do.

    Returns
    -------
    By layer name; layers without segments are left out. Segments are stretches of neighbours: outputs that are dealt
    out in turn (head by head, say) give none. A layer that is called more than once has those that all calls agree on.

    Raises
    ------
    TypeError
        If model is no torch module.
    ValueError
        If `torch.export` cannot follow the model.

    Notes
    -----
    Costs an export of the model: seconds for a few layers, and memory for its activations of the example.

    Source
    ------
    The idea is SegLinear's of "SegQuant" (2025), arXiv:2507.14811. Its chunks, splits and concatenations are found here
    whatever the model writes for them.

    Examples
    --------
    >>> class Gated(nn.Module):
    ...     def __init__(self) -> None:
    ...         super().__init__()
    ...         self.up, self.down = nn.Linear(4, 6), nn.Linear(3, 4)
    ...     def forward(self, x: torch.Tensor) -> torch.Tensor:
    ...         value, gate = self.up(x).chunk(2, dim=-1)
    ...         return self.down(value * gate.sigmoid())
    >>> find_segments(Gated(), (torch.ones(2, 4),))
    {'up': Segments(outputs=(3, 3), inputs=(4,))}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    try:
        program = torch.export.export(model, args, dict(kwargs or {}))
    except Exception as error:
        raise ValueError(f"model ({type(model).__name__}) cannot be exported with these args: {error}") from error
    parameters = program.graph_signature.inputs_to_parameters
    found: dict[str, Segments] = {}
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.linear.default and node.args[1].name in parameters:
            name = parameters[node.args[1].name].removesuffix("weight").removesuffix(".")
            rows, columns = node.args[1].meta["val"].shape
            here = Segments(_outputs(node, rows), _inputs(node, columns))
            before = found.get(name, here)
            found[name] = Segments(
                here.outputs if here.outputs == before.outputs else (rows,),
                here.inputs if here.inputs == before.inputs else (columns,),
            )
    return {name: each for name, each in found.items() if len(each.outputs) > 1 or len(each.inputs) > 1}


def _outputs(linear: Node, rows: int) -> tuple[int, ...]:
    """Sizes of the stretches of outputs that are read apart."""
    reads = list(_reads(linear, torch.arange(rows).expand(linear.meta["val"].shape), rows))
    cuts = [0]
    for part in sorted(set(reads), key=min):
        start, stop = min(part), max(part) + 1
        if len(part) in (rows, 0) or stop - start != len(part) or start < cuts[-1]:
            return (rows,)  # somebody reads all together, or not neighbours, or some twice
        # Outputs that nobody reads are a stretch of their own.
        cuts += [start, stop] if start > cuts[-1] else [stop]
    return _sizes(cuts, rows)


def _reads(node: Node, labels: Labels, rows: int) -> Iterator[frozenset[int]]:
    """The outputs that each reader takes in, the moves that cut nothing off followed to what reads after them."""
    for user in node.users:
        if _moves(user):
            moved = _moved(user, labels)
            some = frozenset(_together(moved).tolist())
            if len(some) == rows:
                yield from _reads(user, moved, rows)
            elif some:
                yield some
        elif user.target not in (torch.ops.aten._assert_tensor_metadata.default, torch.ops.aten.sym_size.int):
            yield frozenset(range(rows))


def _inputs(linear: Node, columns: int) -> tuple[int, ...]:
    """Sizes of the stretches of inputs that come from different places."""
    between: list[Node] = []
    node = linear.args[0]
    while isinstance(node, Node) and _moves(node):
        between.append(node)
        node = node.args[0]
    if not (isinstance(node, Node) and node.target in _JOINS):
        return (columns,)
    joined, *rest = node.args
    assert isinstance(joined, list | tuple)
    numbered = [torch.full(each.meta["val"].shape, number) for number, each in enumerate(joined)]
    labels: Labels = node.target(numbered, *rest, **node.kwargs)
    for each in reversed(between):
        labels = _moved(each, labels)
    if isinstance(labels, tuple) or not labels.numel():
        return (columns,)
    table = labels.reshape(-1, columns)
    if bool((table != table[0]).any()):
        return (columns,)  # joined along another axis
    cuts = [0, *(torch.nonzero(table[0].diff()).flatten() + 1).tolist()]
    # Places that are read in turn are no stretches of neighbours.
    return _sizes(cuts, columns) if len(cuts) == len(table[0].unique()) else (columns,)


def _moves(node: Node) -> bool:
    """Whether an operation keeps track of its elements: a view, a member of a list, or each element by itself."""
    if node.target is operator.getitem or node.target in _KEEPS:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target.is_view or _elementwise(node)


def _elementwise(node: Node) -> bool:
    single = len(node.all_input_nodes) == 1 and isinstance(node.args[0], Node)
    return single and torch.Tag.pointwise in getattr(node.target, "tags", ())


def _moved(node: Node, labels: Labels) -> Labels:
    """Labels as an operation moves them."""
    if node.target in _KEEPS or (node.target is not operator.getitem and _elementwise(node)):
        return labels
    assert callable(node.target)
    moved: Any = node.target(labels, *node.args[1:], **node.kwargs)
    return tuple(moved) if isinstance(moved, list) else moved


def _together(labels: Labels) -> torch.Tensor:
    parts = (labels,) if isinstance(labels, torch.Tensor) else labels
    return torch.cat([part.flatten() for part in parts]).unique()


def _sizes(cuts: list[int], end: int) -> tuple[int, ...]:
    ends = [*cuts, end] if cuts[-1] < end else cuts
    return tuple(after - before for before, after in pairwise(ends))


def _slices(sizes: tuple[int, ...]) -> tuple[slice, ...]:
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return tuple(slice(end - size, end) for size, end in zip(sizes, ends, strict=True))
