"""Convolutional networks: any model with convolutions and batch norms, whoever wrote it.

Which batch norm reads which convolution is not in the names, it is in the code: torch.fx runs the model's
forward on symbols. Where it cannot (control flow on values), the parts of the model are traced one by one.
"""

from __future__ import annotations

from collections import Counter

import torch.fx
from torch import nn

from tercile.quantization.families.family import Family
from tercile.quantization.families.layers import CONVOLUTIONS, Inventory
from tercile.quantization.families.unknown import by_container

NORM_OF = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}


def describe_cnn(model: nn.Module, found: Inventory) -> Family | None:
    """The family, or None if the model has no convolution, or embeds anything as tables."""
    if not any(isinstance(module, CONVOLUTIONS) for module in model.modules()) or found.of("embedding"):
        return None
    return Family(
        name="cnn",
        sequential=False,
        blocks=by_container(found),
        batch_norms=tuple(pair for pair in batch_norm_pairs(model) if pair[0] not in found.shared),
        tied=found.tied,
        skipped=found.skipped,
    )


def batch_norm_pairs(model: nn.Module, prefix: str = "") -> list[tuple[str, str]]:
    """(convolution, batch norm) names where the norm alone reads the convolution, and each is called once.

    Examples
    --------
    >>> batch_norm_pairs(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()))
    [('0', '1')]
    """
    if not any(isinstance(module, tuple(NORM_OF.values())) for module in model.modules()):
        return []
    try:
        graph = torch.fx.Tracer().trace(model)
    except Exception:  # tracing runs the model's own code, which may raise anything on symbols
        children = [batch_norm_pairs(child, f"{prefix}{name}.") for name, child in model.named_children()]
        return [pair for pairs in children for pair in pairs]
    modules = dict(model.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module" or len(node.args) != 1 or not isinstance(node.args[0], torch.fx.Node):
            continue
        source, reader, read = node.args[0], str(node.target), str(node.args[0].target)
        if source.op != "call_module" or len(source.users) != 1 or calls[read] + calls[reader] != 2:
            continue
        wanted = NORM_OF.get(type(modules[read]))
        if wanted is not None and type(modules[reader]) is wanted:
            pairs.append((prefix + read, prefix + reader))
    return pairs
