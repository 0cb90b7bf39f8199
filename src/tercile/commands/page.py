"""`tercile page`: parse, call, print. The doing is in `tercile.page`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercile.commands.page_digest import bounce, digest, fetch, import_

if TYPE_CHECKING:
    from tercile.page import Settings

app = typer.Typer(
    help="The living page: every method, claimed beside measured, searched by words and by meaning.",
    rich_markup_mode=None,
    invoke_without_command=True,
)

app.command(epilog="Example: tercile page digest --dry-run")(digest)
app.command(epilog="Example: tercile page fetch --watch")(fetch)
app.command("import", epilog="Example: tercile page import papers.bib --dry-run")(import_)
app.command(epilog="Example: tercile page bounce < message.eml")(bounce)

Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file; also $TERCILE_PAGE_CONFIG. See docs/guide/page.md.")
]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of the database; also $TERCILE_PAGE_DATA.")]
Host = Annotated[str | None, typer.Option(help="Where it listens. Default: 127.0.0.1.")]
Port = Annotated[int | None, typer.Option(help="Default: 8166.")]


@app.callback()
def page(
    context: typer.Context, config: Config = None, data: Data = None, host: Host = None, port: Port = None
) -> None:
    """Serve the page; without configuration it keeps its data under the home folder."""
    if context.invoked_subcommand is None:
        _serve(config, data, host, port)
    elif any(given is not None for given in (config, data, host, port)):
        raise typer.BadParameter(f"write options after the command: tercile page {context.invoked_subcommand} ...")


@app.command(epilog="Example: tercile page serve --port 8000")
def serve(config: Config = None, data: Data = None, host: Host = None, port: Port = None) -> None:
    """Serve the page."""
    _serve(config, data, host, port)


@app.command(epilog="Example: tercile page backup pages.sqlite3")
def backup(
    file: Annotated[Path, typer.Argument(help="File to write; must not exist.")],
    config: Config = None,
    data: Data = None,
) -> None:
    """Copy everything that readers gave the page into one file, while it runs."""
    from tercile import terminal

    with terminal.stopping():
        from tercile.page import database

        settings = settings_of(config, data)
        print(f"backup  {database.backup(settings.data / database.NAME, file)}")


@app.command(epilog="Example: tercile page restore pages.sqlite3")
def restore(
    file: Annotated[Path, typer.Argument(help="A file of `tercile page backup`.")],
    config: Config = None,
    data: Data = None,
) -> None:
    """Put a backup in place of what is there; stop the page first."""
    from tercile import terminal

    with terminal.stopping():
        from tercile.page import database

        settings = settings_of(config, data)
        print(f"restored  {database.restore(file, settings.data / database.NAME)}")


@app.command(epilog="Example: tercile page check")
def check(config: Config = None, data: Data = None) -> None:
    """Look over settings, database, evidence and search; exit status 1 if something is wrong."""
    from tercile import terminal

    with terminal.stopping():
        settings = settings_of(config, data)
        from tercile.page.checking import look_over

        findings = look_over(settings)
        for finding in findings:
            print(f"{'ok' if finding.ok else 'wrong':6}{finding.what}: {finding.words}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def settings_of(config: Path | None, data: Path | None = None, **given: Any) -> Settings:
    """Settings of a command; a missing package is said with its mend."""
    try:
        from tercile.page import load_settings
    except ModuleNotFoundError as error:
        raise ValueError(f'the page needs {error.name}; pip install "tercile[page]"') from None
    return load_settings(config, data=data, **given)


def _serve(config: Path | None, data: Path | None, host: str | None, port: int | None) -> None:
    from tercile import terminal

    with terminal.stopping("stopped"):
        settings = settings_of(config, data, host=host, port=port)
        from tercile.page import create_app
        from tercile.page.observing import log_to_standard_error
        from tercile.page.serving import serve as serve_page

        log_to_standard_error()
        print(f"tercile page  {settings.address}  (Ctrl-C stops it)", flush=True)
        serve_page(create_app(settings), settings)
