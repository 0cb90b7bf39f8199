"""Results for programs."""

from __future__ import annotations

import json
from typing import Any


def print_json(value: Any) -> None:
    """One JSON value on standard output, and nothing else there.

    >>> print_json({"ok": True})
    {
      "ok": true
    }
    """
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
