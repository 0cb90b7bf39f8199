"""Product codes learnt from pairs of a query and the vector that answers it, instead of from vectors alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercile.filters.search.optimized_product_quantization import OptimizedProductQuantizer, square
from tercile.filters.search.product_quantization import ProductQuantizer, as_rows

if TYPE_CHECKING:
    import torch


class MatchingOrientedQuantizer(ProductQuantizer):
    """Codebooks that make a query score its own answer above other answers, rather than keep vectors as they are.

    Starts from an optimized product code and lowers the contrastive loss of batches of pairs: the probability, under
    a softmax over the codes of all keys of the batch, that a query picks the code of its own key. The choice of a
    codeword is a softmax over distances whose largest entry alone is used on the way forward, while gradients go
    through all of it.

    Parameters
    ----------
    pieces, codewords, seed
        As for `ProductQuantizer`.
    adapt
        Whether queries and keys also pass a linear map each, learnt along with the codebooks and starting from the
        identity: it stands in for the encoders that the paper trains. Otherwise the vectors stay as they are.
    epochs, batch
        Passes over the pairs, and pairs a device sees at a time.
    devices
        Simulated: a step takes `devices` batches.
    shared
        Whether every query is held against the keys of all devices, or of its own alone.
    temperature
        That scores are divided by.
    step
        Of Adam, relative to the spread of the vectors; it falls to zero along a cosine.

    Attributes
    ----------
    codebooks_
        float32 (pieces, codewords, width of a piece), of keys as `key_map_` leaves them.
    key_map_, query_map_
        float32 (width, width). Scores are ``(query @ query_map_)`` times what the code stands for.

    Notes
    -----
    Source: Xiao, Liu, Shao, Lian, Xie, "Matching-oriented Product Quantization For Ad-hoc Retrieval", 2021
    (arXiv:2104.07858): the multinoulli contrastive loss and differentiable cross-device sampling. Their encoders are
    BERTs that learn with the codes; here vectors are given. `decode` returns vectors in the space of mapped queries,
    and only inner products mean anything there. Needs torch. Cost of a step on b pairs: b * codewords * width
    products for the choice of codewords and b * b * width for the scores, three times each.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> keys = random.normal(size=(300, 8)).astype(np.float32)
    >>> queries = keys + 0.1 * random.normal(size=(300, 8)).astype(np.float32)
    >>> fitted = MatchingOrientedQuantizer(2, 16, epochs=2, batch=50).fit(queries, keys)
    >>> found, _ = fitted.nearest(queries[:5], fitted.encode(keys), k=10)
    >>> found.shape
    (5, 10)
    """

    kind = "matching-oriented product code"

    def __init__(
        self,
        pieces: int = 16,
        codewords: int = 256,
        *,
        adapt: bool = True,
        epochs: int = 10,
        batch: int = 256,
        devices: int = 4,
        shared: bool = True,
        temperature: float = 0.05,
        step: float = 0.03,
        seed: int = 0,
    ) -> None:
        super().__init__(pieces, codewords, seed=seed)
        self.adapt = adapt
        self.epochs = epochs
        self.batch = batch
        self.devices = devices
        self.shared = shared
        self.temperature = temperature
        self.step = step

    def fit(
        self, queries: ArrayLike, keys: ArrayLike | None = None, start: OptimizedProductQuantizer | None = None
    ) -> Self:
        """Learn from pairs: `queries[i]` is answered by `keys[i]`.

        Parameters
        ----------
        queries, keys
            (n, width) each, n at least the number of codewords.
        start
            Fitted to vectors like the keys, with as many pieces and codewords; None fits one to the keys.

        Raises
        ------
        ValueError
            The two do not fit together, there are too few of them, or one is not finite.
        TypeError
            There are no keys.
        """
        if keys is None:
            raise TypeError("keys are missing: a matching-oriented code learns from fit(queries, keys)")
        answers, asked = self._rows(keys), as_rows(queries, "queries")
        if asked.shape != answers.shape:
            raise ValueError(f"queries and keys must be pairs of one width, got {asked.shape} and {answers.shape}")
        self._check_settings()
        if start is None:
            start = OptimizedProductQuantizer(self.pieces, self.codewords, seed=self.seed).fit(answers)
        elif start.codebooks_.shape[:2] != (self.pieces, self.codewords) or start.width != answers.shape[1]:
            raise ValueError(
                f"start must have {self.pieces} pieces, {self.codewords} codewords and width {answers.shape[1]}, "
                f"got {start.codebooks_.shape[0]}, {start.codebooks_.shape[1]} and {start.width}"
            )
        learnt = train(self, asked @ start.rotation_, answers @ start.rotation_, start.codebooks_)
        self.codebooks_ = learnt[0]
        self.query_map_ = start.rotation_ @ learnt[1]
        self.key_map_ = start.rotation_ @ learnt[2]
        return self

    def _check_settings(self) -> None:
        self._check_counts("epochs", "batch", "devices")
        for name in ("temperature", "step"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be above zero, got {getattr(self, name)!r}")

    def _turned(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return rows @ self.key_map_

    def _asked(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return rows @ self.query_map_

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return super()._arrays() | {"key_map": self.key_map_, "query_map": self.query_map_}

    def _restore(self, path: Path | str, arrays: dict[str, NDArray[Any]]) -> None:
        super()._restore(path, arrays)
        self.key_map_ = square(path, arrays, "key_map", self.width)
        self.query_map_ = square(path, arrays, "query_map", self.width)


def train(
    settings: MatchingOrientedQuantizer,
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    codebooks: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Codebooks, map of queries and map of keys after all epochs; pairs and codebooks come rotated."""
    import torch

    width = keys.shape[1]
    books = torch.tensor(codebooks, requires_grad=True)
    query_map, key_map = (torch.eye(width).requires_grad_(settings.adapt) for _ in range(2))
    groups: list[dict[str, Any]] = [{"params": [books], "lr": settings.step * float(keys.std())}]
    if settings.adapt:
        groups.append({"params": [query_map, key_map], "lr": settings.step / float(np.sqrt(width))})
    optimiser = torch.optim.Adam(groups)
    together = min(settings.batch * settings.devices, len(keys))
    steps = settings.epochs * (len(keys) // together)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    # Codewords are told apart on the scale of the error that the codes start with.
    rounded = quantized(torch.from_numpy(keys), books.detach(), 1.0).numpy()
    softness = float(np.square(rounded - keys).sum(axis=1).mean()) / settings.pieces
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        order = torch.randperm(len(keys), generator=generator).numpy()
        for start in range(0, len(keys) - together + 1, together):
            rows = order[start : start + together]
            asked = torch.from_numpy(queries[rows]) @ query_map
            turned = torch.from_numpy(keys[rows]) @ key_map
            loss = over_devices(settings, asked, quantized(turned, books, softness))
            if settings.adapt:
                loss = loss + over_devices(settings, asked, turned)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            falling.step()
    learnt = [one.detach().numpy() for one in (books, query_map, key_map)]
    return learnt[0], learnt[1], learnt[2]


def over_devices(settings: MatchingOrientedQuantizer, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """The loss of one step's pairs: over all of them, or the mean of the devices' own."""
    import torch

    if settings.shared:
        return contrastive_loss(queries, keys, settings.temperature)
    own = zip(queries.split(settings.batch), keys.split(settings.batch))
    return torch.stack([contrastive_loss(*pair, settings.temperature) for pair in own]).mean()


def quantized(keys: torch.Tensor, codebooks: torch.Tensor, softness: float) -> torch.Tensor:
    """What the nearest codewords of keys put together, (n, width); gradients as if it were their softmax mean.

    Parameters
    ----------
    keys
        (n, width).
    codebooks
        (pieces, codewords, width of a piece).
    softness
        Squared distance over which the choice blurs.

    Examples
    --------
    >>> import torch
    >>> books = torch.tensor([[[0.0], [1.0]]], requires_grad=True)
    >>> quantized(torch.tensor([[0.9]]), books, 0.1)
    tensor([[1.]], grad_fn=...)
    """
    import torch

    pieces, _, width = codebooks.shape
    parts = keys.reshape(len(keys), pieces, width).transpose(0, 1)
    # |x - c|^2 without |x|^2, which a softmax does not see.
    distance = codebooks.square().sum(dim=2)[:, None] - 2 * parts @ codebooks.transpose(1, 2)
    choice = torch.softmax(-distance / max(softness, 1e-12), dim=2)
    picked = torch.gather(codebooks, 1, choice.detach().argmax(dim=2)[..., None].expand(-1, -1, width))
    # Forward the picked codewords. Backward they themselves, and the soft choice that would lead to others.
    soft = choice @ codebooks.detach()
    hard = picked + (soft - soft.detach())
    return hard.transpose(0, 1).reshape(len(keys), pieces * width)


def contrastive_loss(queries: torch.Tensor, keys: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean of -log of the share that each query's own key has in the softmax over the scores of all keys.

    Parameters
    ----------
    queries, keys
        (n, width) each; keys as their codes stand for them.
    temperature
        That scores are divided by.

    Examples
    --------
    >>> import torch
    >>> round(float(contrastive_loss(torch.eye(4), torch.eye(4), 1.0)), 4)  # log(1 + 3 / e)
    0.7437
    """
    import torch

    scores = queries @ keys.T / temperature
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)))


def device_loss(
    device: int, queries: Sequence[torch.Tensor], keys: Sequence[torch.Tensor], temperature: float
) -> torch.Tensor:
    """The loss over the pairs of all devices as one device computes it: only its own pairs carry gradients.

    What other devices encoded arrives without gradients, but every device computes the loss of *all* queries over
    all keys. The gradients of all devices then add up to those of `contrastive_loss` over one batch of all pairs. If
    a device scored its own queries alone, its keys would never learn from being wrong answers elsewhere. `train`
    runs all devices in one process, where the one large batch is the same for less work.

    Parameters
    ----------
    device
        Which of them computes.
    queries, keys
        For each device (b, width).
    temperature
        That scores are divided by.

    Notes
    -----
    Source: arXiv:2104.07858, differentiable cross-device sampling.

    Examples
    --------
    >>> import torch
    >>> x = torch.eye(4)
    >>> round(float(device_loss(0, x.split(2), x.split(2), 1.0)), 4)
    0.7437
    """
    import torch

    def gathered(parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([part if i == device else part.detach() for i, part in enumerate(parts)])

    return contrastive_loss(gathered(queries), gathered(keys), temperature)
