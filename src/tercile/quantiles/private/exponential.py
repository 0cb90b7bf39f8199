"""The exponential mechanism on cells: exact sampling of a step function, in whole numbers.

A score says how bad each cell would be as an answer, and changes by at most `sensitivity` when a record is added
or removed. The mechanism (McSherry & Talwar 2007) draws a cell with probability proportional to

    base(cell) * exp(-rate * score(cell)),     rate = epsilon / (2 * sensitivity),

where `base` is a public measure: uniform, or a prior. The score is a step function with one step a rank of the
data, so that the cells fall into intervals of equal score; an interval is chosen by its weight, then a cell in it
by the base measure. There is no list of candidates; every cell can come out.

**Why it is exactly private.** Weights are whole numbers, floor(2^133 exp(-min(rate * score, MOST))), none below 2^40.
Scores are whole numbers too, and capping keeps their sensitivity. So a weight is off by a factor of at most 1 + 2^-39
(the rounding of `exp`, for which 4,000 units in the last place are allowed, and the floor), and a neighbour's weights,
and their sum, each by that much more than exp(epsilon/2). `SLACK` takes more than this off epsilon. The weights are
then summed and sampled without any rounding.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from tercile.quantiles.private.prior import Measure
from tercile.quantiles.private.randomness import Integers, Randomness

_BITS = 133
#: Scores are capped where the weight has fallen by this exponent: 2^-93, below one cell in 2^53 by 2^-40.
MOST = 93 * math.log(2.0)
SLACK = 2.0**-36


def draw_rank(
    ordered: Integers,
    target: Fraction,
    sensitivity: Fraction,
    epsilon: float,
    measure: Measure,
    within: tuple[int, int],
    randomness: Randomness,
) -> int:
    """A cell that has about `target` records below it, by the exponential mechanism.

    The score of cell y is the distance of `target` from the ranks that y has: from the number of records below y
    to the number at or below it.

    Parameters
    ----------
    ordered
        (n,) cells of the records, ascending, all inside `within`.
    target
        The wanted rank, 0 to n. It may depend on n if `sensitivity` accounts for it.
    sensitivity
        By how much the score of any cell can change when one record is added or removed.
    epsilon
        Privacy parameter of this draw.
    measure
        Base measure.
    within
        First and last cell that may come out.

    Notes
    -----
    Cost: sorting apart, linear in the ranks that are within `MOST` of the target: about 130 * sensitivity /
    epsilon of them, at 0.5 us each.
    """
    # Scores times `unit` are whole numbers.
    unit = math.lcm(target.denominator, sensitivity.denominator)
    rate = (epsilon - SLACK) / (2.0 * float(sensitivity) * unit)
    most = math.ceil(MOST / rate)
    edges, scores = rank_pieces(ordered, target, unit, most, within)
    return draw_step(edges, scores, rate, measure, randomness)


def rank_pieces(
    ordered: Integers, target: Fraction, unit: int, most: int, within: tuple[int, int]
) -> tuple[Integers, Integers]:
    """Intervals of cells with equal score: edges (k + 1,) and scores (k,), in units of 1/unit, capped at `most`.

    With x the ordered records, the cells of rank `target` are [x[b-1], x[a]] for a, b = target rounded down and up;
    going up, (x[m-1], x[m]] have m records below them for m = a+1, ..., n; going down, [x[c-1], x[c]) have c at or
    below them for c = b-1, ..., 0. What lies beyond the last record ends where `within` does.
    """
    n = ordered.size
    first, last = within
    above, below = math.floor(target), math.ceil(target)
    reach = most // unit + 2
    up = np.arange(above + 1, min(n, above + reach) + 1)
    down = np.arange(max(0, below - reach), below)
    whole = int(target * unit)
    scores = np.concatenate([whole - down * unit, [0], up * unit - whole])
    starts = ordered[np.maximum(down - 1, 0)] if n else down
    ends = ordered[np.minimum(up, n - 1)] + 1 if n else up
    middle = [int(ordered[below - 1]) if below else first, int(ordered[above]) + 1 if above < n else last + 1]
    # The outermost pieces take in all that is further out: there the score is capped, or no records are left.
    starts[:1], ends[-1:] = first, last + 1
    return np.concatenate([starts, middle, ends]), np.minimum(scores, most)


def draw_step(edges: Integers, scores: Integers, rate: float, measure: Measure, randomness: Randomness) -> int:
    """A cell from the density `base * exp(-rate * score)`, the score being constant between edges.

    Parameters
    ----------
    edges
        (k + 1,) cells, not descending: piece i is [edges[i], edges[i+1]).
    scores
        (k,) whole numbers, at least 0.
    rate
        Of decay, a unit of score.
    """
    weights = whole_weights(rate, scores)
    chosen, ticket = randomness.choose([weight * mass for weight, mass in zip(weights, measure.masses(edges))])
    return measure.cell(int(edges[chosen]), ticket // weights[chosen])


def whole_weights(rate: float, scores: Integers) -> list[int]:
    """What scores weigh, as whole numbers of at least 2^40."""
    return [int(weight) for weight in np.ldexp(np.exp(-np.minimum(rate * scores, MOST)), _BITS).tolist()]
