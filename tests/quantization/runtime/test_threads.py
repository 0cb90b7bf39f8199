"""Products on several threads: the same numbers, from several callers at once and in a child of a fork."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tercile.quantization import Scheme
from tercile.quantization.runtime import PackedMatrix
from tercile.quantization.solvers import round_to_nearest

X = np.random.default_rng(1).normal(size=(9, 512)).astype(np.float32)


@pytest.fixture(scope="module")
def packed() -> PackedMatrix:
    weight = np.random.default_rng(0).normal(size=(2000, 512)).astype(np.float32)
    return PackedMatrix.from_qtensor(round_to_nearest(weight, None, Scheme.parse("int4-g32")), "int8")


@pytest.fixture
def alone(packed, monkeypatch) -> list[np.ndarray]:
    monkeypatch.setenv("TERCILE_THREADS", "1")
    made = [packed.matmul(X[:rows]) for rows in (1, 9)]
    monkeypatch.setenv("TERCILE_THREADS", "3")
    return made


def agrees(packed: PackedMatrix, alone: list[np.ndarray]) -> bool:
    return all(np.array_equal(packed.matmul(X[: len(want)]), want) for want in alone)


def test_threads_change_no_number(packed, alone) -> None:
    assert agrees(packed, alone)


def test_callers_may_come_at_once(packed, alone) -> None:
    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(lambda _: agrees(packed, alone), range(200)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded")
def test_a_child_of_a_fork_has_threads_of_its_own(packed, alone) -> None:
    assert agrees(packed, alone)
    child = os.fork()
    if child == 0:
        os._exit(0 if agrees(packed, alone) and agrees(packed, alone) else 1)
    assert os.waitpid(child, 0)[1] == 0
