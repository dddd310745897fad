"""Culprits for a terminal: where it goes wrong, why, what it costs and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alignkit.records import ROOT, Culprit, Experiment, LayerRow, ReportData
from alignkit.report.layout import LABEL_WIDTH, Paint, entries, listed, listing_lines, wrap
from alignkit.report.listing import Kind, Listing
from alignkit.report.words import (
    cause_meaning,
    display_width,
    first_rows,
    format_error,
    how_to_address,
    module_type_of,
    one_line,
    operation_words,
    repro_command,
    share_words,
    source_words,
    symptom_of,
)

_IN_FULL = 3  # further culprits are one line each: the verdict must not scroll away

_NAME_WIDTH, _ERROR_WIDTH = 34, 9


def culprit_sections(report: ReportData, width: int, paint: Paint) -> Iterator[list[str]]:
    """One block of lines per culprit, the rest in a table."""
    rows, total = first_rows(report), len(report.culprits)
    for index, culprit in enumerate(report.culprits[:_IN_FULL], 1):
        title = f"Culprit {index} of {total}" if total > 1 else "Culprit"
        module_type = module_type_of(report, culprit)
        yield [
            paint(title, "head"),
            *_culprit_lines(culprit, rows.get(culprit.tap), module_type, width, paint),
        ]
    if total > _IN_FULL:
        yield [paint("Further culprits", "head"), *_further_lines(report.culprits[_IN_FULL:], width, paint)]


def _culprit_lines(
    culprit: Culprit, row: LayerRow | None, module_type: str, width: int, paint: Paint
) -> list[str]:
    module = culprit.module or ROOT
    where = [
        # A value of an ONNX file belongs to no module: its name says it all.
        ("module", "" if module == culprit.tap else f"{module} ({module_type})" if module_type else module),
        ("tap", culprit.tap),
        ("source", source_words(culprit)),
        ("operation", operation_words(culprit)),
        *listed("ONNX node", culprit.onnx_nodes),
    ]
    meaning = cause_meaning(culprit.cause)
    cause = f"{culprit.cause} ({culprit.confidence} confidence)"
    why = [
        ("cause", f"{cause}: {meaning}" if meaning else cause),
        *listed("evidence", [f"- {item}" for item in culprit.evidence]),
    ]
    command = repro_command(culprit)
    symptom = symptom_of(culprit, row.verdict if row else None)
    then = [
        ("cost", share_words(culprit.output_share)),
        ("advice", culprit.advice),
        ("how to", f'"{symptom}" in {how_to_address(symptom)}' if symptom else ""),
        ("repro", f"{command} (in the report's folder)" if command else ""),
    ]
    tried = _experiment_lines(culprit.experiments, width, paint)
    return [*entries(where, width), *entries(why, width), *tried, *entries(then, width)]


def _experiment_lines(experiments: Sequence[Experiment], width: int, paint: Paint) -> list[str]:
    """A small table. A name that does not fit stands on a line of its own: it may be there to be copied."""
    if not experiments:
        return []
    longest = max(display_width(one_line(e.name)) for e in experiments)
    columns = max(min(longest, _NAME_WIDTH, width // 3), len("experiment"))
    indent = " " * (LABEL_WIDTH + columns + _ERROR_WIDTH + 4)

    def line(label: str, name: str, error: str, reading: str) -> list[str]:
        fits = display_width(name) <= columns
        cell = name if fits else ""
        space = " " * (columns - display_width(cell))
        first = f"  {label:<10} {cell}{space}  {error:>{_ERROR_WIDTH}}  "
        above = [] if fits else wrap(name, width, " " * LABEL_WIDTH, " " * (LABEL_WIDTH + 2))
        return [*above, *wrap(reading.strip() or "-", max(width, len(indent) + 20), first, indent)]

    lines = [paint(line("tried", "experiment", "error", "reading")[0], "dim")]
    for e in experiments:
        lines += line("", one_line(e.name), format_error(e.error), e.reading)
    return lines


def _further_lines(culprits: Sequence[Culprit], width: int, paint: Paint) -> list[str]:
    columns = dict.fromkeys(("tap", "op", "cause", "confidence", "source"), Kind.PROSE)
    rows = [(c.tap, c.op or "-", c.cause, c.confidence, c.source or "-") for c in culprits]
    listing = Listing(columns, [tuple(map(one_line, row)) for row in rows], elastic=(1, 4, 0))
    return listing_lines(listing, width, paint)
