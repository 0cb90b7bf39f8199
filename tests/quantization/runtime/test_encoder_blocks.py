"""Encoder blocks that run in one call give the answers of their layers, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from tercile.quantization import Scheme
from tercile.quantization.low_rank import compensate
from tercile.quantization.runtime import PackedMatrix
from tercile.quantization.runtime.encoder import join_encoder_blocks
from tercile.quantization.runtime.modules import use_packed
from tercile.quantization.solvers import round_to_nearest


def small_bert(activations: str = "float", spelling: str = "int8-channel", **settings) -> BertModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 96, "num_attention_heads": 2, "intermediate_size": 80} | settings
    model = BertModel(BertConfig(vocab_size=50, num_hidden_layers=2, **sizes), add_pooling_layer=False).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.bias)
    weights = {
        name: round_to_nearest(layer.weight.detach().numpy(), None, Scheme.parse(spelling))
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    use_packed(model, weights, activations)  # type: ignore[arg-type]
    return model


def inputs(count: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(50, (count, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(count, length, dtype=torch.long)
    for number in range(count):
        mask[number, max(1, length - 3 * number) :] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("spelling", ["int8-channel", "int4-g32", "int3-g32-asym", "trellis2.5-channel-rot"])
@pytest.mark.parametrize(("count", "length"), [(1, 1), (1, 7), (3, 16), (2, 37)])
@torch.inference_mode()
def test_a_joined_block_gives_the_answers_of_its_layers(spelling: str, count: int, length: int) -> None:
    model, given = small_bert(spelling=spelling), inputs(count, length)
    apart = model(**given)[0]
    assert join_encoder_blocks(model) == 2
    seen = given["attention_mask"].bool()
    torch.testing.assert_close(model(**given)[0][seen], apart[seen], atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_joined_block_calls_layers_of_every_kind() -> None:
    model, given = small_bert(), inputs(2, 9)
    attention, up = model.encoder.layer[0].attention, model.encoder.layer[1].intermediate.dense
    for layer in (attention.self.key, attention.output.dense, up):
        weight = layer.matrix.stored.dequantize()
        turned = round_to_nearest(weight, None, Scheme.parse("trellis2-channel-rot"))
        layer.matrix = PackedMatrix.from_qtensor(turned, branch=compensate(weight, turned, 3))
    fixed = model.encoder.layer[1].output.dense
    fixed.matrix = PackedMatrix.from_qtensor(fixed.matrix.stored, "int8", activation_scale=0.02)
    apart = model(**given)[0]
    assert join_encoder_blocks(model) == 2
    seen = given["attention_mask"].bool()
    torch.testing.assert_close(model(**given)[0][seen], apart[seen], atol=2e-3, rtol=2e-3)  # halves fall to either side


@torch.inference_mode()
def test_rounded_activations_are_as_near_to_floats_as_layer_by_layer() -> None:
    given = inputs(3, 21)
    wanted, model = small_bert()(**given)[0], small_bert("int8")
    apart = float((model(**given)[0] - wanted).norm())
    join_encoder_blocks(model)
    joined = float((model(**given)[0] - wanted).norm())
    assert 0 < joined < 1.2 * apart < 0.1 * float(wanted.norm())


@torch.inference_mode()
def test_names_stay_and_new_weights_are_taken_up() -> None:
    model, other, given = small_bert(), small_bert(), inputs(1, 5)
    names = list(model.state_dict())
    before = join_encoder_blocks(model) and model(**given)[0]
    assert list(model.state_dict()) == names
    block = other.encoder.layer[0].output.dense
    block.matrix.stored.arrays["scale"][:] *= np.float16(2)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(**given)[0], other(**given)[0], atol=2e-5, rtol=1e-4)
    assert float((model(**given)[0] - before).abs().max()) > 0.01


@pytest.mark.parametrize(
    "settings",
    [{"hidden_act": "relu"}, {"num_attention_heads": 12}, {"is_decoder": True}],
    ids=["another activation", "heads of 8", "a decoder"],
)
def test_blocks_of_another_kind_stay_as_they_are(settings: dict) -> None:
    assert join_encoder_blocks(small_bert(**settings)) == 0


@torch.inference_mode()
def test_attention_weights_can_still_be_asked_for() -> None:
    model, given = small_bert(attn_implementation="eager"), inputs(1, 5)
    join_encoder_blocks(model)
    assert model(**given, output_attentions=True).attentions[0].shape == (1, 2, 5, 5)
