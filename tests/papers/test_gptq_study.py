"""The parts of the study of block reconstruction that are its own."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tercile.papers import gptq_study  # noqa: E402
from tercile.papers.gptq_study import Study, absolute, angle  # noqa: E402
from tercile.quantization.training import Reconstruction  # noqa: E402


@pytest.fixture(scope="module")
def study() -> Study:
    return Study("quick", 0)


def test_losses_of_a_block_are_what_they_are_called():
    torch.manual_seed(0)
    wanted, got = torch.randn(5, 4), torch.randn(5, 4)
    w, g = wanted.numpy(), got.numpy()
    middle = w.mean(0)
    assert float(absolute(wanted, got)) == pytest.approx(np.abs(g - w).sum() / np.abs(w - middle).sum(), rel=1e-5)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(w - middle, g - middle)]
    assert float(angle(wanted, got)) == pytest.approx(1 - np.mean(cosines), rel=1e-4)
    assert float(angle(wanted, wanted)) == pytest.approx(0, abs=1e-6)


def test_mixed_widths_take_no_more_bytes_than_one_width(study, monkeypatch):
    monkeypatch.setattr(study, "calibration", study.calibration[:2])
    sizes = {mixed: study.run(3, Reconstruction(0), mixed=mixed)["bytes"] for mixed in (False, True)}
    assert sizes[True] <= sizes[False]
    assert len(set(study.widths(3, gptq_study.UNIFORM).values())) > 1


def test_without_a_pass_the_network_is_rounded_to_nearest(study):
    made = study.run(2, Reconstruction(0))
    assert made["kl"] > 10 * study.run(4, Reconstruction(0))["kl"]
    assert made["bytes"] == sum(
        gptq_study.Scheme.parse("int2-channel").nbytes(study.weight(name).shape) for name in study.layers
    )


def test_reconstruction_lowers_the_divergence(study):
    settings = Reconstruction(4, gptq_study.FREE)
    assert study.run(2, settings)["kl"] < study.run(2, Reconstruction(0))["kl"]


def test_noise_has_the_pictures_shape_and_range(study):
    noise = torch.cat(study.noise)
    assert noise.shape == study.calibration.shape and float(noise.min()) >= 0 and float(noise.max()) <= 1
    assert not torch.equal(noise, study.calibration)
