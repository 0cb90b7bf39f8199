"""Llama and its kin with the same blocks: pre-norm decoders with a gated feed-forward part, RMSNorm and, in
most, grouped-query attention.

A norm feeds only the projections after it; the residual goes round it. Values are averaged, up-projections
are multiplied by the gate: both pass a factor on to the layer that reads them. Each head of values is read by
as many heads of the output projection as the group has queries.
"""

from __future__ import annotations

from torch import nn

from tercile.quantization.families.family import Family, Scaling, Stream
from tercile.quantization.families.layers import Inventory, has_gain, model_type, stack
from tercile.quantization.families.stacked import stacked

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
ATTENTION_NORM, QUERY, KEY = "input_layernorm", "self_attn.q_proj", "self_attn.k_proj"
VALUE, OUTPUT, FEED_NORM = "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm"
GATE, UP, DOWN = "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"


def describe_llama(model: nn.Module, found: Inventory) -> Family | None:
    """The family, or None if the model is not of it."""
    names = stack(model, ATTENTION_NORM, QUERY, KEY, VALUE, OUTPUT, FEED_NORM, GATE, UP, DOWN)
    if model_type(model) not in MODEL_TYPES or not names:
        return None
    modules = dict(model.named_modules())
    blocks = {}
    for name in names:
        value, output = modules[f"{name}.{VALUE}"], modules[f"{name}.{OUTPUT}"]
        head = int(modules[f"{name}.self_attn"].head_dim)
        repeats = output.in_features // value.out_features
        projections = tuple(f"{name}.{each}" for each in (QUERY, KEY, VALUE))
        scalings = (
            Scaling(f"{name}.{ATTENTION_NORM}", projections, "norm"),
            Scaling(f"{name}.{FEED_NORM}", (f"{name}.{GATE}", f"{name}.{UP}"), "norm"),
            Scaling(f"{name}.{UP}", (f"{name}.{DOWN}",), "linear"),
            Scaling(f"{name}.{VALUE}", (f"{name}.{OUTPUT}",), "linear", repeats, head),
        )
        blocks[name] = scalings
    # Where some layers see a window of the text and some all of it, blocks differ in the mask they are given.
    kinds = set(getattr(model.config, "layer_types", None) or ())
    return stacked(
        "llama", found, blocks, _head(modules, found), sequential=len(kinds) <= 1, stream=_stream(modules, names)
    )


def _stream(modules: dict[str, nn.Module], names: tuple[str, ...]) -> Stream | None:
    """The embedding and the second half of each block write to it; without a head its basis is the model's output."""
    table, norm, head = "model.embed_tokens", "model.norm", "lm_head"
    words = modules.get(table)
    if not isinstance(words, nn.Embedding) or norm not in modules or head not in modules:
        return None
    norms: list[tuple[str, tuple[str, ...]]] = [(norm, (head,))]
    for name in names:
        norms.append((f"{name}.{ATTENTION_NORM}", tuple(f"{name}.{each}" for each in (QUERY, KEY, VALUE))))
        norms.append((f"{name}.{FEED_NORM}", (f"{name}.{GATE}", f"{name}.{UP}")))
    return Stream(
        width=words.embedding_dim,
        writers=(table, *(f"{name}.{each}" for name in names for each in (OUTPUT, DOWN))),
        parameters=(),
        norms=tuple(norms),
        centred=False,
    )


def _head(modules: dict[str, nn.Module], found: Inventory) -> tuple[Scaling, ...]:
    """The last norm feeds the head alone, which can take a factor unless it is tied to the embedding.

    Without a head, as in the bare model, the norm's output is the model's and nothing may change it.
    """
    norm, head = "model.norm", "lm_head"
    if norm in modules and head in modules and has_gain(modules[norm]) and head not in found.shared:
        return (Scaling(norm, (head,), "norm"),)
    return ()
