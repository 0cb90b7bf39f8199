"""Item tables of a recommender as codes, by the families of the review, against floats and against the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

import tercile.zoo
from tercile.filters.search.optimized_product_quantization import OptimizedProductQuantizer
from tercile.filters.search.product_quantization import ProductQuantizer
from tercile.filters.search.recommendation import (
    CodedItems,
    CodedPairs,
    HistoryModel,
    TokenTree,
    Training,
    content_of,
    factorize,
    item_tokens,
    learnt_codebooks,
    learnt_codes,
    learnt_table,
)
from tercile.filters.search.recommendation.coded_items import bits_for, packed
from tercile.filters.search.residual_quantization import ResidualQuantizer
from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import one_thread

PAPER = paper(
    "vq4rec",
    authors="Liu, Dong, Xiao, Chen, Hu, Zhu, Zhu, Sakai, Wu",
    year=2024,
    source="arXiv:2405.03110",
)
MEASURED_ON = (
    "what the 19,823 sources of Debian 12 depend on, 179,284 pairs with 8,667 packages: recommending libraries. A "
    "fifth of the sources is held out; of each a third of its dependencies is hidden, and ranked from the rest. NDCG "
    "of the first 20. Items are codes of 16 bytes at full size: given before training (by an earlier model, by the "
    "packages' names), learnt with it, or made after it; bytes count codes, codebooks and the map to users"
)
BASELINE = (
    "the table of floats, 64 wide; and at the bytes of the codes narrower floats, bytes of the width that fits (int8 "
    "with a scale an item), rows shared by a hash, and codes drawn at random; each trained as long, from factors"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"sources": 2500, "width": 16, "pieces": 4, "codewords": 32, "passes": 4, "asked one by one": 50},
    "full": {
        "sources": 19_823,
        "width": 64,
        "pieces": 16,
        "codewords": 256,
        "passes": 20,
        "asked one by one": 500,
        "seeds": "held-out sources, hidden dependencies, starts",
    },
}
SEEDS = (0, 1)
STEP, FIRST, WIDE_BEAM = 0.2, 20, 400

RULE = (
    Check("codes_ndcg", at_least="0.98 * float_ndcg", quick_slack=0.2),
    Check("codes_bytes", at_most="0.1 * float_bytes", quick=False),
    Check("codes_ndcg", at_least="best_peer_ndcg", quick=False),
    Check("given_codes_ndcg", at_least="0.98 * float_ndcg", quick=False),
    Check("given_codes_ndcg", at_least="best_peer_ndcg", quick=False),
    Check("later_codes_ndcg", at_least="0.98 * float_ndcg", quick=False),
    Check("name_codes_ndcg", at_least="random_codes_ndcg", quick=False),
    Check("coded_users_ndcg", at_least="0.98 * codes_ndcg", quick=False),
    Check("coded_features_ndcg", at_least="0.98 * name_codes_ndcg", quick=False),
    Check("tokens_ndcg", at_least="0.98 * all_tokens_ndcg", quick=False),
    Check("tokens_additions", at_most="0.25 * all_tokens_additions", quick=False),
)


@one_thread
def experiment(size: Size, seed: int) -> dict[str, float]:
    """All families on one choice of held-out sources."""
    given: dict[str, Any] = SIZES[size]
    split = split_of(given["sources"], seed)
    pieces, codewords, width = given["pieces"], given["codewords"], given["width"]
    training = Training(epochs=given["passes"], step=STEP, seed=seed)

    def product_code(rows: NDArray[np.float32]) -> ProductQuantizer:
        return ProductQuantizer(pieces, codewords, seed=seed).fit(rows)

    start = factorize(split.taken, width, seed=seed).items
    floats = learnt_table(split.taken, start, training)
    learnt = learnt_codes(split.taken, start, product_code(start), training)
    # Codes that are given come from a finished model; what learns again are the codebooks alone.
    given_codes = learnt_codebooks(split.taken, CodedItems.of(floats.items, product_code(floats.items)), training)
    measured = {
        "popular_ndcg": split.ndcg_of(np.ones((split.seen.shape[0], 1), "f4"), split.popularity()[:, None]),
        "float_ndcg": split.ndcg(floats),
        "float_bytes": floats.nbytes,
        "codes_ndcg": split.ndcg(learnt),
        "codes_bytes": learnt.nbytes,
        "given_codes_ndcg": split.ndcg(given_codes),
    }
    measured |= after_training(split, floats, pieces, codewords, seed)
    measured |= by_name(split, product_code, training, width)
    measured |= at_the_same_bytes(split, learnt.nbytes, training, given_codes, seed)
    measured |= users_as_codes(split, learnt, product_code)
    return measured | as_tokens(split, floats, given, seed)


@dataclass(frozen=True)
class Split:
    """Baskets to learn from; and of the held-out ones, what is shown and what is to be found."""

    taken: sparse.csr_array
    seen: sparse.csr_array
    hidden: sparse.csr_array
    names: tuple[str, ...]

    def popularity(self) -> NDArray[np.float32]:
        """How many took each item."""
        return np.asarray(self.taken.sum(axis=0), dtype=np.float32)

    def ndcg(self, model: HistoryModel) -> float:
        """Of a model's own ranking."""
        return self.ndcg_of(model.users(self.seen), model.items)

    def ndcg_of(self, users: NDArray[np.float32], items: NDArray[np.float32]) -> float:
        """Of the ranking by inner products."""
        found = [self.best(users[at : at + 500] @ items.T, at) for at in range(0, len(users), 500)]
        return self.ndcg_at(np.concatenate(found))

    def best(self, scores: NDArray[np.float32], first: int) -> NDArray[np.intp]:
        """The items of the highest scores that were not seen, best first, for held-out baskets from `first` on."""
        seen = self.seen[first : first + len(scores)]
        scores[np.repeat(np.arange(len(scores)), np.diff(seen.indptr)), seen.indices] = -np.inf
        top = np.argpartition(-scores, FIRST - 1, axis=1)[:, :FIRST]
        order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable")
        return np.take_along_axis(top, order, 1)

    def ndcg_at(self, found: NDArray[np.intp]) -> float:
        """Mean gain of the found items, which a place discounts by the logarithm of its number, over the best gain."""
        gains = 1 / np.log2(np.arange(2, FIRST + 2))
        hidden = self.hidden[: len(found)]
        hits = np.take_along_axis(hidden.toarray(), np.maximum(found, 0), 1) * (found >= 0)
        ideal = np.cumsum(gains)[np.minimum(np.diff(hidden.indptr), FIRST) - 1]
        return float(((hits * gains).sum(axis=1) / ideal).mean())


def split_of(sources: int, seed: int) -> Split:
    """A choice of sources, a fifth of them held out, and a third of what each of these depends on hidden."""
    baskets, names = dependencies()
    random = np.random.default_rng(seed)
    chosen = random.permutation(baskets.shape[0])[:sources]
    held, rest = chosen[: sources // 5], chosen[sources // 5 :]
    asked = baskets[held]
    owner = np.repeat(np.arange(len(held)), np.diff(asked.indptr))
    order = np.lexsort((random.random(asked.nnz), owner))
    place = np.empty(asked.nnz, dtype=np.intp)
    place[order] = np.arange(asked.nnz) - asked.indptr[owner]
    hide = place < np.maximum(1, np.diff(asked.indptr) // 3)[owner]
    seen, hidden = (
        sparse.csr_array((np.ones(which.sum(), "f4"), (owner[which], asked.indices[which])), shape=asked.shape)
        for which in (~hide, hide)
    )
    return Split(baskets[rest], seen, hidden, names)


@cache
def dependencies() -> tuple[sparse.csr_array, tuple[str, ...]]:
    """Which packages (columns, by name) each source depends on; made by `zoo.make_dependencies`.

    >>> baskets, names = dependencies()
    >>> baskets.shape, len(names), names[int(baskets.sum(axis=0).argmax())]
    ((19823, 8667), 8667, 'libc6')
    """
    with np.load(Path(tercile.zoo.__file__).parent / "samples" / "dependencies.npz") as stored:
        names = tuple(stored["names"].tobytes().decode().split("\n"))
        ends = np.concatenate([[0], np.cumsum(stored["sizes"].astype(np.int64))])
        items = stored["items"].astype(np.int64)
    return sparse.csr_array((np.ones(len(items), "f4"), items, ends), shape=(len(ends) - 1, len(names))), names


def after_training(split: Split, floats: HistoryModel, pieces: int, codewords: int, seed: int) -> dict[str, float]:
    """The finished table of floats, coded: nothing learns again."""
    # Residual codewords are as wide as the table: so many codebooks as fit into the bytes of the others.
    items, width = floats.items.shape
    fit = (items * pieces + 4 * codewords * width) // (items + 4 * codewords * width)
    quantizers = {
        "pq": ProductQuantizer(pieces, codewords, seed=seed),
        "opq": OptimizedProductQuantizer(pieces, codewords, rounds=10, seed=seed),
        "rq": ResidualQuantizer(max(1, fit), codewords, iterations=10, seed=seed),
    }
    found = {}
    for name, quantizer in quantizers.items():
        coded = CodedItems.of(floats.items, quantizer.fit(floats.items))
        found[f"later_{name}_ndcg"] = split.ndcg(HistoryModel(coded.vectors(), floats.mapping))
        found[f"later_{name}_bytes"] = coded.nbytes + floats.mapping.nbytes
    return found | {"later_codes_ndcg": max(found[f"later_{name}_ndcg"] for name in quantizers)}


def by_name(split: Split, product_code: Any, training: Training, width: int) -> dict[str, float]:
    """Codes of what packages are called, made of features that are kept as floats or as codes themselves."""
    content = content_of(split.names, width)
    coded = CodedItems.of(content.features, product_code(content.features))
    found = {"features_bytes": float(content.features.nbytes), "coded_features_bytes": float(coded.nbytes)}
    for name, items in (("name_codes", content.items()), ("coded_features", content.items(coded.vectors()))):
        model = learnt_codebooks(split.taken, CodedItems.of(items, product_code(items)), training)
        found[f"{name}_ndcg"] = split.ndcg(model)
    return found


def at_the_same_bytes(split: Split, room: int, training: Training, coded: HistoryModel, seed: int) -> dict[str, float]:
    """Other ways to spend the bytes of the codes, each trained as long."""
    items, width = coded.items.shape
    assert coded.coded is not None
    codes, books = coded.coded.codes, coded.coded.quantizer.codebooks_
    random = np.random.default_rng(seed)

    def trained(width: int) -> HistoryModel:
        return learnt_table(split.taken, factorize(split.taken, width, seed=seed).items, training)

    # The map takes width^2 floats of its own, and a row of bytes a scale.
    narrow = max(w for w in range(1, width + 1) if 4 * (items * w + w * w) <= max(room, 4 * (items + 1)))
    in_bytes = max(w for w in range(1, width + 1) if items * (w + 4) + 4 * w * w <= max(room, 5 * items + 4))
    bytes_model = trained(in_bytes)
    scale = np.maximum(np.abs(bytes_model.items).max(axis=1, keepdims=True), 1e-12) / 127
    bytes_model = HistoryModel((np.rint(bytes_model.items / scale) * scale).astype("f4"), bytes_model.mapping)
    # Rows that items share by a hash: one codebook of whole rows, and a code that says which.
    rows = max(2, (room - 4 * width * width) // (4 * width))
    shared = ProductQuantizer.of(random.normal(0, books.std(), (1, rows, width)))
    hashed = CodedItems(shared, packed(random.integers(rows, size=(items, 1)), bits_for(rows)), items)
    drawn = packed(random.integers(books.shape[1], size=codes.shape), bits_for(books.shape[1]))
    found = {
        "narrow_ndcg": split.ndcg(trained(narrow)),
        "int8_ndcg": split.ndcg(bytes_model),
        "hashed_rows_ndcg": split.ndcg(learnt_codebooks(split.taken, hashed, training)),
        "random_codes_ndcg": split.ndcg(
            learnt_codebooks(split.taken, CodedItems(ProductQuantizer.of(books), drawn, items), training)
        ),
    }
    return found | {"best_peer_ndcg": max(found.values()), "narrow_width": narrow, "int8_width": in_bytes}


def users_as_codes(split: Split, learnt: HistoryModel, product_code: Any) -> dict[str, float]:
    """Users kept as codes too: codewords from sources that were learnt from, scores by table."""
    assert learnt.coded is not None
    users = learnt.users(split.seen)
    pairs = CodedPairs.of(CodedItems.of(users, product_code(learnt.users(split.taken))), learnt.coded)
    found = [split.best(pairs.scores(np.arange(at, min(at + 500, len(users)))), at) for at in range(0, len(users), 500)]
    return {
        "coded_users_ndcg": split.ndcg_at(np.concatenate(found)),
        "coded_users_bytes": pairs.users.packed.nbytes,
        "users_bytes": users.nbytes,
    }


def as_tokens(split: Split, floats: HistoryModel, given: dict[str, Any], seed: int) -> dict[str, float]:
    """Names of a few residual codes, written token by token along the tree of names that exist, or all of them."""
    pieces = max(2, given["pieces"] // 4)
    quantizer = ResidualQuantizer(pieces, given["codewords"], seed=seed).fit(floats.items)
    codes = quantizer.encode(floats.items)
    tree = TokenTree(item_tokens(codes))
    asked = given["asked one by one"]
    tables = quantizer.tables(floats.users(split.seen[:asked]))
    beam = min(WIDE_BEAM, len(codes) // 4)
    found, additions = np.full((asked, FIRST), -1), 0
    for one, table, seen in zip(found, tables, np.split(split.seen.indices, split.seen.indptr[1:-1])):
        best, _, sums = tree.best_counted(table, beam, beam)
        fresh = best[~np.isin(best, seen)][:FIRST]
        one[: len(fresh)] = fresh
        additions += sums
    every = np.stack([table[np.arange(pieces), codes].sum(axis=1) for table in tables])
    return {
        "tokens_ndcg": split.ndcg_at(found),
        "all_tokens_ndcg": split.ndcg_at(split.best(every, 0)),
        "tokens_additions": additions / asked,
        "all_tokens_additions": float(codes.size),
    }
