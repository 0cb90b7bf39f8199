"""A stored weight of which only the scale of each row may change: for codes that stand for no number by themselves."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tercile.quantization.basis import row_place
from tercile.quantization.blocks import as_matrix
from tercile.quantization.hadamard import rotate_back
from tercile.quantization.qtensor import QTensor
from tercile.quantization.scheme import Ranges
from tercile.quantization.training.stored_weight import FixedCodes


class ScaledRows(FixedCodes):
    """Values stay, scales of rows may change: for trellis grids, and for rotated weights, whose columns are mixed.

    A row's scale passes through the rotation, so that the values are turned back once and for all.

    Parameters
    ----------
    tensor
        What is stored, with one scale a row and no zero points.
    weight
        Not used; stored weights are made alike.

    Raises
    ------
    ValueError
        If there is more than one scale a row, or a zero point.

    Examples
    --------
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.solvers import round_to_nearest
    >>> x = np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)
    >>> q = round_to_nearest(x, None, Scheme.parse("trellis2-channel-rot"))
    >>> stored = ScaledRows(q)
    >>> bool(np.allclose(stored().detach(), q.dequantize(), atol=1e-5)), stored.tensor().nbytes == q.nbytes
    (True, True)
    """

    def __init__(self, tensor: QTensor, weight: np.ndarray | None = None) -> None:
        nn.Module.__init__(self)
        self.scheme, self.shape = tensor.scheme, tensor.shape
        begun = tensor.ranges
        rows = as_matrix(self.shape)[0]
        if self.scheme.asymmetric or begun.scale.shape[1] != 1 or begun.scale.shape[0] not in (1, rows):
            raise ValueError(f"{self.scheme} has more than one scale a row; only rows can be trained under its grid")
        self._words = tensor.words
        values = self.scheme.grid.decode(tensor.codes)
        self.growth = nn.Parameter(torch.zeros(begun.scale.shape))
        self.shift = nn.Parameter(torch.zeros(begun.scale.shape), requires_grad=False)
        self.register_buffer("first", torch.from_numpy(begun.scale.copy()))
        self.register_buffer("position", torch.from_numpy(rotate_back(values) if self.scheme.rotated else values))
        # Scales are those of the rows as they are stored.
        self._place = torch.from_numpy(row_place(rows).copy()) if self.scheme.mixed else slice(None)
        # A step of the grid, where somebody asks: its values lie about a standard deviation apart.
        self.register_buffer("levels", torch.tensor([-0.5, 0.5]))

    def forward(self) -> torch.Tensor:
        """The decoded weight in its own shape."""
        scale = self.first * self.growth.exp()
        kept = torch.from_numpy(self._kept(scale, scale).scale).to(scale.device)
        return (self.position * (scale + (kept - scale).detach()))[self._place].reshape(self.shape)

    @torch.no_grad()
    def tensor(self) -> QTensor:
        """What is stored now."""
        scale = self.first * self.growth.exp()
        return QTensor(self.scheme, self.shape, self._words, dict(self._kept(scale, scale).arrays))

    def _kept(self, scale: torch.Tensor, offset: torch.Tensor) -> Ranges:
        return self.scheme.inner.ranges(scale.detach().cpu().numpy())
