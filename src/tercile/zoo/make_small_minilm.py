"""Make the small MiniLM that the page searches with: `tercile compress minilm --max-loss 0.02`, kept with its card.

    python -m tercile.zoo.make_small_minilm [FOLDER]

takes some four minutes on two cores. A folder that `tercile compress` wrote already is taken as it is; without one,
the model is compressed anew. `tercile verify src/tercile/zoo/models/small-minilm` checks what came of it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import tercile
from tercile.files import read_json
from tercile.zoo.cards import provenance, write

FOLDER = Path(__file__).parent / "models" / "small-minilm"
MAX_LOSS, CONFIDENCE = 0.02, 0.95
#: Written again by `tercile report`.
LEFT_OUT = ("report.html",)


def card(certificate: dict[str, Any], original: dict[str, Any]) -> dict[str, Any]:
    """What the model is and what is promised of it.

    Parameters
    ----------
    certificate
        Contents of certificate.json.
    original
        The card of the model that it was made from.
    """
    return {
        "summary": "all-MiniLM-L6-v2 as `tercile compress minilm --max-loss 0.02` leaves it; "
        "the page searches with it.",
        "task": "embedding",
        "licence": original["licence"],
        "made_from": "minilm",
        "made_by": "tercile.zoo.make_small_minilm",
        "size_bytes": certificate["small"]["nbytes"],
        "original_bytes": certificate["original"]["nbytes"],
        "statement": certificate["statement"],
        "risk": certificate["risk"],
        "bound": certificate["bound"],
        **provenance(),
    }


def main(made: Path | None = None) -> None:
    """Compress, unless that was done already, and keep the folder with a card."""
    with tempfile.TemporaryDirectory() as room:
        if made is None:
            made = Path(room) / "small"
            tercile.compress("minilm", max_loss=MAX_LOSS, confidence=CONFIDENCE, out=made)
        certificate = read_json(made / "certificate.json")
        if certificate["original"]["source"] != "minilm" or certificate["max_loss"] != MAX_LOSS:
            raise ValueError(f"{made} is not minilm compressed to a loss of {MAX_LOSS:g}")
        shutil.copytree(made, FOLDER, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    write(FOLDER / "card.json", card(certificate, read_json(FOLDER.parent / "minilm" / "card.json")))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
