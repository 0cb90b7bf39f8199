"""A byte-level BPE tokenizer, as the keys of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tercile.files import read_json

# How llama.cpp calls the ways in which text is cut before merging, by the pattern that tokenizer.json gives.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    _CONTRACTIONS + r"|\p{N}{1,3}" + _REST: "llama-bpe",
    _CONTRACTIONS + r"|\p{N}" + _REST: "qwen2",
}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def add_tokenizer(writer: Any, folder: Path) -> None:
    """Adds a folder's tokenizer to a `gguf.GGUFWriter`.

    Raises
    ------
    ValueError
        If tokenizer.json is missing, is no byte-level BPE, or cuts text in a way that llama.cpp has no name for.
    """
    path = folder / "tokenizer.json"
    read = read_json(path)
    model = read.get("model", {})
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        kind = "BPE with byte fallback" if model.get("byte_fallback") else model.get("type")
        raise ValueError(f"{path} is {kind!r}; only byte-level BPE is written to GGUF")
    config = read_json(folder / "config.json")
    names = {token: int(number) for token, number in model["vocab"].items()}
    added = {token["content"]: token for token in read.get("added_tokens", [])}
    names |= {content: int(token["id"]) for content, token in added.items()}
    size = max(int(config["vocab_size"]), max(names.values()) + 1)
    tokens, types = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    for token, number in names.items():
        tokens[number] = token
        types[number] = NORMAL if token not in added else CONTROL if added[token]["special"] else USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitting(read, path))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = model["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    first = _first_token(read)
    writer.add_add_bos_token(first is not None)
    bos = names.get(first) if first is not None else config.get("bos_token_id")
    for add, token_id in ((writer.add_bos_token_id, bos), (writer.add_eos_token_id, config.get("eos_token_id"))):
        first_id = token_id[0] if isinstance(token_id, list) else token_id
        if first_id is not None:
            add(int(first_id))


def _splitting(read: Mapping[str, Any], path: Path) -> str:
    """llama.cpp's name of how text is cut before merging."""
    before = read.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        name = SPLITS.get(steps[0].get("pattern", {}).get("Regex", ""))
        if name is not None:
            return name
    raise ValueError(f"{path} cuts text in a way that GGUF has no name for ({', '.join(map(str, kinds))})")


def _first_token(read: Mapping[str, Any]) -> str | None:
    """The special token that every text begins with, if there is one."""
    after = read.get("post_processor") or {}
    steps = after.get("processors", [after])
    for step in steps:
        if step.get("type") == "TemplateProcessing" and step["single"] and "SpecialToken" in step["single"][0]:
            return str(step["single"][0]["SpecialToken"]["id"])
    return None
