"""The debugging flow must name the fault that was planted."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tercile.cli import app
from tercile.quantization.debugging import diagnose, diagnosis_svg
from tercile.quantization.families import describe


@pytest.fixture
def network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    return model.requires_grad_(False), torch.randn(200, 16)


def found_in(model: nn.Module, x: torch.Tensor, **given):
    wanted = model(x)

    def score() -> float:
        return float((model(x) - wanted).square().mean())

    return diagnose(model, describe(model), [x], score, forward=lambda module, batch: module(batch), **given)


def test_a_layer_whose_inputs_have_an_outlier_is_named_with_its_range(network):
    model, x = network
    model[0].bias[3] = 400.0  # one channel of the second layer's inputs is far from the others
    model[2].weight[:, 3] = 0.0
    found = found_in(model, x, weights="int8-channel", inputs="int4-tensor-asym-f32")
    worst = found.faults[0]
    assert (found.worse_part, worst.layer, worst.part) == ("inputs", "2", "inputs")


def test_weights_stretched_by_one_large_weight_are_blamed_on_the_range():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 8)).requires_grad_(False)
    model[0].weight.uniform_(-0.1, 0.1)
    model[0].weight[:, 5] = 0.5 * torch.sign(torch.randn(8))
    weights = next(one for one in found_in(model, torch.randn(50, 256), weights="int3-channel").faults)
    assert (weights.part, weights.blame, weights.better_range) == ("weights", "range", "mse")


def test_evenly_spread_weights_at_few_bits_are_blamed_on_the_rounding(network):
    model, x = network
    model[2].weight.uniform_(-0.3, 0.3)
    fault = next(
        one for one in found_in(model, x, weights="int3-channel").faults if (one.layer, one.part) == ("2", "weights")
    )
    assert fault.blame == "rounding"


def test_the_rises_are_those_of_quantizing_by_hand(network):
    from tercile.quantization import QTensor, Scheme
    from tercile.quantization.ranges import min_max

    model, x = network
    found = found_in(model, x, weights="int4-channel")
    wanted, scheme = model(x), Scheme.parse("int4-channel")
    rows = model[2].weight.numpy()
    before = model[2].weight.clone()
    model[2].weight.copy_(torch.from_numpy(QTensor.quantize(rows, scheme, min_max(rows, scheme)).dequantize()))
    rise = float((model(x) - wanted).square().mean())
    model[2].weight.copy_(before)
    fault = next(one for one in found.faults if (one.layer, one.part) == ("2", "weights"))
    assert fault.rise == pytest.approx(rise, rel=1e-5)


def test_the_model_is_as_it_was(network):
    model, x = network
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = found_in(model, x, weights="int2-channel")
    assert found.unrounded == pytest.approx(0, abs=1e-9)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_loss_that_is_not_finite_is_refused_and_the_model_put_back(network):
    model, x = network
    before = model[0].weight.clone()
    values = iter([0.0, 0.0, float("nan")])
    with pytest.raises(ValueError, match="finite"):
        diagnose(model, describe(model), [x], lambda: next(values), forward=lambda module, batch: module(batch))
    assert torch.equal(before, model[0].weight)


def test_inputs_by_channel_are_refused(network):
    with pytest.raises(ValueError, match="by tensor"):
        found_in(*network, inputs="int8-channel-f32")


def test_the_picture_names_every_fault(network):
    model, x = network
    svg = diagnosis_svg(found_in(model, x, weights="int4-channel"))
    text = "".join(ElementTree.fromstring(svg).itertext())
    assert all(f"{layer} · {part}" in text for layer in "024" for part in ("weights", "inputs"))


def test_the_command_line_prints_json_and_writes_the_picture(tmp_path):
    picture = tmp_path / "faults.svg"
    arguments = [
        "debug",
        "digits-cnn",
        "--weights",
        "int2-channel",
        "--examples",
        "8",
        "--json",
        "--plot",
        str(picture),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["worse_part"] == "weights" and found["rise"]["weights"] > found["rise"]["inputs"]
    assert len(found["faults"]) == 32 and picture.read_text().startswith("<?xml")


def test_the_command_line_says_what_is_wrong_in_one_line():
    result = CliRunner().invoke(app, ["debug", "digits-cnn", "--weights", "int99"])
    assert result.exit_code == 2 and "int99" in result.stderr and "Traceback" not in result.stderr
