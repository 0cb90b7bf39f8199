from __future__ import annotations

import pytest
import torch

from tercile.diffusion.models import DiT, Shape

SMALL = Shape(width=16, depth=2, heads=2)
STEP, LABEL = torch.tensor([3, 700]), torch.tensor([1, 8])


def lively() -> DiT:
    """A model whose gates are open."""
    torch.manual_seed(0)
    model = DiT(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.requires_grad_(False)


def test_it_starts_as_the_zero_function() -> None:
    assert not DiT(SMALL)(torch.randn(2, 1, 16, 16), STEP, LABEL).any()


def test_with_closed_gates_each_patch_answers_for_itself() -> None:
    model = DiT(SMALL).requires_grad_(False)
    torch.nn.init.normal_(model.head.weight)
    x = torch.randn(2, 1, 16, 16)
    touched = x.clone()
    touched[:, :, 4:8, 12:16] += torch.randn(4, 4)
    changed = (model(touched, STEP, LABEL) != model(x, STEP, LABEL))[0, 0].nonzero()
    assert len(changed) and changed.amin(0).tolist() == [4, 12] and changed.amax(0).tolist() == [7, 15]


def test_all_patches_answer_to_each_once_gates_are_open() -> None:
    model, x = lively(), torch.randn(2, 1, 16, 16)
    touched = x.clone()
    touched[:, :, 0, 0] += 1
    assert bool((model(touched, STEP, LABEL) != model(x, STEP, LABEL)).float().mean() > 0.99)


@pytest.mark.parametrize("other", [(torch.tensor([4, 701]), LABEL), (STEP, torch.tensor([2, 9]))])
def test_step_and_class_change_the_answer(other: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, x = lively(), torch.randn(2, 1, 16, 16)
    assert float((model(x, *other) - model(x, STEP, LABEL)).abs().amax((1, 2, 3)).min()) > 1e-4


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    model, x = lively(), torch.randn(2, 1, 16, 16)
    assert torch.allclose(model(x, STEP, LABEL)[:1], model(x[:1], STEP[:1], LABEL[:1]), atol=1e-5)


def test_channels_and_sizes_come_back_as_they_went_in() -> None:
    model = DiT(Shape(size=12, patch=3, channels=2, width=16, depth=1, heads=2))
    assert model(torch.ones(2, 2, 12, 12), STEP, LABEL).shape == (2, 2, 12, 12)


@pytest.mark.parametrize("wrong", [{"patch": 5}, {"heads": 3}, {"width": 15, "heads": 3}])
def test_shapes_that_do_not_divide_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be even|do not fill"):
        Shape(**wrong)
