"""Proxies against the formulas written out, rank correlation against SciPy, and evolution against a planted law."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from tercile.quantization.allocation.evolution import evolve_proxy
from tercile.quantization.allocation.proxies import Proxy, rank_correlation


@pytest.fixture
def layers():
    random = np.random.default_rng(3)
    known = {
        f"layer{i}": {name: random.normal(size=(6, 7)) * 2.0**i for name in ("weight", "gradient", "curvature")}
        for i in range(5)
    }
    errors = {
        name: {bits: one["weight"] * 2.0**-bits * random.choice([-1, 1], (6, 7)) for bits in (2, 3, 4, 8)}
        for name, one in known.items()
    }
    settings = [{name: int(random.choice([2, 3, 4, 8])) for name in known} for _ in range(60)]
    return known, errors, settings


def test_a_proxy_is_the_formula_written_out(layers):
    known, errors, settings = layers
    proxy = Proxy("curvature", "error", ("abs", "log1p"), ("square", "same"), "times", "sum", "one")
    wanted = [
        sum(
            np.sum(np.log1p(np.abs(known[name]["curvature"])) * errors[name][bits] ** 2)
            for name, bits in setting.items()
        )
        for setting in settings
    ]
    assert np.allclose(proxy.scores(known, errors, settings), wanted)


def test_a_proxy_without_errors_scales_by_the_weight_of_the_bits_alone(layers):
    known, errors, settings = layers
    proxy = Proxy("weight", "gradient", ("same", "same"), ("same", "same"), "times", "norm", "noise")
    wanted = [
        sum(4.0**-bits * np.linalg.norm(known[name]["weight"] * known[name]["gradient"]) for name, bits in one.items())
        for one in settings
    ]
    assert np.allclose(proxy.scores(known, errors, settings), wanted)


def test_rank_correlation_is_scipys_with_ties():
    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = random.integers(0, 5, 30), random.integers(0, 5, 30)
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation(np.ones(5), np.arange(5)) == 0.0


def test_evolution_finds_a_law_that_ranks_settings_it_has_not_seen(layers):
    known, errors, settings = layers
    losses = np.array(
        [
            sum(np.sum(np.abs(known[n]["curvature"]) * errors[n][bits] ** 2) for n, bits in setting.items())
            for setting in settings
        ]
    )
    found = evolve_proxy(known, errors, settings[:30], losses[:30], generations=25, seed=1)
    unseen = found.sign * found.proxy.scores(known, errors, settings[30:])
    assert found.correlation > 0.97 and rank_correlation(unseen, losses[30:]) > 0.95


def test_evolution_is_the_same_for_the_same_seed_and_screens_formulas(layers):
    known, errors, settings = layers
    losses = np.arange(60.0)
    first, second = (evolve_proxy(known, errors, settings, losses, generations=3, seed=5) for _ in range(2))
    assert first == second and first.refused > 0


def test_more_generations_never_rank_worse(layers):
    known, errors, settings = layers
    losses = np.random.default_rng(2).normal(size=60)
    found = [evolve_proxy(known, errors, settings, losses, generations=g).correlation for g in (0, 5, 15)]
    assert found[0] <= found[1] <= found[2]


@pytest.mark.parametrize(
    ("settings", "losses", "named"),
    [
        ([{"a": 2}] * 3, np.ones(3), "4 settings"),
        ([{"a": 2}] * 5, np.ones(4), "finite loss"),
        ([{"a": 2}] * 5, np.full(5, np.nan), "finite loss"),
        ([{"b": 2}] * 5, np.arange(5.0), "'b'"),
    ],
)
def test_bad_input_is_named(settings, losses, named):
    with pytest.raises(ValueError, match=named):
        evolve_proxy({"a": {"weight": np.ones(3)}}, {}, settings, losses)
