"""`tercile page digest | bounce | fetch | import`: what runs beside the page, from a timer or by hand."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tercile.page import Settings
    from tercile.page.database import Database

Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file; also $TERCILE_PAGE_CONFIG. See docs/guide/digest.md.")
]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of the database; also $TERCILE_PAGE_DATA.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
#: Seconds between two looks at the outbox.
PAUSE = 30.0


def digest(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent; send and write nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, looking every half minute what is due.")] = False,
    config: Config = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Send the digests and confirmations that are due; safe to run at any time, twice, and to kill."""
    from tercile import terminal

    with terminal.stopping("stopped; what was not handed over waits for the next run"):
        database, settings = _opened(config, data)
        from tercile.page.mail.delivery import Unreachable
        from tercile.page.mail.running import send_due

        if dry_run:
            _show(database, settings, as_json)
            return
        while True:
            try:
                done = send_due(database, settings)
            except Unreachable as error:
                if not watch:
                    terminal.stop(str(error), 1)
                typer.echo(f"error: {error}", err=True)
            else:
                told = {"planned": done.planned, **dict(done.states), "seconds": round(done.seconds, 3)}
                if as_json:
                    terminal.print_json(told)
                elif done.states or not watch:
                    said = ", ".join(f"{number:,} {state}" for state, number in sorted(done.states.items()))
                    print(f"{said or 'nothing was due'} in {done.seconds:.1f} s", flush=True)
            if not watch:
                return
            time.sleep(PAUSE)


def bounce(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Messages, or Maildir folders. Default: one from standard input.")
    ] = None,
    config: Config = None,
    data: Data = None,
) -> None:
    """Take in mail that came back; for a mail server's pipe (`|tercile page bounce`) or a mailbox."""
    from tercile import terminal

    with terminal.stopping():
        database, settings = _opened(config, data)
        from tercile.page.mail.running import take_bounce

        if not files:
            print(take_bounce(database, settings, sys.stdin.buffer.read(1_000_000)))
        for file in files or ():
            if not file.is_dir():
                print(f"{file.name}: {take_bounce(database, settings, file.read_bytes())}")
                continue
            for message in sorted(path for part in ("new", "cur") for path in (file / part).glob("*")):
                print(f"{message.name}: {take_bounce(database, settings, message.read_bytes())}")


def _show(database: Database, settings: Settings, as_json: bool) -> None:
    from tercile import terminal
    from tercile.page.mail.running import dry_run

    letters = list(dry_run(database, settings))
    if as_json:
        told = [
            {"kind": x.kind, "to": x.address, "subject": x.subject, "papers": list(x.digest.papers)} for x in letters
        ]
        terminal.print_json(told)
        return
    for letter in letters:
        print(f"To: {letter.address}\nSubject: {letter.subject}\n\n{letter.text}\n{'=' * 72}")
    print(f"{len(letters):,} letter{'' if len(letters) == 1 else 's'} would be sent; nothing was.")


def _opened(config: Path | None, data: Path | None) -> tuple[Database, Settings]:
    from tercile.commands.page import settings_of

    settings = settings_of(config, data)
    from tercile.page.database import NAME, Database

    return Database(settings.data / NAME), settings


def fetch(
    force: Annotated[bool, typer.Option("--force", help="Read feeds that were read lately too.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, looking every half minute what is due.")] = False,
    config: Config = None,
    data: Data = None,
) -> None:
    """Pull new papers from the Atom addresses of the settings. Exit status 1 if a feed could not be read."""
    from tercile import terminal

    with terminal.stopping("stopped; the next run goes on from here"):
        database, settings = _opened(config, data)
        from tercile.page.imports.fetching import fetch as read

        while True:
            done = read(database, settings, force=force)
            for feed in done:
                if not watch or feed.pages or not feed.ok:
                    print(f"{feed.address}: {feed.said}", flush=True)
            if not watch:
                raise typer.Exit(0 if all(feed.ok for feed in done) else 1)
            time.sleep(PAUSE)


def import_(
    file: Annotated[Path, typer.Argument(help="BibTeX, arXiv Atom or Semantic Scholar JSON.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be stored; store nothing.")] = False,
    insist: Annotated[
        bool, typer.Option("--insist", help="Store papers that nearly share a title too.")
    ] = False,
    config: Config = None,
    data: Data = None,
) -> None:
    """Import a file of papers; what is here already is left out, so the same file twice stores everything once."""
    from tercile import terminal

    with terminal.stopping("stopped; nothing was stored"):
        database, _ = _opened(config, data)
        from tercile.page.imports import Importer, read_papers

        try:
            content = file.read_bytes()
        except OSError as error:
            raise ValueError(f"{file} can't be read: {error.strerror}") from None
        found = read_papers(content, file.name)
        importer = Importer(database)
        judged = importer.judge(found.drafts)
        if dry_run:
            known = [one for one in judged if one.known and (one.same or not insist)]
            lines = [f"{one.draft.origin}: {one.known.because} as {one.known.title}" for one in known if one.known]
            number = len(judged) - len(known)
        else:
            made = importer.store(judged, found.format, range(len(judged)) if insist else ())
            lines, number = [str(one) for one in made.rejected], len(made.keys)
        for line in (*lines, *map(str, found.rejected)):
            print(line)
        print(f"{number:,} of {len(judged) + len(found.rejected):,} {'would be stored' if dry_run else 'stored'}")
