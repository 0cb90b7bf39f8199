"""When two units are nearly the same, and the short signature by which such pairs are found.

Each kind of content gives an *alike* test, which decides, and a *signature*, a row of bytes in which two
alike units agree in many places, which only proposes pairs to test:

- texts: the Jaccard index of their sets of shingles, |A & B| / |A | B|; the signature is MinHash
  (Broder 1997), where two rows agree in each place with just that probability.
- pictures: the correlation of their 16 x 16 thumbnails; the signature is signs of random projections
  (Charikar 2002), where two rows agree in each bit with probability 1 - angle / pi.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercile.filters.data.example import Content

PLACES = 128
_WORD = re.compile(r"\w+")
# Three words, as a changed word then costs three shingles: a copy with one word in thirty changed is still
# alike at 0.8. Under sixteen words that is too coarse, so short texts are compared by five characters.
# Texts of 16 to 24 words are compared both ways: sets that differ by more than a fifth in size are not alike
# at 0.8, so no alike pair falls between the two.
_SHINGLE_WORDS, _SHINGLE_CHARACTERS = 3, 5
_FEWEST_WORDS, _MOST_WORDS_SHORT = 16, 24
# Scripts written without spaces give a few endless words; characters serve them at any length.
_LONGEST_MEAN_WORD = 20


def normalised(text: str) -> str:
    """Compatibility form, case and white space folded: equal results count as exact duplicates.

    >>> normalised("  Ｔwo\\tWords ")
    'two words'
    """
    return " ".join((text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold().split())


def shingles(text: str) -> dict[str, frozenset[str]]:
    """The sets by which a text is compared: by ``words``, by ``characters``, or both.

    Runs of three words where there are at least 16, runs of five characters where there are at most 24
    words (or words average over 20 characters, as in scripts without spaces). Case and punctuation don't
    count.

    >>> sorted(shingles("The cat.")["characters"])
    ['e cat', 'he ca', 'the c']
    """
    plain = normalised(text)
    words = _WORD.findall(plain) or [plain]
    spaceless = sum(map(len, words)) > _LONGEST_MEAN_WORD * len(words)
    sets: dict[str, frozenset[str]] = {}
    if len(words) >= _FEWEST_WORDS and not spaceless:
        sets["words"] = frozenset(map(" ".join, zip(words, words[1:], words[2:])))
    if len(words) <= _MOST_WORDS_SHORT or spaceless:
        joined = " ".join(words)
        k = _SHINGLE_CHARACTERS
        sets["characters"] = frozenset(joined[i : i + k] for i in range(max(1, len(joined) - k + 1)))
    return sets


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """|A & B| / |A | B|; two empty sets are the same set.

    >>> jaccard(frozenset("abc"), frozenset("bcd"))
    0.5
    """
    shared = len(a & b)
    together = len(a) + len(b) - shared
    return shared / together if together else 1.0


def text_similarity(a: str, b: str) -> float:
    """The Jaccard index of two texts, the larger one where they can be compared both ways.

    Returns 0 where they share no way (one short text, one long).

    >>> text_similarity("Set the flag to true.", "Set the flag, to TRUE!")
    1.0
    """
    first, second = shingles(a), shingles(b)
    return max((jaccard(first[way], second[way]) for way in first.keys() & second.keys()), default=0.0)


def minhash(shingle_set: frozenset[str]) -> NDArray[np.uint8]:
    """The MinHash signature of a shingle set, its 128 values cut to their lowest byte.

    Two sets agree in each place with probability J + (1 - J) / 256. The values come from datasketch.
    O(shingles x 128).

    Returns
    -------
    (128,) uint8
    """
    sketch = _empty_sketch().copy()
    encoded = [shingle.encode("utf-8", "surrogatepass") for shingle in shingle_set]
    for start in range(0, len(encoded), 4096):  # a whole book at once would take a gigabyte
        sketch.update_batch(encoded[start : start + 4096])
    return np.asarray(sketch.hashvalues.astype(np.uint64)).astype(np.uint8)


@lru_cache(maxsize=1)
def _empty_sketch() -> Any:
    try:
        from datasketch import MinHash
    except ImportError as error:
        raise ImportError("finding near-duplicate texts needs datasketch: pip install datasketch") from error
    return MinHash(num_perm=PLACES, seed=1, hashfunc=zlib.crc32)


def thumbnail(picture: NDArray[np.generic], side: int = 16) -> NDArray[np.float64] | None:
    """A picture as at most 16 x 16 mean values a colour, centred, of unit length, in one row.

    Parameters
    ----------
    picture : (height, width) or (height, width, colours) or (colours, height, width) array
        One to four colours.

    Returns
    -------
    (rows x columns x colours,) float64, or None
        None for a blank picture and for an array that is not a picture: those only have exact duplicates.

    >>> ramp = np.arange(64.0).reshape(8, 8)
    >>> float(thumbnail(ramp) @ thumbnail(2 * ramp + 3)) > 1 - 1e-12
    True
    """
    if picture.ndim == 3 and picture.shape[2] > 4 and picture.shape[0] <= 4:
        picture = np.moveaxis(picture, 0, 2)
    if picture.ndim == 2:
        picture = picture[:, :, None]
    if picture.ndim != 3 or picture.shape[2] > 4 or min(picture.shape[:2]) < 2 or picture.dtype.kind == "c":
        return None
    small = picture.astype(np.float64)
    for axis in (0, 1):
        size = small.shape[axis]
        edges = np.linspace(0, size, min(side, size) + 1).astype(np.intp)
        widths = np.diff(edges).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        small = np.add.reduceat(small, edges[:-1], axis=axis) / widths
    row = small.ravel() - small.mean()
    norm = float(np.linalg.norm(row))
    # A blank picture has no direction: what is left of it after centring is rounding.
    if norm <= 1e-9 * max(1.0, float(np.abs(small).max())) * len(row) ** 0.5:
        return None
    return np.asarray(row / norm)


def picture_similarity(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """The correlation of two pictures' thumbnails; 0 where there is none to compare.

    Blind to brightness, contrast and size, so that a rescaled or recompressed copy is found.

    >>> ramp = np.arange(64.0).reshape(8, 8)
    >>> picture_similarity(ramp, np.kron(ramp, np.ones((4, 4)))[:, ::-1]) < 0.99
    True
    """
    first, second = thumbnail(a), thumbnail(b)
    if first is None or second is None or first.shape != second.shape:
        return 0.0
    return float(first @ second)


def projection_signs(row: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Signs of 1,024 fixed random projections of a thumbnail, packed into 128 bytes.

    Returns
    -------
    (128,) uint8
    """
    return np.packbits(_projections(len(row)) @ row > 0)


@lru_cache(maxsize=8)
def _projections(length: int) -> NDArray[np.float64]:
    return np.random.default_rng(length).standard_normal((8 * PLACES, length))


def signatures(content: Content) -> dict[str, NDArray[np.uint8]]:
    """Every way in which this content can be compared, with its signature of 128 bytes.

    >>> list(signatures("Short.")), list(signatures(np.zeros(3)))
    (['characters'], [])
    """
    if isinstance(content, str):
        return {way: minhash(found) for way, found in shingles(content).items()}
    row = thumbnail(content)
    return {} if row is None else {f"picture {len(row)}": projection_signs(row)}


def agreement(way: str, similarity: float) -> float:
    """The probability that two units of this similarity agree in one byte of the signature.

    >>> agreement("words", 1.0), round(agreement("picture 256", 0.99), 3)
    (1.0, 0.692)
    """
    if way in ("words", "characters"):
        return similarity + (1 - similarity) / 256
    return float((1 - np.arccos(min(1.0, similarity)) / np.pi) ** 8)
