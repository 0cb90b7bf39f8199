"""Damages the files that we read, in every way that a disk, a bad writer or an enemy might, and opens them.

    python tests/fuzz_formats.py --minutes 5

Whatever the bytes, opening ends with a model or with a ValueError that names the file: no other exception, no crash, no
more memory than a small model takes, no more than seconds. Each opening runs in a process of its own, so that a crash
is seen and the next one starts clean. A failure prints its seed; --only TARGET --seed SEED repeats it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: What a case may take: bytes beyond what the process has, and seconds.
MEMORY, SECONDS = 3 << 30, 60
NUMBERS = (0, 1, 7, 8, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 1.5, 2**31, 2**40, 2**63, -(2**63), 10**30, 1e308, "", "x", "-1", "int4-g128", "\x00",
    "..", "../../../etc/passwd", "/dev/zero", "int9999999999-g1", "int4-g99999999999999999999", "cb[nan,1]-g32", [], {},
    [[]], [0], [-1, 4], [2**62, 2**62], [1, 2, 3, 4, 5, 6, 7, 8, 9], {"": None},
)  # fmt: skip
Open = Callable[[Path], object]


@dataclass(frozen=True)
class Target:
    """A kind of file or folder, a good one of it, and what opens it."""

    name: str
    good: Path
    open: Open

    @property
    def files(self) -> list[Path]:
        """Those that are damaged, relative to the folder."""
        if self.good.is_file():
            return [Path()]
        return [p.relative_to(self.good) for p in sorted(self.good.iterdir()) if p.suffix in WRITERS]


def damage_bytes(data: bytes, random: np.random.Generator) -> bytes:
    """Cuts, flips, moves, repeats, or writes numbers that are too large; near the start as often as anywhere."""
    kind = random.integers(6)
    limit = len(data) if random.random() < 0.5 else min(len(data), 4096)
    at = int(random.integers(limit)) if limit else 0
    if kind == 0:
        return data[:at]
    changed = bytearray(data)
    if kind == 1:
        for place in random.integers(limit, size=int(random.integers(1, 9))):
            changed[place] ^= 1 << int(random.integers(8))
    elif kind == 2:
        width = int(random.choice([1, 2, 4, 8]))
        changed[at : at + width] = (int(random.choice(NUMBERS_OBJECT)) % 256**width).to_bytes(width, "little")
    elif kind == 3:
        del changed[at : at + int(random.integers(1, 65))]
    elif kind == 4:
        changed[at:at] = changed[at : at + int(random.integers(1, 65))]
    else:
        changed[at : at + 64] = random.bytes(64)
    return bytes(changed)


NUMBERS_OBJECT = np.array(NUMBERS, dtype=object)


def damage_json(value: Any, random: np.random.Generator) -> Any:
    """Replaces, drops or renames one part of a document, at any depth."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = list(value)[int(random.integers(len(value)))]
        if (chance := random.random()) < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if chance < 0.2:
            return {("x" if k == key else k): v for k, v in value.items()}
        return {**value, key: damage_json(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.7:
        place = int(random.integers(len(value)))
        return [*value[:place], damage_json(value[place], random), *value[place + 1 :]]
    return VALUES[int(random.integers(len(VALUES)))]


def damage_document(data: bytes, random: np.random.Generator) -> bytes:
    """A JSON file: one part replaced, or nested deeper than a parser can go, or its bytes damaged."""
    chance = random.random()
    if chance < 0.25:
        return damage_bytes(data, random)
    if chance < 0.3:
        return [b"[" * 200_000, b'{"a":' * 100_000, b"9" * 100_000, b'{"a": 1, "a": NaN}', b""][random.integers(5)]
    changed = json.loads(data)
    for _ in range(int(random.integers(1, 4))):
        changed = damage_json(changed, random)
    return json.dumps(changed).encode()


def damage_tensors(data: bytes, random: np.random.Generator) -> bytes:
    """A safetensors file: one part of its header replaced, numbers that are none, or its bytes damaged."""
    if random.random() < 0.3:
        return damage_bytes(data, random)
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
    names = [name for name in header if name != "__metadata__"]
    name = names[int(random.integers(len(names)))]
    start, stop = header[name]["data_offsets"]
    chance = random.random()
    if chance < 0.35:
        hostile = [b"\x00\x7e", b"\xff\xff", b"\x00\x7c", b"\x00\xfc", b"\x00\x00\xc0\x7f", b"\xff\xff\xff\xff"]
        pattern = hostile[int(random.integers(len(hostile)))]
        body[start:stop] = (pattern * (stop - start))[: stop - start]
    elif chance < 0.5:
        header[name]["dtype"] = str(random.choice(["F64", "F16", "I8", "U8", "BF16", "F8_E4M3", "I64", "BOOL", "C64"]))
    elif chance < 0.6:
        header[name]["shape"] = header[name]["shape"][::-1] + [1] * int(random.integers(3))
    else:
        header[name] = damage_json(header[name], random)
    made = json.dumps(header).encode()
    return len(made).to_bytes(8, "little") + made + bytes(body)


WRITERS: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    ".json": damage_document,
    ".safetensors": damage_tensors,
    ".gguf": damage_bytes,
    ".onnx": damage_bytes,
}


def damaged_copy(target: Target, seed: int, place: Path) -> Path:
    """A copy of the good one with one file damaged, or left out; the same seed gives the same bytes."""
    random = np.random.default_rng(seed)
    file = target.files[int(random.integers(len(target.files)))]
    if target.good.is_file():
        made = place / target.good.name
        made.write_bytes(WRITERS[made.suffix](target.good.read_bytes(), random))
        return made
    made = place / target.good.name
    shutil.copytree(target.good, made)
    hurt = made / file
    if random.random() < 0.02:
        hurt.unlink()
    else:
        hurt.write_bytes(WRITERS[hurt.suffix](hurt.read_bytes(), random))
    return made


def outcome(target: Target, seed: int) -> tuple[str, str]:
    """Opens one damaged copy in a process of its own; ("opened" or "refused", what was said) if all is well."""
    with tempfile.TemporaryDirectory() as folder:
        path = damaged_copy(target, seed, Path(folder))
        said = Path(folder) / "said"
        child = os.fork()
        if not child:
            _in_child(target, path, said)
        deadline = time.monotonic() + SECONDS
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return "too slow", f"not done after {SECONDS} s"
            time.sleep(0.002)
        code = os.waitstatus_to_exitcode(done[1])
        told = said.read_text() if said.exists() else ""
    if code in (0, 1):
        return ("opened", "refused")[code], told
    return ("wrong exception" if code == 2 else f"crash ({signal.Signals(-code).name if code < 0 else code})"), told


def _in_child(target: Target, path: Path, said: Path) -> None:
    """Never returns. Exit code 0: opened; 1: a ValueError that names a file of the target; 2: anything else."""
    code = 2
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        target.open(path)
        code = 0
    except ValueError as error:
        told = str(error)
        named = path.name in told and 0 < len(told) < 2000 and "\n" not in told
        code = 1 if named else 2
        said.write_text(told if named else f"ValueError without a clear message: {told!r}\n{traceback.format_exc()}")
    except BaseException:  # MemoryError, RecursionError and panics of other languages too
        said.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def make_targets(folder: Path) -> list[Target]:
    """Good files of every kind, made from a model of 60,000 weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tercile import zoo
    from tercile.api import export
    from tercile.compression.package import load_package
    from tercile.compression.source import open_source
    from tercile.compression.third_party import open_third_party
    from tercile.quantization.export import FORMATS
    from tests.compression.packs import pack

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(Path(zoo.find("debian-llama").source) / name, folder / "model" / name)
    source = open_source(folder / "model")
    mixed = ("int4-g32", "int8-channel", "int4-g32-asym", "normal16-channel", "trellis3-channel-rot", "int3-g32",
             "int5-g32-asym-k6", "fp4-e2m1-g32-e8m0")  # fmt: skip
    packed = pack(source, folder / "packed", lambda number, layer: mixed[number % len(mixed)])
    targets = [Target("packed", packed, lambda path: load_package(path))]
    for form, out in (("gguf", "model.gguf"), ("compressed-tensors", "compressed"), ("onnx", "onnx")):
        offered = FORMATS[form].offered
        small = pack(source, folder / form, lambda number, layer, offered=offered: next(
            iter(offered(layer.kind, layer.shape)[number % 3 :]), None))  # fmt: skip
        made = export(small, folder / "made" / out, form)
        made = made / "model.onnx" if form == "onnx" else made
        targets.append(Target(form, made, lambda path: open_third_party(path)))
    for target in targets:
        target.open(target.good)
        if target.good.is_dir():  # the tokenizer is Transformers' own, and none of ours reads it
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (target.good / name).unlink(missing_ok=True)
            target.open(target.good)
    return targets


def failures(targets: list[Target], seeds: Iterator[int], until: float, counts: Counter[str]) -> Iterator[str]:
    """What went wrong, case by case, until the time is over or the seeds are."""
    for seed in seeds:
        for target in targets:
            if time.monotonic() > until:
                return
            ended, said = outcome(target, seed)
            counts[f"{target.name} {ended}"] += 1
            if ended not in ("opened", "refused"):
                yield f"{target.name} seed {seed}: {ended}\n{said}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, help="first seed; default: the time, so that every run sees others")
    parser.add_argument("--only", help="one target: packed, gguf, compressed-tensors or onnx")
    parser.add_argument("--show", action="store_true", help="print what every case said")
    asked = parser.parse_args()
    first = int(time.time()) if asked.seed is None else asked.seed
    counts: Counter[str] = Counter()
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        targets = [t for t in make_targets(Path(folder)) if asked.only in (None, t.name)]
        if asked.show:
            for target in targets:
                print(target.name, first, *outcome(target, first))
        for line in failures(targets, iter(range(first, sys.maxsize)), time.monotonic() + 60 * asked.minutes, counts):
            found += 1
            print(line, flush=True)
    print(f"{sum(counts.values())} files opened from seed {first} on, {found} failures")
    for name, count in sorted(counts.items()):
        print(f"  {count:6d}  {name}")
    return min(found, 1)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main())
