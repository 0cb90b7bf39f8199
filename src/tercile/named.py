"""Things that a user names as `module:name` on the command line."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def named(spec: str) -> Any:
    """What `module:name` names. As with `python -m`, the folder where the user stands is on the path.

    Raises
    ------
    ImportError, AttributeError
        There is no such module, or it has no such name; the caller says which argument that was and the mend.

    Examples
    --------
    >>> named("math:floor")(2.5)
    2
    """
    module, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return getattr(importlib.import_module(module), name)
