"""Which layers a report shows first, and the layers and outputs as tables."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.records import LayerRow, OutputRow, ReportData, Verdict
from alignkit.report.listing import VERDICT, Kind, Listing
from alignkit.report.words import format_error, format_ratio, max_abs, one_line

_STRUCTURAL = (Verdict.NONFINITE, Verdict.SHAPE, Verdict.DTYPE)
_STYLES = {Verdict.OK: "good", Verdict.PROPAGATED: "warn", Verdict.SKIPPED: "dim"}  # others: "bad"


def worst_layers(report: ReportData, limit: int = 10) -> list[LayerRow]:
    """The compared rows with any error, by noise ratio, then introduced, then propagated error.

    Rows that introduce error come first, then those whose values could not be judged by a number
    (another shape, NaN on one side), then all others. Ties keep execution order.
    """
    blamed = {culprit.tap for culprit in report.culprits}

    def badness(row: LayerRow) -> tuple[float, ...]:
        rank = 2 if row.verdict is Verdict.INTRODUCED or row.tap in blamed else row.verdict in _STRUCTURAL
        figures = (row.noise_ratio, max_abs(row.introduced), max_abs(row.propagated))
        return (rank, *(-1.0 if figure is None else figure for figure in figures))

    erring = [row for row in report.layers if row.verdict.was_compared and _has_error(row)]
    return sorted(erring, key=badness, reverse=True)[:limit]


def layer_listing(rows: Sequence[LayerRow]) -> Listing:
    """One line per layer; errors are max |candidate - reference|."""
    columns = {
        "tap": Kind.NAME,
        "type": Kind.PROSE,
        VERDICT: Kind.WORD,
        **dict.fromkeys(("introduced", "noise", "ratio", "propagated", "SQNR dB"), Kind.FIGURE),
    }
    styles = [_STYLES.get(row.verdict, "bad") for row in rows]
    return Listing(columns, [_layer_cells(row) for row in rows], elastic=(1, 0), styles=styles)


def output_listing(rows: Sequence[OutputRow]) -> Listing:
    """One line per output, of the file as deployed and of the one with taps."""
    columns = {
        "output": Kind.NAME,
        VERDICT: Kind.WORD,
        **dict.fromkeys(("plain", "probed", "noise", "SQNR dB"), Kind.FIGURE),
        "observer effect": Kind.WORD,
    }
    styles = [_STYLES.get(row.verdict, "bad") for row in rows]
    return Listing(columns, [_output_cells(row) for row in rows], elastic=(0,), styles=styles)


def _layer_cells(row: LayerRow) -> tuple[str, ...]:
    return (
        one_line(row.tap),
        one_line(row.module_type),
        row.verdict.value,
        format_error(max_abs(row.introduced)),
        format_error(row.noise_floor),
        format_ratio(row.noise_ratio),
        format_error(max_abs(row.propagated)),
        format_ratio(row.propagated.sqnr_db if row.propagated else None),
    )


def _output_cells(row: OutputRow) -> tuple[str, ...]:
    return (
        one_line(row.name),
        row.verdict.value,
        format_error(max_abs(row.plain)),
        format_error(max_abs(row.probed)),
        format_error(row.noise_floor),
        format_ratio(row.plain.sqnr_db if row.plain else None),
        "yes" if row.observer_effect else "no",
    )


def _has_error(row: LayerRow) -> bool:
    return not row.verdict.is_ok or any(max_abs(metrics) for metrics in (row.introduced, row.propagated))
