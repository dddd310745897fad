"""``report.json``: the stable product boundary, written and read here and nowhere else.

The schema is flat where people read it: a layer's propagated metrics lie at its top level, its
introduced metrics under names that start with ``introduced_``. Non-finite numbers become
``null``, so that the file is strict JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, cast

from alignkit.errors import ReportError
from alignkit.records import (
    CandidateRow,
    Coverage,
    Culprit,
    ErrorHistogram,
    ErrorMetrics,
    Experiment,
    Glance,
    LayerRow,
    OutputRow,
    Range,
    ReportData,
    SampleRow,
    SensitivityRow,
    Spread,
    TapKind,
    Verdict,
)

SCHEMA = "alignkit.report/1"

Record = TypeVar("Record")

METRIC_NAMES = tuple(f.name for f in fields(ErrorMetrics))
_NO_VALUES = (None,) * len(METRIC_NAMES)

_RANGES = ("propagated", "introduced", "noise_ratio")  # of a spread

# Types that JSON takes as they are; floats but for NaN and infinities.
_STRICT_TYPES = frozenset((str, int, bool, type(None)))
_PLAIN_TYPES = _STRICT_TYPES | {float}


def report_to_dict(report: ReportData) -> dict[str, Any]:
    """The report as plain JSON values, without NaN or infinities."""
    document = {
        "schema": SCHEMA,
        "aligned": report.aligned,
        "culprits": [_record_to_dict(culprit) for culprit in report.culprits],
        "layers": (),  # only its place in the order
        "outputs": [_output_to_dict(row) for row in report.outputs],
        "coverage": _record_to_dict(report.coverage),
        "notes": list(report.notes),
        "histograms": [_record_to_dict(histogram) for histogram in report.histograms],
        "environment": dict(report.environment),
        "settings": dict(report.settings),
        "timings": dict(report.timings),
        "candidates": [_candidate_to_dict(row) for row in report.candidates],
        "samples": [_record_to_dict(row) for row in report.samples],
        "spreads": [_spread_to_dict(spread) for spread in report.spreads],
        "sensitivity": [_record_to_dict(row) for row in report.sensitivity],
    }
    strict = {key: _strict(value) for key, value in document.items()}
    strict["layers"] = [_strict_in_place(layer_to_dict(row)) for row in report.layers]
    return strict


def report_to_json(report: ReportData) -> str:
    """The content of ``report.json``."""
    return json.dumps(report_to_dict(report), allow_nan=False, indent=1, ensure_ascii=False) + "\n"


def report_from_json(text: str) -> ReportData:
    """Raises :class:`ReportError` when ``text`` is not a report of a schema known here."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ReportError(f"not a report: no valid JSON ({error}).") from error
    found = document.get("schema") if isinstance(document, dict) else None
    if found != SCHEMA:
        raise ReportError(f"not a report that this version reads: schema {found!r}, expected {SCHEMA!r}.")
    try:
        return _report_from_dict(document)
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"damaged report: {type(error).__name__}: {error}.") from error


def layer_to_dict(row: LayerRow) -> dict[str, Any]:
    """One flat row: identity, verdict, noise, propagated and ``introduced_`` metrics, source line."""
    return {
        **_record_to_dict(row, ("propagated", "introduced", "source")),
        **_metrics_to_dict(row.propagated, ""),
        **_metrics_to_dict(row.introduced, "introduced_"),
        "source": row.source,
    }


def _output_to_dict(row: OutputRow) -> dict[str, Any]:
    return {
        **_record_to_dict(row, ("plain", "probed")),
        **_metrics_to_dict(row.plain, ""),
        **_metrics_to_dict(row.probed, "probed_"),
    }


def _candidate_to_dict(row: CandidateRow) -> dict[str, Any]:
    glances = {tap: _record_to_dict(glance) for tap, glance in row.layers.items()}
    return {**_record_to_dict(row, ("layers",)), "layers": glances}


def _spread_to_dict(spread: Spread) -> dict[str, Any]:
    ranges = {name: getattr(spread, name) for name in _RANGES}
    nested = {name: found and _record_to_dict(found) for name, found in ranges.items()}
    return {**_record_to_dict(spread, _RANGES), **nested}


def _metrics_to_dict(metrics: ErrorMetrics | None, prefix: str) -> dict[str, Any]:
    values = _plain_values(metrics, METRIC_NAMES) if metrics else _NO_VALUES
    return dict(zip(_prefixed(prefix), values, strict=True))


@cache
def _prefixed(prefix: str) -> tuple[str, ...]:
    return tuple(prefix + name for name in METRIC_NAMES)


def _record_to_dict(record: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    record_type: Any = type(record)
    names = _field_names(record_type, without)
    return dict(zip(names, _plain_values(record, names), strict=True))


# Fields are asked for once per type: a report of a large model holds a hundred thousand records.
@cache
def _field_names(record_type: type[Any], without: tuple[str, ...] = ()) -> tuple[str, ...]:
    return tuple(f.name for f in fields(record_type) if f.name not in without)


@cache
def _reader(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    return attrgetter(*names)


def _plain_values(record: Any, names: tuple[str, ...]) -> list[Any]:
    return [value if type(value) in _PLAIN_TYPES else _plain(value) for value in _reader(names)(record)]


def _plain(value: Any) -> Any:
    if isinstance(value, Experiment):
        return _record_to_dict(value)
    if isinstance(value, (Verdict, TapKind)):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) if type(item) not in _PLAIN_TYPES else item for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _strict(value: Any) -> Any:
    """``value`` with NaN and infinities replaced by None, recursively."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) if type(item) not in _STRICT_TYPES else item for item in value]
    return value


def _strict_in_place(flat: dict[str, Any]) -> dict[str, Any]:
    """As :func:`_strict`, for a row: nearly all its values are finite, so that they are only looked at."""
    for name, value in flat.items():
        if type(value) is float:
            if not math.isfinite(value):
                flat[name] = None
        elif type(value) not in _STRICT_TYPES:
            flat[name] = _strict(value)
    return flat


def _report_from_dict(document: dict[str, Any]) -> ReportData:
    return ReportData(
        aligned=bool(document["aligned"]),
        culprits=[_culprit_from_dict(item) for item in document["culprits"]],
        layers=[_layer_from_dict(item) for item in document["layers"]],
        outputs=[_output_from_dict(item) for item in document["outputs"]],
        coverage=_record_from_dict(Coverage, document["coverage"]),
        notes=list(document["notes"]),
        histograms=[_record_from_dict(ErrorHistogram, item) for item in document["histograms"]],
        environment=document["environment"],
        settings=document["settings"],
        timings=document["timings"],
        candidates=[_candidate_from_dict(item) for item in document.get("candidates", ())],
        samples=[_sample_from_dict(item) for item in document.get("samples", ())],
        spreads=[_spread_from_dict(item) for item in document.get("spreads", ())],
        sensitivity=[_record_from_dict(SensitivityRow, item) for item in document.get("sensitivity", ())],
    )


def _culprit_from_dict(item: Mapping[str, Any]) -> Culprit:
    experiments = [_record_from_dict(Experiment, one) for one in item.get("experiments", ())]
    return _record_from_dict(Culprit, {**item, "experiments": experiments})


def _layer_from_dict(flat: dict[str, Any]) -> LayerRow:
    nested = dict(flat, propagated=_unflatten(flat, ""), introduced=_unflatten(flat, "introduced_"))
    nested["kind"], nested["verdict"] = TapKind(flat["kind"]), Verdict(flat["verdict"])
    return _record_from_dict(LayerRow, nested)


def _output_from_dict(flat: dict[str, Any]) -> OutputRow:
    nested = dict(flat, plain=_unflatten(flat, ""), probed=_unflatten(flat, "probed_"))
    nested["verdict"] = Verdict(flat["verdict"])
    return _record_from_dict(OutputRow, nested)


def _candidate_from_dict(item: Mapping[str, Any]) -> CandidateRow:
    glances = {
        tap: _record_from_dict(Glance, {**glance, "verdict": Verdict(glance["verdict"])})
        for tap, glance in item["layers"].items()
    }
    return _record_from_dict(CandidateRow, {**item, "layers": glances})


def _sample_from_dict(item: Mapping[str, Any]) -> SampleRow:
    shapes = {name: tuple(shape) for name, shape in item["shapes"].items()}
    return _record_from_dict(SampleRow, {**item, "shapes": shapes})


def _spread_from_dict(item: Mapping[str, Any]) -> Spread:
    ranges = {name: item[name] and _record_from_dict(Range, item[name]) for name in _RANGES}
    return _record_from_dict(Spread, {**item, **ranges})


def _unflatten(flat: Mapping[str, Any], prefix: str) -> ErrorMetrics | None:
    if flat[prefix + "size"] is None:
        return None
    return _record_from_dict(ErrorMetrics, {name: flat[prefix + name] for name in METRIC_NAMES})


def _record_from_dict(record_type: type[Record], values: Mapping[str, Any]) -> Record:
    known = {name: values[name] for name in _field_names(cast(Any, record_type)) if name in values}
    return record_type(**{key: tuple(v) if isinstance(v, list) else v for key, v in known.items()})
