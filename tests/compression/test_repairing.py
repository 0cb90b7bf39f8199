"""Repaired rungs: which are tried, and that what is certified is what is stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tercile
from tercile.api import load, verify
from tercile.compression.repairing import RepairedRung, repair_rungs

from . import toy

BUILD = "tests.compression.toy:build"


def search(losses, frontier, left, wanted=0.02, margin=0.002):
    """Rungs that were mended, in order, and those that were handed back, when a repair leaves a share of each loss."""
    tried = []

    def mend(rung, before):
        tried.append(rung)
        return RepairedRung(rung, {}, {})

    def look(repaired):
        loss = left * losses[repaired.rung]
        return loss, loss + margin

    return tried, [one.rung for one in repair_rungs(losses, frontier, mend, look, wanted)]


LOSSES = list(np.geomspace(0.001, 0.5, 64))


def test_the_second_repair_is_aimed_by_what_the_first_one_won() -> None:
    frontier = int(np.searchsorted(LOSSES, 0.018)) - 1
    for left in (0.2, 0.35, 0.5, 0.7):
        tried, kept = search(LOSSES, frontier, left)
        best = max(rung for rung, loss in enumerate(LOSSES) if left * loss + 0.002 <= 0.02)
        assert len(tried) <= 2 and kept == sorted(kept) and kept[-1] == best, left


def test_repairs_that_win_nothing_leave_the_ladder_as_it_is() -> None:
    frontier = int(np.searchsorted(LOSSES, 0.018)) - 1
    tried, kept = search(LOSSES, frontier, 1.0)
    assert 1 <= len(tried) <= 2 and kept == []


def test_nothing_is_mended_below_the_last_rung() -> None:
    assert search([0.001, 0.002, 0.003], 2, 0.5) == ([], [])


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pool.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in toy.sentences()))
    return path


SCHEMES = ("int8-channel", "int4-g32", "int3-g32", "int2-g32", "trellis2-channel-rot")


def test_a_repaired_rung_is_stored_as_it_was_certified(pool, tmp_path, monkeypatch) -> None:
    arguments = {"max_loss": 0.2, "task": "classifier", "schemes": SCHEMES[:4], "units": 400}
    # On a ladder as short as this one a bolder guess reaches a rung beyond the frontier.
    monkeypatch.setattr("tercile.compression.repairing.USUALLY_LEFT", 0.6)
    small = tercile.compress(BUILD, pool, out=tmp_path / "repaired", **arguments)
    repaired = small.details["repair"]["rungs"]
    assert repaired and small.certificate["rung"] in repaired
    assert small.details["ladder"][small.certificate["rung"]]["predicted_loss"] is None
    assert verify(small.folder, original=BUILD).ok
    biases = [name for name, _ in toy.network().named_parameters() if name.endswith("bias")]
    original, other = toy.network(), load(small.folder, builder=BUILD).module
    assert any(not np.array_equal(original.get_parameter(n).detach(), other.get_parameter(n)) for n in biases)


def test_the_details_say_why_nothing_was_repaired(pool, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tercile.compression.memory.free_bytes", lambda: 1 << 20)
    monkeypatch.setattr("tercile.compression.memory.repair_bytes", lambda source: 1 << 30)
    monkeypatch.setattr("tercile.compression.pipeline.check_memory", lambda source: None)
    small = tercile.compress(
        BUILD, pool, out=tmp_path / "small", max_loss=0.2, units=400, task="classifier", schemes=SCHEMES[:4]
    )
    why = "it takes 1.0 GiB more memory and 0.0 GiB are free"
    assert small.details["repair"] == {"rungs": [], "left_out": why}


def test_a_model_without_gradients_is_compressed_without_a_repair(pool, tmp_path) -> None:
    small = tercile.compress(
        "tests.compression.toy:build_without_gradients", pool, out=tmp_path / "small", max_loss=0.1, units=400,
        task="classifier", schemes=SCHEMES[:4],
    )  # fmt: skip
    assert small.details["repair"]["rungs"] == [] and "can't be trained" in small.details["repair"]["left_out"]
