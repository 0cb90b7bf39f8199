"""Hybrid precision by signal-to-noise ratios, and local treatment, on a small denoiser that is trained in the run."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, mse_loss, silu

from tercile.diffusion.processes import cosine
from tercile.diffusion.sampling import ddim
from tercile.papers import Check, Size, paper
from tercile.papers.digits_network import one_thread, pictures
from tercile.papers.stored_layers import RoundedInputs, StoredLayers, weight_of
from tercile.quantization.allocation import hybrid, noise_ratio, time_sensitive
from tercile.quantization.statistics import Statistics
from tercile.quantization.transforms import balance

PAPER = paper("ldm_sqnr", authors="Yang, Dai, Wang, Zhang, Zhang", year=2023, source="arXiv:2312.05431")
MEASURED_ON = (
    "no latent diffusion model of use can be had here, so a denoiser of 50,000 weights, convolutions with group norms "
    "and a time embedding, trained in the run on digits at 14 x 14: loss on other digits over all time steps, and the "
    "ratio, in decibels, of pictures drawn by 10 steps of DDIM to their difference from the float model's, from the "
    "same noise. Weights by channel, inputs by tensor"
)
BASELINE = (
    "the float denoiser; W4A8 in every block; and W4A8 with blocks at 8 bits that are drawn at random under the same "
    "budget of bytes, mean of 8 draws"
)
SIZES: dict[str, dict[str, int | float | str]] = {
    "quick": {"training steps": 4, "test pictures": 16, "drawn": 8, "draws": 2},
    "full": {
        "training steps": 250,
        "test pictures": 400,
        "drawn": 64,
        "draws": 8,
        "seeds": "the denoiser's training, noise and draws",
    },
}
SEEDS = (0, 1, 2)
RULE = (
    Check("w8a8_loss", at_most="1.02 * float_loss"),
    Check("hybrid_loss", at_most="1.05 * float_loss", quick=False),
    Check("hybrid_ratio", at_least="w4a8_ratio + 2", quick=False),
    Check("hybrid_ratio", at_least="random_ratio", quick=False),
    Check("treated_ratio", at_least="w8a8_ratio", quick=False),
    Check("hybrid_bytes", at_most="0.75 * w8a8_bytes"),
)
TIMES, BATCH = 100, 48
PROCESS = cosine(TIMES)
W4, W8, A8 = "int4-channel-f32", "int8-channel-f32", "int8-tensor-asym-f32"
#: Time steps at which ratios are measured, from clean to noise.
GROUPS = (5, 25, 50, 75, 98)
#: Extra bytes that the hybrid may take, as a share of what 8 bits everywhere would take over 4.
EXTRA = 0.4


class Residual(nn.Module):
    """Two convolutions around a shortcut, the time embedding added between them."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, inside), nn.Conv2d(inside, outside, 3, padding=1)
        self.time = nn.Linear(32, outside)
        self.norm2, self.conv2 = nn.GroupNorm(4, outside), nn.Conv2d(outside, outside, 3, padding=1)
        self.shortcut = nn.Conv2d(inside, outside, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """x (n, inside, h, w) and time (n, 32) to (n, outside, h, w)."""
        h: torch.Tensor = self.conv1(silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        h = self.conv2(silu(self.norm2(h))) + self.shortcut(x)
        return h


class Denoiser(nn.Module):
    """A U-Net of two resolutions."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32))
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.down = Residual(width, width)
        self.middle = Residual(width, 2 * width)
        self.up = Residual(3 * width, width)
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Noise in x (n, 1, 14, 14) at time steps (n,)."""
        angles = step[:, None].float() / TIMES * torch.logspace(0, 2, 8)
        time = silu(self.time(torch.cat([angles.sin(), angles.cos()], 1)))
        fine = self.down(self.stem(x), time)
        coarse = self.middle(avg_pool2d(fine, 2), time)
        wide = interpolate(coarse, scale_factor=2.0)
        noise: torch.Tensor = self.head(silu(self.up(torch.cat([fine, wide], 1), time)))
        return noise


def trained(images: torch.Tensor, steps: int, seed: int) -> Denoiser:
    """A denoiser trained on pictures in [-1, 1]."""
    torch.manual_seed(seed)
    model = Denoiser()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for _ in range(steps):
            x = images[torch.randint(len(images), (BATCH,))]
            step, noise = torch.randint(1, TIMES, (BATCH,)), torch.randn_like(x)
            loss = mse_loss(model(PROCESS.noisy(x, step, noise), step), noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def drawn(model: nn.Module, noise: torch.Tensor) -> torch.Tensor:
    """Pictures by 10 steps of DDIM, from the noise given."""
    return ddim(model, PROCESS, noise, steps=10)


class Smoothed(nn.Module):
    """A layer whose input channels are divided by factors that its weight takes up: one product more at run time."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, factors: torch.Tensor) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)
        shape = 1, -1, *[1] * (layer.weight.dim() - 2)
        self.register_buffer("inverse", 1 / factors.reshape(shape))
        weight_of(self.layer).mul_(factors.reshape(shape))

    inverse: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output."""
        out: torch.Tensor = self.layer(x * self.inverse)
        return out


class Rounded:
    """A denoiser with weights under either scheme and inputs at 8 bits."""

    def __init__(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.model = model
        self.layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        self.weights = StoredLayers(model, self.layers, [W4, W8])
        self.inputs = RoundedInputs(model, self.layers, lambda: model(*batch), [A8])

    def nbytes(self, widths: Mapping[str, str]) -> int:
        """Of all weights."""
        return self.weights.bytes_of(widths)

    def run(self, widths: Mapping[str, str], inputs: Sequence[str], *what: torch.Tensor) -> torch.Tensor:
        """Noise that is found, or pictures that are drawn when only noise is given."""
        self.weights.put(widths)
        with self.inputs.rounding(dict.fromkeys(inputs, A8)):
            out = drawn(self.model, *what) if len(what) == 1 else self.model(*what)
        self.weights.put({})
        return out


@one_thread
@torch.no_grad()
def experiment(size: Size, seed: int) -> dict[str, float]:
    """Train, look for the noise, divide bits, treat modules, and compare with chance."""
    given = {key: value for key, value in SIZES[size].items() if isinstance(value, int)}
    small = [avg_pool2d(pictures(part, 2)[0], 2) * 2 - 1 for part in (0, 1)]
    model = trained(small[1], given["training steps"], seed)
    random = torch.Generator().manual_seed(seed)
    test = small[0][: given["test pictures"]]
    step = torch.randint(1, TIMES, (len(test),), generator=random)
    noise = torch.randn(test.shape, generator=random)
    start = torch.randn(given["drawn"], 1, 14, 14, generator=random)
    few, every = small[1][:60], torch.tensor(GROUPS).repeat(12)
    batch = PROCESS.noisy(few, every, torch.randn(few.shape, generator=random)), every
    network = Rounded(model, batch)
    wanted = drawn(model, start)

    def measured(prefix: str, rounded: Rounded, widths: Mapping[str, str]) -> dict[str, float]:
        guess = rounded.run(widths, rounded.layers, PROCESS.noisy(test, step, noise), step)
        pictures_drawn = rounded.run(widths, rounded.layers, start)
        return {
            f"{prefix}_loss": float(mse_loss(guess, noise)),
            f"{prefix}_ratio": noise_ratio(wanted.numpy(), pictures_drawn.numpy()),
            f"{prefix}_bytes": rounded.nbytes(widths),
        }

    eight, four = dict.fromkeys(network.layers, W8), dict.fromkeys(network.layers, W4)
    found = {"float_loss": float(mse_loss(model(PROCESS.noisy(test, step, noise), step), noise))}
    found |= measured("w8a8", network, eight) | measured("w4a8", network, four)

    # Global: one block at a time at W4A8, the ratio at the output, at each time step.
    blocks: dict[str, list[str]] = {}
    for name in network.layers:
        blocks.setdefault(name.split(".")[0], []).append(name)
    groups = [(batch[0][at :: len(GROUPS)], batch[1][at :: len(GROUPS)]) for at in range(len(GROUPS))]
    truths = [model(*group) for group in groups]

    def ratios(widths: Mapping[str, str], inputs: Sequence[str]) -> list[float]:
        answers = [network.run(widths, inputs, *group) for group in groups]
        return [noise_ratio(a.numpy(), b.numpy()) for a, b in zip(truths, answers, strict=True)]

    of_blocks = {block: ratios(dict.fromkeys(inside, W4), inside) for block, inside in blocks.items()}
    extra = {
        block: sum(network.weights.nbytes[name][W8] - network.weights.nbytes[name][W4] for name in inside)
        for block, inside in blocks.items()
    }
    budget = int(EXTRA * sum(extra.values()))

    def raised(chosen: Sequence[str]) -> dict[str, str]:
        return four | {name: W8 for block in chosen for name in blocks[block]}

    widths = raised(hybrid(of_blocks, extra, budget))
    found |= measured("hybrid", network, widths)
    chance = []
    for draw in range(given["draws"]):
        # In random order, every block that still fits.
        left, drawn_blocks = budget, []
        for block in np.random.default_rng(1000 * seed + draw).permutation(list(blocks)):
            if extra[block] <= left:
                left -= extra[block]
                drawn_blocks.append(str(block))
        chance.append(measured("random", network, raised(drawn_blocks))["random_ratio"])
    found["random_ratio"] = float(np.mean(chance))

    # Local: modules whose inputs are worst at their worst time step, smoothed by what the noisiest step shows.
    of_modules = {name: ratios({}, [name]) for name in network.layers}
    careful = time_sensitive(of_modules)
    treated = smoothed(model, careful, groups[-1])
    local = Rounded(treated, batch)
    found |= measured("treated", local, dict.fromkeys(local.layers, W8))
    both = {name: widths[name.removesuffix(".layer")] for name in local.layers}
    return found | measured("both", local, both)


def smoothed(model: nn.Module, names: Sequence[str], batch: tuple[torch.Tensor, torch.Tensor]) -> nn.Module:
    """A copy with some layers smoothed, calibrated on one time step alone."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
        for name in names
    ]
    model(*batch)
    for handle in handles:
        handle.remove()
    made = copy.deepcopy(model)
    for name in names:
        layer = made.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        channels = weight_of(layer).shape[1]
        statistics = Statistics(channels, second_moment=False)
        statistics.update(seen[name].transpose(0, 1).flatten(1).T.contiguous().numpy())
        largest = weight_of(layer).transpose(0, 1).flatten(1).abs().amax(1).numpy()
        made.set_submodule(name, Smoothed(layer, torch.from_numpy(balance(statistics, largest, 0.5)).float()))
    return made
