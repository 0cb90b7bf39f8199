"""Product codes against brute force, against faiss and against what rotations promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tercile.filters.search.codewords import k_means, nearest_codewords
from tercile.filters.search.optimized_product_quantization import (
    OptimizedProductQuantizer,
    balanced_axes,
    procrustes,
)
from tercile.filters.search.product_quantization import ProductQuantizer, table_sums

KINDS = [ProductQuantizer, OptimizedProductQuantizer]


def clustered(n: int = 3000, width: int = 16, seed: int = 0) -> np.ndarray:
    """Correlated vectors with lengths of very different size along their directions."""
    random = np.random.default_rng(seed)
    mixing = np.linalg.qr(random.normal(size=(width, width)))[0] * np.geomspace(3, 0.05, width)
    return (random.normal(size=(n, width)) @ mixing.T).astype(np.float32)


def squared_error(quantizer: ProductQuantizer, vectors: np.ndarray) -> float:
    return float(np.square(quantizer.decode(quantizer.encode(vectors)) - vectors).sum(axis=1).mean())


def test_the_nearest_codeword_is_the_one_that_brute_force_finds() -> None:
    random = np.random.default_rng(1)
    points, codewords = random.normal(size=(400, 5)).astype("f4"), random.normal(size=(37, 5)).astype("f4")
    distance = np.square(points[:, None].astype("f8") - codewords[None]).sum(axis=2)
    assert nearest_codewords(points, codewords).tolist() == distance.argmin(axis=1).tolist()


def test_k_means_leaves_every_codeword_at_the_mean_of_its_points_and_none_empty() -> None:
    random = np.random.default_rng(2)
    centres = random.normal(size=(12, 3)) * 20
    points = (centres[random.integers(0, 12, 2000)] + random.normal(size=(2000, 3))).astype("f4")
    points[:1500] = points[0]  # most starting points are one and the same, so that codewords start empty
    codewords = k_means(points, 12, 60, np.random.default_rng(0))
    chosen = nearest_codewords(points, codewords)
    assert len(set(chosen.tolist())) == 12
    for i in range(12):
        np.testing.assert_allclose(codewords[i], points[chosen == i].mean(axis=0), atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_name_the_nearest_codeword_in_every_piece(kind: type[ProductQuantizer]) -> None:
    vectors = clustered(500)
    quantizer = kind(pieces=4, codewords=16).fit(vectors)
    turned = vectors @ getattr(quantizer, "rotation_", np.eye(16, dtype="f4"))
    codes = quantizer.encode(vectors)
    for i in range(4):
        piece = turned[:, 4 * i : 4 * i + 4].astype("f8")
        distance = np.square(piece[:, None] - quantizer.codebooks_[i][None]).sum(axis=2)
        best = distance[np.arange(500), codes[:, i]]
        np.testing.assert_allclose(best, distance.min(axis=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_table_scores_are_the_comparisons_with_decoded_vectors(kind: type[ProductQuantizer], metric: str) -> None:
    vectors = clustered(600)
    quantizer = kind(pieces=4, codewords=16).fit(vectors)
    codes, queries = quantizer.encode(vectors), clustered(20, seed=5)
    decoded = quantizer.decode(codes).astype("f8")
    if metric == "inner_product":
        exact = queries @ decoded.T
        order = np.argsort(-exact, axis=1, kind="stable")
    else:
        exact = np.square(queries[:, None].astype("f8") - decoded[None]).sum(axis=2)
        order = np.argsort(exact, axis=1, kind="stable")
    tables = quantizer.tables(queries, metric)
    by_table = np.stack([table_sums(table, codes) for table in tables])
    np.testing.assert_allclose(by_table, exact, rtol=1e-4, atol=1e-3)
    rows, scores = quantizer.nearest(queries, codes, 10, metric)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, order[:, :10], axis=1), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(scores, np.take_along_axis(by_table, rows, axis=1))


def test_the_error_falls_with_bytes_and_is_nil_with_a_codeword_for_every_vector() -> None:
    vectors = clustered(256)
    errors = [squared_error(ProductQuantizer(pieces, 16).fit(vectors), vectors) for pieces in (1, 2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    assert squared_error(ProductQuantizer(2, 256).fit(vectors), vectors) < 1e-9


def test_a_learnt_rotation_is_orthogonal_and_no_worse_than_axes_dealt_out_nor_than_none() -> None:
    vectors = clustered()
    plain = squared_error(ProductQuantizer(4, 32).fit(vectors), vectors)
    axes = OptimizedProductQuantizer(4, 32, rounds=0).fit(vectors)
    learnt = OptimizedProductQuantizer(4, 32).fit(vectors)
    np.testing.assert_allclose(learnt.rotation_.T @ learnt.rotation_, np.eye(16), atol=1e-5)
    assert squared_error(learnt, vectors) < 1.01 * squared_error(axes, vectors) < 0.9 * plain


def test_balanced_axes_give_pieces_equal_products_of_variances() -> None:
    vectors = clustered(20_000, 12)
    turned = vectors @ balanced_axes(vectors, 3)
    products = np.log(turned.var(axis=0).reshape(3, 4)).sum(axis=1)
    # By chance of the deal, three pieces of four axes that span a factor of 3,600 differ by less than one axis' step.
    assert np.ptp(products) < 2 * np.log(np.geomspace(3, 0.05, 12)[0] / np.geomspace(3, 0.05, 12)[1])


def test_the_rotation_that_vectors_went_through_is_found_again() -> None:
    vectors = clustered(200, 6)
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(6, 6)))[0].astype("f4")
    np.testing.assert_allclose(procrustes(vectors, vectors @ turn), turn, atol=1e-4)


@pytest.mark.parametrize(("kind", "peer"), [(ProductQuantizer, "PQ8x4"), (OptimizedProductQuantizer, "OPQ8,PQ8x4")])
def test_the_error_is_that_of_faiss(kind: type[ProductQuantizer], peer: str) -> None:
    faiss = pytest.importorskip("faiss")
    vectors, unseen = clustered(4000, 32), clustered(2000, 32)
    index = faiss.index_factory(32, peer)
    index.train(vectors)
    theirs = np.square(index.sa_decode(index.sa_encode(unseen)) - unseen).sum(axis=1).mean()
    ours = squared_error(kind(8, 16).fit(vectors), unseen)
    assert ours < 1.05 * theirs


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_quantizer_gives_the_same_codes_and_a_damaged_file_is_refused(
    kind: type[ProductQuantizer], tmp_path: Path
) -> None:
    vectors, path = clustered(300), tmp_path / "codes.safetensors"
    quantizer = kind(pieces=4, codewords=16).fit(vectors)
    quantizer.save(path)
    opened = kind.open(path)
    assert np.array_equal(opened.encode(vectors), quantizer.encode(vectors))
    assert (opened.pieces, opened.codewords, opened.nbytes) == (4, 16, quantizer.nbytes)
    (other,) = set(KINDS) - {kind}
    with pytest.raises(ValueError, match=f"not a '{other.kind}'"):
        other.open(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="truncated or damaged"):
        kind.open(path)


def test_the_same_seed_gives_the_same_codebooks() -> None:
    vectors = clustered(400)
    first, second = (OptimizedProductQuantizer(4, 16, seed=3).fit(vectors) for _ in range(2))
    assert np.array_equal(first.codebooks_, second.codebooks_)


def test_more_than_256_codewords_are_stored_in_two_bytes() -> None:
    vectors = clustered(600, 4)
    codes = ProductQuantizer(2, 300, iterations=2).fit(vectors).encode(vectors)
    assert codes.dtype == np.uint16 and codes.max() > 255


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused_by_name(kind: type[ProductQuantizer]) -> None:
    vectors = clustered(100)
    with pytest.raises(ValueError, match="call fit first"):
        kind().encode(vectors)
    with pytest.raises(ValueError, match="width 16, which 5 pieces do not divide"):
        kind(pieces=5, codewords=4).fit(vectors)
    with pytest.raises(ValueError, match="at least as many as codewords, 256, got 100"):
        kind(pieces=4).fit(vectors)
    with pytest.raises(ValueError, match="codewords must be a whole number from 1 to 65536, got True"):
        kind(pieces=4, codewords=True).fit(vectors)
    with pytest.raises(ValueError, match="remove or mend row 7"):
        kind(pieces=4, codewords=4).fit(np.where(np.arange(100)[:, None] == 7, np.nan, vectors))
    with pytest.raises(ValueError, match="vectors must be numbers of shape"):
        kind(pieces=4, codewords=4).fit(vectors[0])
    fitted = kind(pieces=4, codewords=4).fit(vectors)
    codes = fitted.encode(vectors)
    with pytest.raises(ValueError, match="vectors must have width 16, got 3"):
        fitted.encode(vectors[:, :3])
    with pytest.raises(ValueError, match="codes must be between 0 and 3, got 0 to 4"):
        fitted.decode(np.arange(5)[:, None] * [1, 1, 1, 1])
    with pytest.raises(ValueError, match="whole numbers \\(n, 4\\)"):
        fitted.decode(codes[:, :2])
    with pytest.raises(ValueError, match="k must be between 1 and the number of codes, 100, got 101"):
        fitted.nearest(vectors[:1], codes, 101)
    with pytest.raises(ValueError, match="metric must be one of inner_product, l2, got 'cosine'"):
        fitted.tables(vectors[:1], "cosine")  # type: ignore[arg-type]


def test_negative_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be a whole number from 0, got -1"):
        OptimizedProductQuantizer(4, 4, rounds=-1).fit(clustered(100))
