"""Several candidates side by side: what the text, Markdown and HTML reports say of each in the same words."""

from __future__ import annotations

from alignkit.records import CandidateRow, ReportData
from alignkit.report.listing import VERDICT, Kind, Listing
from alignkit.report.words import aligned_word, format_error, format_ratio, one_line

_COLUMNS = {
    "candidate": Kind.NAME,
    VERDICT: Kind.WORD,
    "taps": Kind.WORD,
    "first culprit": Kind.NAME,
    "cause": Kind.PROSE,
    "worst layer": Kind.NAME,
    "ratio": Kind.FIGURE,
    "output error": Kind.FIGURE,
}


def candidate_listing(report: ReportData) -> Listing:
    """One line per candidate; of one that could not be compared the name and verdict."""
    rows = report.candidates
    styles = ["warn" if row.aligned is None else "good" if row.aligned else "bad" for row in rows]
    return Listing(_COLUMNS, [_cells(row) for row in rows], elastic=(5, 3, 0), styles=styles)


def shown_candidate(report: ReportData) -> str:
    """The name of the candidate that the rest of the report is of."""
    return str(report.settings.get("candidate", ""))


def _cells(row: CandidateRow) -> tuple[str, ...]:
    if row.aligned is None:
        return (one_line(row.name), aligned_word(row.aligned), *["-"] * (len(_COLUMNS) - 2))
    return (
        one_line(row.name),
        aligned_word(row.aligned),
        f"{row.compared}/{row.taps}",
        one_line(row.culprit or "-"),
        one_line(row.cause or "-"),
        one_line(row.worst_tap or "-"),
        format_ratio(row.worst_ratio),
        format_error(row.output_error),
    )
