"""Which way to search: scan what passes, or read lists with the filter inside."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tercile.filters.search.rows import Segment
from tercile.filters.search.selectivity import estimated_share
from tercile.filters.search.where import Where

Way = Literal["scan", "lists"]

#: Costs in units of one row met by one query among many: a centre met; a row met inside a list, where few queries share
#: it; a list opened; the bounds and rounds of a query; and of each row that a mask is made for.
CENTER, IN_LIST, LIST, ROUNDS, MASK = 0.6, 2.0, 100.0, 2500.0, 0.15


@dataclass(frozen=True)
class Plan:
    """How a search was done.

    `method` is the way it was begun or, after `switched`, ended. `share` is the share of rows that was expected to
    pass, `passed` how many really did where all were looked at (else -1), `distances` how many were computed.
    """

    method: Way
    share: float
    switched: bool = False
    passed: int = -1
    distances: int = 0

    def switched_to(self, method: Way) -> Plan:
        """The same with another way from here on."""
        return replace(self, method=method, switched=True)

    def met(self, distances: int, passed: int = -1) -> Plan:
        """With more distances counted."""
        return replace(self, distances=self.distances + distances, passed=max(self.passed, passed))


def planned(segment: Segment, where: Where | None, queries: int, recall: float) -> Plan:
    """The way that promises to be cheaper, by the estimated share of rows that pass.

    >>> from tercile.filters.search.rows import no_rows
    >>> planned(no_rows(3), None, 1, 0.99).method
    'scan'
    """
    share = estimated_share(where, segment.shares)
    if segment.lists is None or segment.lists.reach is None or recall >= 1:
        return Plan("scan", share)
    scan = _scan_cost(segment, share * len(segment), queries, where is not None)
    return Plan("scan" if scan <= _lists_cost(segment, share, queries, recall) else "lists", share)


def cheaper_to_scan(segment: Segment, passed: int, queries: int, recall: float) -> bool:
    """The same question once it is known how many pass."""
    if segment.lists is None or segment.lists.reach is None:
        return True
    share = passed / max(len(segment), 1)
    return _scan_cost(segment, passed, queries, False) <= _lists_cost(segment, share, queries, recall)


def not_worth_it(lists: int, met: int, passed: int, queries: int) -> bool:
    """Whether lists cost more than a scan of all that passes would.

    >>> not_worth_it(lists=50, met=1000, passed=20_000, queries=1), not_worth_it(500, 1000, 20_000, 1)
    (False, True)
    """
    return LIST * lists + IN_LIST * met > queries * passed


def _scan_cost(segment: Segment, passed: float, queries: int, masked: bool) -> float:
    return queries * passed + MASK * len(segment) * masked


def _lists_cost(segment: Segment, share: float, queries: int, recall: float) -> float:
    assert segment.lists is not None and segment.lists.reach is not None
    read = segment.lists.reach.lists_read(share, recall)
    rows = read * len(segment)
    met = CENTER * segment.lists.count + IN_LIST * share * rows + LIST * read * segment.lists.count
    return queries * (met + ROUNDS)
