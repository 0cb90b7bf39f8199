"""A folder for ONNX Runtime: the model's graph with packed weights in place of the float ones."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tercile.compression.export.onnx_activations import choose_examples, input_ranges, save_calibrated_on
from tercile.compression.export.onnx_weights import PackedGraph
from tercile.compression.export.writing import copy_companions, new_folder
from tercile.compression.package import Builder, open_packed, read_package
from tercile.compression.source import Source
from tercile.compression.units import load_certification
from tercile.filters.data import Example
from tercile.quantization.export import find_format

MODEL = "model.onnx"
# A protobuf message ends at 2 GB; larger weights lie in a file beside it.
MOST_INSIDE = 1_500_000_000


def export_onnx(
    folder: Path,
    out: Path,
    builder: Builder | torch.nn.Module | None = None,
    calibration: Iterable[Example] | None = None,
) -> Path:
    """Writes a packed folder as an ONNX model whose weights stay packed.

    Parameters
    ----------
    folder
        What `tercile compress --for onnx` wrote.
    out
        Folder to write; must not exist.
    builder
        As in `load_package`, for models that only code can build.
    calibration
        With examples, what layers read is rounded to 8 bits as well: where a weight has 8 bits and a scale a row, by
        fixed ranges that are found from some of these examples (QDQ), and where it has groups, by a scale a group found
        as the model runs. That is another model than the one that was certified: certify it anew. Examples that the
        folder's certificate rests on are left out.

    Returns
    -------
    The folder that was written: model.onnx, and the config and tokenizer. ONNX Runtime runs it; any batch size and
    length of text.

    Raises
    ------
    ValueError
        If a tensor has a scheme that the graph can't hold, the model can't be traced, `onnx` is not installed, or `out`
        exists.

    Notes
    -----
    Costs one trace of the model, in float32: half a minute for a small BERT.
    """
    try:
        import onnx_ir
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError:
        raise ValueError('writing ONNX takes onnx and onnxscript; run: pip install "tercile[formats]"') from None
    if out.exists():
        raise ValueError(f"{out} exists; choose another folder")
    packed = read_package(folder)
    form = find_format("onnx")
    for name, q in packed.quantized.items():
        form.check(name, q.scheme, q.shape)
    source = open_packed(packed, folder, builder)
    units = load_certification(folder)
    examples: tuple[Example, ...] = ()
    if calibration is not None:
        examples = choose_examples(calibration, frozenset(unit.digest for unit in units))
    inputs = input_ranges(source, examples) if examples else None
    program = _traced(source, source.prepare([unit.content for unit in units[:2]]))
    tied = {name: alias for alias, name in packed.description.get("tied", {}).items()}
    PackedGraph(program.model.graph, packed.quantized, tied, inputs).replace()
    program.model.opset_imports["com.microsoft"] = 1
    program.optimize()
    with new_folder(out) as part:
        large = sum(q.nbytes for q in packed.quantized.values()) > MOST_INSIDE
        onnx_ir.save(program.model, part / MODEL, external_data=f"{MODEL}.data" if large else None)
        copy_companions(folder, part)
        if examples:
            save_calibrated_on(part, examples)
    return out


class _Traceable(torch.nn.Module):
    """A model with plain inputs and one plain output, as a graph has them."""

    def __init__(self, model: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        out = self.model(**dict(zip(self.names, inputs))) if self.names else self.model(*inputs)
        for name in ("logits", "last_hidden_state"):
            if getattr(out, name, None) is not None:
                return getattr(out, name)
        return out


def _traced(source: Source, inputs: Any) -> Any:
    """The model as torch's exporter sees it, with free batch size and, for texts, free length."""
    config: Any = getattr(source.module, "config", None)
    if getattr(config, "use_cache", False):
        config.use_cache = False  # a cache is an output that no graph of ours has
    named = {} if isinstance(inputs, torch.Tensor) else dict(inputs)
    tensors = tuple(named.values()) if named else (inputs,)
    free = torch.export.Dim.DYNAMIC
    dims = tuple({0: free, 1: free} if t.ndim == 2 and not t.is_floating_point() else {0: free} for t in tensors)
    wrapped = _Traceable(source.module, tuple(named)).eval()
    with torch.inference_mode():
        output = "output" if not named else "logits" if hasattr(source.module(**named), "logits") else _HIDDEN
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                wrapped, tensors, dynamo=True, optimize=False, verbose=False,
                input_names=list(named) or ["input"], output_names=[output], dynamic_shapes=(dims,),
            )  # fmt: skip
    except Exception as error:
        said = str(error).strip().split("\n", maxsplit=1)[0]
        raise ValueError(f"{source.spec!r} can't be traced for ONNX ({said}); use --to float") from None
    finally:
        quiet.setLevel(level)
    return program


_HIDDEN = "last_hidden_state"
