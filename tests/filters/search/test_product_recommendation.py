"""Coded item tables: factors and names against plain definitions, codes against the floats that they replace."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from tercile.filters.search.codewords import k_means, nearest_codewords
from tercile.filters.search.optimized_product_quantization import OptimizedProductQuantizer
from tercile.filters.search.product_quantization import ProductQuantizer
from tercile.filters.search.recommendation.coded_items import CodedItems, bits_for, packed, unpacked
from tercile.filters.search.recommendation.coded_users import CodedPairs
from tercile.filters.search.recommendation.content import content_of
from tercile.filters.search.recommendation.factorization import factorize, wanted_by
from tercile.filters.search.recommendation.tokens import TokenTree, item_tokens
from tercile.filters.search.residual_quantization import ResidualQuantizer


def tastes(users: int = 400, items: int = 120, groups: int = 6, seed: int = 0) -> sparse.csr_array:
    """Users of a group take mostly the group's items."""
    random = np.random.default_rng(seed)
    chance = np.where(np.arange(users)[:, None] % groups == np.arange(items) % groups, 0.4, 0.01)
    return sparse.csr_array((random.random((users, items)) < chance).astype(np.float32))


def test_users_minimise_the_weighted_squares_that_define_them() -> None:
    taken, items = tastes(), np.random.default_rng(1).normal(size=(120, 5)).astype("f4")
    users = wanted_by(items, taken, weight=7.0, penalty=0.5)
    for row in (0, 17, 399):
        wanted = taken[[row]].toarray().ravel()
        counted = np.sqrt(1 + 7.0 * wanted)[:, None]
        left = np.vstack([counted * items, np.sqrt(0.5) * np.eye(5)])
        right = np.concatenate([counted.ravel() * wanted, np.zeros(5)])
        np.testing.assert_allclose(users[row], np.linalg.lstsq(left, right, rcond=None)[0], rtol=2e-3, atol=1e-4)


def test_a_user_without_history_wants_nothing() -> None:
    taken = sparse.csr_array(np.array([[0.0, 0.0], [1.0, 0.0]]))
    assert not wanted_by(np.ones((2, 3), "f4"), taken)[0].any()


def test_factors_rank_what_the_users_group_takes_above_the_rest() -> None:
    taken = tastes()
    found = factorize(taken, 8, rounds=6)
    scores = found.users @ found.items.T
    own = np.arange(400)[:, None] % 6 == np.arange(120) % 6
    unseen = taken.toarray() == 0
    mean_own = np.where(own & unseen, scores, 0).sum() / (own & unseen).sum()
    assert mean_own > 3 * abs(np.where(~own & unseen, scores, 0).sum() / (~own & unseen).sum())


@pytest.mark.parametrize("codewords", [2, 5, 16, 256, 300])
def test_packed_codes_come_back_and_take_the_bits_that_are_needed(codewords: int) -> None:
    codes = np.random.default_rng(0).integers(0, codewords, (77, 3))
    bits = bits_for(codewords)
    stream = packed(codes, bits)
    assert stream.nbytes == -(-77 * 3 * bits // 8) and 2 ** (bits - 1) < codewords <= 2**bits
    assert np.array_equal(unpacked(stream, bits, 77, 3), codes)


@pytest.mark.parametrize("quantizer", [ProductQuantizer(4, 16), ResidualQuantizer(3, 16)])
def test_recommendations_from_codes_are_those_of_the_decoded_table_without_what_was_taken(
    quantizer: ProductQuantizer,
) -> None:
    taken = tastes()
    factors = factorize(taken, 8, rounds=3)
    coded = CodedItems.of(factors.items, quantizer.fit(factors.items))
    assert coded.nbytes < factors.items.nbytes
    found, scores = coded.recommended(factors.users[:50], 10, taken[:50])
    exact = factors.users[:50].astype("f8") @ coded.vectors().T.astype("f8")
    exact[taken[:50].toarray() > 0] = -np.inf
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :10], rtol=1e-4, atol=1e-5)
    assert not taken[:50].toarray()[np.arange(50)[:, None], found].any()


def test_residual_codes_with_a_wider_beam_come_closer_and_never_miss_a_sum_of_codewords() -> None:
    vectors = np.random.default_rng(3).normal(size=(800, 6)).astype("f4")
    fitted = {beam: ResidualQuantizer(3, 8, beam=beam).fit(vectors) for beam in (1, 4, 64)}
    errors = [float(np.square(q.decode(q.encode(vectors)) - vectors).mean()) for q in fitted.values()]
    assert errors == sorted(errors, reverse=True)
    # With a beam as wide as there are beginnings, encoding is exhaustive.
    books = fitted[64].codebooks_
    sums = (books[0][:, None, None] + books[1][None, :, None] + books[2][None, None]).reshape(-1, 6)
    best = np.square(vectors[:50, None] - sums[None]).sum(axis=2).min(axis=1)
    ours = np.square(fitted[64].decode(fitted[64].encode(vectors[:50])) - vectors[:50]).sum(axis=1)
    np.testing.assert_allclose(ours, best, rtol=1e-4)


def test_residual_codes_leave_less_error_than_faiss_or_nearly_as_little() -> None:
    faiss = pytest.importorskip("faiss")
    vectors = np.random.default_rng(4).normal(size=(3000, 16)).astype("f4") * np.geomspace(2, 0.1, 16, dtype="f4")
    index = faiss.index_factory(16, "RQ4x4")
    index.train(vectors)
    theirs = np.square(index.sa_decode(index.sa_encode(vectors)) - vectors).mean()
    ours = ResidualQuantizer(4, 16).fit(vectors)
    assert np.square(ours.decode(ours.encode(vectors)) - vectors).mean() < 1.1 * theirs


def test_every_item_has_a_name_of_its_own() -> None:
    codes = np.random.default_rng(5).integers(0, 3, (200, 2))
    names = item_tokens(codes)
    assert len(np.unique(names, axis=0)) == 200 and np.array_equal(names[:, :2], codes)


def test_a_wide_beam_finds_the_best_items_and_a_narrow_one_items_that_exist() -> None:
    random = np.random.default_rng(6)
    codes = random.integers(0, 5, (300, 3))
    tree = TokenTree(item_tokens(codes))
    table = random.normal(size=(3, 5)).astype("f4")
    exact = table[0, codes[:, 0]] + table[1, codes[:, 1]] + table[2, codes[:, 2]]
    found, scores = tree.best(table, 20, 300)
    np.testing.assert_allclose(scores, -np.sort(-exact)[:20], rtol=1e-5)
    np.testing.assert_allclose(exact[found], scores, rtol=1e-5)
    few, low = tree.best(table, 5, 5)
    np.testing.assert_allclose(exact[few], low, rtol=1e-5)
    assert len(set(few.tolist())) == 5


def test_additions_are_counted_child_by_child() -> None:
    tree = TokenTree(item_tokens([[0, 0], [0, 1], [1, 0], [2, 0], [2, 0]]))
    table = np.array([[3.0, 2, 1], [0.5, 0, 0]], dtype=np.float32)
    # Three beginnings; of the two that stay, 0 has two children and 1 has one. The last token adds nothing.
    assert tree.best_counted(table, 2, 2)[2] == 3 + 3


def test_one_codebook_leaves_no_more_error_than_scikit_learns_k_means() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    random = np.random.default_rng(8)
    x = (random.normal(size=(30, 6))[random.integers(30, size=2000)] + 0.3 * random.normal(size=(2000, 6))).astype("f4")
    ours = k_means(x, 64, 25, np.random.default_rng(0))
    error = float(np.square(x - ours[nearest_codewords(x, ours)]).sum())
    theirs = cluster.KMeans(64, init="random", n_init=1, max_iter=25, random_state=0).fit(x)
    assert error <= 1.05 * theirs.inertia_


def test_users_kept_as_codes_want_what_their_decoded_vectors_want() -> None:
    random = np.random.default_rng(9)
    users, items = random.normal(size=(300, 12)).astype("f4"), random.normal(size=(200, 12)).astype("f4")
    pairs = CodedPairs.of(
        CodedItems.of(users, ProductQuantizer(3, 32).fit(users)),
        CodedItems.of(items, ProductQuantizer(3, 16).fit(items)),
    )
    which = np.array([299, 0, 7])
    exact = pairs.users.vectors()[which].astype("f8") @ pairs.items.vectors().T
    np.testing.assert_allclose(pairs.scores(which), exact, rtol=1e-4, atol=1e-4)
    assert pairs.nbytes == pairs.users.nbytes + pairs.items.nbytes + 3 * 32 * 16 * 4
    turned = CodedItems.of(items, OptimizedProductQuantizer(3, 16, rounds=1).fit(items))
    with pytest.raises(ValueError, match=r"got product code .* rotated product code"):
        CodedPairs.of(pairs.users, turned)
    with pytest.raises(ValueError, match="of one cut"):
        CodedPairs.of(pairs.users, CodedItems.of(items, ProductQuantizer(4, 16).fit(items)))


def test_names_are_weighed_as_scikit_learn_weighs_runs_of_characters_and_keep_their_likeness() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    names = [
        f"{a}-{b}{c}"
        for a in ("lib", "python3", "golang")
        for b in ("foo", "bar", "quux")
        for c in ("", "-dev", "-doc")
    ]
    content = content_of(names, 12, lengths=(3, 4))
    # Same runs and weights: rows of length one, log(1 + names / names with the run), each run once.
    counts = text.CountVectorizer(
        analyzer=lambda name: {f"<{name}>"[i : i + n] for n in (3, 4) for i in range(len(name) + 3 - n)}, min_df=2
    )
    there = counts.fit_transform(names).toarray() > 0
    weighted = there * np.log1p(len(names) / there.sum(axis=0))
    weighted /= np.linalg.norm(weighted, axis=1, keepdims=True)
    likeness = weighted @ weighted.T
    ours = content.weights.toarray()
    np.testing.assert_allclose(ours @ ours.T, likeness, atol=1e-12)
    # The vectors keep as much of it as any of their width could.
    values = np.linalg.eigvalsh(likeness)[::-1]
    left = np.linalg.norm(likeness - content.items().astype("f8") @ content.items().T.astype("f8"))
    assert left == pytest.approx(np.sqrt(np.square(values[12:]).sum()), rel=1e-3)
    coded = CodedItems.of(content.features, ProductQuantizer(4, 16).fit(content.features))
    np.testing.assert_allclose(
        content.items(coded.vectors()), content.weights.toarray() @ coded.vectors(), rtol=1e-4, atol=1e-5
    )


def test_bad_input_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="width must be below 3, the names and what they share: 3"):
        content_of(["aaa", "aaab", "aaac"], 3)
    with pytest.raises(ValueError, match=r"features must be \d+, got 2"):
        content_of(["aaaaaa", "aaaaab", "aaaaac"], 2).items(np.zeros((2, 2), "f4"))
    with pytest.raises(ValueError, match="taken must be a sparse table"):
        factorize(np.ones((3, 3)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width must be a whole number from 1, got 0"):
        factorize(tastes(), 0)
    with pytest.raises(ValueError, match=r"\[1, 0\] comes twice; use item_tokens"):
        TokenTree([[1, 0], [2, 0], [1, 0]])
    with pytest.raises(ValueError, match="beam must be at least k"):
        TokenTree([[1], [2]]).best(np.zeros((1, 3), "f4"), 2, 1)
    vectors = np.random.default_rng(0).normal(size=(50, 4))
    coded = CodedItems.of(vectors, ProductQuantizer(2, 4).fit(vectors))
    with pytest.raises(ValueError, match="k must be between 1 and the number of items, 50, got 51"):
        coded.recommended(vectors[:1], 51)
    with pytest.raises(ValueError, match=r"taken must have shape \(1, 50\)"):
        coded.recommended(vectors[:1], 5, tastes())
    with pytest.raises(ValueError, match="metric must be inner_product for a residual code"):
        ResidualQuantizer(2, 4).fit(vectors).tables(vectors, "l2")


class TestTrained:
    """What needs torch."""

    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        pytest.importorskip("torch")

    def hits(self, model: object, taken: sparse.csr_array, held: np.ndarray) -> float:
        scores = model.users(taken) @ model.items.T  # type: ignore[attr-defined]
        scores[taken.toarray() > 0] = -np.inf
        top = np.argsort(-scores, axis=1)[:, :10]
        return float((top == held[:, None]).any(axis=1).mean())

    def test_trained_codes_predict_hidden_items_nearly_as_well_as_floats_and_better_than_codes_that_were_not(
        self,
    ) -> None:
        from tercile.filters.search.recommendation.shared_codes import (
            Training,
            learnt_codebooks,
            learnt_codes,
            learnt_table,
        )

        whole = tastes(600, 120, seed=7).toarray()
        whole = whole[whole.sum(axis=1) >= 3]
        held = np.array([np.flatnonzero(row)[-1] for row in whole])
        whole[np.arange(len(whole)), held] = 0
        taken = sparse.csr_array(whole)
        start = factorize(taken, 8, rounds=4).items
        training = Training(epochs=8, batch=64, step=0.05)
        floats = self.hits(learnt_table(taken, start, training), taken, held)
        fitted = ProductQuantizer(4, 8).fit(start)
        codes = learnt_codes(taken, start, fitted, training)
        books = learnt_codebooks(taken, CodedItems.of(start, fitted), training)
        random = CodedItems(fitted, packed(np.random.default_rng(0).integers(0, 8, (120, 4)), 3), 120)
        chance = self.hits(learnt_codebooks(taken, random, training), taken, held)
        assert min(self.hits(codes, taken, held), self.hits(books, taken, held)) > max(0.9 * floats, 1.1 * chance)
        assert codes.nbytes < 0.5 * (start.nbytes + 8 * 8 * 4)
        assert codes.coded is not None and np.array_equal(codes.coded.vectors(), codes.items)

    def test_bad_settings_and_codes_that_do_not_fit_are_refused(self) -> None:
        from tercile.filters.search.recommendation.shared_codes import Training, learnt_codebooks, learnt_table

        with pytest.raises(ValueError, match="hidden must be in"):
            Training(hidden=1.0)
        with pytest.raises(ValueError, match="epochs must be a whole number"):
            Training(epochs=0)
        with pytest.raises(ValueError, match="a column for each of 3 items, got 120"):
            learnt_table(tastes(), np.eye(3))
        vectors = np.random.default_rng(0).normal(size=(120, 4))
        summed = CodedItems.of(vectors, ResidualQuantizer(2, 4).fit(vectors))
        with pytest.raises(ValueError, match="a product code, got ResidualQuantizer"):
            learnt_codebooks(tastes(), summed)
