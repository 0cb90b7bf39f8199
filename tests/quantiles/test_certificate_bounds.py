"""Each bound against something that cannot share its mistakes: scipy's tails, brute force, closed forms."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tercile.quantiles import p_value, quantile_p_value, quantile_upper_bound, units_needed, upper_bound
from tercile.quantiles.certificate import betting, method_for
from tercile.quantiles.certificate.binomial import binomial_cdf, binomial_survival
from tercile.quantiles.certificate.fixed_sequence import walk

METHODS = ["best", "betting", "hoeffding-bentkus", "empirical-bernstein", "hoeffding"]


def samples(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "zeros": np.zeros(n),
        "ones": np.ones(n),
        "coin": (rng.random(n) < 0.02).astype(float),
        "fair coin": (rng.random(n) < 0.5).astype(float),
        "gamma": np.clip(rng.gamma(4.0, 0.004, n), 0, 1),
        "uniform": rng.random(n),
        "rare big": np.where(rng.random(n) < 0.003, 1.0, 0.01),
        "tied": rng.integers(0, 4, n) / 100,
        "sorted": np.sort(rng.beta(0.5, 10, n)),
        "highest first": np.sort(rng.beta(0.5, 10, n))[::-1],
    }


@pytest.mark.parametrize("n", [1, 7, 50, 999, 20_000])
@pytest.mark.parametrize("p", [1e-6, 0.01, 0.3, 0.5, 0.97])
def test_the_binomial_tails_agree_with_scipy_far_out(n: int, p: float) -> None:
    for k in sorted({0, 1, n // 100, n // 3, n // 2, n - 1, n}):
        assert binomial_cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-8, abs=1e-300)
        assert binomial_survival(k, n, p) == pytest.approx(stats.binom.sf(k - 1, n, p), rel=1e-8, abs=1e-300)


@pytest.mark.parametrize(("count", "n"), [(0, 10), (1, 10), (5, 60), (20, 1000), (59, 60), (60, 60)])
def test_the_binomial_bound_is_the_beta_quantile_of_clopper_and_pearson(count: int, n: int) -> None:
    losses = np.arange(n) < count
    exact = 1.0 if count == n else stats.beta.ppf(0.95, count + 1, n - count)
    assert upper_bound(losses, 0.95, "binomial") == pytest.approx(exact, rel=1e-9)


def test_no_loss_in_299_units_is_the_textbook_bound_of_one_percent() -> None:
    assert upper_bound(np.zeros(299, dtype=bool), 0.95) == pytest.approx(1 - 0.05 ** (1 / 299), rel=1e-12)
    assert upper_bound(np.zeros(299, dtype=bool), 0.95) < 0.01 < upper_bound(np.zeros(298, dtype=bool), 0.95)


def test_hoeffding_bentkus_is_the_smallest_mean_whose_scipy_tail_is_at_most_the_level() -> None:
    for name, losses in samples(200).items():
        mean, n = losses.mean(), losses.size
        grid = np.linspace(mean, 1, 20_001)[1:-1]
        entropy = stats.entropy([[mean] * grid.size, [1 - mean] * grid.size], [grid, 1 - grid])
        tail = np.minimum(np.exp(-n * entropy), math.e * stats.binom.cdf(math.ceil(n * mean - 1e-9), n, grid))
        rejected = grid[tail <= 0.1] if (tail <= 0.1).any() else [1.0]
        assert upper_bound(losses, 0.9, "hoeffding-bentkus") == pytest.approx(rejected[0], abs=1e-4), name


def test_empirical_bernstein_is_the_formula_of_the_paper() -> None:
    losses = samples(5000)["gamma"]
    spread = sum((a - losses.mean()) ** 2 for a in losses) / (losses.size - 1)
    log_term = math.log(2 / 0.05)
    expected = losses.mean() + math.sqrt(2 * spread * log_term / 5000) + 7 * log_term / (3 * 4999)
    assert upper_bound(losses, 0.95, "empirical-bernstein") == pytest.approx(expected, rel=1e-12)


def capital_one_loss_at_a_time(losses: np.ndarray, mean: float, level: float) -> float:
    """The betting scheme once more, in scalars and with scipy's normal distribution."""
    n, log_now, log_best, target = losses.size, 0.0, 0.0, math.log(1 / level)
    for first, end in betting._runs(n):
        past = losses[:first]
        squares = float(((past - past.mean()) ** 2).sum()) if first else 0.0
        dispersion = min((squares + betting.PRIOR) / (past.sum() + betting.PRIOR), 1 - mean)
        gap = max(target + betting.MARGIN - log_now, 0.0)
        if math.isinf(gap):  # ruined
            break
        z = stats.norm.isf(math.exp(-gap))
        bet = stats.norm.pdf(z) / math.exp(-gap) / math.sqrt((n - first) * mean * dispersion)
        bet = max(bet, math.expm1(gap / (n - first)) / mean)
        bet = min(bet * (1 - mean), 1.0)
        for loss in losses[first:end]:
            factor = 1 + bet * (mean - loss) / (1 - mean)
            log_now = log_now + math.log(factor) if factor > 1e-15 else -math.inf
        log_best = max(log_best, log_now)
        if log_best >= target:
            target += math.log(10)
    return log_best


def test_betting_in_arrays_equals_betting_one_loss_at_a_time() -> None:
    for name, losses in samples(300, seed=3).items():
        for mean in (0.005, 0.02, 0.3):
            fast = betting.log_capital(losses[None, :], np.array([mean]), 0.05)[0]
            slow = capital_one_loss_at_a_time(losses, mean, 0.05)
            assert fast == pytest.approx(slow, abs=2e-2, rel=2e-2), (name, mean)


def test_no_bet_can_make_the_capital_negative_or_grow_on_average() -> None:
    # Every sequence of four losses of 0 or 1, weighted by its probability under the mean: expected capital at
    # most 1 whatever the path. The largest capital is not a martingale, but by Ville its tail is bounded.
    for mean in (0.05, 0.3, 0.8):
        paths = np.array([[(i >> j) & 1 for j in range(10)] for i in range(1024)], dtype=float)
        capital = np.exp(betting.log_capital(paths, np.full(1024, mean), 0.1))
        weight = np.prod(np.where(paths == 1, mean, 1 - mean), axis=1)
        for level in (0.5, 0.2, 0.1, 0.05, 0.01):
            assert weight[capital >= 1 / level].sum() <= level + 1e-12


def test_the_fast_search_of_the_betting_grid_finds_what_testing_every_point_finds() -> None:
    level = 1 - 0.95
    for name, losses in samples(120, seed=5).items():
        points = betting._grid(losses.size, level)
        row = losses[betting._order(losses.size)][None, :]
        kept = np.flatnonzero(betting.log_capital(row, points, level) < -math.log(level))
        last = kept.max() if kept.size else -1
        expected = points[last + 1] if last + 1 < points.size else 1.0
        assert upper_bound(losses, 0.95, "betting") == expected, name


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("n", [1, 2, 40, 300])
def test_a_bound_is_at_most_alpha_exactly_when_the_p_value_is_at_most_delta(method: str, n: int) -> None:
    for name, losses in samples(n, seed=n).items():
        for confidence in (0.8, 0.99):
            bound = upper_bound(losses, confidence, method)
            assert losses.mean() <= bound <= 1.0, name
            for alpha in (0.02, bound * 1.003, bound * 0.997):
                if not 0 < alpha < 1 or abs(alpha / bound - 1) < 0.0025:
                    continue
                certified = p_value(losses, alpha, method, confidence=confidence) <= 1 - confidence
                assert certified == (bound <= alpha), (name, confidence, alpha, bound)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 64), min_size=2, max_size=80),
    st.sampled_from(["hoeffding-bentkus", "hoeffding", "quantile"]),
    st.data(),
)
def test_a_larger_loss_never_gives_a_smaller_bound(
    values: list[int], method: str, data: st.DataObject
) -> None:
    losses = np.array(values) / 64
    worse = losses.copy()
    index = data.draw(st.integers(0, losses.size - 1))
    worse[index] = data.draw(st.integers(values[index], 64)) / 64
    if method == "quantile":
        assert quantile_upper_bound(worse, 0.8, 0.9) >= quantile_upper_bound(losses, 0.8, 0.9)
    else:
        assert upper_bound(worse, 0.9, method) >= upper_bound(losses, 0.9, method) - 1e-12


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.sampled_from(METHODS))
def test_more_confidence_never_gives_a_smaller_bound(values: list[float], method: str) -> None:
    bounds = [upper_bound(values, c, method) for c in (0.5, 0.9, 0.99)]
    assert all(math.isfinite(b) and np.mean(values) - 1e-12 <= b <= 1 for b in bounds)
    if method not in ("best", "betting"):  # a bettor who aims at another target bets otherwise
        assert bounds == sorted(bounds)


@pytest.mark.parametrize("n", [10, 58, 59, 200, 1001])
@pytest.mark.parametrize("q", [0.5, 0.9, 0.95])
def test_the_quantile_bound_is_the_first_order_statistic_that_scipy_allows(n: int, q: float) -> None:
    losses = np.random.default_rng(n).permutation(np.arange(n) / n)
    allowed = [k for k in range(1, n + 1) if stats.binom.cdf(k - 1, n, q) >= 0.95]
    expected = (allowed[0] - 1) / n if allowed else 1.0
    bound = quantile_upper_bound(losses, q, 0.95)
    assert bound == expected
    for alpha in (0.3, 0.9, 0.96, bound if 0 < bound < 1 else 0.5):
        assert (quantile_p_value(losses, alpha, q) <= 0.05 + 1e-12) == (bound <= alpha)


def test_ties_at_the_quantile_keep_the_promise() -> None:
    # Losses 0, 0.2, 0.4 with chance 0.6, 0.3, 0.1: the 0.75-quantile is 0.2 exactly.
    rng = np.random.default_rng(8)
    misses = sum(
        quantile_upper_bound(rng.choice([0.0, 0.2, 0.4], 40, p=[0.6, 0.3, 0.1]), 0.75, 0.9) < 0.2
        for _ in range(2000)
    )
    assert misses <= stats.binom.ppf(0.9999, 2000, 0.1)


def test_best_goes_by_the_type_of_the_array_and_never_by_its_values() -> None:
    coin = samples(400)["coin"]
    assert method_for(coin) == method_for(coin.astype(np.int64)) == "betting"
    assert method_for(coin.astype(bool)) == "binomial"
    assert upper_bound(coin.astype(bool), 0.95) == upper_bound(coin, 0.95, "binomial")


def test_betting_beats_the_closed_forms_where_losses_huddle_and_matches_the_exact_one_for_coins() -> None:
    rng = np.random.default_rng(11)
    huddled = np.clip(rng.gamma(4.0, 0.015 / 4, (12, 800)), 0, 1)
    width = {m: np.mean([upper_bound(x, 0.95, m) - x.mean() for x in huddled]) for m in METHODS}
    assert width["betting"] < 0.4 * min(width[m] for m in METHODS[2:])
    coins = (rng.random((60, 800)) < 0.02).astype(float)
    ours = np.mean([upper_bound(x, 0.95, "betting") for x in coins])
    assert ours == pytest.approx(np.mean([upper_bound(x, 0.95, "binomial") for x in coins]), rel=0.03)


def test_units_needed_for_coins_is_the_brute_force_answer() -> None:
    for max_loss, confidence, expected in [(0.1, 0.95, 0.03), (0.2, 0.9, 0.12), (0.05, 0.99, 0.01)]:
        n = units_needed(max_loss, confidence, expected)

        def power(n: int, max_loss=max_loss, confidence=confidence, expected=expected) -> float:
            forgiven = stats.binom.ppf(1 - confidence, n, max_loss)
            while forgiven >= 0 and stats.binom.cdf(forgiven, n, max_loss) > 1 - confidence:
                forgiven -= 1
            return stats.binom.cdf(forgiven, n, expected)

        assert power(n) >= 0.8
        assert all(power(fewer) < 0.8 for fewer in range(1, n))


def test_units_needed_with_a_spread_certifies_four_times_out_of_five() -> None:
    rng = np.random.default_rng(4)
    for expected, spread in [(0.01, 0.005), (0.015, 0.0075), (0.01, 0.02)]:
        n, shape = units_needed(0.02, 0.95, expected, spread), (expected / spread) ** 2
        losses = np.clip(rng.gamma(shape, expected / shape, (600, n)), 0, 1)
        certified = betting.log_capital(losses, np.full(600, 0.02), 0.05) >= math.log(20)
        fewer = betting.log_capital(losses[:, : n * 4 // 5], np.full(600, 0.02), 0.05) >= math.log(20)
        assert fewer.mean() < 0.8
        assert certified.mean() > 0.75


def test_with_fewer_units_than_needed_at_no_loss_nothing_can_be_certified() -> None:
    n = units_needed(0.02, 0.95, 0.0)
    assert p_value(np.zeros(n, dtype=bool), 0.02) <= 0.05 < p_value(np.zeros(n - 1, dtype=bool), 0.02)
    for method in METHODS:
        assert p_value(np.zeros(n - 1), 0.02, method) > 0.05


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([0.1, math.nan], "losses must lie in [0, 1], got nan at index 1"),
        ([0.1, 0.2, 1.5], "losses must lie in [0, 1], got 1.5 at index 2"),
        ([-0.25], "got -0.25 at index 0"),
        ([], "losses is empty"),
        ([[0.1, 0.2]], "losses must have shape (n,), got (1, 2)"),
        (0.5, "losses must have shape (n,), got ()"),
    ],
)
def test_bad_losses_are_refused_by_value_and_place(losses: object, message: str) -> None:
    for call in (
        lambda: upper_bound(losses, 0.95),
        lambda: p_value(losses, 0.02),
        lambda: quantile_upper_bound(losses, 0.9, 0.95),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert message in str(caught.value)


def test_confidence_in_percent_and_other_slips_are_refused_with_the_mend() -> None:
    with pytest.raises(ValueError, match=r"confidence must be between 0 and 1, got 95; write 0.95"):
        upper_bound([0.1], 95)
    with pytest.raises(ValueError, match=r"confidence must be between 0 and 1, got 1.0"):
        upper_bound([0.1], 1.0)
    with pytest.raises(ValueError, match=r"max_loss must be between 0 and 1, got 2; write 0.02"):
        p_value([0.1], 2)
    with pytest.raises(TypeError, match="losses must be numbers"):
        upper_bound(["a"], 0.95)
    with pytest.raises(TypeError, match=r"confidence must be a number"):
        upper_bound([0.1], "0.95")
    with pytest.raises(ValueError, match="method must be one of best, betting"):
        upper_bound([0.1], 0.95, "magic")
    with pytest.raises(ValueError, match=r"losses that are 0 or 1, got 0.5 at index 1"):
        upper_bound([0.0, 0.5], 0.95, "binomial")
    with pytest.raises(ValueError, match=r"expected_loss must be from 0 to below max_loss=0.02, got 0.02"):
        units_needed(0.02, 0.95, 0.02)
    with pytest.raises(ValueError, match="rungs must say how many"):
        walk(lambda rung: [0.0], 0.02, 0.95)


def test_the_room_is_light_to_import_and_needs_no_scipy_and_no_torch() -> None:
    code = (
        "import numpy, sys, time; t = time.perf_counter(); import tercile.quantiles; "
        "t = time.perf_counter() - t\n"
        "heavy = {'scipy', 'torch', 'pandas'} & set(sys.modules)\n"
        "print(t < 0.3, sorted(heavy))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split("\n")[0] == "True []"
