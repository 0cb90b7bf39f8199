"""Reaches the operands of attention inside a running model, whoever wrote it: query, key, softmax's output, value.

Models call `torch.nn.functional.scaled_dot_product_attention`, or two products of matrices with a softmax between
them. A torch function mode sees both as they happen, so no model has to be rewritten.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from tercile.quantization.activations.sites import Operand

Tap = Callable[[Operand, torch.Tensor], torch.Tensor]
_PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm)


class AttentionTap(TorchFunctionMode):
    """While it is entered, every operand of attention passes through `tap(operand, tensor)`.

    Operands are (..., tokens, channels); probabilities (..., queries, keys). Of two products of matrices in a row the
    first is taken for query by key and the second for probabilities by value.
    """

    def __init__(self, tap: Tap) -> None:
        super().__init__()
        self._tap = tap
        self._weighted = False  # whether the next product is probabilities by value

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return attention(self._tap, *args, **given)
        if func in _PRODUCTS and len(args) == 2 and all(each.dim() >= 3 for each in args):
            left, right = args
            if self._weighted:
                left, right = self._tap("probabilities", left), self._tap("value", right)
            else:
                left, right = self._tap("query", left), self._tap("key", right.mT).mT
            self._weighted = not self._weighted
            return func(left, right, **given)
        return func(*args, **given)


def attention(
    tap: Tap,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`scaled_dot_product_attention` step by step, each operand passed through `tap`.

    Arguments are those of torch's function. Costs the memory of all probabilities at once.

    Examples
    --------
    >>> q, k, v = torch.randn(3, 2, 4, 5, 8)
    >>> same = attention(lambda operand, x: x, q, k, v, is_causal=True)
    >>> torch.allclose(same, F.scaled_dot_product_attention(q, k, v, is_causal=True), atol=1e-6)
    True
    """
    query, key = tap("query", query), tap("key", key)
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        above = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(above, -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    # A row without any key is all NaN after softmax; torch gives zeros there.
    weights = tap("probabilities", F.dropout(scores.softmax(-1).nan_to_num(0.0), dropout_p))
    value = tap("value", value)
    if enable_gqa:
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    return weights @ value
