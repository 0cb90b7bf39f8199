"""The picture of a diagnosis: what each layer's weights and inputs cost by themselves."""

from __future__ import annotations

import io
from typing import Any

from tercile.quantization.debugging.diagnosis import Diagnosis

COLOURS = {"range": "#b3541e", "rounding": "#0b6e99"}
SHOWN = 40


def diagnosis_svg(found: Diagnosis) -> str:
    """An SVG: the whole model above, then a bar a layer and part, worst first, coloured by what is to blame.

    Parameters
    ----------
    found
        From `diagnose`; the worst forty faults are shown.

    Raises
    ------
    ImportError
        matplotlib is not installed (``pip install "tercile[torch]"`` brings it).

    Examples
    --------
    >>> from tercile.quantization.debugging import Fault
    >>> fault = Fault("layer", "weights", 0.5, 0.01, "range", "mse", 0.001)
    >>> diagnosis_svg(Diagnosis("int4-channel", "int8-tensor-asym-f32", 0.0, 0.0, 0.6, 0.5, 0.1, (fault,)))[:5]
    '<?xml'
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    faults = found.faults[:SHOWN]
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "diagnosis", "font.size": 8}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8.0, 2.2 + 0.19 * len(faults)), facecolor="white", layout="constrained")
        FigureCanvasSVG(figure)
        whole, parts = figure.subplots(2, 1, height_ratios=(3, max(len(faults), 1)))
        names = ("everything", "weights alone", "inputs alone")
        whole.barh(names, (found.both, found.only_weights, found.only_inputs), color="#8a8f98")
        whole.set_title(f"rise of the loss: weights {found.weights}, inputs {found.inputs}", loc="left", fontsize=9)
        parts.barh(
            [f"{fault.layer} · {fault.part}" for fault in faults],
            [fault.rise for fault in faults],
            color=[COLOURS[fault.blame] for fault in faults],
        )
        parts.set_title("rise of the loss, one at a time", loc="left", fontsize=9)
        parts.legend(
            handles=[Patch(color=colour, label=f"{blame} to blame") for blame, colour in COLOURS.items()],
            loc="lower right",
        )
        for axes in (whole, parts):
            axes.invert_yaxis()
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.axvline(0, color="#222222", linewidth=0.8)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
