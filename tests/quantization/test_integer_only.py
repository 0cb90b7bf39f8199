"""Integer-only networks against exact fractions, NumPy's integers, and the float network that they stand for."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tercile import _native
from tercile.quantization.families.steps import network_steps
from tercile.quantization.integer_only import fixed_point, integer_network, multiply
from tercile.quantization.integer_only.network import Sum, Weighted, _sum, _weighted, plain_sum, plain_weighted
from tercile.quantization.training.fake_quantize import RoundedNetwork


class Small(nn.Module):
    """A stem, a residual sum with a strided shortcut, pooling and a classifier."""

    def __init__(self, channels: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(channels, 7, 3, 2, 1), nn.ReLU(), nn.Conv2d(7, 6, 3, padding=1))
        self.b = nn.Conv2d(channels, 6, 1, 2)
        self.relu, self.pool, self.head = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.pool(self.relu(self.a(x) + self.b(x))).flatten(1))


@pytest.fixture
def rounded() -> tuple[RoundedNetwork, np.ndarray]:
    torch.manual_seed(0)
    model = Small()
    for _ in range(3):
        model(torch.rand(32, 2, 9, 8))
    pictures = np.random.default_rng(0).integers(0, 256, (40, 2, 9, 8), dtype=np.uint8)
    return RoundedNetwork(model.eval()).watch(torch.from_numpy(pictures) / 255).requires_grad_(False), pictures


@given(st.floats(1e-9, 1e4), st.integers(-(2**30), 2**30))
def test_a_product_is_the_exact_product_with_the_kept_factor_rounded_half_up(factor, value):
    kept = fixed_point(np.array([factor]))
    exact = Fraction(int(kept.multiplier[0]), 2 ** int(kept.shift[0])) * value
    assert multiply(np.array([value]), kept)[0] == floor(exact + Fraction(1, 2))
    assert kept.factors[0] == pytest.approx(factor, rel=2**-30)


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan, np.inf, 1e12])
def test_a_factor_that_has_no_fixed_point_is_refused(factor):
    with pytest.raises(ValueError, match="factor"):
        fixed_point(np.array([factor]))


@given(st.integers(0, 2**32 - 1))
def test_a_convolution_by_kernels_is_bit_for_bit_the_one_by_numpy(seed):
    random = np.random.default_rng(seed)
    filters, channels, height, width = random.integers(1, 10, 4)
    kernel, stride, padding = random.integers(1, 4), random.integers(1, 3), random.integers(0, 3)
    height, width = height + kernel, width + kernel
    low, high = sorted(random.integers(0, 256, 2).tolist())
    step = Weighted(
        "a", "b", random.integers(-128, 128, (filters, kernel, kernel, channels)).astype(np.int8),
        random.integers(-(2**28), 2**28, filters).astype(np.int32),
        fixed_point(np.exp(random.uniform(-20, 1, filters))), int(stride), int(padding),
        int(random.integers(0, 256)), int(random.integers(0, 256)), low, high,
    )  # fmt: skip
    x = random.integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    assert np.array_equal(_weighted(step, x), plain_weighted(step, x))


def test_the_plain_convolution_is_its_definition_in_whole_numbers():
    random = np.random.default_rng(1)
    weight = random.integers(-128, 128, (2, 3, 3, 2)).astype(np.int8)
    factor = fixed_point(np.array([0.011, 0.007]))
    step = Weighted("a", "b", weight, np.array([5, -9], np.int32), factor, 2, 1, 17, 3, 3, 255)
    x = random.integers(0, 256, (1, 5, 5, 2), dtype=np.uint8)
    found = plain_weighted(step, x)
    for y in range(3):
        for across in range(3):
            for filter_ in range(2):
                total = int(step.bias[filter_])
                for i in range(3):
                    for j in range(3):
                        row, column = 2 * y + i - 1, 2 * across + j - 1
                        for c in range(2):
                            inside = 0 <= row < 5 and 0 <= column < 5
                            code = int(x[0, row, column, c]) if inside else 17
                            total += code * int(weight[filter_, i, j, c])
                kept = Fraction(int(factor.multiplier[filter_]), 2 ** int(factor.shift[filter_]))
                wanted = min(max(3 + floor(total * kept + Fraction(1, 2)), 3), 255)
                assert found[0, y, across, filter_] == wanted


@given(st.integers(0, 2**32 - 1))
def test_a_sum_by_kernels_is_bit_for_bit_the_one_by_numpy(seed):
    random = np.random.default_rng(seed)
    zeros, shift = random.integers(0, 256, 2).tolist(), int(random.integers(1, 24))
    multipliers = random.integers(0, 2**15, 2).tolist()
    step = Sum(("a", "b"), "c", tuple(zeros), tuple(multipliers), shift, int(random.integers(0, 256)), 0, 255)
    a, b = random.integers(0, 256, (2, 3, 4, 5, 6), dtype=np.uint8)
    assert np.array_equal(_sum(step, a, b), plain_sum(step, a, b))


def test_a_network_gives_the_same_logits_by_kernels_and_by_numpy(rounded):
    network, pictures = rounded
    integers = integer_network(network, (9, 8))
    assert np.array_equal(integers.logits(pictures), integers.logits(pictures, plain=True))
    assert integers.logits(pictures).dtype == np.int32


def test_logits_are_those_of_the_rounded_float_network(rounded):
    network, pictures = rounded
    wanted = network(torch.from_numpy(pictures) / 255).numpy()
    integers = integer_network(network, (9, 8))
    found = integers.logits(pictures) * integers.logit_scale
    # The classifier's channels share one scale in integers, and a few sums fall on the other side of a half.
    assert np.abs(found - wanted).max() < 0.05 * np.ptp(wanted)


def test_nothing_in_the_network_is_a_float(rounded):
    integers = integer_network(rounded[0], (9, 8))
    for step in integers.steps:
        for name, value in vars(step).items():
            for one in value if isinstance(value, tuple) else (value,):
                if name == "wide":
                    continue
                if name == "factor":
                    kept = [] if one is None else [one.multiplier, one.shift]
                    assert all(array.dtype.kind == "i" for array in kept)
                elif isinstance(one, np.ndarray):
                    assert one.dtype.kind == "i", name
                else:
                    assert isinstance(one, (int, str)), name


def test_weights_take_a_byte_each_and_little_else(rounded):
    weights = sum(step.weight.size for step in integer_network(rounded[0], (9, 8)).steps if isinstance(step, Weighted))
    assert weights <= integer_network(rounded[0], (9, 8)).nbytes <= weights + 9 * 40 + 200


def test_pictures_that_are_no_bytes_are_refused(rounded):
    integers = integer_network(rounded[0], (9, 8))
    with pytest.raises(TypeError, match="bytes"):
        integers.logits(rounded[1].astype(np.float32))
    with pytest.raises(ValueError, match="2, height"):
        integers.logits(rounded[1][:, :1])


def test_pictures_at_four_bits_cannot_be_bytes():
    network = RoundedNetwork(Small().eval(), inputs="int4-tensor-asym-f32").watch(torch.rand(9, 2, 9, 8))
    with pytest.raises(ValueError, match="bytes"):
        integer_network(network, (9, 8))


def test_every_instruction_set_gives_the_same_bits():
    if len(_native.available_kernels()) < 2:
        pytest.skip("one instruction set only")
    code = (
        "import numpy as np; from tercile import _native; r = np.random.default_rng(0);"
        "x = r.integers(0, 256, (3, 12, 11, 5), dtype=np.uint8); w = np.zeros((7, 64), np.int16);"
        "w[:, :45] = r.integers(-128, 128, (7, 45)); b = r.integers(-999, 999, 7).astype(np.int32);"
        "m = r.integers(2**30, 2**31 - 1, 7).astype(np.int32); s = np.full(7, 40, np.int32);"
        "o = np.empty((3, 6, 6, 7), np.uint8);"
        "_native.integer_convolution(x, w, b, m, s, (3, 3), 2, 1, 9, 30, 0, 255, o);"
        "import hashlib; print(hashlib.sha256(o.tobytes()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "TERCILE_KERNELS": name},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in _native.available_kernels()
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)), "one group"),
        (nn.Sequential(nn.Conv2d(2, 2, 3), nn.Sigmoid()), "Sigmoid"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding="same")), "padding"),
        (nn.Sequential(nn.ReLU()), "must come from a step"),
    ],
)
def test_what_integers_cannot_do_is_named(model, named):
    with pytest.raises(ValueError, match=named):
        network_steps(model)


def test_a_network_that_does_not_end_in_a_linear_layer_is_refused():
    network = RoundedNetwork(nn.Sequential(nn.Conv2d(1, 2, 3)).eval()).watch(torch.rand(4, 1, 5, 5))
    with pytest.raises(ValueError, match="must end in a linear"):
        integer_network(network, (5, 5))
