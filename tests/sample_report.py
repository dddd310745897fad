"""A realistic report for the tests of the renderers, built without torch, onnx or randomness.

The rows are those of a ResNet in execution order. In a diverged report a BatchNorm at about two
fifths of the depth introduces an error that the later rows carry on, and one row each is missing,
skipped, of another shape or dtype, and non-finite on one side.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from alignkit.records import (
    ROOT,
    CandidateRow,
    Coverage,
    Culprit,
    ErrorHistogram,
    ErrorMetrics,
    Experiment,
    Glance,
    LayerRow,
    OutputRow,
    ReportData,
    TapId,
    TapKind,
    Verdict,
)

_TOLERANCE = "introduced max_abs <= 30 x max(noise floor, 1 ulp of the tensor's scale)"
_CULPRIT_ERROR = 0.0241
_EXACT_TYPES = ("ReLU", "MaxPool2d")  # pick or drop elements, so they round nothing

_ODD_REASONS = {
    Verdict.MISSING: "in the eager run, but not in the exported file",
    Verdict.SKIPPED: "lies in the body of an If node, whose values cannot be exposed",
    Verdict.SHAPE: "shape [1, 64, 28, 28] in PyTorch, [1, 64, 28, 27] in ONNX Runtime",
    Verdict.DTYPE: "torch.float32 in PyTorch, float16 in ONNX Runtime",
    Verdict.NONFINITE: "3 elements are NaN in ONNX Runtime only",
}


@dataclass(frozen=True)
class _Point:
    """Where one tap of the sample lies."""

    tap: TapId
    module: str
    module_type: str
    shape: tuple[int, ...]


def sample_report(layers: int = 60, aligned: bool = False) -> ReportData:
    """A report of exactly ``layers`` rows; from 20 rows on, a diverged one holds every verdict."""
    points = list(itertools.islice(_points(), layers))
    culprit = None if aligned or not points else _culprit_index(points)
    rows = [_row(index, point, culprit) for index, point in enumerate(points)]
    if culprit is not None:
        _mark_odd_rows(rows, culprit)
    return ReportData(
        aligned=aligned,
        culprits=[] if culprit is None else [_culprit(rows[culprit])],
        layers=rows,
        outputs=_outputs(rows, aligned),
        coverage=_coverage(rows),
        notes=_notes(aligned),
        histograms=[_histogram(row) for row in rows if row.propagated and row.propagated.max_abs],
        environment=_environment(),
        settings=_settings(),
        timings={"export": 4.182, "capture": 0.913, "extract": 0.107, "run": 1.264, "compare": 0.388},
    )


def sample_candidates(report: ReportData) -> ReportData:
    """``report`` as that of the diverged one of three candidates; another is right, the third did not run."""
    first = report.culprits[0] if report.culprits else None
    worst = max(report.layers, key=lambda row: row.noise_ratio or 0.0)
    taps = report.coverage.compared + report.coverage.not_compared
    seen = {row.tap: Glance(row.verdict, 1e-6, row.noise_ratio) for row in report.layers}
    right = {row.tap: Glance(Verdict.OK, 1e-7, 0.8) for row in report.layers}
    tap, cause = (first.tap, first.cause) if first else (None, None)
    rows = (
        CandidateRow("ort:cpu", True, taps, taps, None, None, worst.tap, 0.8, 2.1e-7, layers=right),
        CandidateRow(
            "2 onnxsim",
            report.aligned,
            *(report.coverage.compared, taps),
            *(tap, cause, worst.tap, worst.noise_ratio, 0.031),
            layers=seen,
        ),
        CandidateRow("openvino", None, reason="OpenVINO has no com.acme::Rotate"),
    )
    settings = {**report.settings, "candidate": "2 onnxsim"}
    return replace(report, aligned=False, candidates=rows, settings=settings)


def sample_metrics(
    max_abs: float = 1e-7, scale: float = 2.5, size: int = 4096, mismatched: float = 0.0
) -> ErrorMetrics:
    """Metrics of a float32 tensor whose largest error is ``max_abs``; the other figures follow from it."""
    rms = max_abs / 6
    return ErrorMetrics(
        size=size,
        mse=rms**2,
        rmse=rms,
        max_abs=max_abs,
        mean_abs=rms * 0.8,
        max_rel=max_abs * 40 / scale,
        cosine=1 - rms**2 / (2 * scale**2),
        sqnr_db=20 * math.log10(scale / 3 / rms) if rms else None,
        ulp_max=round(max_abs / (scale * 2**-23)),
        mismatched=mismatched,
        scale=scale,
        worst_index=(0, 11, 3, 27),
        worst_reference=round(scale * 0.61, 6),
        worst_candidate=round(scale * 0.61, 6) + max_abs,
        reference_nan=0,
        reference_inf=0,
        candidate_nan=0,
        candidate_inf=0,
        nonfinite_mismatches=0,
    )


def _points() -> Iterator[_Point]:
    """The taps of an endless ResNet in execution order."""
    yield from _leaf("conv1", "Conv2d", (1, 64, 56, 56), with_input=True)
    yield from _leaf("bn1", "BatchNorm2d", (1, 64, 56, 56))
    yield from _leaf("relu", "ReLU", (1, 64, 56, 56))
    yield from _leaf("maxpool", "MaxPool2d", (1, 64, 28, 28))
    yield _Point(TapId("after_stem", kind=TapKind.EXPLICIT), ROOT, "ResNet", (1, 64, 28, 28))
    for block in itertools.count():
        yield from _block(f"layer{1 + block // 4}.{block % 4}", (1, 64 << min(block // 4, 3), 28, 28))


def _block(path: str, shape: tuple[int, ...]) -> Iterator[_Point]:
    yield from _leaf(f"{path}.conv1", "Conv2d", shape, with_input=True)
    yield from _leaf(f"{path}.bn1", "BatchNorm2d", shape)
    yield from _leaf(f"{path}.relu", "ReLU", shape)
    yield from _leaf(f"{path}.conv2", "Conv2d", shape)
    yield from _leaf(f"{path}.bn2", "BatchNorm2d", shape)
    yield _Point(TapId(path, kind=TapKind.OP, op="add"), path, "BasicBlock", shape)
    yield _Point(TapId(f"{path}.relu", call=1), f"{path}.relu", "ReLU", shape)
    yield _Point(TapId(path), path, "BasicBlock", shape)


def _leaf(path: str, module_type: str, shape: tuple[int, ...], with_input: bool = False) -> Iterator[_Point]:
    if with_input:
        yield _Point(TapId(path, kind=TapKind.INPUT), path, module_type, shape)
    yield _Point(TapId(path), path, module_type, shape)


def _culprit_index(points: Sequence[_Point]) -> int:
    """The first BatchNorm output at or behind two fifths of the depth."""
    start = len(points) * 2 // 5
    return next((i for i in range(start, len(points)) if points[i].module_type == "BatchNorm2d"), start)


def _row(index: int, point: _Point, culprit: int | None) -> LayerRow:
    rng = random.Random(f"{index} {point.tap}")
    exact = point.module_type in _EXACT_TYPES or point.tap.kind is TapKind.EXPLICIT
    noise = 0.0 if exact else 10 ** rng.uniform(-7.2, -6.3)
    introduced = 0.0 if exact else noise * rng.uniform(0.2, 1.6)
    drift = 1e-7 * (1 + index / 12) * rng.uniform(0.7, 1.5)
    propagated_noise = drift * 1.3
    verdict = Verdict.OK
    if culprit is not None and index >= culprit:
        verdict = Verdict.INTRODUCED if index == culprit else Verdict.PROPAGATED
        introduced = _CULPRIT_ERROR if index == culprit else introduced
        drift = _CULPRIT_ERROR * (1 if index == culprit else rng.uniform(0.5, 4))
    size = math.prod(point.shape)
    return LayerRow(
        tap=str(point.tap),
        module=point.module,
        kind=point.tap.kind,
        module_type=point.module_type,
        shape=point.shape,
        dtype="float32",
        onnx_value=f"/{point.module.replace('.', '/')}/{point.module_type}_output_0",
        verdict=verdict,
        reason=_reason(verdict, culprit),
        propagated=sample_metrics(drift, size=size, mismatched=0.0 if verdict.is_ok else 0.731),
        introduced=sample_metrics(introduced, size=size, mismatched=0.0 if index != culprit else 0.642),
        noise_floor=noise,
        noise_ratio=introduced / noise if noise else 0.0,
        propagated_noise=propagated_noise,
        tolerance=_TOLERANCE,
        source=f"models/resnet.py:{80 + len(point.module) % 23}",
    )


def _reason(verdict: Verdict, culprit: int | None) -> str:
    if verdict is Verdict.INTRODUCED:
        return "its inputs are right and its output is not: far beyond the noise floor"
    if verdict is Verdict.PROPAGATED:
        return f"right when its inputs are right; carries the error of row {culprit}"
    return ""


def _mark_odd_rows(rows: list[LayerRow], culprit: int) -> None:
    """One row for each verdict that is neither ok nor an error carried on, as far as there is room."""
    first = culprit + 3
    for index, verdict in zip(range(first, len(rows), 2), _ODD_REASONS, strict=False):
        row = replace(rows[index], verdict=verdict, reason=_ODD_REASONS[verdict])
        if verdict is Verdict.NONFINITE and row.propagated:
            counts = replace(row.propagated, candidate_nan=3, nonfinite_mismatches=3)
            rows[index] = replace(row, propagated=counts)
            continue
        row = replace(row, propagated=None, introduced=None, noise_floor=None, noise_ratio=None)
        rows[index] = replace(row, onnx_value=None) if verdict is Verdict.MISSING else row


def _culprit(row: LayerRow) -> Culprit:
    return Culprit(
        tap=row.tap,
        module=row.module,
        op="BatchNormalization",
        cause="exporter",
        confidence="high",
        evidence=(
            f"introduces max_abs {_CULPRIT_ERROR:g}, {row.noise_ratio or 0:,.0f} times its noise floor",
            "the node's epsilon is 1e-3 in the file and 1e-5 in the module",
        ),
        advice="Export with optimize=False, or pin eps on the module; then compare again.",
        onnx_nodes=(f"/{row.module.replace('.', '/')}/BatchNormalization", "node_Conv_142"),
        source="models/resnet.py:97",
        repro=f"repro/{row.module.replace('.', '-')}",
        source_line="out = self.bn1(self.conv1(x))",
        operation="batch_norm",
        experiments=_experiments(),
        output_share=1.0,
    )


def _experiments() -> tuple[Experiment, ...]:
    return (
        Experiment("eager run twice", 0.0, "the same both times: not random"),
        Experiment("eager with export flags set", 0.0, "the same: no export branch"),
        Experiment("ORT, graph optimisation off", _CULPRIT_ERROR, "still wrong: not a graph optimisation"),
        Experiment(
            "ONNX reference evaluator",
            _CULPRIT_ERROR,
            "agrees with ORT and not with PyTorch: the graph says something else than the model",
        ),
        Experiment("float64", None, "not run: the segment holds a kernel without float64"),
    )


def _outputs(rows: Sequence[LayerRow], aligned: bool) -> list[OutputRow]:
    error = 4.1e-7 if aligned else 0.0873
    verdict = Verdict.OK if aligned else Verdict.PROPAGATED
    logits = OutputRow(
        name="logits",
        tap=rows[-1].tap if rows else "",
        shape=(1, 1000),
        dtype="float32",
        verdict=verdict,
        reason="" if aligned else "carries the error of the culprit",
        plain=sample_metrics(error, size=1000, mismatched=0.0 if aligned else 0.918),
        probed=sample_metrics(error * 1.02, size=1000, mismatched=0.0 if aligned else 0.921),
        noise_floor=6.2e-7,
    )
    features = replace(
        logits,
        name="features",
        shape=(1, 512),
        probed=sample_metrics(error / 90, size=512),
        observer_effect=not aligned,
        reason="" if aligned else "plain and probed differ beyond noise: a fusion is involved",
    )
    return [logits, features]


def _coverage(rows: Sequence[LayerRow]) -> Coverage:
    left_out = Counter(row.reason for row in rows if not row.verdict.was_compared)
    return Coverage(len(rows) - left_out.total(), left_out.total(), dict(left_out))


def _notes(aligned: bool) -> list[str]:
    notes = ["Dropout is inactive: the model is in evaluation mode."]
    if not aligned:
        notes.append("Output 'features' differs between the plain and the probed file (observer effect).")
    return notes


def _histogram(row: LayerRow) -> ErrorHistogram:
    """Counts over four decades that end at the row's largest error."""
    metrics = row.propagated
    if metrics is None or not metrics.max_abs:
        raise ValueError(f"no error to count at {row.tap}")
    top = math.floor(math.log10(metrics.max_abs)) + 1
    shares = (0.08, 0.27, 0.41, 0.12)
    counts = tuple(round(share * metrics.size) for share in shares)
    edges = tuple(float(top - len(shares) + i) for i in range(len(shares) + 1))
    return ErrorHistogram(row.tap, edges, counts, metrics.size - sum(counts))


def _environment() -> dict[str, str]:
    return {
        "alignkit": "0.1.0",
        "python": "3.12.4",
        "torch": "2.13.0",
        "onnx": "1.23.0",
        "onnxruntime": "1.31.0",
        "numpy": "2.4.6",
        "platform": "Linux x86_64",
    }


def _settings() -> dict[str, object]:
    return {
        "exporter": "dynamo",
        "providers": ["CPUExecutionProvider"],
        "optimization": "all",
        "granularity": "module",
        "onnx": "model.onnx",
    }
