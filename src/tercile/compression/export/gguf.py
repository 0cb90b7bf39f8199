"""A GGUF file for llama.cpp: the Llama family, every tensor in the block format that is its scheme bit by bit."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tercile.compression.export.gguf_tokenizer import add_tokenizer
from tercile.compression.package import Packed, read_package
from tercile.files import read_json
from tercile.quantization.export import find_format, to_blocks

#: Architectures of Transformers that are llama.cpp's "llama".
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")


def export_gguf(folder: Path, out: Path) -> Path:
    """Writes a packed folder as one GGUF file.

    Parameters
    ----------
    folder
        What `tercile compress --for gguf` wrote, of a model of the Llama family with a byte-level BPE tokenizer.
    out
        The file; must not exist.

    Returns
    -------
    The file that was written: llama.cpp and what builds on it open it.

    Raises
    ------
    ValueError
        If the model is of another family, a tensor has a scheme that no block format of ggml holds, its positions or
        tokenizer are of a kind that is not known, `gguf` is not installed, or `out` exists.
    """
    try:
        import gguf
    except ImportError:
        raise ValueError('writing GGUF takes the gguf package; run: pip install "tercile[formats]"') from None
    if out.exists():
        raise ValueError(f"{out} exists; choose another file")
    packed = read_package(folder)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    named = (config.get("architectures") or ["a model of another kind"])[0]
    if named not in ARCHITECTURES:
        raise ValueError(
            f"{folder} holds {named}; GGUF is written for {' and '.join(ARCHITECTURES)}: use --to onnx or --to float"
        )
    form = find_format("gguf")
    for name, q in packed.quantized.items():
        form.check(name, q.scheme, q.shape)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        writer = gguf.GGUFWriter(part, "llama")
        _add_settings(writer, config, folder.resolve().name)
        add_tokenizer(writer, folder)
        _add_tensors(writer, packed, config)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return out


def _add_settings(writer: Any, config: Mapping[str, Any], name: str) -> None:
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_name(name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(_positions(config).get("rope_theta", config.get("rope_theta", 10000.0))))
    writer.add_vocab_size(config["vocab_size"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])


def _positions(config: Mapping[str, Any]) -> dict[str, Any]:
    """How positions are turned into angles; its `rope_type` is default or llama3."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = found.get("rope_type", found.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise ValueError(f"config.json: rope_type {kind!r} is not written to GGUF; default and llama3 are")
    return found | {"rope_type": kind}


def _slowed_frequencies(config: Mapping[str, Any], positions: Mapping[str, Any]) -> np.ndarray:
    """What each rotary frequency is divided by: llama3 leaves short waves, slows long ones, blends between."""
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    base = float(positions.get("rope_theta", config.get("rope_theta", 10000.0)))
    waves = 2 * math.pi * base ** (np.arange(0, head, 2) / head)
    low, high = positions["low_freq_factor"], positions["high_freq_factor"]
    turns = positions["original_max_position_embeddings"] / waves
    blend = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - blend) / positions["factor"] + blend)).astype(np.float32)


def _add_tensors(writer: Any, packed: Packed, config: Mapping[str, Any]) -> None:
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"]}
    heads["k_proj"] = config.get("num_key_value_heads") or heads["q_proj"]

    def place(name: str) -> tuple[str, np.ndarray | slice]:
        """ggml's name of a tensor, and the order of its rows there."""
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ValueError(f"tensor {name!r} has no place in a GGUF file of the Llama family")
        count = heads.get(name.split(".")[-2])
        rows = (packed.quantized.get(name) or packed.plain[name]).shape[0]
        return target, slice(None) if count is None else _interleaved(rows, count)

    for name, q in packed.quantized.items():
        target, order = place(name)
        kind, rows = to_blocks(q)
        writer.add_tensor(target, np.ascontiguousarray(rows[order]), raw_dtype=gguf.GGMLQuantizationType[kind])
    for name, value in packed.plain.items():
        target, order = place(name)
        if value.dtype.name == "bfloat16" and value.ndim > 1:
            rows = np.ascontiguousarray(value[order]).view(np.uint8)
            writer.add_tensor(target, rows, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            kept = value.dtype if value.ndim > 1 and value.dtype == np.float16 else np.float32
            writer.add_tensor(target, np.ascontiguousarray(value[order], dtype=kept))
    positions = _positions(config)
    if positions["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _slowed_frequencies(config, positions))


def _interleaved(rows: int, heads: int) -> np.ndarray:
    """ggml turns neighbouring rows of a head together, Transformers row i and row i + half."""
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
