"""The layers as a flat table: CSV for files, a DataFrame for notebooks."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from alignkit.errors import ReportError
from alignkit.records import LayerRow, ReportData
from alignkit.report.schema import METRIC_NAMES, layer_to_dict

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    *(f.name for f in fields(LayerRow) if f.name not in ("propagated", "introduced")),
    *METRIC_NAMES,
    *(f"introduced_{name}" for name in METRIC_NAMES),
)
"""The columns of both tables: the keys of :func:`~alignkit.report.schema.layer_to_dict`, in its order."""

_INTEGER_METRICS = {
    "size",
    "ulp_max",
    "reference_nan",
    "reference_inf",
    "candidate_nan",
    "candidate_inf",
    "nonfinite_mismatches",
}
_OTHER_METRICS = {"worst_index", "worst_reference", "worst_candidate"}
_FLOATS = (
    "noise_floor",
    "noise_ratio",
    "propagated_noise",
    *(
        prefix + name
        for prefix in ("", "introduced_")
        for name in METRIC_NAMES
        if name not in _INTEGER_METRICS | _OTHER_METRICS
    ),
)

_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")  # spreadsheets take the full-width forms, too


def render_csv(report: ReportData) -> str:
    """One line per tap and a header, with ``\\n`` line ends.

    A figure that does not exist is an empty cell; a shape or an index is a JSON list. A text that
    a spreadsheet would run as a formula gets a leading ``'``; numbers stay numbers.
    """
    return "".join(",".join(map(_cell, line)) + "\n" for line in [COLUMNS, *_rows(report)])


def to_pandas(report: ReportData) -> pandas.DataFrame:
    """The same columns as a DataFrame: shapes and indices as tuples, missing figures as NaN or None.

    Raises :class:`~alignkit.errors.ReportError` when pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ReportError("to_pandas() needs pandas, which is missing. Try: pip install pandas") from error
    rows = [[tuple(value) if isinstance(value, list) else value for value in row] for row in _rows(report)]
    return pandas.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(_FLOATS, "float64"))


def _rows(report: ReportData) -> list[list[Any]]:
    return [[flat[name] for name in COLUMNS] for flat in map(layer_to_dict, report.layers)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _quoted(f"'{value}" if _is_formula(value) else value)
    return _quoted(json.dumps(value) if isinstance(value, list) else str(value))


def _is_formula(text: str) -> bool:
    if not text.startswith(_FORMULA_STARTS):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False  # "-inf" as a worst value is a number, whatever its type


def _quoted(text: str) -> str:
    # by hand: csv.writer leaves a bare "\r" unquoted on some Python versions, and readers end the row there
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text
