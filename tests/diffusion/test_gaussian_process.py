from __future__ import annotations

import pytest
import torch

from tercile.diffusion.processes import GaussianProcess, cosine


def test_what_noise_does_to_a_picture_can_be_undone() -> None:
    process, x, noise = cosine(50), torch.rand(4, 1, 3, 3), torch.randn(4, 1, 3, 3)
    step = torch.tensor([0, 1, 25, 49])
    assert torch.allclose(process.clean(process.noisy(x, step, noise), step, noise), x, atol=1e-4)


def test_variance_one_stays_variance_one_at_every_step() -> None:
    process = cosine(10)
    x, noise = torch.randn(11, 20_000), torch.randn(11, 20_000)
    spread = process.noisy(x, torch.arange(11), noise).var(1)
    assert torch.allclose(spread, torch.ones(11), atol=0.06)


def test_the_cosine_schedule_loses_signal_at_every_step() -> None:
    kept = cosine(100).kept
    assert bool((kept[2:-1] < kept[1:-2]).all()) and kept[0] > 0.999 and kept[-1] < 0.001


@pytest.mark.parametrize("kept", [[0.5], [0.5, 0.6], [1.0, 0.5], [0.5, 0.0], [[0.5, 0.4]]])
def test_a_schedule_that_is_none_is_refused(kept: list[float]) -> None:
    with pytest.raises(ValueError, match="kept must"):
        GaussianProcess(torch.tensor(kept))


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be 1 or more, got 0"):
        cosine(0)
