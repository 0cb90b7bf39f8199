"""What a job needs of memory, looked at before it begins."""

from __future__ import annotations

from tercile.compression.repairing import repair_bytes
from tercile.compression.settings import Settings
from tercile.compression.source import Source, learnt


def check_memory(source: Source, available: int | None = None) -> None:
    """Refuses before any work when memory can't hold a second copy of the model and what one block needs.

    Parameters
    ----------
    available
        Free bytes; by default what the kernel says, and no check where it says nothing.

    Raises
    ------
    MemoryError
        With what is needed and what there is.
    """
    available = free_bytes() if available is None else available
    if available is None:
        return
    tensors = learnt(source.module).values()
    widest = max((tensor[0].numel() for tensor in tensors if tensor.ndim > 1), default=1)
    # A copy and the outputs of a pass; second moment, factor and work of the widest layer in float64.
    needed = sum(3 * tensor.numel() * tensor.element_size() // 2 for tensor in tensors) + 3 * 8 * widest**2
    if needed > available:
        raise MemoryError(
            f"compressing {source.spec!r} takes about {needed / 2**30:.1f} GiB more memory and "
            f"{available / 2**30:.1f} GiB are free; close other programs or use a larger machine"
        )


def free_bytes() -> int | None:
    """Memory that can be used, as the kernel says; None where it says nothing."""
    try:
        with open("/proc/meminfo") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return None


def why_not_repaired(source: Source, settings: Settings) -> str | None:
    """Why no rung is repaired; None if they are."""
    if not settings.repair:
        return "it was not asked for"
    if settings.schemes is None and settings.to_format is None:
        # On MiniLM it wins 2% of the size and takes as long as the certificate.
        return "the schemes on offer are mostly trellis codes, which a repair leaves as they are; it would win little"
    free = free_bytes()
    if free is not None and repair_bytes(source) > free:
        return f"it takes {repair_bytes(source) / 2**30:.1f} GiB more memory and {free / 2**30:.1f} GiB are free"
    return None
