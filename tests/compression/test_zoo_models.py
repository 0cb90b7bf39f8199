"""Every model of the zoo goes through the main job: real weights, real data, few units so that it takes seconds."""

from __future__ import annotations

import pytest

from tercile.api import load, verify
from tercile.compression import Settings, compress, make_task, open_source
from tercile.zoo import find

JOBS = [
    ("minilm", 0.2, None, "cosine"),
    ("digits-cnn", 0.1, None, "disagreement"),
    ("digits-vit", 0.2, "accuracy-lost", "accuracy-lost"),
    ("debian-llama", 0.2, None, "total-variation"),
]


@pytest.mark.parametrize(("name", "max_loss", "asked", "loss"), JOBS, ids=[f"{job[0]}-{job[3]}" for job in JOBS])
def test_a_model_of_the_zoo_is_compressed_certified_and_verified(name, max_loss, asked, loss, tmp_path) -> None:
    entry = find(name)
    settings = Settings(max_loss, schemes=("int8-channel", "int4-g32"), units=40, calibration=16, selection=16, rungs=4)
    source = open_source(entry.source)
    task = make_task(source, entry.task, asked)
    made = compress(source, task, entry.sample, settings, tmp_path / "small", label=name)
    assert made.certificate["loss"] == loss and made.certificate["units"] == 40
    assert made.certificate["small"]["nbytes"] < 0.6 * made.certificate["original"]["nbytes"]
    assert verify(made.folder).ok
    assert load(made.folder).module.training is False
