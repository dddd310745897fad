"""The report of a data set, for the tests of the renderers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from alignkit.records import Range, ReportData, SampleRow, Spread
from tests.sample_report import sample_report


def data_set(
    failing: int = 1, refused: int = 0, total: int = 2000, layers: int = 30, name: str = "sample_{:04}.npz"
) -> ReportData:
    """The sample report as that of the worst of many samples."""
    report = sample_report(layers, aligned=not failing)
    rows = [_row(index, name.format(index), failing, refused) for index in range(total)]
    figures = (
        Range(1e-7, 0.02, rows[0].name),
        Range(1e-8, 0.01, rows[0].name),
        Range(0.5, 2e4, rows[0].name),
    )
    spreads = [Spread(row.tap, total, 3, 1, *figures) for row in report.layers]
    settings = {**report.settings, "shown": rows[0].name, "kept_inputs": ["worst_sample.npz"]}
    kept = {"worst_sample.npz": {"x": np.ones((2, 4), np.float32)}}
    aligned = not failing and not refused
    return replace(
        report, aligned=aligned, samples=rows, spreads=spreads, settings=settings, kept_inputs=kept
    )


def _row(index: int, name: str, failing: int, refused: int) -> SampleRow:
    if index < failing:
        return SampleRow(name, False, "a#0[0]", "a#0[0]", 100.0 + index, 0.1, shapes={"x": (1, 3)})
    if index < failing + refused:
        return SampleRow(name, None, reason="it is damaged")
    return SampleRow(name, True, None, "b#0[0]", 1.5, 1e-7, shapes={"x": (1, 3)})
