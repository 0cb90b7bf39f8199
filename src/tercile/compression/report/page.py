"""From the two files of a compressed model to one self-contained HTML page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from tercile import wording
from tercile.compression.report.ladder import ladder_chart, walk_chart
from tercile.compression.report.layers import FEW, rows, widest
from tercile.compression.report.losses import is_right_or_wrong, loss_chart, quantiles
from tercile.compression.report.reading import read
from tercile.files import write_atomically


def render(folder: str | os.PathLike[str]) -> str:
    """The report on a compressed model as one HTML page.

    It asks for nothing from any network, runs no script, follows the reader's choice of light or dark, and is
    the same text for the same two files.

    Parameters
    ----------
    folder
        What `tercile compress --out` wrote: ``certificate.json`` and ``details.json`` are read.

    Returns
    -------
    str
        HTML, some 100 kB.

    Raises
    ------
    ValueError
        The folder or one of the files is missing or damaged.
    """
    # Jinja is asked for only here: a light installation can still read the files.
    import jinja2

    certificate, details = read(folder)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        size=wording.size,
        loss=wording.loss,
        bound=wording.bound,
        plain=wording.plain,
        percent=wording.percent,
        place=wording.place,
    )
    try:
        return environment.from_string(_packaged("page.html.j2")).render(_context(certificate, details))
    except (KeyError, TypeError, IndexError, jinja2.UndefinedError) as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"the files in {str(folder)!r} do not hold what a report needs ({told})") from error


def write(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Write the page to a file, whole or not at all.

    Parameters
    ----------
    folder
        As in `render`.
    path
        Of the HTML file; an older one is replaced.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    ValueError
        As in `render`; nothing is written then.
    OSError
        The file cannot be written; nothing is left behind.
    """
    target = Path(path)
    write_atomically(target, render(folder).encode("utf-8"))
    return target


def _context(certificate: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    losses = np.asarray(details["losses"], dtype=np.float64)
    if losses.ndim != 1 or not losses.size:
        raise TypeError("details.json: losses must be a list of numbers")
    right_or_wrong = is_right_or_wrong(losses)
    layers = rows(details["layers"])
    small = certificate["small"]["nbytes"]
    went, stopped = wording.walk_sentences(certificate)
    steps = {step["rung"]: step for step in certificate["walk"]}
    laddered = bool(details["ladder"])  # a model that another tool made has none
    charts = {
        "ladder": [ladder_chart(certificate, details, narrow=narrow) for narrow in (False, True)] if laddered else [],
        "walk": [walk_chart(certificate, narrow=narrow) for narrow in (False, True)] if laddered else [],
        "losses": None
        if right_or_wrong
        else [loss_chart(certificate, losses, narrow=narrow) for narrow in (False, True)],
    }
    return {
        "certificate": certificate,
        "details": details,
        "style": Markup(_packaged("page.css")),
        "charts": charts,
        "before": certificate["original"]["nbytes"],
        "after": small,
        "smaller": wording.times(certificate["original"]["nbytes"], small),
        "described": certificate.get("loss_description", certificate["loss"]),
        "name": wording.model_name(certificate),
        "skipped": details["model"].get("skipped", []),
        "thing": wording.measured_thing(certificate),
        "went": went,
        "stopped": stopped,
        "rungs": [{**rung, "p_value": steps.get(rung["rung"], {}).get("p_value")} for rung in details["ladder"]],
        "repaired": details.get("repair", {}).get("rungs", []),
        "worst": [unit for unit in details["worst"] if unit["loss"] > 0],
        "chosen_nbytes": steps[certificate["rung"]]["nbytes"],
        "losses": losses,
        "wrong": int(losses.sum()) if right_or_wrong else None,
        "quantiles": quantiles(losses),
        "layers": layers,
        "by_block": len(details["layers"]) > FEW,
        "full": widest(layers) if layers else 1,
        "reasons": wording.REASONS,
        "rejected": sum(details["selection"]["rejected"].values()),
    }


def _packaged(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
