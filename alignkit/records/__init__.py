"""The data that travels through the pipeline: frozen, without behaviour beyond naming.

Every stage takes records and adds one of its own; none fills in blanks of an earlier one.
Arrays are numpy arrays here, so that nothing downstream of the capture needs torch.
"""

from __future__ import annotations

from alignkit.records.findings import (
    CandidateRow,
    Coverage,
    Culprit,
    ErrorHistogram,
    Experiment,
    Glance,
    LayerRow,
    OutputRow,
    Range,
    ReportData,
    SampleRow,
    SensitivityRow,
    Spread,
)
from alignkit.records.runs import Array, Candidate, Capture, ErrorMetrics, Measured, Measurement, Noise, Sides
from alignkit.records.taps import MAP_SCHEMA, ROOT, Source, Tap, TapId, TapKind, Verdict

__all__ = [  # noqa: RUF022 (plain order)
    "Array",
    "Candidate",
    "CandidateRow",
    "Capture",
    "Coverage",
    "Culprit",
    "ErrorHistogram",
    "ErrorMetrics",
    "Experiment",
    "Glance",
    "LayerRow",
    "MAP_SCHEMA",
    "Measured",
    "Measurement",
    "Noise",
    "OutputRow",
    "ROOT",
    "Range",
    "ReportData",
    "SampleRow",
    "SensitivityRow",
    "Sides",
    "Source",
    "Spread",
    "Tap",
    "TapId",
    "TapKind",
    "Verdict",
]
