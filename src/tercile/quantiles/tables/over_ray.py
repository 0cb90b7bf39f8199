"""The same over Ray: each worker sketches its files, and the sketches are merged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tercile.quantiles.tables.grouped import GroupedQuantiles, fresh_seed
from tercile.quantiles.tables.scanning import quantiles_of_files


def quantiles_over_ray(
    files: Sequence[str | Path],
    columns: Sequence[str],
    by: Sequence[str] = (),
    *,
    random_state: int | None = None,
    tasks: int | None = None,
    **options: Any,
) -> GroupedQuantiles:
    """Sketch files on a Ray cluster; only sketches travel.

    Parameters
    ----------
    files : paths that every worker can read. columns, by, random_state, options : as for `quantiles_of_files`.
    tasks : into how many tasks the files are split; None for one for each file.

    Raises
    ------
    ImportError : Ray is not installed. ValueError : as `quantiles_of_files`, from the first task that failed.

    Ray is started as it is configured when it is not running.
    """
    try:
        import ray
    except ImportError:
        raise ImportError('ray is not installed; run: pip install "tercile[ray]"') from None
    if not files:
        raise ValueError("files must name one file or more")
    tasks = len(files) if tasks is None else min(tasks, len(files))
    if tasks < 1:
        raise ValueError(f"tasks must be 1 or more, got {tasks}")
    if not ray.is_initialized():
        ray.init()
    seed = fresh_seed() if random_state is None else random_state

    @ray.remote
    def sketch(number: int) -> bytes:
        mine = [str(file) for file in files[number::tasks]]
        own = seed + (number + 1) * 0xD1B54A32D192ED03
        return quantiles_of_files(mine, columns, by, threads=1, random_state=own, **options).to_bytes()

    total: GroupedQuantiles | None = None
    try:
        # In this order, so that the same seed gives the same bytes.
        for data in (ray.get(task) for task in [sketch.remote(number) for number in range(tasks)]):
            table = GroupedQuantiles.from_bytes(data)
            total = table if total is None else total.merge(table)
    except ray.exceptions.RayTaskError as error:
        raise ValueError(str(error.cause)) from error
    assert total is not None  # there is a task
    return total
