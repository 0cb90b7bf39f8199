"""AdaQuant: learn a layer's weights, scales, bias and input range together, so that it gives the outputs it
gave.

Hubara, Nahshan, Hanani, Banner and Soudry (2020), "Improving Post Training Neural Quantization: Layer-wise
Calibration and Integer Programming", arXiv:2006.10518:

    min over V, s, b, s_x of || Y - (Q_s(W + V) Q_s_x(X) + b) ||^2

A weight may move further than to its two neighbours on the grid. Few examples are enough: a layer has many
more outputs than weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tercile.quantization.qtensor import QTensor
from tercile.quantization.ranges import RangeEstimator, mse
from tercile.quantization.scheme import Ranges, Scheme
from tercile.quantization.solvers.round_to_nearest import checked_weight, round_to_nearest

if TYPE_CHECKING:
    import torch

# Adam's step for each learnt thing, in its own unit: a weight in steps of its grid, a scale or a range in
# parts of itself, a bias in standard deviations of the layer's outputs.
WEIGHT_RATE, SCALE_RATE, BIAS_RATE, RANGE_RATE = 0.03, 0.002, 0.005, 0.005
# Straight-through gradients leave many weights swinging between two values to the end, which is worse the
# longer it goes on. A pull to the nearest value, so strong by the last step, lets them settle (ours, not the
# paper's; the idea: Nagel et al. 2022, "Overcoming Oscillations in Quantization-Aware Training"). It grows
# with the third power of the time gone, because weights have far to go where they make good for rounded
# inputs.
DAMPING = 100.0
#: The stored layer is scored this often on all examples; the best is returned.
SCORED = 8


@dataclass(frozen=True)
class AdaptedLayer:
    """What `adaquant` learnt.

    Attributes
    ----------
    weight
        On the scheme's grid, in the weight's shape.
    bias
        float32 (outputs,).
    inputs
        Range of the inputs under `input_scheme`; None where inputs stay as they are.
    error, error_before
        Mean squared change of an output on the calibration inputs: now, and for the layer it started from.
    """

    weight: QTensor
    bias: np.ndarray
    inputs: Ranges | None
    error: float
    error_before: float


def adaquant(
    weight: np.ndarray,
    inputs: np.ndarray,
    scheme: Scheme,
    ranges: RangeEstimator = mse,
    *,
    bias: np.ndarray | None = None,
    targets: np.ndarray | None = None,
    start: QTensor | None = None,
    input_scheme: Scheme | None = None,
    input_ranges: Ranges | None = None,
    relu: bool = False,
    steps: int = 200,
    batch: int = 512,
    seed: int = 0,
) -> AdaptedLayer:
    """Minimises a layer's mean squared output error on calibration inputs by gradient descent.

    It takes inputs, where other solvers take Statistics: the range of the inputs is learnt too and a ReLU may
    follow, and then the error is no longer a function of the second moment.

    Parameters
    ----------
    weight
        Float tensor (outputs, inputs...), finite.
    inputs
        float (n, inputs): what the layer reads; for a convolution patches, a random choice of them will do.
    scheme, ranges
        How to store the weight, and how its first scales are found.
    bias
        float (outputs,); zeros if there is none.
    targets
        float (n, outputs), the outputs wanted; by default the layer's own on these inputs. Give the float
        network's where the inputs come from a network whose earlier layers are quantized already.
    start
        The stored weight to start from, under `scheme`; by default round-to-nearest.
    input_scheme, input_ranges
        How the inputs are stored, one scale a tensor, and the range to start from. By default they stay as
        they are.
    relu
        A ReLU reads the outputs: only what passes it counts.
    steps, batch, seed
        Steps of Adam, rows in each, and which rows.

    Returns
    -------
    AdaptedLayer, on these inputs never worse than what it started from; the same for the same seed and
    machine.

    Raises
    ------
    ValueError
        If shapes do not fit, something is empty or not finite, or only one of input_scheme and input_ranges
        is given.

    Notes
    -----
    Costs 6 * batch * outputs * inputs operations a step, and needs torch.

    Examples
    --------
    >>> import numpy as np
    >>> from tercile.quantization import Scheme
    >>> rng = np.random.default_rng(0)
    >>> w, x = rng.normal(size=(8, 32)), rng.normal(size=(600, 32))
    >>> x = np.maximum(x + np.roll(x, 1, axis=1), 0)
    >>> layer = adaquant(w, x, Scheme.parse("int3-channel"))
    >>> bool(layer.error < 0.7 * layer.error_before)
    True
    """
    import torch

    matrix = checked_weight(weight)
    rows, columns = matrix.shape
    x = _checked_rows("inputs", inputs, columns)
    b = np.zeros(rows, np.float32) if bias is None else np.asarray(bias, np.float32)
    if b.shape != (rows,) or not np.isfinite(b).all():
        raise ValueError(f"bias must be {rows} finite numbers, got shape {b.shape}")
    y = x @ matrix.T + b if targets is None else _checked_rows("targets", targets, rows)
    if len(y) != len(x):
        raise ValueError(f"targets has {len(y)} rows, inputs {len(x)}; they must be of the same examples")
    if (input_scheme is None) != (input_ranges is None):
        raise ValueError("input_scheme and input_ranges belong together; give both or neither")
    if steps < 1 or batch < 1:
        raise ValueError(f"steps and batch must be at least 1, got {steps} and {batch}")
    begun = round_to_nearest(matrix, None, scheme, ranges) if start is None else start
    if begun.scheme != scheme:
        raise ValueError(f"start is stored as {begun.scheme}, not as {scheme}")

    x_all, y_all = torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(y))
    wanted = y_all.relu() if relu else y_all
    stored_inputs = None
    if input_scheme is not None and input_ranges is not None:
        stored_inputs = _Quantizer(input_scheme, input_ranges, (1, 1))
    stored_weight = _Quantizer(scheme, begun.ranges, (rows, columns))

    def score(tensor: QTensor, biases: np.ndarray, range_of_inputs: Ranges | None) -> float:
        read = x
        if input_scheme is not None and range_of_inputs is not None:
            read = input_scheme.decode(input_scheme.encode(x, range_of_inputs), range_of_inputs)
        out = read @ tensor.dequantize().reshape(rows, columns).T + biases
        change = (np.maximum(out, 0) if relu else out) - wanted.numpy()
        return float(np.square(change, out=change).mean())

    # From a given start every weight begins at its value there; otherwise where it was before it was rounded.
    origin = torch.from_numpy(matrix.copy() if start is None else start.dequantize().reshape(rows, columns))
    unit = stored_weight.scale.detach().abs().clone()
    spread = float(y.std()) or 1.0
    moved = torch.zeros(rows, columns, requires_grad=True)
    shifted = torch.zeros(rows, requires_grad=True)
    learnt = [
        {"params": [moved], "lr": WEIGHT_RATE},
        {"params": [shifted], "lr": BIAS_RATE},
        {"params": stored_weight.learnt, "lr": SCALE_RATE},
    ]
    if stored_inputs is not None:
        learnt.append({"params": stored_inputs.learnt, "lr": RANGE_RATE})
    optimizer = torch.optim.Adam(learnt)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0)
    generator = torch.Generator().manual_seed(seed)

    before = score(begun, b, input_ranges)
    best = AdaptedLayer(_shaped(begun, weight), b, input_ranges, before, before)
    with torch.enable_grad():
        for step in range(1, steps + 1):
            chosen = torch.randint(len(x_all), (batch,), generator=generator)
            read = x_all[chosen] if stored_inputs is None else stored_inputs(x_all[chosen])
            out = read @ stored_weight(origin + unit * moved).T + torch.from_numpy(b) + spread * shifted
            loss = ((out.relu() if relu else out) - wanted[chosen]).square().mean() / spread**2
            pull = DAMPING * (step / steps) ** 3
            loss = loss + pull * loss.detach() * stored_weight.off_centre.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % max(1, steps // SCORED) and step != steps:
                continue
            now = QTensor.quantize((origin + unit * moved).detach().numpy(), scheme, stored_weight.ranges())
            biases = b + spread * shifted.detach().numpy()
            range_now = None if stored_inputs is None else stored_inputs.ranges()
            error = score(now, biases, range_now)
            if error < best.error:
                best = AdaptedLayer(_shaped(now, weight), biases.astype(np.float32), range_now, error, before)
    return best


class _Quantizer:
    """Rounds to a scheme in torch, with gradients for values, scale and offset.

    Rounding passes the gradient of what lies within the range on unchanged; a scale gets level - x / scale
    inside and the level outside (Esser et al. 2020, "Learned Step Size Quantization").
    """

    def __init__(self, scheme: Scheme, start: Ranges, shape: tuple[int, int]) -> None:
        import torch

        self.scheme = scheme
        self.levels = torch.from_numpy(scheme.grid.levels.copy())
        self.middles = (self.levels[1:] + self.levels[:-1]) / 2
        gaps = np.unique(np.diff(scheme.grid.levels))
        self.step = float(gaps[0]) if len(gaps) == 1 else None
        rows, columns = shape
        self.row_of = torch.from_numpy(scheme.blocks.row_of(rows)).long()[:, None]
        self.column_of = torch.from_numpy(scheme.blocks.column_of(columns)).long()[None]
        # A block of zeros has scale 0; 1e-12 keeps it there and the division finite.
        first = np.where(start.scale == 0, np.float32(1e-12), start.scale)
        self.first, self.offset_first = torch.from_numpy(first.copy()), torch.from_numpy(start.offset.copy())
        self.growth = torch.zeros(first.shape, requires_grad=True)
        self.shift = torch.zeros(first.shape, requires_grad=scheme.asymmetric)
        self.learnt = [self.growth, self.shift] if scheme.asymmetric else [self.growth]

    @property
    def _blocks(self) -> tuple[torch.Tensor, torch.Tensor]:
        scale = self.first * self.growth.exp()
        offset = self.offset_first + self.first * len(self.levels) * self.shift
        return scale, offset.clamp(max=0) if self.scheme.asymmetric else offset

    @property
    def scale(self) -> torch.Tensor:
        """Scale of each element, (rows, columns)."""
        return self._blocks[0][self.row_of, self.column_of]

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        import torch

        scale, offset = (one[self.row_of, self.column_of] for one in self._blocks)
        first, last = float(self.levels[0]), float(self.levels[-1])
        position = ((values - offset) / scale).clamp(first, last)
        if self.step:
            level = ((position.detach() - first) / self.step).round() * self.step + first
        else:
            level = self.levels[torch.bucketize(position.detach(), self.middles)]
        self.off_centre = position - level
        return (position + (level - position.detach())) * scale + offset

    def ranges(self) -> Ranges:
        """The ranges as the scheme stores them."""
        scale, offset = (one.detach().numpy() for one in self._blocks)
        return self.scheme.ranges(scale, offset if self.scheme.asymmetric else None)


def _shaped(tensor: QTensor, weight: np.ndarray) -> QTensor:
    return QTensor(tensor.scheme, tuple(np.shape(weight)), tensor.words, tensor.arrays)


def _checked_rows(name: str, values: np.ndarray, columns: int) -> np.ndarray:
    rows = np.ascontiguousarray(values, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != columns or not len(rows):
        raise ValueError(f"{name} must be (n, {columns}) with n at least 1, got {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} holds NaN or infinity; the network overflows on some example")
    return rows
