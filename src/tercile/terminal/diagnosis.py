"""What `tercile debug` found, for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from tercile.quantization.debugging import Diagnosis

SHOWN = 12


def print_diagnosis(console: Console, found: Diagnosis, plot: Path | None) -> None:
    """The whole model, then the worst layers, what is to blame, and what to try.

    Parameters
    ----------
    console
        Where to print.
    found
        From `tercile.debugging.debug`.
    plot
        The picture that was written, if one was.
    """
    console.print(
        f"rise of the loss: {found.both:.5f} with weights at {found.weights} and inputs at {found.inputs}, "
        f"{found.only_weights:.5f} with weights alone, {found.only_inputs:.5f} with inputs alone"
    )
    if abs(found.unrounded) > 1e-4:
        console.print(
            f"with nothing rounded the loss already rises by {found.unrounded:.5f}: the fault is not one of rounding"
        )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("layer", "left"), ("part", "left"), ("rise", "right"), ("noise", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("to blame")
    table.add_column("try")
    for fault in found.faults[:SHOWN]:
        if fault.blame == "range":
            mend = f"range by {fault.better_range}: {fault.noise / max(fault.better_noise, 1e-30):.1f}x less noise"
        else:
            mend = "more bits, or AdaRound" if fault.part == "weights" else "more bits, or one scale a token"
        table.add_row(fault.layer, fault.part, f"{fault.rise:.5f}", f"{fault.noise:.1e}", fault.blame, mend)
    console.print(table)
    if len(found.faults) > SHOWN:
        console.print(f"and {len(found.faults) - SHOWN} more, all of which cost less")
    if plot is not None:
        console.print(f"plot  {plot}", markup=False, soft_wrap=True)
