"""``map.json``: how the taps were found in a file that had none, to be corrected and given back."""

from __future__ import annotations

import json
from typing import Any

from alignkit.records import MAP_SCHEMA, LayerRow, ReportData, Verdict


def render_map(report: ReportData) -> str | None:
    """The content of ``map.json``, of the form that ``map=`` reads; None for a file that held its own taps.

    Each tap has its ONNX ``value``, by what it was found (``how``) and how surely (``confidence``); the
    ``value`` of one that has none is null, and ``reason`` says why.
    """
    if not any(row.mapped_by for row in report.layers):
        return None
    taps = {row.tap: _entry(row) for row in report.layers if row.mapped_by or _is_unmapped(row)}
    return json.dumps({"schema": MAP_SCHEMA, "taps": taps}, indent=1, ensure_ascii=False) + "\n"


def _is_unmapped(row: LayerRow) -> bool:
    return row.verdict is Verdict.MISSING


def _entry(row: LayerRow) -> dict[str, Any]:
    if not row.mapped_by:
        return {"value": None, "reason": row.reason}
    how, _, confidence = row.mapped_by.rstrip(")").partition(" (")
    return {"value": row.onnx_value, "how": how, "confidence": confidence}
