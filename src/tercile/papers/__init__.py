"""The 166 published methods: what each claims, beside what was measured here.

>>> from tercile.papers import catalogue
>>> len(catalogue())
166
"""

from tercile.papers.catalogue import catalogue, paper
from tercile.papers.declaration import Check, Measured, Paper, Size
from tercile.papers.evidence import Evidence, Quantity, evidence_folder, read_evidence, write_evidence
from tercile.papers.expression import Expression
from tercile.papers.listing import Entry, list_papers
from tercile.papers.method import Method, load_method, measurable
from tercile.papers.run import not_here, record, run_method
from tercile.papers.verdict import CheckResult, Judgement, Verdict, judge

__all__ = [
    "Check",
    "CheckResult",
    "Entry",
    "Evidence",
    "Expression",
    "Judgement",
    "Measured",
    "Method",
    "Paper",
    "Quantity",
    "Size",
    "Verdict",
    "catalogue",
    "evidence_folder",
    "judge",
    "list_papers",
    "load_method",
    "measurable",
    "not_here",
    "paper",
    "read_evidence",
    "record",
    "run_method",
    "write_evidence",
]
