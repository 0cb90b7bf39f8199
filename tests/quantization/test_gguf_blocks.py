"""Our schemes in ggml's layout, read back by ggml's own Python package."""

from __future__ import annotations

import numpy as np
import pytest

from tercile.quantization import Scheme
from tercile.quantization.export import block_type, to_blocks
from tercile.quantization.export.gguf_blocks import TYPES
from tercile.quantization.solvers import round_to_nearest

gguf = pytest.importorskip("gguf")


@pytest.mark.parametrize("spelling", TYPES)
def test_the_gguf_package_decodes_the_very_numbers_that_we_do(spelling) -> None:
    weight = np.random.default_rng(3).standard_t(3, (24, 768)).astype(np.float32)
    weight[5] *= 1e-3
    weight[7, 256:512] = 0
    q = round_to_nearest(weight, None, Scheme.parse(spelling))
    name, rows = to_blocks(q)
    kind = gguf.GGMLQuantizationType[name]
    size, nbytes = gguf.GGML_QUANT_SIZES[kind]
    assert rows.shape == (24, 768 // size * nbytes)
    np.testing.assert_array_equal(gguf.quants.dequantize(rows, kind), q.dequantize())


@pytest.mark.parametrize("spelling", TYPES)
def test_what_is_written_takes_what_the_scheme_counts(spelling) -> None:
    """Formats of ggml with unused sign bits in their small scales are the exception, and are larger by just these."""
    shape = (16, 512)
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    q = round_to_nearest(weight, None, Scheme.parse(spelling))
    spare = {"Q6_K": 1, "Q3_K": 1}.get(block_type(q.scheme, shape), 0) * (16 * 512 // 16) / 8
    assert to_blocks(q)[1].nbytes == q.nbytes + spare


def test_schemes_and_widths_that_no_format_holds_are_refused() -> None:
    weight = np.ones((4, 96), np.float32)
    for spelling in ("int4-g32-asym-k6", "int4-g64", "nf4-g32", "int4-g32-asym"):
        with pytest.raises(ValueError, match="no block format of ggml holds"):
            to_blocks(round_to_nearest(weight, None, Scheme.parse(spelling)))
