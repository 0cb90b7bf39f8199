"""Product codes learnt from pairs of query and answer, against codes that keep vectors, at equal bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tercile.filters.search.matching_oriented import MatchingOrientedQuantizer, contrastive_loss
from tercile.filters.search.optimized_product_quantization import OptimizedProductQuantizer
from tercile.filters.search.product_quantization import ProductQuantizer
from tercile.papers import Check, Size, paper
from tercile.papers.definitions import definitions
from tercile.papers.digits_network import one_thread

PAPER = paper("mopq", authors="Xiao, Liu, Shao, Lian, Xie", year=2021, source="arXiv:2104.07858")
MEASURED_ON = (
    "MiniLM embeddings (256 of their directions) of WordNet's definitions, Bible verses and Python's documentation, "
    "104,000 in all, stored in 8 or 16 bytes each; a query is the words that a definition defines. Share of held-out "
    "queries with their own definition among the first 10 and 100. The encoder stays as it is: `frozen` learns "
    "codebooks alone, the other also a linear map of queries and one of texts, in the place of the paper's BERTs"
)
BASELINE = (
    "at the same bytes: product codes and rotated product codes, ours and those of faiss; for the maps, both of ours "
    "over vectors that went through maps trained on the same pairs and loss, before and without codes. For sampling "
    "across devices: the same steps, each simulated device with its own keys alone"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"texts": 6000, "pairs": 2000, "held out": 600, "passes": 6, "codewords": 32, "faiss": 0},
    "full": {
        "texts": 104_000,
        "pairs": 37_000,
        "held out": 3000,
        "passes": 6,
        "codewords": 256,
        "faiss": 1,
        "seeds": "held-out queries, starts",
    },
}
SEEDS = (0, 1)
BYTES = (8, 16)
FIRST = (10, 100)
#: Vectors that the codes that keep vectors learn from, and the rounds of their rotation.
LEARNT_FROM, ROUNDS = 20_000, 15

RULE = (
    *(
        Check(
            f"frozen_recall{first}_{size}bytes",
            at_least=f"1.03 * max(pq_recall{first}_{size}bytes, opq_recall{first}_{size}bytes, "
            f"faiss_pq_recall{first}_{size}bytes, faiss_opq_recall{first}_{size}bytes)",
            quick=False,
        )
        for size in BYTES
        for first in FIRST
    ),
    *(
        Check(
            f"recall{first}_{size}bytes",
            at_least=f"1.03 * max(mapped_pq_recall{first}_{size}bytes, mapped_opq_recall{first}_{size}bytes)",
            quick=False,
        )
        for size in BYTES
        for first in FIRST
    ),
    Check("recall10_8bytes", at_least="unshared_recall10_8bytes", quick=False),
    Check("recall100_8bytes", at_least="max(pq_recall100_8bytes, opq_recall100_8bytes)", quick_slack=0.1),
)

Codes = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """All codes on one choice of held-out queries."""
    given: dict[str, Any] = SIZES[size]
    texts, queries, answers, held = chosen(given, seed)
    asked, truth = queries[:held], answers[:held]
    pairs = queries[held:], texts[answers[held:]]
    learnt_from = texts[np.random.default_rng(seed).permutation(len(texts))[:LEARNT_FROM]]
    passes, codewords = given["passes"], given["codewords"]
    measured = recalls("float", asked, texts, truth)
    turned = maps(*pairs, passes, seed)
    mapped_asked, mapped_texts, mapped_from = asked @ turned[0], texts @ turned[1], learnt_from @ turned[1]
    measured |= recalls("mapped_float", mapped_asked, mapped_texts, truth)
    for pieces in BYTES:

        def kept(name: str, quantizer: ProductQuantizer, pieces: int = pieces) -> dict[str, float]:
            stored = quantizer._looked_up(quantizer.encode(texts))
            found = recalls(f"{name}", quantizer._asked(asked), stored, truth)
            return {f"{key}_{pieces}bytes": value for key, value in found.items()}

        plain = ProductQuantizer(pieces, codewords, iterations=ROUNDS, seed=seed).fit(learnt_from)
        rotated = OptimizedProductQuantizer(pieces, codewords, rounds=ROUNDS, iterations=ROUNDS, seed=seed)
        rotated.fit(learnt_from)
        measured |= kept("pq", plain) | kept("opq", rotated)
        options = {"epochs": passes, "seed": seed}
        frozen = MatchingOrientedQuantizer(pieces, codewords, adapt=False, **options).fit(*pairs, rotated)
        measured |= kept("frozen", frozen)
        learnt = MatchingOrientedQuantizer(pieces, codewords, **options).fit(*pairs, rotated)
        measured |= {key.lstrip("_"): value for key, value in kept("", learnt).items()}
        if pieces == BYTES[0]:
            alone = MatchingOrientedQuantizer(pieces, codewords, shared=False, **options).fit(*pairs, rotated)
            measured |= kept("unshared", alone)
        for name, fitted in (
            ("mapped_pq", ProductQuantizer(pieces, codewords, iterations=ROUNDS, seed=seed)),
            (
                "mapped_opq",
                OptimizedProductQuantizer(pieces, codewords, rounds=ROUNDS, iterations=ROUNDS, seed=seed),
            ),
        ):
            stored = fitted.fit(mapped_from).decode(fitted.encode(mapped_texts))
            found = recalls(name, mapped_asked, stored, truth)
            measured |= {f"{key}_{pieces}bytes": value for key, value in found.items()}
        if given["faiss"]:
            for name, spelling in (("faiss_pq", f"PQ{pieces}"), ("faiss_opq", f"OPQ{pieces},PQ{pieces}")):
                found = recalls(name, asked, by_faiss(spelling, learnt_from, texts), truth)
                measured |= {f"{key}_{pieces}bytes": value for key, value in found.items()}
    return measured


def chosen(given: dict[str, Any], seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp], int]:
    """The texts, the queries with the held-out ones first, the row of each one's text, and how many are held out."""
    sample = definitions()
    # A smaller run keeps the texts of its queries and the first of the others.
    order = np.random.default_rng(seed).permutation(len(sample.queries))[: given["held out"] + given["pairs"]]
    own = np.unique(sample.answers[order])
    others = np.setdiff1d(np.arange(len(sample.vectors)), own)[: given["texts"] - len(own)]
    rows = np.sort(np.concatenate([own, others]))
    return sample.vectors[rows], sample.queries[order], np.searchsorted(rows, sample.answers[order]), given["held out"]


def recalls(
    name: str, queries: NDArray[np.float32], texts: NDArray[np.float32], truth: NDArray[np.intp]
) -> dict[str, float]:
    """Share of queries whose own text is among the first so many by inner product; ties count against it."""
    ranks = np.empty(len(queries), dtype=np.intp)
    for start in range(0, len(queries), 250):
        part = slice(start, start + 250)
        scores = queries[part] @ texts.T
        own = scores[np.arange(len(scores)), truth[part]]
        ranks[part] = (scores >= own[:, None]).sum(axis=1) - 1
    return {f"{name}_recall{first}": float(np.mean(ranks < first)) for first in FIRST}


def maps(
    queries: NDArray[np.float32], keys: NDArray[np.float32], passes: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Linear maps of queries and texts under the loss of the pairs alone, with the steps that codes get."""
    settings = MatchingOrientedQuantizer()
    both = [torch.eye(queries.shape[1], requires_grad=True) for _ in range(2)]
    optimiser = torch.optim.Adam(both, lr=settings.step / float(np.sqrt(queries.shape[1])))
    together = min(settings.batch * settings.devices, len(keys))
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, passes * (len(keys) // together))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(passes):
        order = torch.randperm(len(keys), generator=generator).numpy()
        for start in range(0, len(keys) - together + 1, together):
            rows = order[start : start + together]
            left, right = (torch.from_numpy(one[rows]) @ turn for one, turn in zip((queries, keys), both))
            optimiser.zero_grad()
            contrastive_loss(left, right, settings.temperature).backward()
            optimiser.step()
            falling.step()
    return both[0].detach().numpy(), both[1].detach().numpy()


def by_faiss(spelling: str, learnt_from: NDArray[np.float32], texts: NDArray[np.float32]) -> NDArray[np.float32]:
    """What faiss' codes stand for."""
    import faiss

    index = faiss.index_factory(texts.shape[1], spelling, faiss.METRIC_INNER_PRODUCT)
    index.train(learnt_from)
    return index.sa_decode(index.sa_encode(texts))
