"""A model of a user's own: a small classifier of texts, with the function that reads them."""

from __future__ import annotations

import torch
from torch import nn


def prepare(texts) -> torch.Tensor:
    """Counts of letters, float32 (n, 64)."""
    counts = torch.zeros(len(texts), 64)
    for row, text in enumerate(texts):
        for letter in text:
            counts[row, ord(letter) % 64] += 1
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def network() -> nn.Module:
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 5))
    with torch.no_grad():
        for layer in (model[0], model[2], model[4]):
            layer.weight.mul_(4)
    return model


def build():
    return network(), prepare


def no_module():
    return 3


def quarter(original, small, batch):
    """A loss of the user's own: a quarter where the top class differs."""
    return 0.25 * (original.argmax(-1) != small.argmax(-1)).float()


def too_much(original, small, batch):
    return torch.full((len(batch.examples),), 1.5)


def sentences(n: int = 900) -> list[str]:
    """Distinct texts that are no near-duplicates of each other."""
    generator = torch.Generator().manual_seed(3)
    words = ["".join(chr(97 + int(i)) for i in torch.randint(26, (5,), generator=generator)) for _ in range(400)]
    return [" ".join(words[int(i)] for i in torch.randint(400, (12,), generator=generator)) for _ in range(n)]


def _rounded(digits: int):
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.round(parameter, decimals=digits))
    return model, prepare


def rounded():
    """What another tool could have made of `network`."""
    return _rounded(1)


def rounded_more():
    return _rounded(0)


def narrow():
    return nn.Sequential(nn.Linear(64, 4)), prepare


class Frozen(nn.Module):
    """A model that breaks the chain of gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x):
        return torch.from_numpy(self.inner(x).detach().numpy())


def build_without_gradients():
    return Frozen(), prepare
