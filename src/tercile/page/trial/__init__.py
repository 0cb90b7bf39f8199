"""Compress a model while you watch: stored runs to slide through, and one live run at a time."""

from tercile.page.trial.chart import run_chart
from tercile.page.trial.live import Busy, Live, Progress
from tercile.page.trial.runs import Run, stored_runs

__all__ = ["Busy", "Live", "Progress", "Run", "run_chart", "stored_runs"]
