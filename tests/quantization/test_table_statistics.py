"""What answers feel of an embedding table, beside the derivative written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tercile.quantization import Scheme
from tercile.quantization.solvers import gptq, round_to_nearest
from tercile.quantization.table_statistics import table_statistics


def chain(rows: int = 40, width: int = 12, answers: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(rows, width), nn.Linear(width, answers)).eval().requires_grad_(False)


def run(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch)


def test_behind_a_linear_layer_the_second_moment_is_that_of_its_weight() -> None:
    model = chain()
    batches = [torch.randint(40, (50, 20)) for _ in range(20)]
    seen = table_statistics(model, ["0"], batches, outputs=run)["0"]
    weight = model[1].weight.numpy()
    exact = weight.T @ weight
    assert seen.count == 20_000
    assert np.abs(seen.second_moment - exact).max() < 0.05 * np.abs(exact).max()


def test_a_curved_answer_is_felt_where_the_text_is() -> None:
    """The mean of J'J over the tokens read, J by finite differences."""
    model = chain()

    def curved(which: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return torch.tanh(2 * which(batch))

    batch = torch.tensor([[3, 7, 9]])
    seen = table_statistics(model, ["0"], [batch] * 3000, outputs=curved)["0"]
    moments = []
    for row in (3, 7, 9):
        columns = []
        for axis in range(12):
            step = torch.zeros(12)
            step[axis] = 1e-2
            table = model[0].weight[row]
            ends = [torch.tanh(2 * model[1](table + sign * step)) for sign in (1, -1)]
            columns.append(((ends[0] - ends[1]) / 2e-2).numpy())
        jacobian = np.stack(columns, axis=1)
        moments.append(jacobian.T @ jacobian)
    exact = np.mean(moments, axis=0)
    assert np.abs(seen.second_moment - exact).max() < 0.08 * np.abs(exact).max()


def test_a_table_solved_with_them_changes_the_answers_less() -> None:
    model = chain(answers=6)
    batches = [torch.arange(40)[None]]
    seen = table_statistics(model, ["0"], batches, outputs=run, probes=20)["0"]
    table, scheme = model[0].weight.numpy(), Scheme.parse("int3-channel")
    change = {}
    for name, stored in (("gptq", gptq(table, seen, scheme)), ("nearest", round_to_nearest(table, None, scheme))):
        change[name] = float(np.square((stored.dequantize() - table) @ model[1].weight.numpy().T).sum())
    assert change["gptq"] < 0.6 * change["nearest"]


def test_padding_is_left_out() -> None:
    model = chain()
    batch = torch.randint(40, (4, 10))
    keep = torch.ones(4, 10, dtype=torch.bool)
    keep[:, 6:] = False
    assert table_statistics(model, ["0"], [batch], outputs=run, keep=lambda b: keep)["0"].count == 24


def test_the_model_is_left_as_it_is() -> None:
    model = chain()
    before, batch = model[0].weight.clone(), torch.randint(40, (4, 10))
    answer = model(batch)
    table_statistics(model, ["0"], [batch], outputs=run)
    assert torch.equal(model[0].weight, before) and torch.equal(model(batch), answer)
    assert not model[0].weight.requires_grad and not model[0]._forward_hooks


def test_bad_input_is_refused_by_name() -> None:
    model = chain()
    with pytest.raises(ValueError, match="1 is no embedding but a Linear"):
        table_statistics(model, ["1"], [], outputs=run)
    with pytest.raises(ValueError, match="no gradients by 0"):
        table_statistics(model, ["0"], [torch.zeros(1, 1).long()], outputs=lambda m, b: m(b).detach())
