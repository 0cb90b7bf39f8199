"""Segments are found from the graph of hand-written models, whatever they write for a cut or a join."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from tercile.quantization.families import Segments, find_segments

X = torch.ones(2, 5, 8)


class Cut(nn.Module):
    """A layer with 12 outputs, and something that reads them."""

    def __init__(self, read: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 12)
        self.read = read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.layer(x))


class Joined(nn.Module):
    """A layer that reads 12 values, and something that makes them of 8."""

    def __init__(self, make: Callable[[torch.Tensor], torch.Tensor], inputs: int = 12) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, 3)
        self.make = make

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.make(x))


def product(parts: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> torch.Tensor:
    out = parts[0].sum()
    for part in parts[1:]:
        out = out * part.sin().sum()
    return out


def by_unbind(y: torch.Tensor) -> torch.Tensor:
    return product(y.reshape(2, 5, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0))


CUTS = {
    "chunks": (lambda y: product(y.chunk(3, dim=-1)), (4, 4, 4)),
    "an uneven chunk": (lambda y: product(y.chunk(5, dim=2)), (3, 3, 3, 3)),
    "an uneven split": (lambda y: product(y.split([2, 7, 3], dim=-1)), (2, 7, 3)),
    "a split with a rest": (lambda y: product(y.split(5, dim=-1)), (5, 5, 2)),
    "slices": (lambda y: product([y[..., :8], y[..., 8:]]), (8, 4)),
    "a reshape and an unbind": (by_unbind, (4, 4, 4)),
    "an activation before the chunk": (lambda y: product(silu(y).chunk(2, dim=-1)), (6, 6)),
    "a new axis before the chunk": (lambda y: product(y[:, None].chunk(2, dim=-1)), (6, 6)),
    "outputs that nobody reads": (lambda y: product([y[..., 2:6], y[..., 6:]]), (2, 4, 6)),
}

NO_CUTS = {
    "one reader": lambda y: y.sin(),
    "rows that are cut, not channels": lambda y: product(y.chunk(5, dim=1)),
    "chunks beside a reader of all": lambda y: product(y.chunk(2, dim=-1)) + y.sum(),
    "every other channel": lambda y: product([y[..., ::2], y[..., 1::2]]),
    "slices that overlap": lambda y: product([y[..., :8], y[..., 6:]]),
}


@pytest.mark.parametrize("case", CUTS)
def test_outputs_that_go_different_ways_are_segments(case: str) -> None:
    read, sizes = CUTS[case]
    assert find_segments(Cut(read), (X,)) == {"layer": Segments(sizes, (8,))}


@pytest.mark.parametrize("case", NO_CUTS)
def test_outputs_that_are_not_told_apart_are_none(case: str) -> None:
    assert find_segments(Cut(NO_CUTS[case]), (X,)) == {}


JOINS = {
    "a cat": (lambda x: torch.cat([x, x[..., :4].sin()], dim=-1), (8, 4)),
    "a cat of three": (lambda x: torch.cat([x[..., :1], x, x[..., 5:]], dim=-1), (1, 8, 3)),
    "an activation after the cat": (lambda x: silu(torch.cat([x, x[..., :4]], dim=2)), (8, 4)),
    "a stack that is flattened": (lambda x: torch.stack([x[..., :6], x[..., 2:]], dim=2).flatten(2), (6, 6)),
}

NO_JOINS = {
    "a cat of rows": lambda x: torch.cat([x, x.sin()], dim=1).repeat(1, 1, 2)[..., :12],
    "a cat of rows as they are": lambda x: torch.cat([x[:, :2], x[:, 2:]], dim=1),
    "a stack in turn": lambda x: torch.stack([x[..., :6], x[..., 2:]], dim=-1).flatten(2),
    "a sum after the cat": lambda x: torch.cat([x, x[..., :4]], dim=-1) + x.sum(),
}


@pytest.mark.parametrize("case", JOINS)
def test_inputs_that_come_from_different_places_are_segments(case: str) -> None:
    make, sizes = JOINS[case]
    assert find_segments(Joined(make), (X,)) == {"layer": Segments((3,), sizes)}


@pytest.mark.parametrize("case", NO_JOINS)
def test_inputs_that_are_not_told_apart_are_none(case: str) -> None:
    assert find_segments(Joined(NO_JOINS[case], NO_JOINS[case](X).shape[-1]), (X,)) == {}


class Twice(nn.Module):
    """Modules in modules; one layer is called twice and cut in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList([Cut(by_unbind), nn.Sequential(nn.Linear(8, 12), nn.Unflatten(-1, (2, 6)))])
        self.shared = nn.Linear(8, 12)

    def forward(self, x: torch.Tensor, wide: bool = True) -> torch.Tensor:
        y = self.first[0](x) + product(self.first[1](x).unbind(2))
        return y + product(self.shared(x).chunk(2, -1)) + product(self.shared(x.sin()).chunk(3 if wide else 2, -1))


def test_names_are_those_of_the_modules_and_calls_have_to_agree() -> None:
    nested = {"first.0.layer": Segments((4, 4, 4), (8,)), "first.1.0": Segments((6, 6), (8,))}
    assert find_segments(Twice(), (X,)) == nested
    assert find_segments(Twice(), (X,), {"wide": False}) == {**nested, "shared": Segments((6, 6), (8,))}


def test_both_ends_of_a_layer_are_found() -> None:
    model = nn.Sequential()
    model.forward = lambda x: product(model.layer(torch.cat([x, x.cos()], -1)).chunk(2, -1))  # type: ignore[assignment]
    model.layer = nn.Linear(16, 4)
    assert find_segments(model, (X,)) == {"layer": Segments((2, 2), (8, 8))}


def test_a_diffusion_transformer_is_cut_where_its_paper_cuts_it() -> None:
    from tercile.diffusion.models import DiT, Shape

    model = DiT(Shape(width=32, depth=1, heads=2))
    found = find_segments(model, (torch.ones(2, 1, 16, 16), torch.tensor([1, 2]), torch.tensor([3, 4])))
    assert found == {
        "time.mlp.0": Segments((32,), (128, 128)),
        "blocks.0.modulation.1": Segments((32,) * 6, (32,)),
        "blocks.0.attention.qkv": Segments((32,) * 3, (32,)),
        "modulation.1": Segments((32, 32), (32,)),
    }


def test_what_is_no_model_and_what_cannot_be_followed_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got str"):
        find_segments("model", (X,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"model \(Linear\) cannot be exported"):
        find_segments(nn.Linear(3, 3), (X,))
