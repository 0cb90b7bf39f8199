"""tercile: say how much quality you may lose, and get the smallest model that stays within it, with a certificate.

    >>> import tercile
    >>> tercile.__version__
    '0.1.0'

Importing this package loads nothing heavy; `certify`, `compress`, `load` and `verify` bring in torch when first used.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "certify", "compress", "load", "verify"]


def __getattr__(name: str) -> Any:
    if name in {"certify", "compress", "load", "verify"}:
        from tercile import api

        return getattr(api, name)
    raise AttributeError(f"module 'tercile' has no attribute {name!r}")
