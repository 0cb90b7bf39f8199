"""One quantile and many: the distribution they draw from, and what they refuse."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tercile.quantiles.private import Cauchy, Domain, Laplace, mixed, private_quantile, private_quantiles
from tercile.quantiles.private.exponential import MOST, SLACK, draw_rank, rank_pieces, whole_weights
from tercile.quantiles.private.prior import Measure
from tercile.quantiles.private.randomness import Randomness

DECILES = np.arange(1, 10) / 10


def brute_force_scores(records: list[int], target: Fraction, cells: int) -> list[Fraction]:
    """How far the target is from the ranks of every cell, straight from the definition."""
    scores = []
    for y in range(cells):
        below, at_most = sum(x < y for x in records), sum(x <= y for x in records)
        scores.append(max(Fraction(0), below - target, target - at_most))
    return scores


def scores_of_cells(records: list[int], target: Fraction, cells: int, most: int) -> list[int]:
    edges, scores = rank_pieces(np.sort(records).astype(np.int64), target, target.denominator, most, (0, cells - 1))
    assert (np.diff(edges) >= 0).all() and edges[0] == 0 and edges[-1] == cells
    return np.repeat(scores, np.diff(edges)).tolist()


@given(
    st.lists(st.integers(0, 19), max_size=12),
    st.fractions(0, 1, max_denominator=10),
    st.integers(1, 60),
)
@settings(max_examples=300, deadline=None)
def test_pieces_are_the_brute_force_scores(records: list[int], q: Fraction, most: int) -> None:
    target = q * len(records)
    wanted = [min(score * target.denominator, most) for score in brute_force_scores(records, target, 20)]
    assert scores_of_cells(records, target, 20, most) == wanted


@given(st.lists(st.integers(0, 19), max_size=12), st.integers(0, 19), st.fractions(0, 1, max_denominator=10))
@settings(max_examples=200, deadline=None)
def test_one_record_more_changes_no_score_by_more_than_the_sensitivity(
    records: list[int], added: int, q: Fraction
) -> None:
    before = brute_force_scores(records, q * len(records), 20)
    after = brute_force_scores([*records, added], q * (len(records) + 1), 20)
    assert max(abs(a - b) for a, b in zip(before, after)) <= max(q, 1 - q)


def test_draws_follow_the_exponential_mechanism_with_a_prior() -> None:
    records, q, epsilon = [3, 3, 4, 9, 15], Fraction(2, 5), 1.3
    density = [1, 5, 2]
    measure = Measure(np.array([0, 6, 12, 20]), density)
    base = np.repeat(density, [6, 6, 8])
    scores = np.array([float(s) for s in brute_force_scores(records, q * 5, 20)])
    wanted = base * np.exp(-epsilon * scores / (2 * 0.6))
    randomness = Randomness(0)
    drawn = [
        draw_rank(np.array(records), q * 5, Fraction(3, 5), epsilon, measure, (0, 19), randomness)
        for _ in range(20_000)
    ]
    seen = np.bincount(drawn, minlength=20)
    assert stats.chisquare(seen, wanted / wanted.sum() * 20_000).pvalue > 1e-4


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0, 20.0, 400.0])
def test_whole_numbered_weights_keep_neighbours_within_epsilon_exactly(epsilon: float) -> None:
    # Every weight that the mechanism can use, as it computes it; neighbours differ by at most 10 units of score.
    rate = (epsilon - SLACK) / (2 * 10)
    scores = np.unique(np.linspace(0, 1.2 * MOST / rate, 4000).astype(np.int64))
    weights, shifted = (whole_weights(rate, each) for each in (scores, scores + 10))
    assert min(shifted) >= 2**40 - 2
    # exp(epsilon/2) from below, as a fraction of 200 bits.
    bound = sum(Fraction(epsilon) ** k / (2**k * math.factorial(k)) for k in range(40 if epsilon < 2 else 900))
    assert all(Fraction(a, b) <= bound for a, b in zip(weights, shifted))


def test_any_amount_of_budget_works() -> None:
    for epsilon in (1e-4, 1e3, 1e9):
        assert -1 <= private_quantile([0.1, 0.2], 0.5, (-1, 1), epsilon=epsilon, random_state=0) <= 1


def test_nine_deciles_beat_nine_single_ones_at_the_same_budget() -> None:
    rng = np.random.default_rng(0)
    together, apart = [], []
    for seed in range(30):
        x = rng.normal(size=5000)
        ordered = np.sort(x)
        many = private_quantiles(x, DECILES, (-10, 10), epsilon=1.0, random_state=seed)
        single = [private_quantile(x, q, (-10, 10), epsilon=1 / 9, random_state=seed) for q in DECILES]
        together.append(np.abs(np.searchsorted(ordered, many) / 5000 - DECILES).mean())
        apart.append(np.abs(np.searchsorted(ordered, single) / 5000 - DECILES).mean())
    assert np.mean(together) < 0.7 * np.mean(apart)
    assert np.mean(together) < 0.002


def test_error_is_within_the_stated_bound() -> None:
    rng = np.random.default_rng(1)
    x = np.sort(rng.uniform(0, 1, 1000))
    epsilon, chance, misses = 0.5, 0.2, 0
    for seed in range(300):
        found = private_quantile(x, 0.5, (-500, 500), epsilon=epsilon, random_state=seed)
        rank = np.searchsorted(x, found)
        # Cells of the right rank are about one in a million.
        mass = (x[500] - x[499]) / 1000
        misses += abs(rank - 500) > 2 * 0.5 / epsilon * math.log(1 / (chance * mass))
    assert misses <= stats.binom.ppf(0.999, 300, chance)


def test_answers_come_in_order_whatever_the_order_of_the_question() -> None:
    x = np.random.default_rng(2).normal(size=200)
    q = [0.9, 0.1, 0.5, 0.5, 0.0, 1.0]
    for seed in range(20):
        found = private_quantiles(x, q, (-5, 5), epsilon=0.1, random_state=seed)
        assert (np.diff(found[np.argsort(q, kind="stable")]) >= 0).all()
        assert found[2] == found[3]


def test_ties_do_not_mislead_the_levels_inside_them() -> None:
    x = np.repeat([0.0, 1.0, 7.0], [1000, 5000, 4000])
    for domain in ((-100, 100), Domain(-100, 100, step=1)):
        found = private_quantiles(x, DECILES, domain, epsilon=1.0, random_state=0)
        assert found[1:5] == pytest.approx([1.0] * 4) and found[6:] == pytest.approx([7.0] * 3)


def test_constant_data_give_the_constant() -> None:
    assert private_quantile(np.full(1000, 3.0), 0.5, (-1e6, 1e6), epsilon=1.0, random_state=0) == pytest.approx(3)


def test_values_outside_are_clipped_to_the_domain() -> None:
    found = private_quantile([1e300, -1e300, 1e300, 1e300] * 50, 0.9, (-1, 1), epsilon=2.0, random_state=0)
    assert found == pytest.approx(1.0, abs=1e-9)


def test_a_step_gives_values_on_the_lattice() -> None:
    domain = Domain(0.5, 10, step=0.25)
    found = private_quantiles(np.linspace(1, 9, 500), DECILES, domain, epsilon=1.0, random_state=0)
    assert np.allclose((found - 0.5) / 0.25, np.rint((found - 0.5) / 0.25))


def test_a_good_prior_helps_and_a_mixture_bounds_the_harm_of_a_bad_one() -> None:
    x = np.random.default_rng(3).normal(100, 1, 200)
    ordered, domain = np.sort(x), (-1e9, 1e9)

    def error(prior: object) -> float:
        found = [
            private_quantile(x, 0.5, domain, epsilon=0.15, prior=prior, random_state=s)  # type: ignore[arg-type]
            for s in range(60)
        ]
        return float(np.abs(np.searchsorted(ordered, found) / 200 - 0.5).mean())

    none, guess, good = error(None), error(Cauchy(0.0, 1000.0)), error(Laplace(100.0, 0.2))
    bad, rescued = error(Laplace(-5e8, 1.0)), error(mixed(Laplace(-5e8, 1.0), Cauchy(0.0, 1000.0), 0.1))
    assert good < guess < 0.2 * none
    assert rescued < 2.5 * guess and rescued < 0.2 * bad


def test_neighbours_of_one_record_and_zero_width_parts_work() -> None:
    for q in (0.0, 0.3, 1.0):
        assert -1 <= private_quantile([0.2], q, (-1, 1), epsilon=1.0, random_state=0) <= 1
    found = private_quantiles([0.2], DECILES, (-1, 1), epsilon=1.0, random_state=0)
    assert (np.diff(found) >= 0).all()


def test_many_levels_of_much_data_do_not_overflow() -> None:
    x = np.random.default_rng(4).normal(size=300_000)
    q = (np.arange(1, 400) / 401.7).round(6)
    found = private_quantiles(x, q, (-1e6, 1e6), rho=0.1, random_state=0)
    assert np.abs(np.searchsorted(np.sort(x), found) / x.size - q).max() < 0.005


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": []}, ValueError, "values is empty"),
        ({"values": [1.0, math.nan]}, ValueError, r"values\[1\] is NaN"),
        ({"values": [math.inf]}, ValueError, r"values\[0\] is infinite"),
        ({"values": ["a"]}, TypeError, "values must be numbers"),
        ({"values": [[1.0]]}, ValueError, r"values must have shape \(n,\), got \(1, 1\)"),
        ({"q": -0.1}, ValueError, "q must be from 0 to 1, got -0.1"),
        ({"q": 95}, ValueError, "q must be from 0 to 1, got 95; write 0.95"),
        ({"q": math.nan}, ValueError, "q must be from 0 to 1, got nan"),
        ({"q": "half"}, TypeError, "q must be numbers"),
        ({"domain": (1, 0)}, ValueError, r"lower must be below upper, got 1.0 and 0.0; did you mean Domain\(0.0"),
        ({"domain": (1, 1)}, ValueError, "got 1.0 twice"),
        ({"domain": (0, math.inf)}, ValueError, "upper must be finite"),
        ({"domain": (math.nan, 1)}, ValueError, "lower must be finite"),
        ({"domain": (-1.7e308, 1.7e308)}, ValueError, "upper - lower must be finite"),
        ({"domain": 5}, TypeError, "domain must be a Domain or a pair"),
        ({"epsilon": 1e-9}, ValueError, "epsilon leaves 1.0e-09"),
        ({"prior": "normal"}, TypeError, "prior must be one of Uniform, Laplace"),
    ],
)
def test_bad_input_is_refused_by_name(change: dict, error: type[Exception], message: str) -> None:
    given = {"values": [1.0, 2.0], "q": 0.5, "domain": (0, 3), "epsilon": 1.0} | change
    with pytest.raises(error, match=message):
        private_quantile(**given)


def test_other_bad_domains_and_priors_are_refused() -> None:
    for step in (0, -1, 11, math.nan, 1e-15):
        with pytest.raises(ValueError, match="step must be"):
            Domain(0, 10, step)
    with pytest.raises(ValueError, match="scale must be above 0"):
        Cauchy(0.0, 0.0)
    with pytest.raises(ValueError, match="location must be finite"):
        Laplace(math.nan, 1.0)
    with pytest.raises(ValueError, match="share must be between 0 and 1"):
        mixed(Laplace(0.0, 1.0), Cauchy(0.0, 1.0), 1.5)
    with pytest.raises(ValueError, match="one for each of 2 quantiles, got 1"):
        private_quantiles([1.0], [0.1, 0.2], (0, 1), epsilon=1.0, priors=[Laplace(0.0, 1.0)])
    with pytest.raises(ValueError, match="q is empty"):
        private_quantiles([1.0], [], (0, 1), epsilon=1.0)
