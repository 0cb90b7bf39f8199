"""Is everything there that the page needs? Read only: nothing is made or mended."""

from __future__ import annotations

from dataclasses import dataclass

from tercile.page.database import NAME, faults
from tercile.page.methods import Shelf
from tercile.page.search.documents import method_documents
from tercile.page.search.encoder import default_model, why_not
from tercile.page.search.vectors import catalogue_vectors, model_digest
from tercile.page.settings import Settings
from tercile.papers import evidence_folder


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    words: str


def look_over(settings: Settings) -> list[Finding]:
    """Database, evidence, the encoder, and whether the catalogue's vectors are those of its texts.

    >>> import tempfile
    >>> from pathlib import Path
    >>> [finding.what for finding in look_over(Settings(data=Path(tempfile.mkdtemp())))]
    ['database', 'evidence', 'search by meaning', 'vectors']
    """
    path = settings.data / NAME
    wrong = faults(path) if path.is_file() else []
    found = [
        Finding(
            "database",
            not wrong,
            wrong[0] if wrong else f"{path}{'' if path.is_file() else ', made at the first start'}",
        )
    ]
    folder = evidence_folder(settings.evidence)
    documents = []
    try:
        methods = Shelf(folder).now()
        documents = method_documents(methods)
        measured = len(methods.entries) - methods.verdicts["not yet"]
        found.append(Finding("evidence", True, f"{measured} of {len(methods.entries)} methods measured, in {folder}"))
    except ValueError as error:
        found.append(Finding("evidence", False, str(error)))
    model = settings.model or default_model()
    reason = why_not(model)
    found.append(Finding("search by meaning", True, f"off: {reason}" if reason else f"by {model}"))
    if (model / "model.safetensors").is_file():
        known = catalogue_vectors(model_digest(model))
        stale = [document.key for document in documents if document.digest not in known]
        words = (
            f"{len(stale)} out of date, embedded at each start: {', '.join(stale[:5])}" if stale else f"{len(known)}"
        )
        found.append(Finding("vectors", not stale or reason is None, words))
    return found
