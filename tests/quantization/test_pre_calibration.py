"""The adaptive LASSO against a minimiser, the divergence against its limits, and what is set apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from tercile.quantization import QTensor, Scheme
from tercile.quantization.ranges.pre_calibration import adaptive_lasso, divergence, pre_calibrate, salient
from tercile.quantization.solvers import round_to_nearest

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("penalty", [0.0, 0.1, 1.0])
def test_the_closed_form_is_the_minimum_of_the_adaptive_lasso(penalty: float) -> None:
    weight = RNG.normal(size=20)
    for w, got in zip(weight, adaptive_lasso(weight, penalty), strict=True):

        def loss(v: float, w: float = w) -> float:
            return (w - v) ** 2 / 2 + penalty * abs(v) / abs(w)

        best = minimize_scalar(loss, bounds=(-abs(w) - 1, abs(w) + 1), method="bounded", options={"xatol": 1e-10})
        assert loss(got) <= best.fun + 1e-9
    assert adaptive_lasso(np.zeros(2), penalty).tolist() == [0, 0]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2])
def test_the_salient_weights_are_that_share_and_the_largest(share: float) -> None:
    weight = RNG.standard_t(3, size=(10, 100))
    apart = salient(weight, share)
    assert apart.sum() == round(share * 1000)
    assert not apart.any() or np.abs(weight[apart]).min() >= np.abs(weight[~apart]).max()


def test_divergence_grows_with_coarser_steps_and_with_clipping() -> None:
    weight = RNG.normal(size=(4, 5000))
    found = [divergence(weight, round_to_nearest(weight, None, Scheme.parse(f"int{b}-channel"))) for b in (8, 5, 3, 1)]
    assert found == sorted(found) and found[0] < 0.01
    scheme = Scheme.parse("int8-tensor-f32")
    clipped = QTensor.quantize(weight, scheme, scheme.ranges(np.full((1, 1), 1 / 128)))  # reaches to 1
    assert divergence(weight, clipped) > 10 * found[0]
    same = np.ones((2, 5))
    assert divergence(same, round_to_nearest(same, None, scheme)) == 0


def test_pre_calibration_keeps_the_distribution_better_and_counts_its_bits() -> None:
    weight = RNG.standard_t(3, size=(32, 4, 8, 8)).astype(np.float32)
    scheme = Scheme.parse("int4-channel")
    plain, both = round_to_nearest(weight, None, scheme), pre_calibrate(weight, scheme, share=0.01)
    assert both.shape == weight.shape and len(both.values) <= round(0.01 * weight.size)
    assert divergence(weight, both) < divergence(weight, plain)
    assert np.square(weight - both.dequantize()).mean() < 0.5 * np.square(weight - plain.dequantize()).mean()
    assert plain.bits_per_weight + 0.3 < both.bits_per_weight < plain.bits_per_weight + 0.5


def test_the_share_follows_the_tails() -> None:
    scheme = Scheme.parse("int4-tensor-f32")
    heavy, flat = (pre_calibrate(x, scheme) for x in (RNG.standard_t(2, size=(16, 500)), RNG.uniform(-1, 1, (16, 500))))
    assert len(flat.values) < len(heavy.values)


def test_bad_input_is_refused_by_name() -> None:
    scheme = Scheme.parse("int4-channel")
    for call, message in (
        (lambda: adaptive_lasso(np.ones(2), -1), "penalty must be at least 0"),
        (lambda: divergence(np.ones(2), round_to_nearest(np.ones((1, 3)), None, scheme)), "of one size"),
        (lambda: pre_calibrate(np.ones((2, 2)), scheme, share=0.5), "share of salient weights"),
        (lambda: pre_calibrate(np.full((2, 2), np.nan), scheme), "NaN"),
        (lambda: pre_calibrate(np.ones((0, 2)), scheme), "empty"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
