"""The console summary: the verdict first, then where, why and what to do, then the numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from alignkit.records import ROOT, Culprit, OutputRow, ReportData, Verdict
from alignkit.report.words import (
    LAYER_HEADER,
    OUTPUT_HEADER,
    coverage_reasons,
    display_width,
    format_plain,
    layer_cells,
    one_line,
    output_cells,
    shorten_middle,
    verdict_line,
    worst_layers,
)

Paint = Callable[[str, str], str]
"""``paint(text, style)``: the text in a style of ``_STYLES``, or as it is when colour is off."""

_STYLES = {"good": "32", "bad": "1;31", "warn": "33", "head": "1", "dim": "2"}

_VERDICT_STYLES = {Verdict.OK: "good", Verdict.PROPAGATED: "warn", Verdict.SKIPPED: "dim"}  # others: "bad"

_NUMERIC_COLUMNS = {"introduced", "noise", "ratio", "propagated", "SQNR dB", "plain", "probed"}


def render_text(report: ReportData, *, colour: bool = False, width: int = 100) -> str:
    """The report for a terminal of ``width`` columns, ending in a newline.

    Without ``colour`` the text holds no control sequence, and no character beyond ASCII but
    those of the names in the report. Tables fit into ``width`` as long as it is at least 60;
    paths, node names and settings are never cut, so that they can be copied.
    """
    paint = _painter(colour)
    first = verdict_line(report)
    style = "good" if first.startswith("ALIGNED") else "bad"
    sections = [
        [paint(shorten_middle(first, width), style)],
        *_culprit_sections(report, width, paint),
        _layer_section(report, width, paint),
        _output_section(report.outputs, width, paint),
        _coverage_section(report, width, paint),
        _note_section(report.notes, width, paint),
        _run_section(report, width, paint),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _painter(colour: bool) -> Paint:
    if not colour:
        return lambda text, style: text
    return lambda text, style: f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def _culprit_sections(report: ReportData, width: int, paint: Paint) -> Iterator[list[str]]:
    if not report.culprits:
        return
    first, *further = report.culprits
    module_type = next((row.module_type for row in report.layers if row.tap == first.tap), "")
    yield [paint("First culprit", "head"), *_culprit_lines(first, module_type, width)]
    if further:
        header = ("tap", "op", "cause", "confidence", "source")
        rows = [(c.tap, c.op or "-", c.cause, c.confidence, c.source or "-") for c in further]
        table = _table(header, [tuple(map(one_line, row)) for row in rows], width, elastic=(1, 4, 0))
        yield [paint("Further culprits", "head"), *_table_lines(table, paint)]


def _culprit_lines(culprit: Culprit, module_type: str, width: int) -> list[str]:
    module = culprit.module or ROOT
    entries = [
        ("module", f"{module} ({module_type})" if module_type else module),
        ("tap", culprit.tap),
        ("op", culprit.op),
        ("cause", f"{culprit.cause} ({culprit.confidence} confidence)"),
        ("source", culprit.source or ""),
        *_listed("ONNX node", culprit.onnx_nodes),
        *_listed("evidence", [f"- {item}" for item in culprit.evidence]),
        ("advice", culprit.advice),
        ("repro", culprit.repro or ""),
    ]
    return [line for label, text in entries if text for line in _entry(label, text, width)]


def _listed(label: str, items: Sequence[str]) -> list[tuple[str, str]]:
    """The items one below the other, the label beside the first."""
    return [(label if index == 0 else "", item) for index, item in enumerate(items)]


def _entry(label: str, text: str, width: int) -> list[str]:
    """``label`` in a column of its own and ``text`` wrapped beside it; the text of a bullet hangs."""
    hang = "  " if text.startswith("- ") else ""
    return _wrap(text, width, f"  {label:<10} ", " " * 13 + hang)


def _bullet(text: str, width: int) -> list[str]:
    return _wrap(text, width, "  - ", "    ")


def _wrap(text: str, width: int, first: str, following: str) -> list[str]:
    return textwrap.wrap(
        one_line(text),
        max(width, 40),
        initial_indent=first,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _layer_section(report: ReportData, width: int, paint: Paint) -> list[str]:
    rows = worst_layers(report)
    if not rows:
        exact = "No compared tap differs from its reference in any bit."
        return [exact] if report.coverage.compared and report.layers else []
    table = _table(LAYER_HEADER, [layer_cells(row) for row in rows], width, elastic=(1, 0))
    title = f"Worst layers ({len(rows)} of {len(report.layers)} taps; errors are max |candidate - reference|)"
    return [paint(title, "head"), *_table_lines(table, paint, [row.verdict for row in rows])]


def _output_section(outputs: Sequence[OutputRow], width: int, paint: Paint) -> list[str]:
    if not outputs:
        return []
    table = _table(OUTPUT_HEADER, [output_cells(row) for row in outputs], width, elastic=(0,))
    lines = [paint("Outputs (plain: the file as deployed; probed: with taps)", "head")]
    lines += _table_lines(table, paint, [row.verdict for row in outputs])
    for row in outputs:
        if row.reason:
            lines += _bullet(f"{row.name}: {row.reason}", width)
    return lines


def _coverage_section(report: ReportData, width: int, paint: Paint) -> list[str]:
    coverage = report.coverage
    total = coverage.compared + coverage.not_compared
    lines = [paint(f"Coverage ({coverage.compared} of {total} taps compared)", "head")]
    for count, reason in coverage_reasons(report):
        lines += _bullet(f"{count} not compared: {reason}", width)
    return lines


def _note_section(notes: Sequence[str], width: int, paint: Paint) -> list[str]:
    lines = [line for note in notes for line in _bullet(note, width)]
    return [paint("Notes", "head"), *lines] if lines else []


def _run_section(report: ReportData, width: int, paint: Paint) -> list[str]:
    seconds = {stage: f"{value:.2f} s" for stage, value in report.timings.items()}
    entries = [
        ("versions", _pairs(report.environment, " ")),
        ("settings", _pairs(report.settings, "=")),
        ("time", _pairs(seconds, " ")),
    ]
    lines = [line for label, text in entries if text for line in _entry(label, text, width)]
    return [paint("Run", "head"), *lines] if lines else []


_EMPTY: tuple[Any, ...] = (None, [], {}, ())  # settings that were not made


def _pairs(values: Mapping[str, Any], glue: str) -> str:
    known = {key: format_plain(value) for key, value in values.items() if value not in _EMPTY}
    return ", ".join(f"{key}{glue}{value}" for key, value in known.items())


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, elastic: Sequence[int]
) -> list[list[str]]:
    """Padded cells, header first, as wide as ``width`` allows.

    The ``elastic`` columns give way in that order, down to 10 characters and the first column
    down to 20; what then still does not fit is lost from the right, but never the first three.
    """
    lines = [header, *rows]
    widths = [max(display_width(line[column]) for line in lines) for column in range(len(header))]
    least = [min(w, 20 if i == 0 else 10) if i in elastic else w for i, w in enumerate(widths)]
    shown = len(header)
    while shown > 3 and sum(least[:shown]) + 2 * shown > width:
        shown -= 1
    for column in elastic:
        excess = sum(widths[:shown]) + 2 * shown - width
        if column < shown and excess > 0:
            widths[column] = max(least[column], widths[column] - excess)
    left = [name not in _NUMERIC_COLUMNS for name in header]
    return [[_pad(line[i], widths[i], left[i]) for i in range(shown)] for line in lines]


def _pad(text: str, width: int, left: bool) -> str:
    cell = shorten_middle(text, width)
    space = " " * (width - display_width(cell))
    return cell + space if left else space + cell


def _table_lines(table: Sequence[Sequence[str]], paint: Paint, verdicts: Sequence[Verdict] = ()) -> list[str]:
    """The lines of a table; with ``verdicts``, one per row, its verdict column takes their colours."""
    header, *rows = table
    lines = [paint("  " + "  ".join(header).rstrip(), "dim")]
    for index, cells in enumerate(rows):
        if verdicts:
            style = _VERDICT_STYLES.get(verdicts[index], "bad")
            value = verdicts[index].value
            cells = [paint(cell, style) if cell.strip() == value else cell for cell in cells]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
