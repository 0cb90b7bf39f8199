"""Sensitivity: a table layers x schemes of what each choice costs in bytes and in predicted loss."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class SensitivityTable:
    """What storing one layer under one scheme costs, all other layers left alone.

    Losses of different layers are taken to add up; whoever fills the table chooses a loss for which that is
    nearly so.

    Parameters
    ----------
    layers, schemes
        Names of the rows and spellings of the columns; no repeats.
    nbytes
        int64 (layers, schemes): bytes of the layer under the scheme, not negative.
    loss
        float64 (layers, schemes): predicted loss. Infinity where a layer cannot be stored so; every layer
        needs one scheme that is finite. Negative is allowed: a measured rise of a loss may be a small fall.

    Raises
    ------
    ValueError
        If something is missing, repeated, of another shape, negative bytes, NaN or minus infinity.

    Examples
    --------
    >>> table = SensitivityTable(
    ...     ("a", "b"), ("int8-channel", "int4-g64"), [[80, 40], [8, 4]], [[0.1, 0.9], [0.0, 0.5]]
    ... )
    >>> SensitivityTable.from_json(table.to_json()).nbytes.tolist()
    [[80, 40], [8, 4]]
    """

    layers: tuple[str, ...]
    schemes: tuple[str, ...]
    nbytes: np.ndarray
    loss: np.ndarray

    def __post_init__(self) -> None:
        for name in ("layers", "schemes"):
            given = tuple(getattr(self, name))
            if not given or not all(isinstance(one, str) and one for one in given):
                raise ValueError(f"{name} must be one or more non-empty strings, got {given!r}")
            if len(set(given)) != len(given):
                raise ValueError(f"{name} holds {max(given, key=given.count)!r} twice")
            object.__setattr__(self, name, given)
        shape = (len(self.layers), len(self.schemes))
        nbytes = np.array(self.nbytes)
        if nbytes.shape != shape or not np.issubdtype(nbytes.dtype, np.integer):
            raise ValueError(f"nbytes must be integers {shape}, got {nbytes.dtype} {nbytes.shape}")
        if (nbytes < 0).any():
            raise ValueError(f"nbytes must not be negative, got {int(nbytes.min())}")
        loss = np.array(self.loss, dtype=np.float64)
        if loss.shape != shape:
            raise ValueError(f"loss must be numbers {shape}, got {loss.shape}")
        if np.isnan(loss).any() or np.isneginf(loss).any():
            raise ValueError("loss holds NaN or minus infinity; write infinity where a scheme cannot be used")
        lost = np.flatnonzero(~np.isfinite(loss).any(axis=1))
        if lost.size:
            layer = self.layers[lost[0]]
            raise ValueError(f"layer {layer!r} has no scheme of finite loss; add one that keeps it as it is")
        for name, array in (("nbytes", nbytes.astype(np.int64)), ("loss", loss)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def to_json(self) -> str:
        """The table as JSON text, losses to the last bit, infinity as null."""
        losses = [[value if np.isfinite(value) else None for value in row] for row in self.loss.tolist()]
        return json.dumps(
            {"layers": self.layers, "schemes": self.schemes, "nbytes": self.nbytes.tolist(), "loss": losses}
        )

    @classmethod
    def from_json(cls, text: str) -> SensitivityTable:
        """The table that `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is no such table.
        """
        try:
            raw = json.loads(text)
            layers, schemes, nbytes = raw["layers"], raw["schemes"], np.array(raw["nbytes"])
            rows = [[np.inf if value is None else value for value in row] for row in raw["loss"]]
            loss = np.array(rows, dtype=np.float64)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"text is not a sensitivity table: {error!r}") from None
        return cls(tuple(layers), tuple(schemes), nbytes, loss)
