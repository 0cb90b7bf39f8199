"""`tercile`: parse, call, print. The doing is in `tercile.api`, the printing in `tercile.terminal`.

Both are imported inside the commands, so that `--help` needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tercile.commands import bench, run
from tercile.commands.page import app as page
from tercile.commands.quantiles import EPILOG, quantiles
from tercile.named import named
from tercile.papers.commands import app as papers

if TYPE_CHECKING:
    from rich.console import Console

EXITS = (
    "Exit codes: 0 done, 1 not certified or not verified, 2 bad input, 130 stopped by Ctrl-C. "
    "TERCILE_TRACEBACK=1 shows where an error came from."
)

app = typer.Typer(
    help="Say how much quality you may lose, and get the smallest model that stays within it, with a certificate.",
    epilog=f"Example: tercile compress minilm --max-loss 0.02 --out small. {EXITS}",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
zoo = typer.Typer(help="Models and data that are always there.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(zoo, name="zoo", epilog="Example: tercile zoo list")
app.command("quantiles", epilog=EPILOG)(quantiles)
app.command("run", epilog=run.EPILOG)(run.run)
app.command("bench", epilog=bench.EPILOG)(bench.bench)
app.add_typer(papers, name="papers", epilog="Example: tercile papers list")
app.add_typer(page, name="page", epilog="Example: tercile page --port 8000")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Folder = Annotated[Path, typer.Argument(help="A folder that `tercile compress --out` made.")]
Confidence = Annotated[float, typer.Option(help="How sure the certificate has to be.")]
Column = Annotated[str | None, typer.Option(help="Field of the data that holds the content.")]
LabelColumn = Annotated[str | None, typer.Option(help="Field that holds the label.")]
Loss = Annotated[
    str | None,
    typer.Option(help="A loss of the task by name, or your own as `module:function`, in [0, 1]."),
]
Original = Annotated[
    str,
    typer.Argument(help="A name from `tercile zoo list`, a Transformers folder, or `module:function`."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def _print_version(asked: bool) -> None:
    if asked:
        from tercile import __version__

        print(f"tercile {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Nothing happens before the command itself."""


def _spellings(text: str) -> tuple[str, ...]:
    """Schemes by commas; the commas of a codebook's values stay.

    >>> _spellings("int4-g64, cb[-1,0,1]-g64")
    ('int4-g64', 'cb[-1,0,1]-g64')
    """
    return tuple(part.strip() for part in re.split(r",(?![^\[]*\])", text))


@app.command(
    epilog="Example: tercile compress minilm --max-loss 0.02 --confidence 0.95 --out small. "
    f"Stopped runs go on where they were when started again. {EXITS}"
)
def compress(
    model: Original,
    max_loss: Annotated[float, typer.Option(help="The loss that you can bear, between 0 and 1.")],
    confidence: Confidence = 0.95,
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")] = Path("small"),
    data: Annotated[
        str | None,
        typer.Option(
            help="Text, JSONL, CSV, Parquet or .npz file, a folder of them or of pictures, `-` for standard "
            "input, or `module:function`. Default: the sample that comes with a zoo model."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="embedding, classifier, language-model or custom. Default: guessed from the model."),
    ] = None,
    loss: Loss = None,
    quantile: Annotated[
        float | None, typer.Option(help="Promise this quantile of the loss, such as 0.95, not the mean.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split of the data.")] = 0,
    column: Column = None,
    label_column: LabelColumn = None,
    schemes: Annotated[
        str | None, typer.Option(help="On offer for each layer, by commas: int8-channel,int4-g64.")
    ] = None,
    units: Annotated[int, typer.Option(help="Most units that the certificate rests on.")] = 1500,
    to_format: Annotated[
        Literal["compressed-tensors", "gguf", "onnx"] | None,
        typer.Option("--for", help="Use only schemes that this format holds, so that it can be exported."),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a model as small as your loss allows, with a certificate and a report."""
    _certified(
        lambda api, tell: api.compress(
            model,
            _data(data),
            max_loss=max_loss,
            confidence=confidence,
            out=out,
            task=task,
            loss=loss,
            quantile=quantile,
            seed=seed,
            column=column,
            label_column=label_column,
            schemes=None if schemes is None else _spellings(schemes),
            units=units,
            to_format=to_format,
            force=force,
            progress=tell,
        ),
        out,
        as_json,
    )


@app.command(
    epilog="Example: tercile certify ./original model-Q4_K_M.gguf --data held-out.jsonl --out certified. "
    f"Stopped runs go on where they were when started again. {EXITS}"
)
def certify(
    original: Original,
    small: Annotated[
        str,
        typer.Argument(
            help="The small model, whoever made it: a Transformers folder (compressed-tensors too), a .gguf file "
            "(llama.cpp:FILE.gguf runs it with that), an .onnx file, a folder of `tercile compress` "
            "(int8:FOLDER rounds its activations), or `module:function`."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Examples that played no part in making the small model: as in `tercile compress`. Default: the "
            "sample that comes with a zoo model."
        ),
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="The loss that you can bear. Default: find the least that can be promised.")
    ] = None,
    confidence: Confidence = 0.95,
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")] = Path("certified"),
    task: Annotated[
        str | None, typer.Option(help="embedding, classifier, language-model or custom. Default: guessed.")
    ] = None,
    loss: Loss = None,
    quantile: Annotated[
        float | None, typer.Option(help="Bound this quantile of the loss, such as 0.95, not the mean.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which units are drawn when there are more than --units.")] = 0,
    column: Column = None,
    label_column: LabelColumn = None,
    units: Annotated[int, typer.Option(help="Most units that are scored.")] = 1500,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Certify a small model that any tool made, against its original."""
    _certified(
        lambda api, tell: api.certify(
            original,
            small,
            _data(data),
            max_loss=max_loss,
            confidence=confidence,
            out=out,
            task=task,
            loss=loss,
            quantile=quantile,
            seed=seed,
            column=column,
            label_column=label_column,
            units=units,
            force=force,
            progress=tell,
        ),
        out,
        as_json,
    )


def _certified(job: Callable[[Any, Any], Any], out: Path, as_json: bool) -> None:
    """Run a job that ends in a certificate, given the api and whom to tell of progress; write the report and print."""
    from tercile import terminal

    with terminal.stopping("stopped; the same command goes on from here"):
        from tercile import api

        try:
            with terminal.stages() as tell:
                made = job(api, tell)
        except api.NotCertified as error:
            if as_json:
                terminal.print_json({"certified": False, "reason": str(error)})
            terminal.stop(str(error), 1)
        folder = out if made.folder is None else made.folder
        report = made.report(folder / "report.html")
        if as_json:
            terminal.print_json({"certified": True, **_places(folder, report), "certificate": made.certificate})
        else:
            terminal.print_compressed(_console(), made.certificate, made.details, folder, report)


@app.command(epilog=f"Example: tercile verify small. {EXITS}")
def verify(
    folder: Folder,
    original: Annotated[
        str | None, typer.Option(help="The original model, where it is not where the certificate says.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The certification units, where the folder does not hold them.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="Your own loss, as `module:function`, where one was used.")] = None,
    small: Annotated[
        str | None, typer.Option(help="The small model of `tercile certify`, where it is not where it was.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Work the certificate out anew from the files alone."""
    from tercile import terminal

    with terminal.stopping():
        from tercile import api

        own = {} if loss is None else {"loss": loss}
        with terminal.stages() as tell:
            found = api.verify(folder, original=original, data=_data(data), small=small, progress=tell, **own)
        if as_json:
            checks = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in found.checks]
            terminal.print_json({"ok": found.ok, "checks": checks, "certificate": found.certificate})
        else:
            terminal.print_verification(_console(), found.ok, found.checks, found.certificate)
    if not found.ok:
        raise typer.Exit(1)


@app.command(epilog=f"Example: tercile report small --out report.html. {EXITS}")
def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="HTML file to write. Default: report.html in the folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the report again: one self-contained HTML page."""
    from tercile import terminal

    with terminal.stopping():
        from tercile.compression.report import write

        path = write(folder, out or folder / "report.html")
        if as_json:
            terminal.print_json({"report": str(path)})
        else:
            _console().print(f"report  {path}", markup=False, soft_wrap=True)


@app.command(epilog=f"Example: tercile export small --to gguf --out small.gguf. {EXITS}")
def export(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="File or folder to write; must not exist.")],
    to: Annotated[
        Literal["float", "compressed-tensors", "gguf", "onnx"],
        typer.Option(
            help="float: a plain safetensors folder. compressed-tensors: a folder for Transformers and vLLM. gguf: a "
            "file for llama.cpp. onnx: a folder for ONNX Runtime. All but float need `tercile compress --for`."
        ),
    ] = "float",
    activations: Annotated[
        Literal["int8"] | None,
        typer.Option(help="onnx: round what layers read to 8 bits too, by ranges found from --data. Certify it anew."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Examples for --activations, as for `tercile compress`. Default: a zoo model's.")
    ] = None,
    column: Column = None,
    as_json: AsJson = False,
) -> None:
    """Write the small model in a form that other programs read."""
    from tercile import terminal

    with terminal.stopping():
        from tercile import api

        made = api.export(folder, out, to, activations=activations, data=_data(data), column=column)
        if as_json:
            terminal.print_json({"format": to, "out": str(made)})
        else:
            terminal.print_export(_console(), to, made, certified=activations is None)


@app.command(epilog=f"Example: tercile debug digits-cnn --weights int4-channel --plot faults.svg. {EXITS}")
def debug(
    model: Annotated[
        str, typer.Argument(help="A name from `tercile zoo list`, a Transformers folder, or `module:function`.")
    ],
    data: Annotated[
        str | None, typer.Option(help="As for `tercile compress`. Default: the sample that comes with a zoo model.")
    ] = None,
    weights: Annotated[str, typer.Option(help="Scheme that each layer's weights are stored under.")] = "int8-channel",
    inputs: Annotated[
        str, typer.Option(help="Scheme, by tensor, that each layer's inputs are rounded to.")
    ] = "int8-tensor-asym-f32",
    task: Annotated[str | None, typer.Option(help="Default: guessed from the model.")] = None,
    examples: Annotated[int, typer.Option(help="How many examples are looked at.")] = 64,
    column: Column = None,
    plot: Annotated[Path | None, typer.Option(help="SVG file to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say which layer suffers from quantization: its weights or inputs, and whether range or rounding is to blame."""
    from tercile import terminal

    with terminal.stopping():
        from tercile import debugging

        with terminal.stages() as tell:
            found = debugging.debug(
                model, _data(data), weights=weights, inputs=inputs, task=task, examples=examples, column=column,
                progress=tell,
            )  # fmt: skip
        if plot is not None:
            debugging.write_plot(found, plot)
        if as_json:
            terminal.print_json(found.as_dict() | ({} if plot is None else {"plot": str(plot)}))
        else:
            terminal.print_diagnosis(_console(), found, plot)


@app.command(epilog=f"Example: tercile demo --out demo/minilm. {EXITS}")
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; used as it is when it holds a model.")] = Path(
        "demo/minilm"
    ),
    as_json: AsJson = False,
) -> None:
    """Compress all-MiniLM-L6-v2, then search 166 titles by the original and by the small model."""
    from tercile import terminal

    with terminal.stopping("stopped; the same command goes on from here"):
        from tercile import api
        from tercile.compression.report import read
        from tercile.demo import CONFIDENCE, MAX_LOSS, MODEL, search_both

        if not (out / "certificate.json").is_file():
            out.parent.mkdir(parents=True, exist_ok=True)
            try:
                with terminal.stages() as tell:
                    made = api.compress(MODEL, max_loss=MAX_LOSS, confidence=CONFIDENCE, out=out, progress=tell)
            except api.NotCertified as error:
                terminal.stop(str(error), 1)
            made.report(out / "report.html")
        certificate, details = read(out)
        with terminal.stages() as tell:
            tell("searching 166 titles twice", 0, None)
            found = search_both(api.load(MODEL).encode, api.load(out).encode)
        if as_json:
            results = [{"query": f.query, "original": f.original, "small": f.small} for f in found]
            places = _places(out, out / "report.html")
            terminal.print_json({**places, "certificate": certificate, "search": results})
            return
        console = _console()
        terminal.print_compressed(console, certificate, details, out, out / "report.html")
        console.print()
        terminal.print_search(console, found)
        console.print("\nall 166 methods, claimed beside measured, searched by this model:  tercile page", markup=False)


@zoo.command("list", epilog="Example: tercile zoo list")
def zoo_list(as_json: AsJson = False) -> None:
    """List the models of the zoo."""
    from tercile import terminal

    with terminal.stopping():
        from tercile.zoo import list_models

        if as_json:
            terminal.print_json([_entry(entry) for entry in list_models()])
        else:
            terminal.print_zoo(_console(), list_models())


@zoo.command("show", epilog="Example: tercile zoo show minilm")
def zoo_show(
    name: Annotated[str, typer.Argument(help="A name from `tercile zoo list`.")], as_json: AsJson = False
) -> None:
    """Show the card of a model: what it is, where it comes from, what it scores."""
    from tercile import terminal

    with terminal.stopping():
        from tercile.zoo import find

        entry = find(name)
        if as_json:
            terminal.print_json({**_entry(entry), "card": entry.card})
        else:
            terminal.print_entry(_console(), entry)


def _data(spec: str | None) -> Any:
    """What `--data` means: a path or `-` as it is, `module:function` called."""
    if spec is None or spec == "-" or Path(spec).exists():
        return spec
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", spec) is None:
        return spec
    try:
        function = named(spec)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--data {spec}: {error}") from error
    return function()


def _entry(entry: Any) -> dict[str, Any]:
    names = ("name", "summary", "task", "licence", "weights", "size_bytes", "installed")
    return {**{name: getattr(entry, name) for name in names}, "sample": str(entry.sample)}


def _places(folder: Path, report: Path) -> dict[str, str]:
    return {"folder": str(folder), "report": str(report)}


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


if __name__ == "__main__":
    app()
