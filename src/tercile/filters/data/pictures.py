"""Units out of picture files and arrays on disk."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tercile.filters.data.example import Example, Rejection, as_label
from tercile.filters.data.records import Reject

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def picture_units(files: Sequence[Path], root: Path, reject: Reject) -> Iterator[Example]:
    """One unit a file; the first folder below `root` is the label of what lies in it."""
    for path in files:
        inside = path.relative_to(root)
        label = inside.parts[0] if len(inside.parts) > 1 else None
        try:
            yield Example(decoded_picture(path.read_bytes()), label, str(path))
        except (OSError, ValueError) as error:
            reject(Rejection("undecodable", f"not a picture that can be read: {error}", str(path)))


def decoded_picture(data: bytes) -> np.ndarray:
    """PNG, JPEG, ... as (height, width) where grey, otherwise (height, width, 3), mostly uint8.

    Raises
    ------
    ValueError
        Not a picture, truncated, or so large (over 179 million pixels) that it may be an attack.
    ImportError
        Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading picture files needs Pillow: pip install pillow") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
                if picture.mode in ("L", "RGB") or picture.mode[:1] in ("I", "F"):  # I, F: 16 and 32 bit grey
                    return np.array(picture)
                return np.array(picture.convert("L" if picture.mode in ("1", "LA") else "RGB"))
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError, ValueError, TypeError) as error:
        said = str(error).split(" <", maxsplit=1)[0]
        raise ValueError(said or type(error).__name__) from error


def npz_units(path: Path, column: str | None, label_column: str | None) -> Iterator[Example]:
    """One unit for each first index of the pictures in an .npz, with labels when it has them.

    Pictures are under `column`, ``images``, ``x`` or the only name besides the labels; labels under
    `label_column`, ``labels``, ``label`` or ``y``. The arrays are read whole; nothing pickled is.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            labels_in = _among(names, label_column, ("labels", "label", "y"), path)
            rest = [name for name in names if name != labels_in]
            images_in = _among(names, column, ("images", "x", *(rest if len(rest) == 1 else ())), path)
            if images_in is None:
                shown = ", ".join(names)
                raise ValueError(f"{path} has no array 'images'; say which with column=, one of {shown}")
            images: Any = archive[images_in]
            labels: Any = None if labels_in is None else archive[labels_in]
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{path}: not an .npz, or truncated ({error}); write it again") from error
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: cannot be read ({error})") from error
    if images.ndim < 2:
        raise ValueError(f"{path}: {images_in!r} must hold one array a unit, got shape {images.shape}")
    if labels is not None and labels.shape != (len(images),):
        raise ValueError(f"{path}: {len(images)} units in {images_in!r}, labels of shape {labels.shape}")
    try:
        named = [None] * len(images) if labels is None else [as_label(label) for label in labels]
    except ValueError as error:
        raise ValueError(f"{path}: {labels_in!r}: {error}") from error
    for i, image in enumerate(images):
        yield Example(image.copy(), named[i], f"{path}:{i}")


def _among(names: Sequence[str], asked: str | None, usual: Sequence[str], path: Path) -> str | None:
    if asked is not None and asked not in names:
        raise ValueError(f"{path} has no array {asked!r}; there are {', '.join(names)}")
    return asked or next((name for name in usual if name in names), None)
