"""What a model's answers feel of its embedding tables: statistics with which solvers round tables, too.

A linear layer's output changes by e x when its weight changes by e, so what counts is e X'X e'. A row of a table is
itself what the model reads: when it changes by e the answers change by J e, with J their derivative by the row, and
what counts is e J'J e'. For v of independent normal numbers J'v is one backward pass away, and has J'J as its second
moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from tercile.quantization.block_inputs import Batch
from tercile.quantization.layer_inputs import kept_rows
from tercile.quantization.statistics import Statistics


def table_statistics(
    model: nn.Module,
    tables: Sequence[str],
    batches: Iterable[Batch],
    *,
    outputs: Callable[[nn.Module, Batch], Any],
    keep: Callable[[Batch], torch.Tensor] | None = None,
    probes: int = 1,
    seed: int = 0,
) -> dict[str, Statistics]:
    """Second moments of what a model's outputs feel of each embedding table, for `gptq` and its kind.

    Parameters
    ----------
    model
        In evaluation mode; left as it is.
    tables
        Names of its embeddings.
    batches
        Calibration data.
    outputs
        What is to be kept, a tensor with gradients; all of its numbers count alike.
    keep
        Which tokens count, bool (batch, tokens), where a table is looked up once a token.
    probes, seed
        Random directions a batch, and which.

    Returns
    -------
    dict of Statistics, one row a token and probe. All rows of a table are solved under the same second moment; a
    table that no batch looks up has a count of 0.

    Raises
    ------
    ValueError
        If a name is no embedding, or the outputs do not depend on one that was looked up.

    Notes
    -----
    Costs one forward and `probes` backward passes over the batches. The mean of J'v is zero: it corrects no bias.

    Examples
    --------
    >>> from tercile.quantization import Scheme
    >>> from tercile.quantization.solvers import gptq
    >>> model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 3)).eval()
    >>> batches = [torch.randint(50, (4, 10)) for _ in range(8)]
    >>> seen = table_statistics(model, ["0"], batches, outputs=lambda model, batch: model(batch))
    >>> seen["0"].count
    320
    >>> gptq(model[0].weight.detach().numpy(), seen["0"], Scheme.parse("int3-channel")).shape
    (50, 8)
    """
    found: dict[str, Statistics] = {}
    looked_up: dict[str, list[torch.Tensor]] = {}
    handles = []
    for name in tables:
        table = model.get_submodule(name)
        if not isinstance(table, nn.Embedding):
            raise ValueError(f"{name} is no embedding but a {type(table).__name__}")
        found[name] = Statistics(table.embedding_dim)

        def note(module: nn.Module, inputs: Any, rows: torch.Tensor, name: str = name) -> torch.Tensor:
            # A leaf of its own, whether or not the table has gradients.
            leaf = rows.detach().requires_grad_(True)
            looked_up[name].append(leaf)
            return leaf

        handles.append(table.register_forward_hook(note))
    generator = torch.Generator().manual_seed(seed)
    try:
        for batch in batches:
            looked_up.update({name: [] for name in tables})
            with torch.enable_grad():
                out = outputs(model, batch)
                leaves = [(name, leaf) for name in tables for leaf in looked_up[name]]
                for probe in range(probes if leaves else 0):
                    direction = torch.randn(out.shape, generator=generator).to(out)
                    gradients = _gradients((out * direction).sum(), leaves, probe + 1 < probes)
                    mask = None if keep is None else keep(batch).bool().cpu()
                    for (name, _), gradient in zip(leaves, gradients, strict=True):
                        found[name].update(kept_rows(gradient, mask))
    finally:
        for handle in handles:
            handle.remove()
    return found


def expected_reads(counts: np.ndarray, *, evenly: float = 0.3) -> np.ndarray:
    """How often each row of a table will be read, from how often it was.

    Rows that were never read share what Good and Turing (1953) expect of the unseen: as many reads as there were rows
    read once.

    Parameters
    ----------
    counts
        Reads of each row, whole numbers (rows,).
    evenly
        Share of all reads that is spread over all rows, so that a table still serves other data. On MiniLM, held-out
        text loses least near 0.3.

    Returns
    -------
    float64 (rows,), positive, summing to 1.

    Raises
    ------
    ValueError
        If counts are negative or evenly is not within (0, 1].

    Examples
    --------
    >>> expected_reads(np.array([6, 1, 1, 0, 0]), evenly=0.5).round(3).tolist()
    [0.381, 0.147, 0.147, 0.162, 0.162]
    """
    seen = np.asarray(counts, dtype=np.float64)
    if seen.ndim != 1 or not len(seen) or not np.isfinite(seen).all() or seen.min() < 0:
        raise ValueError("counts must hold one number of reads, not negative, for each row")
    if not 0 < evenly <= 1:
        raise ValueError(f"evenly must be above 0 and at most 1, got {evenly}")
    even = np.full(len(seen), 1 / len(seen))
    total, unseen = seen.sum(), seen == 0
    if not total:
        return even
    new = min((seen == 1).sum() / total, 0.5) if unseen.any() else 0.0
    expected = (1 - new) * seen / total + np.where(unseen, new / max(unseen.sum(), 1), 0.0)
    return np.asarray((1 - evenly) * expected + evenly * even)


def _gradients(
    total: torch.Tensor, leaves: Sequence[tuple[str, torch.Tensor]], again: bool
) -> tuple[torch.Tensor, ...]:
    try:
        return torch.autograd.grad(total, [leaf for _, leaf in leaves], retain_graph=again)
    except RuntimeError as error:
        names = ", ".join(name for name, _ in leaves)
        raise ValueError(f"outputs have no gradients by {names} ({str(error).splitlines()[0]})") from None
