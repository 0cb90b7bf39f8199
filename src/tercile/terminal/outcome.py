"""How a command ends: its exit code, and one line on standard error when it could not do what was asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

DONE, NOT_CERTIFIED, BAD_INPUT, STOPPED = 0, 1, 2, 130
TRACEBACK = "TERCILE_TRACEBACK"


@contextmanager
def stopping(told: str = "stopped") -> Iterator[None]:
    """Turn whatever ends a command early into one line on standard error and an exit code.

    Parameters
    ----------
    told
        What to say when it was stopped by Ctrl-C.

    Raises
    ------
    typer.Exit
        130 after Ctrl-C, 2 after any other error. With the variable ``TERCILE_TRACEBACK`` set to 1 the error
        itself goes on, with its traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        stop(told, STOPPED)
    except typer.Exit:
        raise
    except Exception as error:
        if os.environ.get(TRACEBACK) == "1":
            raise
        stop(error_line(error), BAD_INPUT)


def stop(message: str, code: int) -> NoReturn:
    """Say why in one line on standard error, and leave."""
    print(f"tercile: {message}", file=sys.stderr, flush=True)
    raise typer.Exit(code)


def error_line(error: BaseException) -> str:
    """An error in one line, for somebody who did not write the code.

    >>> error_line(ValueError("seed must be a whole number,\\n got 'x'"))
    "seed must be a whole number, got 'x'"
    >>> error_line(FileNotFoundError(2, "No such file or directory", "model/"))
    'model/: no such file or directory'
    >>> error_line(KeyError("weight"))
    "unexpected KeyError: 'weight' (TERCILE_TRACEBACK=1 shows where)"
    """
    said = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name in {
        "torch",
        "transformers",
        "jinja2",
        "pyarrow",
    }:
        return f'{error.name} is not installed; run: pip install "tercile[torch]"'
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror if error.filename is None else _lowered(error.strerror)
        return reason if error.filename is None else f"{error.filename}: {reason}"
    if isinstance(error, MemoryError):
        return said or "not enough memory; close other programs, or give a smaller model"
    if isinstance(error, (ValueError, TypeError, OSError, ImportError)) and said:
        return said
    return f"unexpected {type(error).__name__}{f': {said}' if said else ''} ({TRACEBACK}=1 shows where)"


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
