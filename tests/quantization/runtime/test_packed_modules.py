"""Packed layers give the answers of the layers that they stand for, and what can't be packed is named."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tercile.quantization import QTensor, Scheme
from tercile.quantization.runtime.modules import PackedConv2d, PackedEmbedding, PackedLinear, use_packed
from tercile.quantization.solvers import round_to_nearest


def stored(layer: nn.Module, spelling: str = "int5-g8") -> QTensor:
    return round_to_nearest(layer.weight.detach().numpy(), None, Scheme.parse(spelling))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.middle = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.middle(self.table(ids))))


def decoded(model: nn.Module, weights: dict[str, QTensor]) -> nn.Module:
    """The same model with the numbers that are stored."""
    plain = copy.deepcopy(model)
    with torch.no_grad():
        for name, q in weights.items():
            plain.get_parameter(name).copy_(torch.from_numpy(q.dequantize()))
    return plain


@torch.no_grad()
def test_a_model_with_a_tied_head_gives_the_answers_of_its_decoded_weights() -> None:
    torch.manual_seed(0)
    model = Tied()
    weights = {"table.weight": stored(model.table), "middle.weight": stored(model.middle, "trellis3-channel-rot")}
    ids = torch.tensor([[3, 3, 49], [0, 7, 1]])
    want = decoded(model, weights)(ids)
    packed = use_packed(model, weights)
    assert packed is model
    assert isinstance(model.table, PackedEmbedding) and isinstance(model.head, PackedLinear)
    assert model.head.matrix is model.table.matrix
    assert torch.allclose(model(ids), want, atol=1e-5)
    assert [name for name, _ in model.named_parameters()] == ["middle.bias", "norm.weight", "norm.bias"]


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{}, {"padding": 1}, {"padding": "same", "dilation": (2, 1)}, {"stride": (2, 3), "padding": (0, 2), "bias": False}],
)
def test_a_convolution_gives_the_pictures_of_its_decoded_weight(options: dict) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 7, (3, 4), **options), torch.randn(2, 3, 11, 9)
    q = stored(layer, "int8-channel")
    want = decoded(layer, {"weight": q})(x)
    packed = use_packed(layer, {"weight": q})
    assert isinstance(packed, PackedConv2d)
    assert torch.allclose(packed(x), want, atol=1e-5) and torch.allclose(packed(x[0]), want[0], atol=1e-5)


def test_layers_are_found_by_their_own_name_too_and_types_of_activations_stay() -> None:
    model = nn.Sequential(nn.Linear(8, 4))
    use_packed(model, {"0": stored(model[0])})
    assert model(torch.ones(2, 3, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert model(torch.ones(8)).shape == (4,)


def test_what_has_no_packed_layer_is_named_and_nothing_is_changed() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Conv1d(8, 8, 1), nn.Conv2d(8, 8, 1, groups=2))
    weights = {f"{i}.weight": stored(model[i], "int8-channel") for i in range(3)} | {"gone.weight": stored(model[0])}
    with pytest.raises(ValueError, match=r"3 of 4.*1\.weight: Conv1d.*2\.weight: .*2 groups.*gone\.weight"):
        use_packed(model, weights)
    assert type(model[0]) is nn.Linear
    with pytest.raises(ValueError, match=r"0\.weight: the module's weight is \(8, 8\), the stored one \(4, 8\)"):
        use_packed(model, {"0.weight": stored(nn.Linear(8, 4))})


def test_state_is_the_packed_arrays_and_loads_again() -> None:
    torch.manual_seed(0)
    first, second = nn.Sequential(nn.Linear(8, 4)), nn.Sequential(nn.Linear(8, 4))
    use_packed(first, {"0.weight": stored(first[0], "int4-g4-bf16")})
    use_packed(second, {"0.weight": stored(second[0], "int4-g4-bf16")})
    state = first.state_dict()
    assert set(state) == {"0.weight.codes", "0.weight.scale", "0.bias"}
    assert np.shares_memory(state["0.weight.codes"].numpy(), first[0].matrix.stored.words)
    second.load_state_dict(state)
    x = torch.randn(3, 8)
    assert torch.equal(first(x), second(x))
    state["0.weight.codes"] = state["0.weight.codes"][:2]
    with pytest.raises(ValueError, match="codes"):
        second.load_state_dict(state)


def test_training_through_a_packed_layer_is_refused() -> None:
    layer = nn.Linear(8, 4)
    packed = use_packed(layer, {"weight": stored(layer)})
    with pytest.raises(ValueError, match="inference"):
        packed(torch.ones(1, 8, requires_grad=True))
