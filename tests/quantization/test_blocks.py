"""Blocks against a loop over single elements."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.quantization import blocks

SPELLINGS = ["tensor", "channel", "token", "g1", "g3", "g64", "t1x1", "t2x3", "t4x5", "t100x2", "t3x100"]
MATRICES = [(1, 1), (1, 7), (7, 1), (4, 6), (5, 8), (9, 64)]


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_element_is_in_exactly_one_piece_that_lies_where_its_block_does(spelling: str, matrix) -> None:
    cut = blocks.parse(spelling)
    numbers = np.arange(matrix[0] * matrix[1], dtype=np.float32).reshape(matrix)
    owner = cut.row_of(matrix[0])[:, None] * cut.count(matrix)[1] + cut.column_of(matrix[1])[None, :]
    seen = []
    for rows, columns, values in cut.pieces(numbers):
        ids = np.arange(np.prod(cut.count(matrix))).reshape(cut.count(matrix))[rows, columns].reshape(-1)
        assert len(ids) == len(values)
        for block, elements in zip(ids, values):
            assert sorted(elements.tolist()) == sorted(numbers[owner == block].tolist())
            seen.extend(elements.tolist())
    assert sorted(seen) == sorted(numbers.reshape(-1).tolist())


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_parameter_a_block_is_spread_to_its_elements(spelling: str, matrix) -> None:
    cut = blocks.parse(spelling)
    parameters = np.random.default_rng(0).normal(size=cut.count(matrix)).astype(np.float32)
    full = np.broadcast_to(cut.spread(parameters, matrix), matrix)
    tall, wide = cut.rows or matrix[0], cut.columns or matrix[1]
    for row in range(matrix[0]):
        for column in range(matrix[1]):
            assert full[row, column] == parameters[row // tall, column // wide]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spelling_names_the_same_blocks(spelling: str) -> None:
    assert blocks.parse(spelling).spelling == spelling
    assert blocks.parse(blocks.parse(spelling).spelling) == blocks.parse(spelling)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: blocks.parse("g0"), ValueError, "at least 1, got 0"),
        (lambda: blocks.parse("t2x0"), ValueError, "columns must be"),
        (lambda: blocks.parse("row"), ValueError, "tensor, channel, token, g64, t16x16"),
        (lambda: blocks.parse(64), TypeError, "must be a string"),
        (lambda: blocks.group(2.5), ValueError, r"whole number.*2\.5"),
        (lambda: blocks.group(-1), ValueError, "got -1"),
        (lambda: blocks.tile(True, 2), ValueError, "rows must be"),
    ],
)
def test_bad_input_is_named(make, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_tensor_is_a_matrix_of_its_first_axis() -> None:
    assert [blocks.as_matrix(s) for s in [(), (5,), (2, 3), (2, 3, 4, 5)]] == [(1, 1), (1, 5), (2, 3), (2, 60)]
