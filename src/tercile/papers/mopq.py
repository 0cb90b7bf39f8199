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
    "quick": {
        "texts": 3000,
        "pairs": 1500,
        "held out": 500,
        "passes": 4,
        "codewords": 32,
        "learnt from": 3000,
        "rounds": 3,
        "faiss": 0,
    },
    "full": {
        "texts": 104_000,
        "pairs": 37_000,
        "held out": 2000,
        "passes": 5,
        "codewords": 256,
        "learnt from": 20_000,
        "rounds": 15,
        "faiss": 1,
        "seeds": "held-out queries, starts",
    },
}
SEEDS = (0, 1)
BYTES = (8, 16)
FIRST = (10, 100)

RULE = (
    *(
        Check(
            f"frozen_recall{first}_{size}bytes",
            at_least=f"1.03 * best_kept_recall{first}_{size}bytes",
            quick=False,
        )
        for size in BYTES
        for first in FIRST
    ),
    *(
        Check(
            f"recall{first}_{size}bytes",
            at_least=f"1.03 * best_mapped_recall{first}_{size}bytes",
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
    learnt_from = texts[np.random.default_rng(seed).permutation(len(texts))[: given["learnt from"]]]
    passes, codewords, rounds = given["passes"], given["codewords"], given["rounds"]
    measured = recalls("float", asked, texts, truth)
    turned = maps(*pairs, passes, seed)
    mapped_asked, mapped_texts, mapped_from = asked @ turned[0], texts @ turned[1], learnt_from @ turned[1]
    measured |= recalls("mapped_float", mapped_asked, mapped_texts, truth)
    for pieces in BYTES:

        def kept(name: str, quantizer: ProductQuantizer, pieces: int = pieces) -> dict[str, float]:
            stored = quantizer._looked_up(quantizer.encode(texts))
            found = recalls(f"{name}", quantizer._asked(asked), stored, truth)
            return {f"{key}_{pieces}bytes": value for key, value in found.items()}

        plain = ProductQuantizer(pieces, codewords, iterations=rounds, seed=seed).fit(learnt_from)
        rotated = OptimizedProductQuantizer(pieces, codewords, rounds=rounds, iterations=rounds, seed=seed)
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
            ("mapped_pq", ProductQuantizer(pieces, codewords, iterations=rounds, seed=seed)),
            (
                "mapped_opq",
                OptimizedProductQuantizer(pieces, codewords, rounds=rounds, iterations=rounds, seed=seed),
            ),
        ):
            stored = fitted.fit(mapped_from).decode(fitted.encode(mapped_texts))
            found = recalls(name, mapped_asked, stored, truth)
            measured |= {f"{key}_{pieces}bytes": value for key, value in found.items()}
        if given["faiss"]:
            for name, spelling in (("faiss_pq", f"PQ{pieces}"), ("faiss_opq", f"OPQ{pieces},PQ{pieces}")):
                found = recalls(name, asked, by_faiss(spelling, learnt_from, texts), truth)
                measured |= {f"{key}_{pieces}bytes": value for key, value in found.items()}
    return measured | best(measured)


def best(measured: dict[str, float]) -> dict[str, float]:
    """Of the codes that keep vectors, and of those that keep mapped vectors, the highest share at each size."""
    return {
        f"best_{kind}_{goal}": max(value for name, value in measured.items() if name in {f"{one}_{goal}" for one in of})
        for goal in (f"recall{first}_{size}bytes" for size in BYTES for first in FIRST)
        for kind, of in {
            "kept": ("pq", "opq", "faiss_pq", "faiss_opq"),
            "mapped": ("mapped_pq", "mapped_opq"),
        }.items()
    }


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
    # Blocks of scores that stay in the cache; a product of other blocks may round its last bit another way.
    own = np.einsum("qd,qd->q", queries, texts[truth])[:, None]
    own -= 1e-6 * np.abs(own)
    ranks = np.zeros(len(queries), dtype=np.intp)
    for start in range(0, len(texts), 1024):
        ranks += (queries @ texts[start : start + 1024].T >= own).sum(axis=1)
    ranks -= 1
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
