"""The data that travels through the pipeline: frozen, without behaviour beyond naming.

Every stage takes records and adds one of its own; none fills in blanks of an earlier one.
Arrays are numpy arrays here, so that nothing downstream of the capture needs torch.
"""

from __future__ import annotations

from alignkit.records.findings import (
    Coverage,
    Culprit,
    ErrorHistogram,
    Experiment,
    LayerRow,
    OutputRow,
    ReportData,
)
from alignkit.records.runs import Array, Candidate, Capture, ErrorMetrics, Measured, Measurement, Noise
from alignkit.records.taps import ROOT, Source, Tap, TapId, TapKind, Verdict

__all__ = [  # noqa: RUF022 (plain order)
    "Array",
    "Candidate",
    "Capture",
    "Coverage",
    "Culprit",
    "ErrorHistogram",
    "ErrorMetrics",
    "Experiment",
    "LayerRow",
    "Measured",
    "Measurement",
    "Noise",
    "OutputRow",
    "ROOT",
    "ReportData",
    "Source",
    "Tap",
    "TapId",
    "TapKind",
    "Verdict",
]
