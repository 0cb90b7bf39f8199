"""Evolves a proxy on a measured table of bit settings.

Dong, Li, Wei, Niu, Tian and Pan (2023), arXiv:2307.10554: crossing and mutation of formulas, with a screen that throws
out at once those that cannot be worked out or cannot tell settings apart, and parents that are chosen to be unlike each
other, so that the population does not become one family.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tercile.quantization.allocation.proxies import (
    BINARY,
    REDUCE,
    UNARY,
    WEIGHT,
    Errors,
    Knowledge,
    Proxy,
    Setting,
    rank_correlation,
)

_GENES = ("left", "right", "left_unary", "right_unary", "binary", "reduce", "weight")
#: Share of children that are crossed before they are mutated, and settings that the screen looks at.
CROSSED, SCREENED = 0.5, 8


@dataclass(frozen=True)
class Evolved:
    """The best proxy found.

    Attributes
    ----------
    proxy
        The formula.
    sign
        1 if a higher score means a higher loss, else -1.
    correlation
        Rank correlation of sign * score with the measured losses it was evolved on.
    tried, refused
        Formulas that were scored, and those that the screen threw out.
    """

    proxy: Proxy
    sign: int
    correlation: float
    tried: int
    refused: int


def evolve_proxy(
    known: Knowledge,
    errors: Errors,
    settings: Sequence[Setting],
    losses: np.ndarray,
    *,
    population: int = 24,
    generations: int = 20,
    seed: int = 0,
) -> Evolved:
    """Searches the space of `Proxy` for the formula that ranks measured losses best.

    Parameters
    ----------
    known, errors
        What is known of each layer, see `proxies`; every layer has the same inputs.
    settings, losses
        Bits by layer, and the loss that was measured with each, (settings,).
    population, generations, seed
        Formulas alive at a time, how often they have children, and the random numbers.

    Raises
    ------
    ValueError
        If there are fewer than four settings, not one finite loss for each, or a layer of a setting is not known.

    Notes
    -----
    Costs population * generations scores, each a few passes over all weights.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> known = {name: {"weight": random.normal(size=50) * scale} for name, scale in (("a", 1.0), ("b", 3.0))}
    >>> settings = [{"a": a, "b": b} for a in (2, 3, 4, 8) for b in (2, 3, 4, 8)]
    >>> losses = np.array([(4.0**-one["a"] + 9 * 4.0**-one["b"]) for one in settings])
    >>> evolve_proxy(known, {}, settings, losses, generations=15).correlation > 0.98
    True
    """
    losses = np.asarray(losses, dtype=np.float64)
    if len(settings) < 4 or losses.shape != (len(settings),) or not np.isfinite(losses).all():
        raise ValueError(f"need 4 settings or more and a finite loss for each, got {len(settings)} and {losses.shape}")
    missing = [name for name in settings[0] if name not in known]
    if missing:
        raise ValueError(f"known has no layer {missing[0]!r}; gather every layer of the settings")
    random = np.random.default_rng(seed)
    inputs = sorted(known[next(iter(settings[0]))]) + (["error"] if errors else [])
    search = _Search(known, errors, settings, losses, random, inputs)
    alive: dict[Proxy, float] = {}
    while len(alive) < population and search.refused < 100 * population:
        one = search.anything()
        score = search.fitness(one)
        if score is not None:
            alive[one] = score
    for _ in range(generations):
        for _ in range(population // 2):
            first, second = search.parents(alive)
            child = search.crossed(first, second) if random.random() < CROSSED else first
            child = search.mutated(child)
            if child not in alive and (score := search.fitness(child)) is not None:
                alive[child] = score
        best = sorted(alive, key=lambda one: -abs(alive[one]))[:population]
        alive = {one: alive[one] for one in best}
    best_one = max(alive, key=lambda one: abs(alive[one]))
    sign = 1 if alive[best_one] >= 0 else -1
    return Evolved(best_one, sign, abs(alive[best_one]), search.tried, search.refused)


@dataclass
class _Search:
    known: Knowledge
    errors: Errors
    settings: Sequence[Setting]
    losses: np.ndarray
    random: np.random.Generator
    inputs: list[str]
    tried: int = 0
    refused: int = 0

    def fitness(self, proxy: Proxy) -> float | None:
        """Signed rank correlation, or None where the screen refuses the formula."""
        few = proxy.scores(self.known, self.errors, self.settings[:SCREENED])
        if not np.isfinite(few).all() or np.ptp(few) <= 1e-9 * np.abs(few).max():
            self.refused += 1
            return None
        self.tried += 1
        scores = proxy.scores(self.known, self.errors, self.settings)
        return rank_correlation(scores, self.losses) if np.isfinite(scores).all() else None

    def anything(self) -> Proxy:
        """A random formula."""
        return Proxy(
            self._one(self.inputs), self._one(self.inputs), (self._one(UNARY), self._one(UNARY)),
            (self._one(UNARY), self._one(UNARY)), self._one(BINARY), self._one(REDUCE), self._one(WEIGHT),
        )  # fmt: skip

    def parents(self, alive: dict[Proxy, float]) -> tuple[Proxy, Proxy]:
        """One that ranks well, and the one least like it among a few others that do."""
        names = list(alive)

        def drawn(count: int) -> list[Proxy]:
            return [names[int(index)] for index in self.random.integers(len(names), size=count)]

        first = max(drawn(3), key=lambda one: abs(alive[one]))
        good = sorted(drawn(6), key=lambda one: -abs(alive[one]))[:3]
        return first, max(good, key=lambda one: distance(first, one))

    def crossed(self, first: Proxy, second: Proxy) -> Proxy:
        """Each part from either."""
        taken = {name: getattr(second, name) for name in _GENES if self.random.random() < 0.5}
        return replace(first, **taken)

    def mutated(self, proxy: Proxy) -> Proxy:
        """One part at random."""
        fresh, name = self.anything(), self._one(_GENES)
        if name in ("left_unary", "right_unary") and self.random.random() < 0.5:
            old, new = getattr(proxy, name), getattr(fresh, name)
            return replace(proxy, **{name: (old[0], new[1])})  # type: ignore[arg-type]
        return replace(proxy, **{name: getattr(fresh, name)})

    def _one(self, of: Iterable[str]) -> str:
        names = list(of)
        return names[int(self.random.integers(len(names)))]


def distance(first: Proxy, second: Proxy) -> int:
    """How many parts differ.

    >>> one = Proxy("a", "b", ("same", "same"), ("same", "abs"), "times", "sum", "bits")
    >>> distance(one, replace(one, binary="add", reduce="mean"))
    2
    """
    return sum(getattr(first, name) != getattr(second, name) for name in _GENES)
