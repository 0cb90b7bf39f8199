"""A linear layer in pieces, one for each segment of its outputs and inputs, with scales of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear

from tercile.quantization.activations import Quantizer, fitted_sides
from tercile.quantization.families import Segments
from tercile.quantization.qtensor import QTensor
from tercile.quantization.scheme import Scheme
from tercile.quantization.solvers import round_to_nearest
from tercile.quantization.statistics import Statistics
from tercile.quantization.transforms.smoothing import balance

Fit = Callable[[np.ndarray, Scheme], Quantizer]
Solve = Callable[[np.ndarray, Statistics, Scheme], QTensor]


@dataclass(frozen=True, eq=False)
class Piece:
    """The product of some columns of the input with some rows of the weight.

    Attributes
    ----------
    rows, columns
        Where in the weight it lies.
    weight
        Stored (rows, columns).
    quantizer
        Rounds the columns of the input, after they are divided.
    divided
        float32 (columns,), or None where smoothing moved nothing.
    """

    rows: slice
    columns: slice
    weight: QTensor
    quantizer: Quantizer
    divided: torch.Tensor | None


class SegmentLinear(nn.Module):
    """A linear layer made of pieces: made by `cut_linear`, for inference.

    Weights are stored; here they are multiplied as float32 numbers, to see what rounding does.

    Parameters
    ----------
    pieces
        Together they cover the weight once.
    bias
        Float (outputs,), or None.
    """

    def __init__(self, pieces: tuple[Piece, ...], bias: torch.Tensor | None) -> None:
        super().__init__()
        self.pieces = pieces
        self.out_features = max(piece.rows.stop for piece in pieces)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self._weights = [torch.from_numpy(piece.weight.dequantize()) for piece in pieces]

    bias: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes of the stored weights."""
        return sum(piece.weight.nbytes for piece in self.pieces)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs)."""
        y = x.new_zeros(*x.shape[:-1], self.out_features)
        if self.bias is not None:
            y += self.bias
        for piece, weight in zip(self.pieces, self._weights, strict=True):
            part = x[..., piece.columns]
            if piece.divided is not None:
                part = part / piece.divided
            y[..., piece.rows] += linear(piece.quantizer(part), weight)
        return y


def cut_linear(
    layer: nn.Linear,
    segments: Segments,
    sample: np.ndarray,
    weights: Scheme,
    activations: Scheme,
    *,
    alpha: float | None = None,
    fit: Fit = fitted_sides,
    solve: Solve = round_to_nearest,
) -> SegmentLinear:
    """A linear layer whose segments are rounded apart.

    Parameters
    ----------
    layer
        It is not changed.
    segments
        From `find_segments`; of one stretch each, the layer is rounded as a whole.
    sample
        float32 (rows, inputs): what the layer reads in calibration.
    weights, activations
        Blocks of a tensor or channel are those of a piece.
    alpha
        Smoothing between inputs and weights, see `balance`, found for every piece by itself; None for none. The
        division stays as an operation at run time.
    fit
        (values, scheme) -> quantizer of the inputs: `fitted_sides` gives a scale to each side of zero where it pays,
        `one_scale` never.
    solve
        A solver, which gets each piece of the weight with Statistics of what it is multiplied with.

    Returns
    -------
    SegmentLinear, which computes what the layer does, up to rounding.

    Raises
    ------
    ValueError
        If segments or the sample do not fit the layer.

    Notes
    -----
    As many products as the whole layer has, or twice as many where inputs have two scales. Without smoothing, pieces
    that read the same columns read the same rounded numbers; with it each divides and rounds its inputs by itself.

    Source
    ------
    SegLinear and DualScale of "SegQuant" (2025), arXiv:2507.14811.

    Examples
    --------
    >>> layer, x = nn.Linear(6, 4), torch.randn(100, 6)
    >>> eight = Scheme.parse("int8-tensor-f32")
    >>> cut = cut_linear(layer, Segments((3, 1), (6,)), x.numpy(), eight, eight)
    >>> [piece.weight.shape for piece in cut.pieces], bool(torch.allclose(cut(x), layer(x), atol=0.1))
    ([(3, 6), (1, 6)], True)
    """
    weight = layer.weight.detach().numpy()
    if (sum(segments.outputs), sum(segments.inputs)) != weight.shape:
        raise ValueError(f"segments {segments.outputs} by {segments.inputs} are not those of a weight {weight.shape}")
    if sample.ndim != 2 or sample.shape[1] != weight.shape[1]:
        raise ValueError(f"sample must be (rows, {weight.shape[1]}), got shape {sample.shape}")
    pieces = []
    for columns in segments.columns:
        read = np.ascontiguousarray(sample[:, columns])
        seen = Statistics(read.shape[1])
        seen.update(read)
        shared = fit(read, activations)
        for rows in segments.rows:
            part = np.ascontiguousarray(weight[rows, columns])
            if alpha is None:
                pieces.append(Piece(rows, columns, solve(part, seen, weights), shared, None))
                continue
            factors = balance(seen, np.abs(part).max(axis=0), alpha).astype(np.float32)
            stored = solve(part * factors, seen.scaled(1 / factors), weights)
            pieces.append(Piece(rows, columns, stored, fit(read / factors, activations), torch.from_numpy(factors)))
    return SegmentLinear(tuple(pieces), layer.bias)
