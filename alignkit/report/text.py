"""The console summary: the verdict first, then where, why and what to do, then the numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.records import OutputRow, ReportData
from alignkit.report.candidates import candidate_listing, shown_candidate
from alignkit.report.layers import layer_listing, output_listing, worst_layers
from alignkit.report.layout import Paint, bullet, entries, listing_lines, painter
from alignkit.report.samples import (
    listed_samples,
    listed_spreads,
    sample_listing,
    sample_reasons,
    sample_summary,
    spread_listing,
)
from alignkit.report.sensitivity import sensitivity_advice, sensitivity_listing, sensitivity_title
from alignkit.report.text_culprits import culprit_sections
from alignkit.report.words import coverage_reasons, format_plain, one_line, verdict_line


def render_text(report: ReportData, *, colour: bool = False, width: int = 100) -> str:
    """The report for a terminal of ``width`` columns, ending in a newline.

    Without ``colour`` the text holds no control sequence, and no character beyond ASCII but
    those of the names in the report. Tables fit into ``width`` as long as it is at least 60;
    paths, node names and settings are never cut, so that they can be copied.
    """
    paint = painter(colour)
    first = verdict_line(report)
    style = "good" if first.startswith("ALIGNED") else "bad"
    sections = [
        [paint(line, style) for line in textwrap.wrap(first, width, break_on_hyphens=False) or [first]],
        _candidate_section(report, width, paint),
        _sample_section(report, width, paint),
        *culprit_sections(report, width, paint),
        _sensitivity_section(report, width, paint),
        _spread_section(report, width, paint),
        _layer_section(report, width, paint),
        _output_section(report.outputs, width, paint),
        _coverage_section(report, width, paint),
        _note_section(report.notes, width, paint),
        _run_section(report, width, paint),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _candidate_section(report: ReportData, width: int, paint: Paint) -> list[str]:
    if not report.candidates:
        return []
    shown = f"the rest of this report is of {one_line(shown_candidate(report))}"
    section = [paint(f"Candidates side by side ({shown})", "head")]
    section += listing_lines(candidate_listing(report), width, paint)
    for row in report.candidates:
        if row.reason:
            section += bullet(f"{row.name}: {row.reason}", width)
    return section


def _sample_section(report: ReportData, width: int, paint: Paint) -> list[str]:
    """Of a data set: what became of its samples."""
    if not report.samples:
        return []
    lines = [line for sentence in sample_summary(report) for line in bullet(sentence, width)]
    if rows := listed_samples(report):
        lines += listing_lines(sample_listing(rows), width, paint)
    lines += [line for reason in sample_reasons(report.samples) for line in bullet(reason, width)]
    return [paint("Samples", "head"), *lines]


def _spread_section(report: ReportData, width: int, paint: Paint) -> list[str]:
    spreads = listed_spreads(report)
    if not spreads:
        return []
    title = "Layers over all samples (introduced error: mean and largest; propagated: largest)"
    return [paint(title, "head"), *listing_lines(spread_listing(spreads), width, paint)]


def _layer_section(report: ReportData, width: int, paint: Paint) -> list[str]:
    rows = worst_layers(report)
    if not rows:
        exact = "No compared tap differs from its reference in any bit."
        return [exact] if report.coverage.compared and report.layers else []
    title = f"Worst layers ({len(rows)} of {len(report.layers)} taps; errors are max |candidate - reference|)"
    return [paint(title, "head"), *listing_lines(layer_listing(rows), width, paint)]


def _sensitivity_section(report: ReportData, width: int, paint: Paint) -> list[str]:
    if not report.sensitivity:
        return []
    advice = sensitivity_advice(report)
    return [
        paint(sensitivity_title(report), "head"),
        *listing_lines(sensitivity_listing(report), width, paint),
        *(bullet(advice, width) if advice else []),
    ]


def _output_section(outputs: Sequence[OutputRow], width: int, paint: Paint) -> list[str]:
    if not outputs:
        return []
    lines = [paint("Outputs (plain: the file as deployed; probed: with taps)", "head")]
    lines += listing_lines(output_listing(outputs), width, paint)
    for row in outputs:
        if row.reason:
            lines += bullet(f"{row.name}: {row.reason}", width)
    return lines


def _coverage_section(report: ReportData, width: int, paint: Paint) -> list[str]:
    coverage = report.coverage
    total = coverage.compared + coverage.not_compared
    lines = [paint(f"Coverage ({coverage.compared} of {total} taps compared)", "head")]
    for count, reason in coverage_reasons(report):
        lines += bullet(f"{count} not compared: {reason}", width)
    return lines


def _note_section(notes: Sequence[str], width: int, paint: Paint) -> list[str]:
    lines = [line for note in notes for line in bullet(note, width)]
    return [paint("Notes", "head"), *lines] if lines else []


def _run_section(report: ReportData, width: int, paint: Paint) -> list[str]:
    seconds = {stage: f"{value:.2f} s" for stage, value in report.timings.items()}
    pairs = [
        ("versions", _pairs(report.environment, " ")),
        ("settings", _pairs(report.settings, "=")),
        ("time", _pairs(seconds, " ")),
    ]
    lines = entries(pairs, width)
    return [paint("Run", "head"), *lines] if lines else []


_EMPTY: tuple[Any, ...] = (None, [], {}, ())  # settings that were not made


def _pairs(values: Mapping[str, Any], glue: str) -> str:
    known = {key: format_plain(value) for key, value in values.items() if value not in _EMPTY}
    return ", ".join(f"{key}{glue}{value}" for key, value in known.items())
