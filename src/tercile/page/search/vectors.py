"""Vectors that were made before: of the catalogue, in the package, and of readers' papers, in the database."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercile.arrays import load_arrays, save_arrays
from tercile.page.database import Database
from tercile.page.search.documents import Document

FILE = Path(__file__).with_name("catalogue.safetensors")


@cache
def model_digest(folder: Path) -> str:
    """Of the weights of a packed folder: vectors of different models are not comparable."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:32]


def catalogue_vectors(model: str) -> dict[str, NDArray[np.float32]]:
    """Vectors of the catalogue's texts by the texts' digests; empty where another model made them.

    Parameters
    ----------
    model
        From `model_digest`.
    """
    arrays, about = load_arrays(FILE)
    if about.get("model") != model:
        return {}
    rows = arrays["vectors"].astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    digests = [bytes(row).hex() for row in arrays["digests"]]
    return dict(zip(digests, rows))


def save_catalogue(documents: Sequence[Document], rows: NDArray[np.float32], model: str, file: Path = FILE) -> None:
    """Write the catalogue's vectors, float16: their sixteenth bit is far below what compressing moved them by."""
    digests = np.array([list(bytes.fromhex(document.digest)) for document in documents], dtype=np.uint8)
    save_arrays(file, {"vectors": rows.astype(np.float16), "digests": digests}, {"model": model})


def paper_vectors(database: Database, model: str) -> dict[str, NDArray[np.float32]]:
    """Vectors of readers' papers by their texts' digests."""
    rows = database.connection().execute("SELECT digest, vector FROM vectors WHERE model = ?", (model,))
    return {row["digest"]: np.frombuffer(row["vector"], dtype="<f4") for row in rows}


def keep_papers(database: Database, documents: Sequence[Document], rows: NDArray[np.float32], model: str) -> None:
    """Remember vectors of readers' papers; those that were deleted meanwhile are passed over."""
    with database.transaction() as connection:
        for document, row in zip(documents, rows):
            connection.execute(
                "INSERT OR REPLACE INTO vectors (paper, digest, model, vector) "
                "SELECT id, ?, ?, ? FROM papers WHERE key = ?",
                (document.digest, model, row.astype("<f4").tobytes(), document.key.removeprefix("papers/")),
            )
