"""Training-free proxies: formulas over what is known of each layer that rank bit settings without trying them.

Dong, Li, Wei, Niu, Tian and Pan (2023), "EMQ: Evolving Training-free Proxies for Automated Mixed Precision
Quantization", arXiv:2307.10554. A proxy is a small tree, as in the authors' public code: two inputs, each through two
unary operations, joined by a binary one, and reduced to a number a layer; layers are added up with a weight that
follows their bits. The lists of operations and of weights are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
#: By layer name, then by input: arrays of the layer's weight's shape. "error" is by width: `errors[layer][bits]`.
Knowledge = Mapping[str, Mapping[str, Array]]
Errors = Mapping[str, Mapping[int, Array]]
Setting = Mapping[str, int]


def _normalised(x: Array) -> Array:
    return x / (np.sqrt(np.mean(np.square(x))) + 1e-12)


UNARY: dict[str, Callable[[Array], Array]] = {
    "same": lambda x: x,
    "abs": np.abs,
    "square": np.square,
    "root": lambda x: np.sqrt(np.abs(x)),
    "log": lambda x: np.log(np.abs(x) + 1e-12),
    "log1p": lambda x: np.log1p(np.abs(x)),
    "exp": np.exp,
    "negative": np.negative,
    "positive_part": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "normalised": _normalised,
    "inverse": lambda x: 1 / x,
}
BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "subtract": np.subtract,
    "times": np.multiply,
    "larger": np.maximum,
    "smaller": np.minimum,
}
REDUCE: dict[str, Callable[[Array], float]] = {
    "sum": lambda x: float(np.sum(x)),
    "mean": lambda x: float(np.mean(x)),
    "norm": lambda x: float(np.sqrt(np.sum(np.square(x)))),
    "log_sum": lambda x: float(np.log(np.abs(np.sum(x)) + 1e-30)),
}
#: What a layer's number is multiplied by at each width: the share of rounding noise in it goes as 4^-bits.
WEIGHT: dict[str, Callable[[int], float]] = {
    "one": lambda bits: 1.0,
    "bits": float,
    "step": lambda bits: 2.0**-bits,
    "noise": lambda bits: 4.0**-bits,
}


@dataclass(frozen=True)
class Proxy:
    """A formula: sum over layers of weight(bits) * reduce(binary(unary(unary(left)), unary(unary(right)))).

    Examples
    --------
    >>> proxy = Proxy("gradient", "weight", ("same", "same"), ("same", "abs"), "times", "sum", "bits")
    >>> str(proxy)
    'sum bits * sum(times(gradient, abs(weight)))'
    >>> layers = {"a": {"gradient": np.ones(2), "weight": np.array([1.0, -2.0])}}
    >>> proxy.scores(layers, {}, [{"a": 4}, {"a": 8}]).tolist()
    [12.0, 24.0]
    """

    left: str
    right: str
    left_unary: tuple[str, str]
    right_unary: tuple[str, str]
    binary: str
    reduce: str
    weight: str

    def __str__(self) -> str:
        def through(name: str, unary: tuple[str, str]) -> str:
            for one in unary:
                name = name if one == "same" else f"{one}({name})"
            return name

        inside = f"{through(self.left, self.left_unary)}, {through(self.right, self.right_unary)}"
        return f"sum {self.weight} * {self.reduce}({self.binary}({inside}))"

    def layer(self, known: Mapping[str, Array], errors: Mapping[int, Array], bits: int) -> float:
        """The number of one layer at one width, its weight included; NaN where the formula has none."""
        with np.errstate(all="ignore"):
            values = []
            for name, unary in ((self.left, self.left_unary), (self.right, self.right_unary)):
                x = errors[bits] if name == "error" else known[name]
                for one in unary:
                    x = UNARY[one](x)
                values.append(x)
            return REDUCE[self.reduce](BINARY[self.binary](*values)) * WEIGHT[self.weight](bits)

    def scores(self, known: Knowledge, errors: Errors, settings: Sequence[Setting]) -> Array:
        """The score of each bit setting, float64 (settings,)."""
        of_widths: dict[tuple[str, int], float] = {}
        moving = "error" in (self.left, self.right)
        for name in settings[0]:
            still: float | None = None
            for bits in sorted({setting[name] for setting in settings}):
                if moving or still is None:
                    one = self.layer(known[name], errors.get(name, {}), bits)
                    weight = WEIGHT[self.weight](bits)
                    still = one / weight
                    of_widths[name, bits] = one
                else:
                    of_widths[name, bits] = still * WEIGHT[self.weight](bits)
        return np.array([sum(of_widths[name, bits] for name, bits in setting.items()) for setting in settings])


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's correlation: Pearson's of the ranks, ties at their mean rank; 0 where either is constant.

    >>> rank_correlation(np.array([1.0, 2.0, 9.0]), np.array([3.0, 5.0, 6.0]))
    1.0
    """
    from scipy.stats import rankdata

    first, second = rankdata(a), rankdata(b)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.round(np.corrcoef(first, second)[0, 1], 12))
