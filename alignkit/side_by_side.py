"""Several candidates in one report: the rows that hold them side by side, and the one that is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from alignkit.deployed import NOT_RUNNING
from alignkit.errors import AlignkitError, CompareError
from alignkit.records import CandidateRow, Glance, LayerRow, ReportData


def join_reports(found: Mapping[str, ReportData | AlignkitError], otherwise: str | None = None) -> ReportData:
    """One report of all candidates, by name in order: an error stands for one that could not be compared.

    It shows the first that diverges, else the one called ``otherwise``, else the first at all; it is
    aligned when every candidate is. Raises :class:`CompareError` when none could be compared.
    """
    reports = {name: report for name, report in found.items() if isinstance(report, ReportData)}
    if not reports:
        raise CompareError("no candidate could be compared: " + "; ".join(map(str, found.values())))
    agreeing = otherwise if otherwise in reports else next(iter(reports))
    shown = next((name for name, report in reports.items() if is_aligned(report) is False), agreeing)
    rows = tuple(_row(name, report) for name, report in found.items())
    return replace(
        reports[shown],
        aligned=all(row.aligned for row in rows),
        candidates=rows,
        settings={**reports[shown].settings, "candidate": shown},
    )


def is_aligned(report: ReportData) -> bool | None:
    """None for a data set of which some samples could not be compared, and all others agree."""
    if report.aligned or report.culprits or any(row.aligned is False for row in report.samples):
        return report.aligned
    return None if any(row.aligned is None for row in report.samples) else False


def _row(name: str, report: ReportData | AlignkitError) -> CandidateRow:
    if not isinstance(report, ReportData):
        return CandidateRow(name, None, reason=str(report))
    aligned = is_aligned(report)
    refused = next((row for row in report.samples if row.aligned is None), None)
    first = report.culprits[0] if report.culprits else None
    worst = max(report.layers, key=lambda row: row.noise_ratio or 0.0, default=None)
    ran = any(row.verdict.was_compared for row in report.outputs) or not report.outputs
    stops = next((note for note in report.notes if note.startswith(NOT_RUNNING)), "")
    errors = [e.max_abs for row in report.outputs if (e := row.plain or row.probed) and e.max_abs is not None]
    return CandidateRow(
        name,
        aligned,
        report.coverage.compared,
        report.coverage.compared + report.coverage.not_compared,
        first.tap if first else None,
        first.cause if first else None,
        worst.tap if worst and worst.noise_ratio else None,
        worst.noise_ratio if worst else None,
        max(errors, default=None),
        f"{refused.name}: {refused.reason}" if aligned is None and refused else "" if ran else stops,
        {row.tap: _glance(row) for row in report.layers},
    )


def _glance(row: LayerRow) -> Glance:
    introduced = row.introduced.max_abs if row.introduced else None
    return Glance(row.verdict, introduced, row.noise_ratio)
