"""Makes pairs.npz: for each number of codewords the pairs of values that lose least on pairs of normal values.

    python -m tercile.quantization.grids.make_pairs

Lloyd's iteration from a rotated square lattice, on a fixed sample that is uniform in rank along each axis (a lattice of
good generators), so that nothing depends on a seed. A codeword's number is its rank: first by the first value, then
by the second among neighbours, so that the high bits of a code alone say roughly what the first value is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import ndtri

HERE = Path(__file__).with_name("pairs.npz")
SAMPLE = 1 << 15
#: Bits of a codeword: two values of 1 to 4 bits each.
BITS = range(2, 9)


def normal_pairs() -> np.ndarray:
    """Pairs that are normal, float64 (SAMPLE, 2), by the additive recurrence of the plastic number."""
    plastic = 1.32471795724474602596
    steps = np.arange(1, SAMPLE + 1)[:, None] / plastic ** np.array([1.0, 2.0])
    return np.asarray(ndtri(np.clip(steps % 1, 1e-9, 1 - 1e-9)))


def best_pairs(count: int, sample: np.ndarray, rounds: int = 100) -> np.ndarray:
    """Codewords, float32 (count, 2), in the order of their numbers."""
    # Begins at values spread as the sample to the power of a third, which is how dense the best ones lie.
    begin = sample[:: len(sample) // count][:count] * 3**0.5
    centres: np.ndarray = begin
    for _ in range(rounds):
        _, nearest = cKDTree(centres).query(sample)
        mass = np.bincount(nearest, minlength=count)
        moved = np.stack([np.bincount(nearest, sample[:, axis], count) for axis in (0, 1)], axis=1)
        moved = np.where(mass[:, None] > 0, moved / np.maximum(mass, 1)[:, None], sample[:count])
        if np.abs(moved - centres).max() < 1e-4:
            break
        centres = moved
    bits = count.bit_length() - 1
    runs = np.reshape(np.argsort(centres[:, 0], kind="stable"), (1 << (bits // 2), -1))  # of like first values
    order = np.concatenate([run[np.argsort(centres[run, 1], kind="stable")] for run in runs])
    return np.asarray((np.round(centres[order] * 1024) / 1024).astype(np.float32))


def main() -> None:
    sample = normal_pairs()
    np.savez(HERE, **{str(bits): best_pairs(1 << bits, sample) for bits in BITS})  # type: ignore[arg-type]
    with np.load(HERE) as made:
        for bits, pairs in made.items():
            error = (cKDTree(pairs).query(sample)[0] ** 2).mean() / 2
            print(f"{int(bits) / 2:g} bits a value: {len(pairs)} pairs, {error:.4f} of the variance lost")


if __name__ == "__main__":
    main()
