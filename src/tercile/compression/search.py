"""Where on the ladder to look: which rungs promise to pass, as the selection data have it, and in which order they are
tested. All of it is settled before the certification data are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tercile.compression.bank import Bank, Candidate, Stored
from tercile.compression.repairing import NoGradients, RepairedRung, repair_rungs
from tercile.compression.scoring import Scorer
from tercile.compression.settings import Settings
from tercile.compression.workspace import Workspace
from tercile.quantiles.certificate import quantile_upper_bound, upper_bound
from tercile.quantization.allocation import Allocation

Tell = Callable[[str, int, int | None], None]

# Where the walk comes down to the rung that the selection data point at: this many rungs before it. Each costs one look
# at the certification data, and is what is left where these are less kind.
APPROACH = (4, 2, 1)
# Before repaired rungs, which lie beyond the frontier, fewer do.
APPROACH_REPAIRED = (3, 1)


@dataclass(frozen=True, eq=False)
class Rung:
    """A candidate: one scheme a layer, and what became of it in a repair if it had one.

    Attributes
    ----------
    choices, nbytes
        Schemes by layer, and bytes of all layers together.
    predicted
        Loss by the sensitivity table; None for a repaired rung.
    repaired
        Weights and vectors after a repair, and the number of the rung that they were.
    """

    choices: Mapping[str, str]
    nbytes: int
    predicted: float | None
    repaired: RepairedRung | None = None


class Ladder:
    """The candidates, from safest to smallest; repaired ones come after all others.

    Parameters
    ----------
    allocations
        From safest to smallest.
    bank, candidate
        What layers are stored as, and the module that is set to one rung after the other.
    workspace, tell
        Where losses are kept, and who is told of progress.
    """

    def __init__(
        self, allocations: Sequence[Allocation], bank: Bank, candidate: Candidate, workspace: Workspace, tell: Tell
    ) -> None:
        self.rungs = [Rung(one.choices, one.nbytes, one.loss) for one in allocations]
        self._bank, self._candidate, self._workspace, self._tell = bank, candidate, workspace, tell

    def losses(self, rung: Rung, scorer: Scorer, side: str, stage: str) -> np.ndarray:
        """Loss of every unit that a scorer holds."""

        def make() -> np.ndarray:
            if rung.repaired is None:
                self._candidate.set(rung.choices)
            else:
                self._candidate.put(rung.repaired.weights, rung.repaired.vectors)
            return scorer.losses(self._candidate.module, lambda done, total: self._tell(stage, done, total))

        key = f"{self.rungs.index(rung)}" if rung.repaired is None else f"{rung.repaired.rung}-repaired"
        return self._workspace.array(f"losses/{side}-{key}", make)

    def stored(self, number: int) -> tuple[dict[str, Stored], Mapping[str, np.ndarray]]:
        """What a rung's layers are stored as, and the vectors that its repair changed."""
        rung = self.rungs[number]
        if rung.repaired is None:
            return {layer: self._bank.read(layer, scheme) for layer, scheme in rung.choices.items()}, {}
        weights = {layer: Stored(weight, None, math.nan) for layer, weight in rung.repaired.weights.items()}
        return weights, rung.repaired.vectors


@dataclass(frozen=True)
class Found:
    """What a search settled.

    Attributes
    ----------
    tried
        Numbers of the rungs to test, in order.
    losses
        On the selection data, by number of the rung.
    not_repaired
        Why no rung was repaired; None if they could be.
    """

    tried: list[int]
    losses: dict[int, np.ndarray]
    not_repaired: str | None


def search(
    ladder: Ladder,
    compared: Scorer,
    mend: Callable[[int, RepairedRung | None], RepairedRung],
    settings: Settings,
    units: int,
    not_repaired: str | None,
) -> Found:
    """Finds the rungs worth testing, and repairs a few that lie beyond them.

    Parameters
    ----------
    ladder
        Repaired rungs that promise to pass are added to it, from safest to smallest.
    compared
        Of the selection data.
    mend
        (number, the repaired rung before) -> the rung repaired.
    settings, units
        The promise, and how many units it will be tested on.
    not_repaired
        Why there is to be no repair, if so.
    """
    found: dict[int, np.ndarray] = {}

    def expected(losses: np.ndarray) -> float:
        return _expected_bound(losses, units, settings)

    def promising(number: int) -> bool:
        stage = f"comparing size {len(found) + 1}"
        found[number] = ladder.losses(ladder.rungs[number], compared, "selection", stage)
        return expected(found[number]) <= settings.max_loss

    plain = list(ladder.rungs)
    frontier = last_true(promising, len(plain))

    def as_rung(repaired: RepairedRung) -> Rung:
        was = plain[repaired.rung]
        return Rung(was.choices, was.nbytes, None, repaired)

    def seen(repaired: RepairedRung) -> np.ndarray:
        return ladder.losses(as_rung(repaired), compared, "selection", "comparing the repaired size")

    def look(repaired: RepairedRung) -> tuple[float, float]:
        losses = seen(repaired)
        return float(losses.mean()), expected(losses)

    if not_repaired is None:
        predicted = [rung.predicted or 0.0 for rung in plain]
        try:
            for repaired in repair_rungs(predicted, frontier, mend, look, settings.max_loss):
                found[len(ladder.rungs)] = seen(repaired)
                ladder.rungs.append(as_rung(repaired))
        except NoGradients as error:
            not_repaired = str(error)
    tried = walk_rungs(frontier, len(plain), range(len(plain), len(ladder.rungs)))
    return Found(tried, found, not_repaired)


def last_true(test: Callable[[int], bool], count: int) -> int:
    """Largest i below count with test(i), by bisection, for a test that is true up to some point; -1 if none."""
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if test(middle) else (low, middle)
    return low


def walk_rungs(frontier: int, count: int, repaired: Sequence[int] = ()) -> list[int]:
    """Rungs to try for a certificate, in order: the safest of all, a few before the frontier, then all from it on, or
    else the repaired ones, which are smaller.

    The order is settled before the certification data are looked at, and the walk ends at the first rung that fails, so
    the long tail costs nothing unless the selection data were unlucky.
    """
    approach = APPROACH_REPAIRED if repaired else APPROACH
    before = {0} | {frontier - step for step in approach if frontier >= step}
    if repaired:
        return [*sorted(before), *repaired]
    return sorted(before | set(range(max(frontier, 0), count)))


def _expected_bound(losses: np.ndarray, units: int, settings: Settings) -> float:
    """The bound that these losses give if the certification data look just like them. Steers, never certifies."""
    alike = np.resize(losses, units)
    if settings.quantile is not None:
        return quantile_upper_bound(alike, settings.quantile, settings.confidence)
    return upper_bound(alike, settings.confidence)
