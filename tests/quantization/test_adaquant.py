"""AdaQuant, bias tuning and batch-norm tuning: what they must not make worse, and answers that are known."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tercile.quantization import Scheme  # noqa: E402
from tercile.quantization.batch_norm_tuning import restore_statistics  # noqa: E402
from tercile.quantization.ranges import min_max, mse  # noqa: E402
from tercile.quantization.solvers import gptq, round_to_nearest  # noqa: E402
from tercile.quantization.solvers.adaquant import adaquant  # noqa: E402
from tercile.quantization.solvers.bias_tuning import tune_biases  # noqa: E402
from tercile.quantization.statistics import Statistics  # noqa: E402


def layer(seed: int, rows: int = 12, columns: int = 40, n: int = 400):
    """Inputs behind a ReLU, each like its neighbours, as the patches of a picture are."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, columns))
    x = np.maximum(x + 0.7 * np.roll(x, 1, axis=1) + 0.5 * np.roll(x, 2, axis=1), 0).astype(np.float32)
    return (
        random.normal(size=(rows, columns)).astype(np.float32),
        x,
        random.normal(size=rows).astype(np.float32),
    )


def output_error(fit, w, x, bias, input_scheme=None, relu=False) -> float:
    """Mean squared change of the outputs, from what is stored alone."""
    read = x
    if input_scheme is not None:
        read = input_scheme.decode(input_scheme.encode(x, fit.inputs), fit.inputs)
    now, before = read @ fit.weight.dequantize().T + fit.bias, x @ w.T + bias
    if relu:
        now, before = np.maximum(now, 0), np.maximum(before, 0)
    return float(np.square(now - before).mean())


@pytest.mark.parametrize("spelling", ["int4-channel", "int3-g16", "int4-g16-asym", "nf4-g16", "ternary-tensor"])
@pytest.mark.parametrize("steps", [1, 40])
def test_a_layer_is_never_worse_on_its_calibration_inputs_than_rounded_to_nearest(spelling, steps):
    w, x, bias = layer(0)
    scheme = Scheme.parse(spelling)
    fit = adaquant(w, x, scheme, bias=bias, steps=steps)
    plain = np.square(x @ (round_to_nearest(w, None, scheme).dequantize() - w).T).mean()
    error = output_error(fit, w, x, bias)
    assert error <= plain * (1 + 1e-5)
    assert error == pytest.approx(fit.error, rel=1e-3)


def test_learning_takes_away_more_than_half_of_the_error_at_three_bits_and_more_with_more_steps():
    w, x, bias = layer(1, n=600)
    short, long = (adaquant(w, x, Scheme.parse("int3-channel"), bias=bias, steps=steps) for steps in (40, 200))
    assert long.error < short.error
    assert long.error < 0.45 * long.error_before


def test_learning_improves_on_gptq_where_the_inputs_are_rounded_too():
    w, x, bias = layer(2)
    scheme, inputs = Scheme.parse("int4-channel"), Scheme.parse("int3-tensor-asym-f32")
    statistics = Statistics(x.shape[1])
    statistics.update(x)
    start = gptq(w, statistics, scheme)
    fit = adaquant(w, x, scheme, bias=bias, start=start, input_scheme=inputs, input_ranges=mse(x, inputs), steps=100)
    assert fit.error < 0.97 * fit.error_before
    assert output_error(fit, w, x, bias, inputs) == pytest.approx(fit.error, rel=1e-3)


def test_a_start_that_cannot_be_improved_is_returned():
    w, x, bias = layer(3)
    scheme = Scheme.parse("int4-channel-f32")
    stored = round_to_nearest(w, None, scheme)
    fit = adaquant(stored.dequantize(), x, scheme, bias=bias, start=stored, steps=20)
    assert fit.error == pytest.approx(0, abs=1e-6)
    assert np.array_equal(fit.weight.codes, stored.codes)


def test_only_what_passes_the_relu_counts_when_one_follows():
    scheme, with_relu, without = Scheme.parse("int3-channel"), 0.0, 0.0
    for seed in range(4):
        w, x, bias = layer(seed)
        bias -= 0.3 * np.abs(x @ w.T).mean()
        for relu in (True, False):
            fit = adaquant(w, x, scheme, bias=bias, relu=relu, steps=150)
            error = output_error(fit, w, x, bias, relu=True)
            with_relu, without = (with_relu + error, without) if relu else (with_relu, without + error)
    assert with_relu < 0.97 * without


def test_the_same_seed_gives_the_same_bytes():
    w, x, bias = layer(5)
    first, second = (adaquant(w, x, Scheme.parse("int4-g16"), bias=bias, steps=15, seed=3) for _ in range(2))
    assert np.array_equal(first.weight.words, second.weight.words) and np.array_equal(first.bias, second.bias)


def test_dead_inputs_and_rows_of_zeros_do_no_harm():
    w, x, bias = layer(6)
    w[0], x[:, :5] = 0, 0
    fit = adaquant(w, x, Scheme.parse("int4-channel"), bias=bias, steps=20)
    assert np.isfinite(fit.weight.dequantize()).all() and fit.error <= fit.error_before


def test_a_convolution_keeps_its_shape():
    w, x, _ = layer(7, columns=36)
    assert adaquant(w.reshape(12, 4, 3, 3), x, Scheme.parse("int4-channel"), steps=2).weight.shape == (
        12,
        4,
        3,
        3,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": np.ones((4, 3), np.float32)}, "inputs must be"),
        ({"inputs": np.full((4, 40), np.nan, np.float32)}, "inputs holds NaN"),
        ({"bias": np.ones(3)}, "bias must be 12"),
        ({"targets": np.ones((3, 12), np.float32)}, "targets has 3 rows"),
        ({"input_scheme": Scheme.parse("int8-tensor-asym")}, "belong together"),
        ({"steps": 0}, "steps and batch"),
        (
            {"start": round_to_nearest(np.ones((12, 40)), None, Scheme.parse("int8-channel"))},
            "start is stored",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(change, message):
    w, x, bias = layer(8)
    with pytest.raises(ValueError, match=message):
        adaquant(**({"weight": w, "inputs": x, "scheme": Scheme.parse("int4-channel"), "bias": bias} | change))


def test_restored_channels_have_the_mean_and_spread_that_were_wanted():
    w, x, bias = layer(9)
    for spelling in ("int3-channel", "int3-g8-asym"):
        coarse = round_to_nearest(w, None, Scheme.parse(spelling + "-f32"), min_max)
        before, now = x @ w.T + bias, x @ coarse.dequantize().T + bias
        wanted, seen = (before.mean(0), before.std(0)), (now.mean(0), now.std(0))
        tuned, shifted = restore_statistics(coarse, bias, seen, wanted)
        after = x @ tuned.dequantize().T + shifted
        assert after.mean(0) == pytest.approx(wanted[0], rel=1e-3, abs=1e-3)
        assert after.std(0) == pytest.approx(wanted[1], rel=1e-3)
        assert np.array_equal(tuned.codes, coarse.codes)


def test_a_channel_without_spread_is_only_shifted():
    stored = round_to_nearest(np.eye(2, dtype=np.float32), None, Scheme.parse("int4-channel-f32"))
    zero, one = np.zeros(2), np.array([0.0, 1.0])
    tuned, bias = restore_statistics(stored, zero, (zero, one), (np.array([5.0, 0]), 2 * one))
    assert tuned.dequantize()[0] == pytest.approx(stored.dequantize()[0])
    assert tuned.dequantize()[1] == pytest.approx(2 * stored.dequantize()[1])
    assert bias.tolist() == [5, 0]


def test_rows_that_share_a_scale_cannot_be_restored_apart():
    stored = round_to_nearest(np.ones((2, 4)), None, Scheme.parse("int4-tensor"))
    with pytest.raises(ValueError, match="share a scale"):
        restore_statistics(stored, np.zeros(2), (np.zeros(2), np.ones(2)), (np.zeros(2), np.ones(2)))


def shifted_network():
    """A linear classifier, inputs, its answers, and a copy whose biases are off."""
    torch.manual_seed(0)
    model, off = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)
    x = torch.randn(200, 6)
    off.load_state_dict(model.state_dict())
    with torch.no_grad():
        off.bias += torch.tensor([0.5, -0.3, 0.0, 0.2])
    return off, x, model(x).detach()


def test_biases_that_were_shifted_are_found_again():
    off, x, answers = shifted_network()
    weight = off.weight.detach().clone()
    before, after = tune_biases(off, [off.bias], x, answers, steps=300, rate=0.02)
    assert after < 0.01 * before
    assert torch.equal(off.weight, weight)


def test_biases_that_are_right_are_left_alone():
    off, x, _ = shifted_network()
    kept = off.bias.detach().clone()
    before, after = tune_biases(off, [off.bias], x, off(x).detach(), steps=20)
    assert after == pytest.approx(before, abs=1e-6) and abs(before) < 1e-6
    assert off.bias.detach().numpy() == pytest.approx(kept.numpy(), abs=1e-3)


def test_tuning_needs_examples():
    off, x, answers = shifted_network()
    with pytest.raises(ValueError, match="10 examples"):
        tune_biases(off, [off.bias], x[:5], answers[:5])
