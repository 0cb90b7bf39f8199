"""Quick runs in continuous integration: what changed and a rotating sample of the rest, against the evidence.

python -m tercile.papers.continuous --sample 2 --base origin/main
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tercile.papers.changed import changed_papers
from tercile.papers.declaration import Check
from tercile.papers.evidence import Evidence, checkout, evidence_folder, read_evidence
from tercile.papers.machine import git
from tercile.papers.method import Method, load_method, measurable
from tercile.papers.run import run_method

QUICK_SECONDS = 10.0


@dataclass(frozen=True)
class Outcome:
    """What a quick run said about one paper: `agrees`, `contradicts`, `fails` or `no evidence`."""

    slug: str
    state: str
    detail: str
    seconds: float

    @property
    def good(self) -> bool:
        """Whether the check may pass: a paper without committed evidence only has to run."""
        return self.state in {"agrees", "no evidence"}


def contradictions(quick: Evidence, committed: Evidence, rule: Sequence[Check]) -> list[str]:
    """Where a quick run says otherwise than the committed evidence; empty where they agree.

    Only checks with ``quick=True`` count. A check that passed in the evidence is contradicted when a seed of
    the quick run misses the limit by more than `quick_slack` of it; a check that failed, when every seed
    clears the limit by more than that. A rule in the code that is not the evidence's contradicts it too.

    Parameters
    ----------
    quick, committed
        The new quick run and the evidence from the file.
    rule
        The checks as the code declares them now.
    """
    if tuple(rule) != committed.rule:
        return ["the rule in the code is not the rule of the evidence; run it in full again"]
    found = []
    runs = quick.runs()
    for result in committed.judge().checks:
        check = result.check
        if not check.quick:
            continue
        values = ", ".join(f"{run[check.quantity]:.4g} (limit {check.limit(run):.4g})" for run in runs)
        if result.holds and not all(check.passes(run, check.quick_slack) for run in runs):
            found.append(f"{check} held, a quick run gives {values}")
        if not result.holds and all(check.passes(run, -check.quick_slack) for run in runs):
            found.append(f"{check} failed, a quick run passes with {values}")
    return found


def quick_outcome(method: Method, folder: Path) -> Outcome:
    """Run one method at its quick size and compare it with the evidence in a folder."""
    slug = method.paper.slug
    began = time.monotonic()
    committed = read_evidence(slug, folder)
    try:
        quick = run_method(method, "quick")
    except Exception as error:  # an experiment may raise anything; the others still have to be checked
        return Outcome(slug, "fails", f"{type(error).__name__}: {error}", time.monotonic() - began)
    seconds = time.monotonic() - began
    slow = f"; slow: {seconds:.0f} s, a quick run should take under {QUICK_SECONDS:.0f} s"
    late = slow if seconds > QUICK_SECONDS else ""
    if committed is None:
        return Outcome(slug, "no evidence", f"runs; nothing is committed to compare with{late}", seconds)
    if not committed.measured:
        return Outcome(
            slug, "contradicts", "the evidence says 'not here' but there is an experiment now", seconds
        )
    found = contradictions(quick, committed, method.rule)
    detail = "; ".join(found) or f"as committed: {committed.verdict}"
    return Outcome(slug, "contradicts" if found else "agrees", detail + late, seconds)


def check_rotating(
    sample: int,
    base: str | None = None,
    folder: Path | None = None,
    at_most: int = 20,
    report: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Quick runs of the papers whose code changed since `base`, and of a rotating sample of the others.

    Parameters
    ----------
    sample
        How many others. They move on with every commit, so that each gets its turn.
    base
        A git revision to compare with; None for the sample only.
    folder
        Where the committed evidence is; by default `evidence_folder()`.
    at_most
        Bound on the changed ones that are run, those whose own files changed first.
    report
        Called with each outcome as it comes.

    Raises
    ------
    ValueError
        `sample` is negative, there is no checkout, or git doesn't know `base`.
    """
    if sample < 0:
        raise ValueError(f"sample must not be negative, got {sample}")
    where = folder or evidence_folder()
    ready = measurable()
    changed = changed_papers(base, ready)[:at_most] if base else []
    rest = [slug for slug in ready if slug not in changed]
    outcomes = []
    for slug in [*changed, *rotation(rest, sample, turn(checkout()))]:
        try:
            method = load_method(slug)
        except (ImportError, ValueError) as error:
            outcome = Outcome(slug, "fails", f"{type(error).__name__}: {error}", 0.0)
        else:
            if not isinstance(method, Method):
                continue
            outcome = quick_outcome(method, where)
        outcomes.append(outcome)
        if report:
            report(outcome)
    return outcomes


def rotation(slugs: Sequence[str], sample: int, turn: int) -> list[str]:
    """`sample` of the slugs, the next ones at each turn: after ``ceil(n / sample)`` turns all have been run.

    >>> rotation(["a", "b", "c"], 2, turn=0), rotation(["a", "b", "c"], 2, turn=1)
    (['a', 'b'], ['a', 'c'])
    """
    count = min(sample, len(slugs))
    ordered = sorted(slugs)
    return sorted(ordered[(turn * sample + i) % len(ordered)] for i in range(count))


def turn(root: Path | None) -> int:
    """A number that moves on by one a commit; in a shallow clone, which cannot count, one from its hash."""
    if git(root, "rev-parse", "--is-shallow-repository") == "false":
        return int(git(root, "rev-list", "--count", "HEAD") or 0)
    head = git(root, "rev-parse", "HEAD") or ""
    return int(hashlib.sha256(head.encode()).hexdigest()[:8], 16)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 when a quick run contradicts its evidence or fails, 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m tercile.papers.continuous", description=__doc__)
    parser.add_argument("--sample", type=int, default=2, help="how many unchanged papers to run")
    parser.add_argument("--base", help="revision to compare with, such as origin/main")
    parser.add_argument("--at-most", type=int, default=20, help="bound on the changed papers that are run")
    parser.add_argument("--evidence", type=Path, help="folder of committed evidence")
    given = parser.parse_args(arguments)

    def report(outcome: Outcome) -> None:
        print(
            f"{outcome.state:<12} {outcome.slug:<28} {outcome.seconds:5.1f} s  {outcome.detail}", flush=True
        )

    try:
        outcomes = check_rotating(given.sample, given.base, given.evidence, given.at_most, report)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bad = [outcome.slug for outcome in outcomes if not outcome.good]
    print(
        f"{len(outcomes)} quick runs, {len(bad)} against the evidence"
        + (f": {', '.join(bad)}" if bad else "")
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
