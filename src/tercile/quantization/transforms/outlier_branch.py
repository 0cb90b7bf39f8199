"""A weight split in two: a branch of low rank in 16 bits that takes in the outliers, and a rest that 4 bits can hold.

Li, Lin, Zhang, Cai, Li, Guo, Xie, Meng, Zhu and Han (2024), "SVDQuant: Absorbing Outliers by Low-Rank Components for
4-Bit Diffusion Models", arXiv:2411.05007. With d what smoothing divides the inputs by, W' = W diag(d) and x' = x / d,

    W x = W' x' = up (down x') + (W' - up down) x'    stored as    up (down x') + Q(R) Q(x')

Smoothing moves outliers from the inputs to the weight, the largest singular directions take them from there, and both
what is left of the weight and the inputs can be rounded to 4 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import eigh

from tercile.quantization.qtensor import QTensor
from tercile.quantization.scheme import Scheme
from tercile.quantization.solvers import round_to_nearest
from tercile.quantization.solvers.round_to_nearest import checked_weight

#: From inputs (n, channels), already smoothed, to what the 4-bit branch reads of them.
RoundInputs = Callable[[np.ndarray], np.ndarray]
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, eq=False)
class Branched:
    """A linear layer's weight as a low-rank branch beside a quantized rest.

    Attributes
    ----------
    up, down
        float16 (outputs, rank) and (rank, inputs).
    rest
        Quantized (outputs, inputs).
    divided
        float32 (inputs,): what the inputs are divided by. It can be merged into what produces them, see `smooth`.
    """

    up: np.ndarray
    down: np.ndarray
    rest: QTensor
    divided: np.ndarray

    @property
    def rank(self) -> int:
        """Directions in the branch."""
        return self.up.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes stored, of branch, rest and divisors (float16)."""
        return self.up.nbytes + self.down.nbytes + self.rest.nbytes + 2 * self.divided.size

    @property
    def branch_share(self) -> float:
        """Multiplications of the branch as a share of the rest's: rank * (outputs + inputs) / (outputs * inputs).

        A branch that runs by itself also reads the inputs once more and writes the outputs once more; a fused kernel
        saves that. There is none here yet.
        """
        outputs, inputs = self.rest.shape
        return self.rank * (outputs + inputs) / (outputs * inputs)

    def dequantize(self) -> np.ndarray:
        """The float32 weight that it stands for, of the original inputs."""
        whole = self.up.astype(np.float32) @ self.down.astype(np.float32) + self.rest.dequantize()
        weight: np.ndarray = whole / self.divided
        return weight

    def __call__(self, x: np.ndarray, round_inputs: RoundInputs) -> np.ndarray:
        """Outputs float32 (n, outputs) for inputs (n, inputs): the branch reads them as they are, the rest rounded."""
        smoothed = np.asarray(x, dtype=np.float32) / self.divided
        branch = (smoothed @ self.down.astype(np.float32).T) @ self.up.astype(np.float32).T
        whole: np.ndarray = branch + round_inputs(smoothed) @ self.rest.dequantize().T
        return whole

    def with_adapter(self, up: np.ndarray, down: np.ndarray, strength: float = 1.0) -> Branched:
        """The layer with a low-rank adapter (LoRA) for the original inputs added: x -> old(x) + strength * up (down x).

        The adapter joins the branch. The rest keeps its bits, so nothing is quantized again, and taking the last
        directions off the branch takes the adapter off.

        Raises
        ------
        ValueError
            If shapes do not fit, or a number overflows float16.
        """
        up, down = np.asarray(up, dtype=np.float32), np.asarray(down, dtype=np.float32)
        outputs, inputs = self.rest.shape
        if up.ndim != 2 or down.ndim != 2 or up.shape != (outputs, len(down)) or down.shape[1] != inputs:
            raise ValueError(f"up and down must be ({outputs}, r) and (r, {inputs}), got {up.shape} and {down.shape}")
        # Both factors the same size, so that neither leaves float16 before the product would.
        up, down = up * np.float32(strength), down * self.divided
        largest = [float(np.abs(part).max(initial=0)) for part in (up, down)]
        if min(largest) > 0:
            even = np.float32(np.sqrt(largest[1] / largest[0]))
            up, down = up * even, down / even
        joined = replace(self, up=np.hstack([self.up, _narrow(up)]), down=np.vstack([self.down, _narrow(down)]))
        return joined


def absorb(
    weight: np.ndarray,
    inputs: np.ndarray,
    scheme: Scheme,
    round_inputs: RoundInputs,
    *,
    rank: int = 32,
    alphas: Sequence[float] = ALPHAS,
    rounds: int = 3,
) -> Branched:
    """Splits a linear layer's weight so that rounding the rest and its inputs changes the layer's outputs least.

    Parameters
    ----------
    weight
        Float (outputs, inputs), finite.
    inputs
        Float (n, inputs): calibration inputs, a few hundred rows.
    scheme
        Of the rest.
    round_inputs
        What happens to the smoothed inputs on their way into the rest.
    rank
        Of the branch; 0 leaves smoothing alone.
    alphas
        Strengths of smoothing to try; inputs are divided by max|x|^alpha / max|w|^(1 - alpha), or by 1 for alpha 0.
    rounds
        How often branch and rest are fitted to each other in turn: rest = Q(W' - branch), branch = what is best beside
        that rest. The first round is the plain singular value decomposition.

    Returns
    -------
    Branched, the best found for these inputs; the same for the same arguments. Each output's squared change counts as
    a share of its variance: in BERT one output can be thousands of times as large as the others, and norms follow.

    Raises
    ------
    ValueError
        If shapes do not fit, something is not finite, or rank, alphas or rounds are out of range.

    Notes
    -----
    Costs, for each alpha and round, a partial decomposition (outputs * inputs * rank) and two products with the inputs.
    The paper searches the exponents of weights and inputs apart; here one exponent is tried at five strengths.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization.ranges import min_max
    >>> rng, scheme = np.random.default_rng(0), Scheme.parse("int4-g32")
    >>> w, x = rng.normal(size=(64, 64)), rng.normal(size=(200, 64))
    >>> x[:, 3] *= 40
    >>> four = Scheme.parse("int4-g32-f32")
    >>> read = lambda x: QTensor.quantize(x, four, min_max(x, four)).dequantize()
    >>> layer, smoothed = (absorb(w, x, scheme, read, rank=rank) for rank in (8, 0))
    >>> bool(np.square(layer(x, read) - x @ w.T).mean() < 0.8 * np.square(smoothed(x, read) - x @ w.T).mean())
    True
    """
    matrix = checked_weight(weight)
    x = np.ascontiguousarray(inputs, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] != matrix.shape[1] or not len(x) or not np.isfinite(x).all():
        raise ValueError(f"inputs must be finite, (n, {matrix.shape[1]}) with n at least 1, got shape {x.shape}")
    if not 0 <= rank < min(matrix.shape):
        raise ValueError(f"rank must be from 0 to {min(matrix.shape) - 1}, below both sides of the weight, got {rank}")
    if not alphas or not all(0 <= alpha <= 1 for alpha in alphas) or rounds < 1:
        raise ValueError(f"alphas must lie between 0 and 1 and rounds be at least 1, got {alphas} and {rounds}")
    wanted, best, least = x @ matrix.T, None, np.inf
    spread = wanted.var(axis=0, dtype=np.float64)
    spread += 1e-3 * np.median(spread) + np.finfo(np.float32).tiny
    for alpha in alphas:
        divided = _divisors(x, matrix, alpha)
        smoothed, read = x / divided, round_inputs(x / divided)
        scaled = matrix * divided
        beside = scaled
        for _ in range(rounds if rank else 1):
            up, down = _leading(beside, rank)
            branch = up.astype(np.float32) @ down.astype(np.float32)
            rest = round_to_nearest(scaled - branch, None, scheme)
            got = smoothed @ branch.T + read @ rest.dequantize().T
            error = float((np.square(got - wanted, dtype=np.float64) / spread).mean())
            if error < least:
                best, least = Branched(up, down, rest, divided), error
            beside = scaled - rest.dequantize()
    if best is None:
        raise ValueError("no split has a finite error: weight or inputs are too large for float16 factors")
    return best


def _divisors(x: np.ndarray, matrix: np.ndarray, alpha: float) -> np.ndarray:
    """What inputs are divided by, float32, as float16 can hold it; 1 where a channel or its column is all zeros."""
    largest, column = np.abs(x).max(axis=0), np.abs(matrix).max(axis=0)
    alive = (largest > 0) & (column > 0)
    if alpha == 0 or not alive.any():
        return np.ones(matrix.shape[1], dtype=np.float32)
    ratio = np.where(alive, largest, 1.0) ** alpha / np.where(alive, column, 1.0) ** (1 - alpha)
    ratio = np.where(alive, ratio / np.exp(np.log(ratio[alive]).mean()), 1.0)
    limited: np.ndarray = np.clip(ratio, 1e-3, 1e3).astype(np.float16).astype(np.float32)
    return limited


def _leading(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors float16 (outputs, rank) and (rank, inputs) of the best approximation of that rank."""
    if not rank:
        return np.zeros((len(matrix), 0), np.float16), np.zeros((0, matrix.shape[1]), np.float16)
    unit = float(np.abs(matrix).max()) or 1.0
    scaled = (matrix / unit).astype(np.float64)
    tall = len(matrix) > matrix.shape[1]
    # The leading singular vectors of the shorter side, from its Gram matrix; the other side follows.
    short = scaled.T if tall else scaled
    last = len(short) - 1
    vectors = eigh(short @ short.T, subset_by_index=[last - rank + 1, last])[1]
    other = vectors.T @ short
    root = np.sqrt(np.linalg.norm(other, axis=1))
    other /= np.where(root > 0, root, 1.0)[:, None]
    # Both factors get the root of a singular value, so that neither leaves float16.
    first, second = vectors * root * np.sqrt(unit), other * np.sqrt(unit)
    return (_narrow(second.T), _narrow(first.T)) if tall else (_narrow(first), _narrow(second))


def _narrow(part: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        narrow: np.ndarray = np.asarray(part, dtype=np.float16)
    if not np.isfinite(narrow).all():
        raise ValueError(f"a factor of the branch reaches {float(np.abs(part).max()):.3g}, beyond float16")
    return narrow
