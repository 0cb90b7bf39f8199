"""Embed the catalogue, which is due when a summary or a claim has changed, or the model.

python -m tercile.page.search.make_vectors
"""

from __future__ import annotations

from pathlib import Path

from tercile.page.methods import Shelf
from tercile.page.search.documents import method_documents
from tercile.page.search.encoder import SmallBert, default_model
from tercile.page.search.vectors import FILE, model_digest, save_catalogue


def main() -> None:
    """Embed in float32, so that the same vectors come of it on every machine."""
    documents = method_documents(Shelf(Path("nowhere")).now())
    encoder = SmallBert(default_model(), half=False)
    save_catalogue(documents, encoder.encode([document.text for document in documents]), model_digest(default_model()))
    print(f"{len(documents)} vectors in {FILE}, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
