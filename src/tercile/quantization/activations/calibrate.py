"""Runs data through a model, keeps a sample of what each site reads, and makes a quantizer for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from tercile.quantization.activations.attach import Quantizer, attached
from tercile.quantization.activations.quantizers import Dynamic, from_values
from tercile.quantization.activations.sites import Site, sites
from tercile.quantization.block_inputs import Forward, quiet
from tercile.quantization.families import Family
from tercile.quantization.ranges import RangeEstimator, mse
from tercile.quantization.scheme import Scheme
from tercile.quantization.statistics import Statistics

Choose = Callable[[Site], Scheme | None]


@dataclass(frozen=True)
class Seen:
    """What a site has read.

    Attributes
    ----------
    statistics
        Of every row: extremes, mean and mean square of each channel (each head, for operands of attention).
    sample
        float32 (rows, channels): some of the rows, drawn evenly.
    """

    statistics: Statistics
    sample: np.ndarray


def observe(
    model: nn.Module,
    family: Family,
    batches: Iterable[Any],
    *,
    forward: Forward,
    keep: Callable[[Any], torch.Tensor] | None = None,
    attention: bool = True,
    rows: int = 4096,
    quantizers: Mapping[str, Quantizer] | None = None,
    seed: int = 0,
) -> dict[str, Seen]:
    """What each site of a model reads, by `Site.name`.

    Parameters
    ----------
    model, family, batches, forward, keep
        As for `tercile.quantization.calibration.collect`.
    attention
        Whether the operands of attention are watched too.
    rows
        How many rows are kept of each site, at most.
    quantizers
        Attached while the model runs: what a site reads is then what it gets in the quantized model, before its own
        quantizer.
    seed
        Which rows are kept.

    Raises
    ------
    ValueError
        If no batch is given or an activation is not finite; the message names the site.

    Examples
    --------
    >>> from tercile.quantization.families import describe
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    >>> seen = observe(model, describe(model), [torch.ones(5, 3)], forward=lambda model, batch: model(batch))
    >>> seen["1"].sample.shape, seen["0"].statistics.maximum.tolist()
    ((5, 4), [1.0, 1.0, 1.0])
    """
    random = np.random.default_rng(seed)
    listed = {site.name: site for site in sites(model, family, attention=attention)}
    sums: dict[str, Statistics] = {}
    kept: dict[str, list[np.ndarray]] = {name: [] for name in listed}
    mask: torch.Tensor | None = None

    def watch(site: Site, then: Quantizer | None) -> Quantizer:
        def quantizer(x: torch.Tensor) -> torch.Tensor:
            seen = _rows(x.detach(), site, mask)
            try:
                sums.setdefault(site.name, Statistics(seen.shape[1], second_moment=False)).update(seen)
            except ValueError as error:
                raise ValueError(f"site {site.name}: {error}") from None
            chosen = random.permutation(len(seen))[: max(1, rows // count)]
            kept[site.name].append(seen[chosen])
            return x if then is None else then(x)

        return quantizer

    stored = list(batches)
    if not stored:
        raise ValueError("batches is empty: there is nothing to calibrate with")
    count = len(stored)
    given = quantizers or {}
    watched = {name: watch(site, given.get(name)) for name, site in listed.items()}
    with quiet(model), attached(model, family, {**given, **watched}):
        for batch in stored:
            mask = None if keep is None else keep(batch).bool()
            forward(model, batch)
    return {name: Seen(sums[name], np.concatenate(kept[name])[:rows]) for name in listed if kept[name]}


def calibrate(
    model: nn.Module,
    family: Family,
    choose: Choose,
    seen: Mapping[str, Seen] | None = None,
    *,
    ranges: RangeEstimator = mse,
) -> dict[str, Quantizer]:
    """A quantizer for every site that `choose` gives a Scheme.

    Parameters
    ----------
    model, family
        The model and what `describe` says of it.
    choose
        Site -> Scheme, or None to leave it alone. Schemes with token or group blocks are dynamic; those with tensor or
        channel blocks get fixed scales.
    seen
        From `observe`; only fixed scales need it. A site that was never called is left out.
    ranges
        How fixed ranges are found.

    Examples
    --------
    >>> from tercile.quantization.families import describe
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    >>> inputs = lambda site: Scheme.parse("int8-token") if site.operand == "input" else None
    >>> list(calibrate(model, describe(model), inputs))
    ['0', '1']
    """
    made: dict[str, Quantizer] = {}
    for site in sites(model, family):
        scheme = choose(site)
        if scheme is None:
            continue
        if scheme.blocks.spelling not in ("tensor", "channel"):
            made[site.name] = Dynamic(scheme, site.token_axis)
        elif seen is None:
            raise ValueError(f"{scheme} at {site.name} has fixed scales; give what observe() saw")
        elif site.name in seen:
            made[site.name] = from_values(seen[site.name].sample, scheme, axis=site.channel_axis, ranges=ranges)
    return made


def _rows(x: torch.Tensor, site: Site, mask: torch.Tensor | None) -> np.ndarray:
    """The tensor as (rows, channels) float32, without the tokens that a mask (batch, tokens) leaves out."""
    if site.operand == "input":
        rows = x.movedim(site.channel_axis, -1)
        if mask is not None and mask.shape == rows.shape[:-1]:
            rows = rows[mask.to(x.device)]
    else:
        rows = x.movedim(1, -1) if x.dim() == 4 else x[..., None]  # heads last
        if mask is not None and mask.shape == rows.shape[:2]:
            rows = rows[mask.to(x.device)]
    return np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]).to("cpu", torch.float32).numpy())
