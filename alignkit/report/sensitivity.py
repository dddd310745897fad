"""The sensitivity table in words: what each layer at lower precision costs, and what to do about it."""

from __future__ import annotations

import json

from alignkit.records import ReportData, SensitivityRow
from alignkit.report.listing import Kind, Listing
from alignkit.report.words import format_ratio, format_share, one_line

_COLUMNS = {
    "layer": Kind.NAME,
    "op": Kind.PROSE,
    "precision": Kind.WORD,
    **dict.fromkeys(("introduced dB", "propagated dB", "output error"), Kind.FIGURE),
}

_SHOWN = 10  # rows in text and Markdown; the page and report.json have all
_KEPT = 3
_TELLING = 0.05  # share of the output's error from which a layer is worth keeping

_LISTS = {
    "int8": "nodes_to_exclude of onnxruntime.quantization",
    "float16": "node_block_list of the float16 converters",
}


def sensitivity_title(report: ReportData) -> str:
    """How many layers the table has, and in which order."""
    count = len(report.sensitivity)
    shown = f"{_SHOWN} of {count}" if count > _SHOWN else f"{count}"
    return f"Sensitivity ({shown} layers in lower precision, the most costly first; SQNR)"


def sensitivity_listing(report: ReportData) -> Listing:
    """One line per layer, as many as :func:`sensitivity_title` says."""
    return Listing(_COLUMNS, [_cells(row) for row in report.sensitivity[:_SHOWN]], elastic=(0, 1))


def _cells(row: SensitivityRow) -> tuple[str, ...]:
    return (
        one_line(row.tap),
        one_line(row.op) or "-",
        row.precision,
        format_ratio(row.introduced_db),
        format_ratio(row.propagated_db),
        "-" if row.output_share is None else format_share(row.output_share),
    )


def sensitivity_advice(report: ReportData) -> str:
    """Which nodes to keep in higher precision, and by which argument of the converters; one line."""
    rows = kept_first(report)
    if not rows:
        return ""
    names = json.dumps(list(dict.fromkeys(one_line(name) for row in rows for name in row.nodes)))
    where = _LISTS.get(rows[0].precision, "the converter's list of excluded nodes")
    return f"To gain most, keep these in higher precision: {names} ({where})."


def kept_first(report: ReportData) -> list[SensitivityRow]:
    """At most three layers: those that make most of the output's error or, where that was not measured,
    those that introduce most. None where no measured layer stands out."""
    rows = [row for row in report.sensitivity if row.nodes]
    measured = [row for row in rows if row.output_share is not None]
    if not measured:
        return rows[:_KEPT]
    telling = [row for row in measured if (row.output_share or 0.0) >= _TELLING]
    return sorted(telling, key=lambda row: -(row.output_share or 0.0))[:_KEPT]
