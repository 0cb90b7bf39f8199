"""`tercile run`: embeds texts, or goes on with one, on a packed folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

EPILOG = (
    "Examples: tercile run small 'a sentence' 'another'. tercile run small --input texts.txt --out vectors.npy. "
    "tercile run small-llama 'This package provides' --temperature 0.8 --seed 1. "
    "Exit codes: 0 done, 2 bad input, 130 stopped by Ctrl-C."
)
# Texts that are embedded, and written, at a time.
TOGETHER = 512


def run(
    folder: Annotated[Path, typer.Argument(help="A folder that `tercile compress --out` made.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to embed, or one to go on with.")] = None,
    file: Annotated[
        str | None,
        typer.Option("--input", help="Texts, one a line, or JSONL, CSV or Parquet; `-` for lines on standard input."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Field of --input that holds the text.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where embeddings go: .npy or .jsonl. Default: JSON lines on standard output.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="A language model: most tokens that are added.")] = 200,
    temperature: Annotated[
        float, typer.Option(help="A language model: 0 takes the likeliest token, 1 draws as the model says.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="A language model: of the draws.")] = 0,
    activations: Annotated[
        Literal["float", "int8"],
        typer.Option(
            help="int8 rounds what layers read: faster, and not what the certificate is for; "
            "`tercile certify ORIGINAL int8:FOLDER` makes one for it."
        ),
    ] = "float",
    unfold: Annotated[
        bool, typer.Option("--unfold", help="With int8: hold trellis layers as bytes, faster for single texts.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A language model: one JSON object in the end.")] = False,
) -> None:
    """Embed texts, or go on with one, on packed weights that are never expanded."""
    from tercile import terminal

    with terminal.stopping():
        from tercile.compression.runtime import open_runtime
        from tercile.compression.tasks import guess_task

        if (folder / "tercile.json").is_file() and not (folder / "config.json").is_file():
            raise ValueError(
                f"{folder} holds a model that code builds, which `tercile run` has no inputs for; in Python, "
                "tercile.compression.open_runtime(folder, builder) gives its module"
            )
        runtime = open_runtime(folder, activations=activations, unfold=unfold)
        task = guess_task(runtime.source)
        if task == "embedding":
            _embed(runtime, _texts(texts, file, column), out)
        elif task == "language-model":
            if out is not None:
                raise ValueError("--out is for embeddings; what a language model writes goes to standard output")
            _write(runtime, list(islice(_texts(texts, file, column), 2)), max_tokens, temperature, seed, as_json)
        else:
            raise ValueError(
                f"{folder} holds a {task}; `tercile run` embeds texts and goes on with them. In Python, "
                "tercile.compression.open_runtime(folder) gives its module"
            )


def _texts(texts: list[str] | None, file: str | None, column: str | None) -> Iterator[str]:
    """Texts as they are needed: of the command line, then of a file."""
    if not texts and file is None:
        raise ValueError("there is no text; give some, or --input FILE, or --input - for standard input")
    yield from texts or ()
    if file == "-":
        yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
    elif file is not None and Path(file).suffix == ".txt":
        with Path(file).open(encoding="utf-8") as lines:
            yield from (line.rstrip("\n") for line in lines if line.strip())
    elif file is not None:
        from tercile.filters.data import read

        for example in read(file, column=column):
            if not isinstance(example.content, str):
                raise ValueError(f"{file} holds arrays, and this model reads text")
            yield example.content


def _embed(runtime: Any, texts: Iterable[str], out: Path | None) -> None:
    import numpy as np

    from tercile.api import Model
    from tercile.files import write_atomically

    if out is not None and out.suffix not in (".npy", ".jsonl"):
        raise ValueError(f"--out must end in .npy or .jsonl, got {str(out)!r}")
    model = Model(runtime.module, runtime.source, "embedding")
    rows: list[Any] = []
    lines: list[str] = []
    waiting = iter(texts)
    while part := list(islice(waiting, TOGETHER)):
        found = model.encode(part)
        if out is not None and out.suffix == ".npy":
            rows.append(found)
            continue
        for text, row in zip(part, found):
            line = json.dumps({"text": text, "embedding": [round(float(x), 7) for x in row]}, ensure_ascii=False)
            if out is None:
                print(line, flush=True)
            else:
                lines.append(line + "\n")
    if out is None:
        return
    if not rows and not lines:
        raise ValueError("the input holds no text")
    if rows:
        import io

        data = io.BytesIO()
        np.save(data, np.concatenate(rows))
        write_atomically(out, data.getvalue())
    else:
        write_atomically(out, "".join(lines).encode())


def _write(runtime: Any, texts: list[str], max_tokens: int, temperature: float, seed: int, as_json: bool) -> None:
    from tercile import terminal
    from tercile.compression.generating import generate

    if len(texts) != 1:
        raise ValueError("a language model goes on with one text; give one")
    pieces = generate(runtime, texts[0], max_tokens=max_tokens, temperature=temperature, seed=seed)
    if as_json:
        terminal.print_json({"prompt": texts[0], "text": "".join(pieces)})
        return
    print(texts[0], end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
