"""The low-rank branch is the closest of its rank, in the weights or in the outputs."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.quantization import Scheme
from tercile.quantization.low_rank import compensate
from tercile.quantization.solvers import round_to_nearest
from tercile.quantization.statistics import Statistics

FINE = Scheme.parse("int8-g8-f32")


@pytest.fixture
def layer():
    random = np.random.default_rng(0)
    weight = random.standard_t(4, size=(24, 40)).astype(np.float32)
    inputs = (random.normal(size=(500, 40)) * np.geomspace(0.05, 5, 40)).astype(np.float32)
    seen = Statistics(40)
    seen.update(inputs)
    return weight, round_to_nearest(weight, None, Scheme.parse("int3-channel")), inputs, seen


@pytest.mark.parametrize("rank", [1, 5, 24])
def test_what_is_left_are_the_singular_values_beyond_the_rank(layer, rank):
    weight, stored, _, _ = layer
    missing = weight - stored.dequantize()
    values = np.linalg.svd(missing, compute_uv=False)
    left = np.linalg.norm(missing - compensate(weight, stored, rank, scheme=FINE).dequantize()) ** 2
    assert left == pytest.approx((values[rank:] ** 2).sum(), abs=2e-3 * float((values**2).sum()))


def test_with_statistics_the_outputs_are_closer_and_close_to_the_best_possible(layer):
    weight, stored, inputs, seen = layer
    missing = weight - stored.dequantize()

    def output_error(branch):
        return np.square(inputs @ (missing - branch.dequantize()).T).sum()

    plain, aware = (compensate(weight, stored, 4, scheme=FINE, statistics=each) for each in (None, seen))
    # The best branch of that rank comes from the singular values of the outputs themselves.
    best = (np.linalg.svd(inputs @ missing.T, compute_uv=False)[4:] ** 2).sum()
    assert best * 0.999 <= output_error(aware) <= 1.05 * best
    assert output_error(aware) < output_error(plain)


def test_bytes_are_those_of_both_factors_and_the_rank_is_what_was_asked(layer):
    weight, stored, _, _ = layer
    branch = compensate(weight, stored, 3)
    scheme = Scheme.parse("int8-channel-f32")
    assert branch.rank == 3 and branch.nbytes == scheme.nbytes((3, 24)) + scheme.nbytes((3, 40))
    assert np.linalg.matrix_rank(branch.dequantize()) == 3


def test_a_weight_that_lost_nothing_gets_a_branch_of_zeros_and_no_nan():
    weight = np.float32([[1, -1, 0], [0, 1, 1]])
    branch = compensate(weight, round_to_nearest(weight, None, Scheme.parse("ternary-channel-f32")), 2)
    assert not np.nan_to_num(branch.dequantize(), nan=1).any()


def test_unseen_inputs_do_not_break_it(layer):
    weight, stored, inputs, _ = layer
    seen = Statistics(40)
    seen.update(inputs * (np.arange(40) > 20))
    assert np.isfinite(compensate(weight, stored, 4, statistics=seen).dequantize()).all()


def test_bad_input_is_refused_by_name(layer):
    weight, stored, _, _ = layer
    for rank in (0, 25, True, 2.0):
        with pytest.raises(ValueError, match="rank must be a whole number from 1 to 24"):
            compensate(weight, stored, rank)
    with pytest.raises(ValueError, match="quantized has shape"):
        compensate(weight[:, :3], stored, 1)
    with pytest.raises(ValueError, match="statistics are of 3 inputs"):
        compensate(weight, stored, 1, statistics=Statistics(3))
