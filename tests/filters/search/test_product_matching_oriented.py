"""Codes learnt from pairs: the loss and its gradients against plain definitions, and what they are good for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tercile.filters.search.matching_oriented import (  # noqa: E402
    MatchingOrientedQuantizer,
    contrastive_loss,
    device_loss,
    quantized,
)
from tercile.filters.search.optimized_product_quantization import OptimizedProductQuantizer  # noqa: E402


def pairs(n: int, seed: int = 0, width: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Keys whose largest directions queries do not care about: keeping vectors keeps the wrong things."""
    random = np.random.default_rng(seed)
    scale = np.r_[np.full(width // 2, 3.0), np.full(width - width // 2, 1.0)]
    keys = random.normal(size=(n, width)) * scale / 10
    queries = keys + 0.02 * random.normal(size=keys.shape)
    queries[:, : width // 2] = 0
    return queries.astype("f4"), keys.astype("f4")


def recall(quantizer: OptimizedProductQuantizer | MatchingOrientedQuantizer, k: int = 10) -> float:
    queries, keys = pairs(1000, seed=9)
    found, _ = quantizer.nearest(queries[:300], quantizer.encode(keys), k)
    return float((found == np.arange(300)[:, None]).any(axis=1).mean())


def test_the_loss_is_the_mean_surprise_of_each_querys_own_key() -> None:
    random = np.random.default_rng(0)
    queries, keys = random.normal(size=(2, 6, 3))
    scores = np.exp(queries @ keys.T / 0.7)
    wanted = -np.log(np.diag(scores) / scores.sum(axis=1)).mean()
    assert float(contrastive_loss(torch.tensor(queries), torch.tensor(keys), 0.7)) == pytest.approx(wanted)


def test_gradients_of_all_devices_add_up_to_those_of_one_large_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    queries, keys = (torch.randn(12, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    weights = [torch.eye(5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    asked, answers = queries @ weights[0], keys @ weights[1]
    whole = torch.autograd.grad(contrastive_loss(asked, answers, 0.3), weights, retain_graph=True)
    summed = [torch.zeros_like(one) for one in weights]
    for device in range(3):
        loss = device_loss(device, asked.split(4), answers.split(4), 0.3)
        for total, part in zip(summed, torch.autograd.grad(loss, weights, retain_graph=True)):
            total += part
    for total, part in zip(summed, whole):
        torch.testing.assert_close(total, part)
    # Which they do not if each device scores its own queries alone.
    alone = [torch.zeros_like(one) for one in weights]
    for device in range(3):
        own = (
            asked.split(4)[device]
            @ torch.cat([part if i == device else part.detach() for i, part in enumerate(answers.split(4))]).T
        )
        loss = torch.nn.functional.cross_entropy(own / 0.3, torch.arange(4) + 4 * device) / 3
        for total, part in zip(alone, torch.autograd.grad(loss, weights, retain_graph=True)):
            total += part
    assert not torch.allclose(alone[1], whole[1], rtol=1e-2)


def test_quantized_keys_are_the_nearest_codewords_and_gradients_those_of_the_soft_mean() -> None:
    generator = torch.Generator().manual_seed(2)
    keys = torch.randn(40, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    books = torch.randn(3, 5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    out = quantized(keys, books, 0.5)
    soft = torch.zeros_like(out)
    for piece in range(3):
        part = keys[:, 2 * piece : 2 * piece + 2]
        distance = torch.cdist(part, books[piece]).square()
        nearest = books[piece][distance.argmin(dim=1)]
        torch.testing.assert_close(out[:, 2 * piece : 2 * piece + 2], nearest)
        soft[:, 2 * piece : 2 * piece + 2] = torch.softmax(-distance / 0.5, dim=1) @ books[piece]
    (ours,) = torch.autograd.grad((out * upstream).sum(), keys)
    (wanted,) = torch.autograd.grad((soft * upstream).sum(), keys)
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("adapt", [False, True])
def test_codes_learnt_from_pairs_find_more_answers_than_codes_that_keep_vectors(adapt: bool) -> None:
    queries, keys = pairs(2000)
    kept = OptimizedProductQuantizer(2, 32).fit(keys)
    learnt = MatchingOrientedQuantizer(2, 32, adapt=adapt, epochs=30, batch=100, step=0.03).fit(queries, keys)
    assert recall(learnt) > 1.5 * recall(kept)


def test_without_maps_the_vectors_are_only_rotated() -> None:
    queries, keys = pairs(300)
    fitted = MatchingOrientedQuantizer(2, 16, adapt=False, epochs=1, batch=50).fit(queries, keys)
    np.testing.assert_allclose(fitted.key_map_ @ fitted.query_map_.T, np.eye(16), atol=1e-5)


def test_a_saved_quantizer_answers_as_before(tmp_path: Path) -> None:
    queries, keys = pairs(300)
    fitted = MatchingOrientedQuantizer(2, 16, epochs=2, batch=50).fit(queries, keys)
    fitted.save(tmp_path / "codes.safetensors")
    opened = MatchingOrientedQuantizer.open(tmp_path / "codes.safetensors")
    codes = fitted.encode(keys)
    assert np.array_equal(opened.encode(keys), codes)
    assert np.array_equal(opened.nearest(queries, codes, 5)[0], fitted.nearest(queries, codes, 5)[0])


def test_the_same_seed_gives_the_same_codebooks() -> None:
    first, second = (
        MatchingOrientedQuantizer(2, 16, epochs=2, batch=50, seed=4).fit(*pairs(300)).codebooks_ for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_bad_input_is_refused_by_name() -> None:
    queries, keys = pairs(100)
    with pytest.raises(TypeError, match="learns from fit\\(queries, keys\\)"):
        MatchingOrientedQuantizer(2, 16).fit(queries)
    with pytest.raises(ValueError, match="pairs of one width, got \\(99, 16\\) and \\(100, 16\\)"):
        MatchingOrientedQuantizer(2, 16).fit(queries[1:], keys)
    with pytest.raises(ValueError, match="queries must be finite"):
        MatchingOrientedQuantizer(2, 16).fit(np.full_like(queries, np.inf), keys)
    with pytest.raises(ValueError, match="epochs must be a whole number from 1 to"):
        MatchingOrientedQuantizer(2, 16, epochs=0).fit(queries, keys)
    with pytest.raises(ValueError, match="start must have 2 pieces, 16 codewords and width 16, got 4, 8 and 16"):
        MatchingOrientedQuantizer(2, 16).fit(queries, keys, OptimizedProductQuantizer(4, 8).fit(keys))
    with pytest.raises(ValueError, match="temperature must be above zero, got 0"):
        MatchingOrientedQuantizer(2, 16, temperature=0).fit(queries, keys)
