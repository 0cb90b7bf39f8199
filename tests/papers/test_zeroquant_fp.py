"""Constrained scales, floating-point rounding by magnitude, and the language model that they are measured on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tercile.papers.rounded_language_model import LanguageModel, nll
from tercile.papers.zeroquant_fp import token_quantizers, with_branch
from tercile.quantization import QTensor, Scheme
from tercile.quantization.activations import Dynamic
from tercile.quantization.ranges import mse
from tercile.quantization.solvers import gptq
from tercile.zoo.entries import find


def test_shifted_scales_lose_less_than_powers_of_two():
    weight = np.random.default_rng(0).standard_t(5, size=(64, 512)).astype(np.float32)

    def error(spelling):
        scheme = Scheme.parse(spelling)
        return np.square(weight - QTensor.quantize(weight, scheme, mse(weight, scheme)).dequantize()).sum()

    free, shifts, powers = (error(f"fp4-e2m1-g64{form}") for form in ("", "-s3", "-e8m0"))
    assert free < shifts < powers


def test_a_float_beats_an_integer_where_one_value_stands_far_out():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(50, 256, generator=random)
    for peak, wins in ((4.0, False), (40.0, True)):
        x[:, 0] = peak
        errors = [
            float((Dynamic(Scheme.parse(name))(x) - x).square().mean()) for name in ("fp8-e4m3-token", "int8-token")
        ]
        assert (errors[0] < errors[1]) == wins


@pytest.fixture(scope="module")
def bench():
    if not find("debian-llama").installed:
        pytest.skip("the weights are not here")
    return LanguageModel(2, 4, 0)


def test_the_float_model_diverges_from_itself_by_nothing(bench):
    scores = bench.scores("", bench.model, {})
    assert scores["kl"] == pytest.approx(0, abs=1e-6) and scores["rise"] == pytest.approx(0, abs=1e-6)
    assert 1 < nll(bench.float) < 5


def test_eight_bit_inputs_lose_little_and_leave_the_model_as_it_was(bench):
    scores = bench.scores("", bench.model, token_quantizers(bench, "int8-token"))
    assert 0 < scores["kl"] < 0.01
    assert bench.scores("", bench.model, {})["kl"] == pytest.approx(0, abs=1e-6)


def test_the_branch_brings_a_weight_closer(bench):
    name, scheme = bench.layers[-1], Scheme.parse("fp4-e2m1-g64")
    weight = bench.model.get_parameter(f"{name}.weight").numpy()
    kept = gptq(weight, bench.statistics[name], scheme).dequantize()
    whole = with_branch(scheme)(name, weight, bench.statistics[name])
    assert np.linalg.norm(weight - whole) < np.linalg.norm(weight - kept)
