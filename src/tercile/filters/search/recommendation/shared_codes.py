"""Item tables that are learnt as codes: codebooks that all items share, trained on who took what. Needs torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from tercile.filters.search.product_quantization import ProductQuantizer
from tercile.filters.search.recommendation.coded_items import CodedItems, bits_for, packed
from tercile.filters.search.recommendation.factorization import as_pairs

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Training:
    """How a table is trained.

    Parameters
    ----------
    epochs, batch
        Passes over the users, and users at a time.
    step
        Of Adam, relative to the spread of the table that it starts from; falls to zero along a cosine.
    hidden
        Share of each history that the model does not see and has to predict with the rest.
    penalty
        Weight decay of the map from histories to users.
    seed
        Of batches and hidden items.
    """

    epochs: int = 15
    batch: int = 256
    step: float = 0.02
    hidden: float = 0.5
    penalty: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number from 1, got {value!r}")
        if not 0 < self.step < np.inf:
            raise ValueError(f"step must be above zero, got {self.step!r}")
        if not 0 <= self.hidden < 1 or self.penalty < 0:
            raise ValueError(f"hidden must be in [0, 1) and penalty at least 0, got {self.hidden}, {self.penalty}")


@dataclass(frozen=True)
class HistoryModel:
    """Users as the sum of what they took, through a map; scores are inner products with the items.

    Parameters
    ----------
    items
        float32 (items, width); what the codes stand for where there are codes.
    mapping
        float32 (width, width).
    coded
        The items as they are stored; None for a table of floats.
    """

    items: NDArray[np.float32]
    mapping: NDArray[np.float32]
    coded: CodedItems | None = None

    @property
    def nbytes(self) -> int:
        """Of items and map, as stored."""
        return self.mapping.nbytes + (self.items.nbytes if self.coded is None else self.coded.nbytes)

    def users(self, taken: sparse.csr_array) -> NDArray[np.float32]:
        """Return the vectors of users with these histories, float32 (users, width)."""
        pairs = as_pairs(taken)
        sizes = np.maximum(np.diff(pairs.indptr), 1)
        summed = np.asarray(
            sparse.csr_array((np.ones(pairs.nnz), pairs.indices, pairs.indptr), pairs.shape) @ self.items
        )
        return ((summed / np.sqrt(sizes)[:, None]) @ self.mapping).astype(np.float32)


def learnt_table(taken: sparse.csr_array, start: ArrayLike, training: Training = Training()) -> HistoryModel:
    """Train a table of floats: what tables of codes are compared with.

    Parameters
    ----------
    taken
        (users, items).
    start
        (items, width), such as the items of `factorize`.
    """
    import torch

    table = torch.tensor(np.asarray(start, dtype=np.float32), requires_grad=True)
    mapping = _train(taken, [table], lambda: table, table.detach().numpy(), training)
    return HistoryModel(table.detach().numpy(), mapping)


def learnt_codebooks(taken: sparse.csr_array, start: CodedItems, training: Training = Training()) -> HistoryModel:
    """Keep the codes of the items and train the codebooks that they share.

    The codes come first, from content or from an earlier model; items with a codeword in common learn together.

    Parameters
    ----------
    taken
        (users, items).
    start
        Coded items whose quantizer is a product code, plain or rotated.
    """
    import torch

    books = torch.tensor(_placed(start), requires_grad=True)
    table = Chosen(books, start.codes)
    mapping = _train(taken, [books], table, table().detach().numpy(), training)
    return _coded(start.codes, books.detach().numpy(), mapping)


def learnt_codes(
    taken: sparse.csr_array, start: ArrayLike, quantizer: ProductQuantizer, training: Training = Training()
) -> HistoryModel:
    """Train codes and codebooks together: a table of floats is kept while training, and used only as its codes.

    Scores see what the codes stand for; the gradient moves the codewords and, as if there were no rounding, the
    floats behind them, whose codes are chosen again after each epoch.

    Parameters
    ----------
    taken
        (users, items).
    start
        (items, width), the table that training starts from.
    quantizer
        Fitted to `start`, a product code, plain or rotated.

    Notes
    -----
    Source: Chen, Li, Sun, "Differentiable Product Quantization for End-to-End Embedding Compression", 2020, with the
    straight-through gradient of van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", 2017.
    """
    import torch

    rows = quantizer._turned(np.asarray(start, dtype=np.float32))
    free = torch.tensor(rows, requires_grad=True)
    books = torch.tensor(quantizer.codebooks_, requires_grad=True)
    chosen = Chosen(books, ProductQuantizer.of(quantizer.codebooks_).encode(rows))

    def choose_again() -> None:
        chosen.codes = ProductQuantizer.of(books.detach().numpy()).encode(free.detach().numpy())

    def table() -> torch.Tensor:
        return chosen() + (free - free.detach())

    mapping = _train(taken, [free, books], table, rows, training, choose_again)
    return _coded(chosen.codes, books.detach().numpy(), mapping)


class Chosen:
    """What the codes of all items stand for, with gradients to the codebooks."""

    def __init__(self, books: torch.Tensor, codes: NDArray[np.integer]) -> None:
        self.books = books
        self.codes = codes

    def __call__(self) -> torch.Tensor:
        import torch

        pieces, _, width = self.books.shape
        index = torch.from_numpy(self.codes.T.astype(np.int64))[..., None].expand(-1, -1, width)
        return torch.gather(self.books, 1, index).transpose(0, 1).reshape(len(self.codes), pieces * width)


def _placed(start: CodedItems) -> NDArray[np.float32]:
    """The codebooks of a product code; a rotation is left out, for the trained map takes its place."""
    books = start.quantizer.codebooks_
    if start.quantizer.width != books.shape[0] * books.shape[2]:
        raise ValueError(f"start must be coded by a product code, got {type(start.quantizer).__name__}")
    return books.copy()


def _coded(codes: NDArray[np.integer], books: NDArray[np.float32], mapping: NDArray[np.float32]) -> HistoryModel:
    quantizer = ProductQuantizer.of(books)
    coded = CodedItems(quantizer, packed(codes, bits_for(books.shape[1])), len(codes))
    return HistoryModel(coded.vectors(), mapping, coded)


def _train(
    taken: sparse.csr_array,
    parameters: list[torch.Tensor],
    table: Callable[[], torch.Tensor],
    start: NDArray[np.float32],
    training: Training,
    after_epoch: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Trains the parameters behind `table` in place, and returns the map from histories to users.

    The loss of a user is the mean surprise of what was taken under a softmax over all items.
    """
    import torch
    from torch.nn.functional import embedding_bag, log_softmax

    pairs = as_pairs(taken)
    if pairs.shape[1] != len(start):
        raise ValueError(f"taken must have a column for each of {len(start)} items, got {pairs.shape[1]}")
    random = np.random.default_rng(training.seed)
    width = start.shape[1]
    # Starts as least squares would answer with, up to a factor: the inverse second moment of the items.
    moment = start.T @ start / len(start)
    moment += 0.1 * np.trace(moment) / width * np.eye(width, dtype=np.float32)
    inverse = np.linalg.inv(moment)
    mapping = torch.tensor((inverse / np.abs(inverse).max()).astype(np.float32), requires_grad=True)
    optimiser = torch.optim.AdamW(
        [
            {"params": parameters, "lr": training.step * float(start.std()), "weight_decay": 0.0},
            {"params": [mapping], "lr": 0.1 * training.step, "weight_decay": training.penalty},
        ]
    )
    users = np.flatnonzero(np.diff(pairs.indptr) >= 2)
    steps = training.epochs * -(-len(users) // training.batch)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(training.epochs):
        random.shuffle(users)
        for begin in range(0, len(users), training.batch):
            rows = pairs[users[begin : begin + training.batch]]
            seen = random.random(rows.nnz) >= training.hidden
            owner = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
            sizes = np.bincount(owner[seen], minlength=rows.shape[0])
            items = table()
            bags = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)[:-1]]))
            summed = embedding_bag(torch.from_numpy(rows.indices[seen].astype(np.int64)), items, bags, mode="sum")
            asked = summed / torch.from_numpy(np.sqrt(np.maximum(sizes, 1)).astype(np.float32))[:, None]
            surprise = -log_softmax(asked @ mapping @ items.T, dim=1)
            share = torch.from_numpy((1 / np.diff(rows.indptr)[owner]).astype(np.float32))
            loss = (surprise[owner, rows.indices.astype(np.int64)] * share).sum() / rows.shape[0]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            falling.step()
        after_epoch()
    return mapping.detach().numpy()
