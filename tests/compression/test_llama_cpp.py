"""GGUF exports, run by llama.cpp itself: the same tokens, and logits that differ by no more than it rounds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tercile import zoo
from tercile.api import certify, export, verify
from tercile.compression.package import load_package
from tercile.compression.source import Source, open_source
from tercile.compression.third_party import open_third_party
from tercile.filters.data import read
from tercile.quantization.export.gguf_blocks import TYPES, block_type
from tercile.quantization.families import Layer, describe
from tercile.quantization.scheme import Scheme

from .packs import pack

llama_cpp = pytest.importorskip("llama_cpp")
TEXTS = [
    "In the beginning was the word, and 1234 of them.",
    "This package provides a library for C programs, and its documentation: naïve café, 2 × 3.\n\tThe end",
]


@pytest.fixture(scope="module")
def llama() -> Source:
    return open_source(zoo.find("debian-llama").source)


def theirs(path: Path, source: Source, text: str, **settings: int) -> np.ndarray:
    """llama.cpp's logits at every token; it must cut the text into the tokens that Transformers does."""
    model = llama_cpp.Llama(str(path), n_ctx=128, logits_all=True, verbose=False, n_threads=1, **settings)
    ids = source.prepare([text])["input_ids"][0].tolist()
    assert model.tokenize(text.encode()) == ids
    model.eval(ids)
    return np.array(model.scores[: len(ids)])


@torch.no_grad()
def ours(module: torch.nn.Module, source: Source, text: str) -> np.ndarray:
    return module(**source.prepare([text])).logits[0].numpy()


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other - other.mean()))


@contextmanager
def eight_bits(module: torch.nn.Module, sizes: dict[str, int]) -> Iterator[None]:
    """Rounds what linear layers read as llama.cpp does: 8 bits and a scale for each run of so many channels."""

    def rounding(size: int):
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            runs = args[0].unflatten(-1, (-1, size))
            scale = runs.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
            return ((runs / scale).round().mul(scale).flatten(-2),)

        return hook

    handles = [module.get_submodule(name).register_forward_pre_hook(rounding(size)) for name, size in sizes.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_without_quantization_llama_cpp_gives_the_logits_of_transformers(llama, tmp_path) -> None:
    float32 = replace(llama, dtypes=dict.fromkeys(llama.dtypes, torch.float32))
    small = pack(float32, tmp_path / "small", lambda number, layer: None)
    path = export(small, tmp_path / "m.gguf", "gguf")
    for text in TEXTS:
        # Its cache of keys and values is float16 unless it is told otherwise (type 0 is float32).
        assert distance(theirs(path, llama, text, type_k=0, type_v=0), ours(llama.module.float(), llama, text)) < 3e-6


@pytest.mark.parametrize("spelling", TYPES)
def test_llama_cpp_says_the_same_within_what_its_8_bit_activations_cost(llama, tmp_path, spelling) -> None:
    def choose(number: int, layer: Layer) -> str:
        return spelling if block_type(Scheme.parse(spelling), layer.shape) else "int8-g32"

    small = pack(llama, tmp_path / "small", choose)
    path = export(small, tmp_path / "m.gguf", "gguf")
    decoded = load_package(small).module
    sizes = {layer.name: TYPES[choose(0, layer)][1] for layer in describe(decoded).layers}
    sizes["lm_head"] = sizes.pop("model.embed_tokens")  # tied
    assert any(TYPES[spelling][1] == size for size in sizes.values())
    for text in TEXTS:
        plain, found = ours(decoded, llama, text), theirs(path, llama, text)
        with eight_bits(decoded, sizes):
            rounded = ours(decoded, llama, text)
        assert distance(found, plain) < 1.5 * distance(rounded, plain) < 0.04
        # Where the first choice is not a close call, it is the same.
        top = np.sort(plain, axis=1)
        clear = top[:, -1] - top[:, -2] > 3 * np.abs(rounded - plain).max()
        assert (found.argmax(1) == plain.argmax(1))[clear].all() and clear.mean() > 0.1


def test_what_llama_cpp_runs_is_certified_with_all_that_it_rounds(llama, tmp_path) -> None:
    small = pack(llama, tmp_path / "small", lambda number, layer: "int8-g32")
    path = export(small, tmp_path / "m.gguf", "gguf")
    texts = [example.content for example, _ in zip(read(zoo.find("debian-llama").sample), range(40))]
    losses = {}
    for spec in (str(path), f"llama.cpp:{path}"):
        made = certify("debian-llama", spec, texts, out=tmp_path / f"of {spec[:5]}", confidence=0.5)
        losses[spec[:5]] = made.certificate["risk"]
        assert verify(made.folder).ok
    assert made.certificate["small"]["kind"] == "llama.cpp"
    assert 1.1 * losses[str(path)[:5]] < losses["llama"] < 0.05  # 8 bits of weights alone, and of what is read as well
    padded = llama.prepare([texts[0][:200], "Short"])
    module = open_third_party(f"llama.cpp:{path}").module
    both, alone = module(**padded).logits, module(**llama.prepare(["Short"])).logits
    torch.testing.assert_close(both[1, : alone.shape[1]], alone[0])
    (tmp_path / "no.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ValueError, match=r"no\.gguf' can't be opened by llama\.cpp"):
        open_third_party(f"llama.cpp:{tmp_path / 'no.gguf'}")
    with pytest.raises(ValueError, match=r"there is no file .*gone\.gguf"):
        open_third_party(f"llama.cpp:{tmp_path / 'gone.gguf'}")
