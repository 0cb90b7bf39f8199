"""Second moments of gradients are what a change of a row costs the output, and solving a table with them pays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tercile.quantization import Scheme
from tercile.quantization.output_gradients import gradient_statistics
from tercile.quantization.solvers import gptq, round_to_nearest


class Mean(nn.Module):
    """The mean of looked-up rows through two layers."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(64, channels)
        mixing = torch.randn(channels, channels) * torch.logspace(0, -2, channels)
        self.first, self.second = nn.Linear(channels, channels), nn.Linear(channels, 7)
        self.first.weight.data = mixing / 5

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(self.table(rows).mean(dim=1))))


def batches(count: int = 40) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(64, (16, 5), generator=generator) for _ in range(count)]


def run(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch)


def test_they_are_the_mean_of_all_jacobians_squared() -> None:
    model = Mean()
    seen = gradient_statistics(model, ["table"], batches(200), run)["table"].second_moment
    total = torch.zeros(24, 24)
    for batch in batches(6):
        for unit in batch:
            vectors = model.table(unit).detach()
            jacobian = torch.autograd.functional.jacobian(
                lambda x: model.second(torch.tanh(model.first(x.mean(dim=0)))), vectors
            )
            for position in range(5):
                total += jacobian[:, position].T @ jacobian[:, position]
    expected = (total / total.abs().max()).numpy()
    np.testing.assert_allclose(seen, expected, atol=0.05)


def test_solving_a_table_with_them_keeps_the_output_better_than_rounding_it() -> None:
    model = Mean()
    seen = gradient_statistics(model, ["table"], batches(), run)["table"]
    weight = model.table.weight.detach().numpy().copy()
    held_out = torch.randint(64, (200, 5), generator=torch.Generator().manual_seed(9))
    before, changed = model(held_out).detach(), []
    for stored in (
        gptq(weight, seen, Scheme.parse("int3-g8")),
        round_to_nearest(weight, None, Scheme.parse("int3-g8")),
    ):
        model.table.weight.data = torch.from_numpy(stored.dequantize())
        changed.append(float((model(held_out).detach() - before).square().mean()))
    assert changed[0] < 0.6 * changed[1]


def test_positions_that_do_not_count_are_left_out_and_the_model_is_left_alone() -> None:
    model = Mean()
    model.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    mask = torch.ones(16, 5, dtype=torch.bool)
    mask[:, 3:] = False
    seen = gradient_statistics(model, ["table"], batches(2), run, keep=lambda batch: mask, probes=3)["table"]
    assert seen.count == 2 * 3 * 48
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert not model.table._forward_hooks and not model.table.weight.requires_grad


def test_the_same_seed_gives_the_same_statistics() -> None:
    first, again, other = (
        gradient_statistics(Mean(), ["table"], batches(2), run, seed=seed)["table"].second_moment for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_bad_arguments_are_named() -> None:
    model = Mean()
    with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
        gradient_statistics(model, ["table"], batches(1), run, probes=0)
    with pytest.raises(ValueError, match="batches is empty"):
        gradient_statistics(model, ["table"], [], run)
    with pytest.raises(ValueError, match="table has no part in the output"):
        gradient_statistics(model, ["table"], batches(1), lambda m, b: m.second(m.table(b).detach().mean(1)))
