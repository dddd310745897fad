"""The layers as a flat table: CSV for files, a DataFrame for notebooks.

One row per tap in execution order. The columns, in their order:

=======================  ====================================================================
tap                      the tap's name, e.g. ``layer1.0.relu#1[0]``
module                   path of the module that it belongs to
kind                     ``module``, ``input``, ``op`` or ``explicit``
module_type              class of the module
shape, dtype             of the reference tensor
onnx_value               name of the value in the ONNX graph that was compared
verdict, reason          what the comparison says, and why
noise_floor              rounding error of PyTorch itself in this segment, as max_abs
noise_ratio              introduced_max_abs over noise_floor
relative_ratio           introduced_max_rel over the reference's own relative rounding
propagated_noise         rounding error of PyTorch itself from the inputs up to here, as max_abs
tolerance                the rule that judged the row, in words
mapped_by                how the value was found in a file without taps, and how surely
precision                what a converted file computes this in: int8, float16 or bfloat16
size                     number of elements
mse, rmse                mean of (candidate - reference)**2, and its root
max_abs, mean_abs        of abs(candidate - reference)
max_rel                  largest abs(candidate - reference) / abs(reference) where reference != 0
cosine                   cosine similarity of the two tensors; 1 up to float64 rounding
sqnr_db                  signal to error ratio in dB
ulp_max                  largest distance in units in the last place; large near zero by its nature
mismatched               share (0 to 1) of elements beyond the tolerance
scale                    largest abs(reference)
worst_index              index of the largest error
worst_reference          the value of PyTorch there
worst_candidate          the value of the candidate there
reference_nan            number of NaN in PyTorch; likewise ``candidate_nan`` in the candidate
reference_inf            number of infinities in PyTorch; likewise ``candidate_inf``
nonfinite_mismatches     elements that are NaN or infinite on one side only
introduced_...           size to nonfinite_mismatches once more: the error of this segment alone,
                         fed with exact inputs; those above are the ordinary run's (propagated)
source                   the user's line that makes the value, e.g. ``unet.py:57``
=======================  ====================================================================

The report of a data set shows one sample, and has these columns besides:

=======================  ====================================================================
samples                  number of samples in which the tap was compared
samples_differ           in how many of them it differs from the reference
samples_introduce        in how many of them its own segment is to blame
..._mean, ..._worst      of ``samples_propagated`` and ``samples_introduced`` (max_abs) and
                         ``samples_noise_ratio``: mean and largest value over the samples
..._worst_sample         the sample that has the largest value
=======================  ====================================================================

A figure that does not exist is empty (CSV), NaN or None (DataFrame).
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from alignkit.errors import ReportError
from alignkit.records import LayerRow, Range, ReportData, Spread
from alignkit.report.schema import METRIC_NAMES, layer_to_dict

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    *(f.name for f in fields(LayerRow) if f.name not in ("propagated", "introduced", "source")),
    *METRIC_NAMES,
    *(f"introduced_{name}" for name in METRIC_NAMES),
    "source",
)
"""The columns described above: the keys of :func:`~alignkit.report.schema.layer_to_dict`, in its order."""

_RANGES = ("propagated", "introduced", "noise_ratio")
SPREAD_COLUMNS = (
    *("samples", "samples_differ", "samples_introduce"),
    *(f"samples_{name}_{figure.name}" for name in _RANGES for figure in fields(Range)),
)
"""What the report of a data set has besides."""

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
    "relative_ratio",
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
    return "".join(",".join(map(_cell, line)) + "\n" for line in [_columns(report), *_rows(report)])


def to_pandas(report: ReportData) -> pandas.DataFrame:
    """The same columns as a DataFrame: shapes and indices as tuples, missing figures as NaN or None.

    Raises :class:`~alignkit.errors.ReportError` when pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ReportError("to_pandas() needs pandas, which is missing. Try: pip install pandas") from error
    rows = [[tuple(value) if isinstance(value, list) else value for value in row] for row in _rows(report)]
    return pandas.DataFrame(rows, columns=_columns(report)).astype(dict.fromkeys(_FLOATS, "float64"))


def _columns(report: ReportData) -> list[str]:
    return [*COLUMNS, *(SPREAD_COLUMNS if report.spreads else ())]


def _rows(report: ReportData) -> list[list[Any]]:
    names = _columns(report)
    spreads = {spread.tap: _flatten(spread) for spread in report.spreads}
    flat = ({**layer_to_dict(row), **spreads.get(row.tap, {})} for row in report.layers)
    return [[row.get(name) for name in names] for row in flat]


def _flatten(spread: Spread) -> dict[str, Any]:
    ranges = {
        f"samples_{name}_{figure.name}": getattr(found, figure.name)
        for name in _RANGES
        if (found := getattr(spread, name)) is not None
        for figure in fields(Range)
    }
    counts = {
        "samples": spread.compared,
        "samples_differ": spread.differs,
        "samples_introduce": spread.introduces,
    }
    return {**counts, **ranges}


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
