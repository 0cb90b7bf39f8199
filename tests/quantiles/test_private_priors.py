"""Priors: as whole-numbered measures, fitted offline, learned online."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tercile.quantiles.private import (
    Cauchy,
    Domain,
    Laplace,
    LogUniform,
    Mixture,
    OnlinePriors,
    Steps,
    Uniform,
    fit_priors,
    mixed,
    prediction_loss,
    private_quantiles,
)
from tercile.quantiles.private.prior import measure_of

FAMILIES = [
    (Laplace(1.0, 2.0), stats.laplace(1.0, 2.0)),
    (Cauchy(1.0, 2.0), stats.cauchy(1.0, 2.0)),
    (Uniform(-3.0, 5.0), stats.uniform(-3.0, 8.0)),
]


@pytest.mark.parametrize(("prior", "reference"), FAMILIES)
def test_families_agree_with_scipy(prior: Laplace, reference: stats.rv_continuous) -> None:
    x, p = np.linspace(-30, 30, 301), np.linspace(0.01, 0.99, 99)
    assert np.allclose(prior.cdf(x), reference.cdf(x), atol=1e-12)
    assert np.allclose(prior.quantile(p), reference.ppf(p), atol=1e-9)


def test_log_uniform_quantile_inverts_its_cdf() -> None:
    prior, p = LogUniform(3.0, 0.1, 1e6), np.linspace(0.01, 0.99, 99)
    assert np.allclose(prior.cdf(prior.quantile(p)), p)
    with pytest.raises(ValueError, match="least and most"):
        LogUniform(0.0, 2.0, 1.0)


@pytest.mark.parametrize(
    "prior",
    [
        Laplace(0.3, 0.01),
        Cauchy(-0.9, 1e-6),
        mixed(Laplace(0.0, 1e-4), Uniform(-1, 1)),
        LogUniform(0, 1e-9, 1),
        Steps((-0.8, 0.1, 0.2, 0.9), (1.0, 5.0, 2.0)),
    ],
)
def test_measure_on_cells_is_the_prior_cut_to_the_domain(prior: Laplace) -> None:
    domain = Domain(-1, 1)
    measure = measure_of(prior, domain)
    edges = np.linspace(0, domain.cells, 2001).astype(np.int64)
    found = np.array([float(mass) for mass in measure.masses(edges)])
    places = domain.lower + (edges / domain.cells_per_step - 0.5) * domain.width_of_step
    wanted = np.diff(prior.cdf(places))
    # Steps in 241 of its own quantiles follow the distribution function within 3%.
    assert np.abs(np.cumsum(found) / found.sum() - np.cumsum(wanted) / wanted.sum()).max() < 0.032
    assert min(measure.density) >= 1


def test_masses_and_cells_are_two_sides_of_one_measure() -> None:
    measure = measure_of(Laplace(0.1, 0.05), Domain(0, 1, step=0.05))
    cells = Domain(0, 1, step=0.05).cells
    start = cells // 3
    total = sum(measure.masses(np.array([start, cells])))
    rng = np.random.default_rng(0)
    for share in rng.uniform(0, 1, 200):
        mass = int(share * total)
        cell = measure.cell(start, mass)
        below, upto = (sum(measure.masses(np.array([start, end]))) for end in (cell, cell + 1))
        assert start <= cell < cells and below <= mass < upto


def test_a_prior_outside_of_the_domain_is_no_worse_than_none() -> None:
    x = np.random.default_rng(1).normal(size=500)
    outside = prediction_loss(x, 0.5, Uniform(50, 60), (-10, 10), 1.0)
    assert outside == pytest.approx(prediction_loss(x, 0.5, None, (-10, 10), 1.0), abs=1e-6)


def test_loss_is_the_definition_on_a_fine_grid() -> None:
    x = np.random.default_rng(2).normal(size=50)
    grid = np.linspace(-5, 5, 400_001)
    score = np.abs(np.searchsorted(np.sort(x), grid) - 25)
    wanted = -math.log(float(np.mean(np.exp(-0.7 * score))))
    assert prediction_loss(x, 0.5, None, (-5, 5), 0.7) == pytest.approx(wanted, abs=2e-3)


def test_mixing_costs_no_more_than_it_says() -> None:
    x = np.random.default_rng(3).normal(size=300)
    other = Cauchy(0.0, 10.0)
    for prediction in (Laplace(0.0, 0.1), Laplace(400.0, 0.01)):
        for share in (0.05, 0.3):
            both = prediction_loss(x, 0.5, mixed(prediction, other, share), (-1000, 1000), 1.0)
            alone = prediction_loss(x, 0.5, prediction, (-1000, 1000), 1.0)
            fallback = prediction_loss(x, 0.5, other, (-1000, 1000), 1.0)
            # The steps that priors are kept in differ a little between a mixture and its parts.
            assert both <= min(alone - math.log(1 - share), fallback - math.log(share)) + 0.15


def test_offline_fit_finds_where_quantiles_are_and_how_sure_one_can_be() -> None:
    rng = np.random.default_rng(4)
    shifts = rng.laplace(scale=3.0, size=200)
    examples = [rng.normal(20 + shift, 1, 400) for shift in shifts]
    for family in (Laplace, Cauchy):
        low, middle = fit_priors(examples, [0.1, 0.5], (-1e4, 1e4), family=family)
        assert middle.parts[0].location == pytest.approx(20 + np.median(shifts), abs=0.4)
        assert low.parts[0].location == pytest.approx(20 + np.median(shifts) - 1.2816, abs=0.4)
    scale = fit_priors(examples, [0.5], (-1e4, 1e4))[0].parts[0].scale
    assert scale == pytest.approx(np.abs(shifts - np.median(shifts)).mean(), rel=0.15)


def test_offline_fit_takes_constant_examples() -> None:
    fitted = fit_priors([np.full(10, 2.0)] * 3, [0.5], Domain(0, 10, 1))[0].parts[0]
    assert fitted.location == pytest.approx(2.0, abs=0.5) and fitted.scale > 0


def test_online_learner_is_a_median_regression_on_what_was_released() -> None:
    rng = np.random.default_rng(5)
    learner = OnlinePriors([0.2, 0.8], (-1000, 1000), features=1, location=0.0, scale=10.0, patience=0.01)
    rows, seen = rng.uniform(-1, 1, (300, 1)), []
    for row in rows:
        seen.append([3 + 5 * row[0] + rng.laplace(), -4 + rng.laplace()])
        learner.learn(seen[-1], row)
    at_half = [prior.parts[0] for prior in learner.predict([0.5])]
    assert at_half[0].location == pytest.approx(5.5, abs=0.4)
    assert at_half[1].location == pytest.approx(-4, abs=0.4)
    assert at_half[0].scale == pytest.approx(1.0, rel=0.25)


def test_learned_priors_help_the_data_sets_to_come() -> None:
    rng = np.random.default_rng(6)
    domain, q = (-1e6, 1e6), [0.25, 0.5, 0.75]
    learner = OnlinePriors(q, domain, location=0.0, scale=1000.0, other=Cauchy(0.0, 1000.0))
    learned, fixed = [], []
    for day in range(60):
        x = rng.normal(250, 5, 150)
        ordered = np.sort(x)
        released = private_quantiles(x, q, domain, epsilon=0.4, priors=learner.predict(), random_state=day)
        plain = private_quantiles(x, q, domain, epsilon=0.4, priors=Cauchy(0.0, 1000.0), random_state=day)
        learner.learn(released)
        learned.append(np.abs(np.searchsorted(ordered, released) / 150 - q).mean())
        fixed.append(np.abs(np.searchsorted(ordered, plain) / 150 - q).mean())
    assert np.mean(learned[20:]) < 0.8 * np.mean(fixed[20:])


def test_a_refused_release_changes_nothing() -> None:
    learner = OnlinePriors([0.5], (0, 10), features=1)
    learner.learn([4.0], [1.0])
    before = learner.predict([1.0])
    for released, features, message in (
        ([1.0, 2.0], [1.0], "released must hold 1 quantiles, got 2"),
        ([math.nan], [1.0], r"released\[0\] is NaN"),
        ([1.0], [1.0, 2.0], r"features must have shape \(1,\)"),
        ([1.0], [math.inf], "features must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.learn(released, features)
    assert learner.predict([1.0]) == before


def test_bad_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="examples is empty"):
        fit_priors([], [0.5], (0, 1))
    with pytest.raises(ValueError, match=r"examples\[1\] is empty"):
        fit_priors([[1.0], []], [0.5], (0, 1))
    with pytest.raises(ValueError, match="features must be a whole number"):
        OnlinePriors([0.5], (0, 1), features=-1)
    with pytest.raises(ValueError, match="scale must be above 0"):
        OnlinePriors([0.5], (0, 1), scale=0.0)
    with pytest.raises(ValueError, match="location must be finite"):
        OnlinePriors([0.5], (0, 1), location=math.nan)
    with pytest.raises(ValueError, match="share must be between 0 and 1"):
        OnlinePriors([0.5], (0, 1), robust=1.0)
    with pytest.raises(ValueError, match="add up to 1"):
        Mixture((Uniform(0, 1),), (0.5,))
    with pytest.raises(ValueError, match="edges must rise"):
        Steps((0.0, 0.0), (1.0,))
    with pytest.raises(ValueError, match="weights must be at least 0"):
        Steps((0.0, 1.0), (0.0,))
    with pytest.raises(ValueError, match="one weight a part"):
        Mixture((), ())
