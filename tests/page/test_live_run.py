"""A live run: progress, every way in which it can end, and nothing left behind."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from tercile.page.trial.live import LOSSES, MODELS, Busy, Live, Progress

STORED = Path("src/tercile/page/trial/minilm.json").resolve()
START = "import json, sys, time, pathlib\ntell = lambda **f: print(json.dumps(f), flush=True)\n"
DONE = f"tell(run=json.load(open({str(STORED)!r}))['runs'][0])\n"
STAGE = "tell(stage='searching', done=1, total=3)\n"


def live_of(tmp_path: Path, script: str, seconds: float = 30.0) -> Live:
    file = tmp_path / "child.py"
    file.write_text(START + script)
    return Live(tmp_path / "live", seconds, (sys.executable, str(file)))


async def ended(live: Live, patience: float = 60.0) -> Progress:
    for _ in range(int(patience / 0.02)):
        assert live.progress is not None
        if live.progress.state != "running":
            await asyncio.sleep(0.2)  # what it leaves is removed after the last word
            return live.progress
        await asyncio.sleep(0.02)
    raise AssertionError("the run has not ended")


@pytest.mark.parametrize(
    "script,seconds,state,words",
    [
        (STAGE + DONE, 30, "done", ""),
        ("tell(failed='too few examples')\n", 30, "failed", "too few examples"),
        (STAGE, 30, "failed", "without a result"),
        ("sys.exit(3)\n", 30, "failed", "without a result"),
        ("print('no JSON')\n", 30, "failed", "not understood"),
        ("tell(run={'rung': 1})\n", 30, "failed", "not understood"),
        ("print('x' * 2_000_000)\n", 30, "failed", "not understood"),
        (STAGE + "time.sleep(60)\n", 0.5, "stopped", "as long as a run may take"),
    ],
)
def test_a_run_ends_with_its_result_or_a_reason_and_leaves_nothing(
    tmp_path: Path, script: str, seconds: float, state: str, words: str
) -> None:
    async def story() -> None:
        live = live_of(tmp_path, "room = pathlib.Path(sys.argv[3]); room.mkdir()\n" + script, seconds)
        live.start("digits-cnn", 0.05)
        progress = await ended(live)
        assert progress.state == state and words in progress.words
        assert (progress.run is not None) == (state == "done")
        assert list((tmp_path / "live").iterdir()) == []
        live.start("digits-cnn", 0.05)  # the next one may start
        await live.stop()

    asyncio.run(story())


def test_one_run_at_a_time_which_can_be_stopped_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        live = live_of(tmp_path, STAGE + "time.sleep(60)\n")
        live.start("minilm", 0.1)
        while live.progress and live.progress.stage != "searching":
            await asyncio.sleep(0.02)
        with pytest.raises(Busy):
            live.start("digits-cnn", 0.05)
        process, began = live._process, time.monotonic()
        await live.stop()
        assert time.monotonic() - began < 5 and process is not None and process.returncode is not None
        assert live.progress is not None and live.progress.state == "stopped" and live.progress.words == ""

    asyncio.run(story())


def test_why_a_run_ended_without_a_result_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        live = live_of(tmp_path, "raise RuntimeError('no such kernel')\n")
        live.start("digits-cnn", 0.05)
        await ended(live)

    with caplog.at_level("WARNING", "tercile.page"):
        asyncio.run(story())
    assert "no such kernel" in caplog.text


def test_a_command_that_is_not_there_is_said(tmp_path: Path) -> None:
    async def story() -> None:
        live = Live(tmp_path, 5, (str(tmp_path / "nothing"),))
        live.start("digits-cnn", 0.05)
        assert "could not be started" in (await ended(live)).words

    asyncio.run(story())


@pytest.mark.parametrize("model,loss", [("../../etc", 0.05), ("digits-cnn", 0.5), ("digits-cnn", float("nan"))])
def test_only_what_is_on_offer_can_be_run(tmp_path: Path, model: str, loss: float) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        Live(tmp_path, 5).start(model, loss)


def test_the_real_child_compresses_the_digit_classifier_and_reports(tmp_path: Path) -> None:
    """Half a minute: the only test in which a reader's run is what it is in use, from the first stage to the chart."""
    pytest.importorskip("torch")
    assert "digits-cnn" in MODELS and max(LOSSES) == 0.1

    async def story() -> None:
        live, stages = Live(tmp_path / "live", 250), set()
        live.start("digits-cnn", 0.1)
        while live.progress and live.progress.state == "running":
            stages.add(live.progress.stage)
            await asyncio.sleep(0.02)
        progress = live.progress
        assert progress is not None and progress.state == "done", progress
        assert len(stages - {"starting"}) >= 3
        run = progress.run
        assert run is not None and run.bound <= 0.1 and run.after < run.before and run.tested

    asyncio.run(story())
