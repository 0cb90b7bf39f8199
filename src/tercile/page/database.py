"""One SQLite file: opened the same way everywhere, brought up to date by numbered files of SQL."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path

from tercile.files import write_atomically

NAME = "page.sqlite3"
#: How long a writer waits for another one, in seconds.
PATIENCE = 10.0


class Database:
    """The page's database: a connection for each thread, in write-ahead mode, with foreign keys on.

    Parameters
    ----------
    path
        Of the file; it and its folder are made if they are missing.

    Raises
    ------
    ValueError
        The file is no database, or was written by a newer tercile.

    >>> import tempfile
    >>> database = Database(Path(tempfile.mkdtemp()) / "page.sqlite3")
    >>> with database.transaction() as rows:
    ...     _ = rows.execute("INSERT INTO secrets (name, value) VALUES ('a', x'00')")
    >>> database.connection().execute("SELECT count(*) FROM secrets").fetchone()[0]
    1
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._here = threading.local()
        self._opened: list[sqlite3.Connection] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        own(path)
        try:
            migrate(self.connection())
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path} can't be used as the page's database: {error}") from None

    def connection(self) -> sqlite3.Connection:
        """This thread's connection, in autocommit mode: what it reads is what was last committed."""
        found: sqlite3.Connection | None = getattr(self._here, "connection", None)
        if found is None:
            found = connect(self.path)
            self._here.connection = found
            self._opened.append(found)
        return found

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: takes the one place for writing at once, commits at the end, rolls back on an error."""
        connection = self.connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def close(self) -> None:
        """Close every thread's connection."""
        while self._opened:
            self._opened.pop().close()
        self._here = threading.local()


def own(path: Path) -> None:
    """Make a file that its owner alone may read, unless it is there: it holds mail addresses."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def connect(path: Path) -> sqlite3.Connection:
    """Open a database file as the page does."""
    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # what was acknowledged survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def migrations() -> list[tuple[int, str, str]]:
    """Number, name and SQL of every file in migrations/, in order.

    >>> [number for number, _, _ in migrations()][:1]
    [1]
    """
    found = []
    for file in resources.files("tercile.page").joinpath("migrations").iterdir():
        if file.name.endswith(".sql"):
            number = int(file.name.split("_")[0])
            found.append((number, file.name, file.read_text(encoding="utf-8")))
    return sorted(found)


def version(connection: sqlite3.Connection) -> int:
    """Number of the last migration that a database has seen."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection) -> int:
    """Run the migrations that are missing, each in a transaction of its own; return the last one's number."""
    known = migrations()
    newest = known[-1][0]
    if version(connection) > newest:
        raise ValueError(
            f"the database is in version {version(connection)}, known is {newest}; install a newer tercile"
        )
    for number, _, text in known:
        if number <= version(connection):
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            if number > version(connection):  # else another process was faster
                for statement in statements(text):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    return newest


def statements(text: str) -> list[str]:
    """A script, statement by statement; a trigger's inner semicolons stay.

    >>> statements("CREATE TABLE a (b); -- note;\\nCREATE TABLE c (d);")
    ['CREATE TABLE a (b);', '-- note;\\nCREATE TABLE c (d);']
    """
    found, begun = [], ""
    for part in text.split(";")[:-1]:  # after the last semicolon there is nothing but white space
        begun += part + ";"
        if sqlite3.complete_statement(begun):
            found.append(begun.strip())
            begun = ""
    return found


def backup(database: Path, target: Path) -> Path:
    """Copy a database to one file while it is in use; the copy appears whole or not at all.

    Raises
    ------
    ValueError
        There is no database, or the target exists.
    """
    if not database.is_file():
        raise ValueError(f"{database} is missing: there is nothing to back up yet")
    if target.exists():
        raise ValueError(f"{target} exists; choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        own(part)
        with closing(connect(database)) as source, closing(sqlite3.connect(part)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
        if wrong := faults(part):
            raise ValueError(f"{database} is damaged: {wrong[0]}")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def restore(source: Path, database: Path) -> Path:
    """Put a backup in the place of a database; stop the page first.

    The database that was there is kept beside it, under the name with ``.before`` at its end.

    Raises
    ------
    ValueError
        The backup is missing, damaged, or from a newer tercile; the database is as it was.
    """
    if not source.is_file():
        raise ValueError(f"{source} is missing")
    if wrong := faults(source):
        raise ValueError(f"{source} is no sound backup: {wrong[0]}")
    database.parent.mkdir(parents=True, exist_ok=True)
    if database.is_file():
        with closing(connect(database)) as old:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        os.replace(database, database.with_name(f"{database.name}.before"))
    for beside in ("-wal", "-shm"):
        database.with_name(database.name + beside).unlink(missing_ok=True)
    write_atomically(database, source.read_bytes())
    database.chmod(0o600)
    return database


def faults(path: Path) -> list[str]:
    """What is wrong with a database file: damage, rows that point nowhere, an unknown version; empty if nothing is."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            found = [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
            found += [f"a row of {row[0]} points nowhere" for row in connection.execute("PRAGMA foreign_key_check")]
            newest = migrations()[-1][0]
            if not 1 <= version(connection) <= newest:
                found.append(f"it is in version {version(connection)}, known are 1 to {newest}")
            return found
    except sqlite3.DatabaseError as error:
        return [str(error)]
