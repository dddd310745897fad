"""Several candidates side by side: what the text, Markdown and HTML reports say of each in the same words."""

from __future__ import annotations

from alignkit.records import CandidateRow, ReportData
from alignkit.report.words import format_error, format_ratio, one_line

CANDIDATE_HEADER = (
    "candidate",
    "verdict",
    "taps",
    "first culprit",
    "cause",
    "worst layer",
    "ratio",
    "output error",
)


def candidate_cells(row: CandidateRow) -> tuple[str, ...]:
    """One cell per entry of ``CANDIDATE_HEADER``; of one that could not be compared the name and verdict."""
    if row.aligned is None:
        return (one_line(row.name), candidate_verdict(row), *["-"] * (len(CANDIDATE_HEADER) - 2))
    return (
        one_line(row.name),
        candidate_verdict(row),
        f"{row.compared}/{row.taps}",
        one_line(row.culprit or "-"),
        one_line(row.cause or "-"),
        one_line(row.worst_tap or "-"),
        format_ratio(row.worst_ratio),
        format_error(row.output_error),
    )


def candidate_verdict(row: CandidateRow) -> str:
    """``aligned``, ``diverged`` or ``not compared``."""
    if row.aligned is None:
        return "not compared"
    return "aligned" if row.aligned else "diverged"


def shown_candidate(report: ReportData) -> str:
    """The name of the candidate that the rest of the report is of."""
    return str(report.settings.get("candidate", ""))
