"""The orchestrator: the pipeline from a model to a report, stage by stage.

instrument -> export -> capture -> extract -> run -> compare -> diagnose -> report
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from alignkit.candidate import ProbeRunner
from alignkit.capture import capture_reference, confirm_reference
from alignkit.comparison import (
    NoiseFloors,
    compare_captures,
    compare_outputs,
    measure_candidate,
    measure_coverage,
)
from alignkit.deployed import Deployed, candidate_leaves, run_deployed
from alignkit.diagnose.experiments import TRANSFORMERS
from alignkit.environment import describe_environment
from alignkit.errors import CompareError
from alignkit.extract import read_marked
from alignkit.graph import MarkedGraph
from alignkit.instrument import scripted_modules
from alignkit.metrics import error_histogram
from alignkit.noise import measure_floors, with_condition, without_taps
from alignkit.obtain import obtain_files
from alignkit.precision import coarsest_of, find_precisions
from alignkit.progress import Progress
from alignkit.records import (
    ROOT,
    Capture,
    ErrorHistogram,
    LayerRow,
    OutputRow,
    ReportData,
    SensitivityRow,
    TapId,
    Verdict,
)
from alignkit.sensitivity import measure_sensitivity
from alignkit.settings import Files, Sample, Settings, describe_settings
from alignkit.trial import Trial, bind_feeds
from alignkit.workshop import Workshop

_HISTOGRAMS = 6


def compare_model(
    model: nn.Module,
    example: Sample,
    samples: Sequence[Sample],
    settings: Settings,
    *,
    deployed: Path | None = None,
    first: Capture | None = None,
    progress: Progress | None = None,
) -> ReportData:
    """Export ``model`` with and without taps and compare it on ``samples``.

    ``deployed`` is a file to compare with instead; ``first`` is the capture of the first sample, where
    the caller has it already.
    """
    progress = progress or Progress(quiet=True)
    if first is None:
        with progress.stage("capture"):
            # Before the slow export, so that a model that does not run is told at once.
            first = capture_reference(
                model, samples[0].args, samples[0].kwargs, settings.selection, confirm=False
            )
    with tempfile.TemporaryDirectory(prefix="alignkit-") as folder:
        files = obtain_files(model, example, samples[0], settings, first, Path(folder), deployed, progress)
        return compare_files(model, samples, files, settings, first=first, progress=progress)


def compare_files(
    model: nn.Module,
    samples: Sequence[Sample],
    files: Files,
    settings: Settings,
    *,
    first: Capture | None = None,
    progress: Progress | None = None,
) -> ReportData:
    """Compare ``model`` with exported files on every sample; the report shows the worst of them.

    ``first`` is the capture of the first sample, where the caller has it already.
    """
    progress = progress or Progress(quiet=True)
    if files.selection is not None and files.selection != settings.selection:
        settings, first = replace(settings, selection=files.selection), None
    if not samples:
        raise CompareError("no inputs to compare on: give at least one sample.")
    with progress.stage("extract"):
        marked = read_marked(files.marked, files.folder)
        runner = ProbeRunner(marked, settings.run, reuse=len(samples) > 1)
    reports = []
    for sample in samples:
        with progress.stage("capture"):
            reference = first or capture_reference(
                model, sample.args, sample.kwargs, settings.selection, confirm=False
            )
        first = None
        reports.append(_compare_sample(model, sample, reference, files, marked, runner, settings, progress))
    worst = max(range(len(reports)), key=lambda i: _badness(reports[i]))
    report = reports[worst]
    if len(samples) > 1:
        diverged = sum(not r.aligned for r in reports)
        name = samples[worst].name or f"sample {worst}"
        note = f"{diverged} of {len(samples)} samples diverge; this report shows the worst, {name}."
        report = replace(report, notes=(note, *report.notes))
    sample_names = [s.name or f"sample {i}" for i, s in enumerate(samples)]
    return replace(
        report,
        environment=describe_environment(),
        settings={**describe_settings(settings), "samples": sample_names, "shown": sample_names[worst]},
        timings=progress.timings,
    )


def _badness(report: ReportData) -> tuple[bool, float]:
    return not report.aligned, max((row.noise_ratio or 0.0 for row in report.layers), default=0.0)


@dataclass(frozen=True, slots=True)
class _Compared:
    """One sample on both sides, judged but not yet explained."""

    rows: list[LayerRow]
    outputs: list[OutputRow]
    noise: NoiseFloors
    deployed: Deployed


def _compare_sample(
    model: nn.Module,
    sample: Sample,
    reference: Capture,
    files: Files,
    marked: MarkedGraph,
    runner: ProbeRunner,
    settings: Settings,
    progress: Progress,
) -> ReportData:
    feeds, lost = bind_feeds(model, sample, marked)
    trial = Trial(model, sample, settings.selection, marked, reference, feeds, runner)
    compared = _compare_sides(trial, files, settings, progress)
    if not reference.confirmed and not _agrees(compared):
        with progress.stage("capture"):
            confirmed = confirm_reference(model, sample.args, sample.kwargs, settings.selection, reference)
        if confirmed.outputs is not reference.outputs:
            return _compare_sample(model, sample, confirmed, files, marked, runner, settings, progress)
    coverage = measure_coverage(compared.rows)
    if not coverage.compared:
        raise CompareError(f"no tap could be compared: {next(iter(coverage.reasons), 'there are none')}.")
    with progress.stage("diagnose"), Workshop(trial, files, settings, progress) as workshop:
        diagnosis = workshop.diagnose(compared.rows, compared.outputs)
    sensitivity: Sequence[SensitivityRow] = ()
    if compared.noise.coarsest:
        with progress.stage("sensitivity"):
            sensitivity = measure_sensitivity(trial, compared.rows, compared.outputs, settings.run)
    accused = {culprit.tap for culprit in diagnosis.culprits if culprit.onnx_nodes}
    rows = [_with_mapping(_accuse(row) if row.tap in accused else row, files) for row in compared.rows]
    notes = (
        *_notes(model, reference, compared.noise, lost, files),
        *_unknown_optimizers(settings),
        *compared.deployed.notes,
        # Coarse steps add up on their way: no single place is ill-conditioned for it.
        *(() if compared.noise.coarsest else diagnosis.notes),
        *workshop.notes,
    )
    return ReportData(
        diagnosis.aligned,
        diagnosis.culprits,
        rows,
        compared.outputs,
        coverage,
        notes,
        _histograms(rows, trial),
        sensitivity=sensitivity,
        bundles=workshop.bundles,
    )


def _compare_sides(trial: Trial, files: Files, settings: Settings, progress: Progress) -> _Compared:
    model, sample, reference = trial.model, trial.sample, trial.reference
    tolerances, marked, runner = settings.tolerances, trial.marked, trial.runner
    with progress.stage("run and measure"):
        ends = [str(TapId(ROOT, 0, index)) for index in range(len(reference.outputs))]
        introduced = measure_candidate(reference, runner.introduced(trial.feeds, reference), tolerances)
        propagated = measure_candidate(
            reference, runner.propagated(trial.feeds, reference), tolerances, keep=ends
        )
    with progress.stage("run as deployed"):
        deployed = run_deployed(files, candidate_leaves(model, sample), marked, settings.run)
    missing = _unmapped(files)
    seen = without_taps(reference, missing.keys()) if missing else reference
    with progress.stage("noise floor"):
        noise = NoiseFloors({}, {}, "the noise floor was switched off")
        if settings.noise_floor:
            noise = measure_floors(model, sample, settings.selection, seen)
        precision = find_precisions(marked)
        noise = replace(noise, precision=precision, coarsest=coarsest_of(precision))
    with progress.stage("compare"):
        rows = compare_captures(reference, introduced, propagated, noise, tolerances, missing)
        suspects = any(row.verdict is Verdict.INTRODUCED for row in rows)
        if suspects and not noise.missing:
            noise = with_condition(noise, model, sample, settings.selection, seen)
            rows = compare_captures(reference, introduced, propagated, noise, tolerances, missing)
        names = deployed.names or [value.name for value in marked.model.graph.output]
        outputs = compare_outputs(
            reference, deployed.outputs, propagated, names, noise, tolerances, deployed.failure
        )
    return _Compared(rows, outputs, noise, deployed)


def _agrees(compared: _Compared) -> bool:
    """Nothing speaks against the reference: no value differs that both sides have."""
    rows = (row.verdict for row in compared.rows if row.verdict.was_compared)
    outputs = (row.verdict for row in compared.outputs)
    observed = any(row.observer_effect for row in compared.outputs)
    return not observed and all(verdict is Verdict.OK for verdict in (*rows, *outputs))


def _unmapped(files: Files) -> dict[str, str]:
    """Why taps have no value in a file that nobody had marked."""
    taps = files.mapping.taps.values() if files.mapping else ()
    return {tap.tap: f"{tap.how.value}: {tap.reason}" for tap in taps if tap.onnx_value is None}


def _with_mapping(row: LayerRow, files: Files) -> LayerRow:
    tap = files.mapping.taps.get(row.tap) if files.mapping else None
    if tap is None or tap.onnx_value is None:
        return row
    return replace(row, onnx_value=tap.onnx_value, mapped_by=f"{tap.how.value} ({tap.confidence})")


def _accuse(row: LayerRow) -> LayerRow:
    """A row that only the diagnosis found to be a root says so as well."""
    return replace(row, verdict=Verdict.INTRODUCED) if row.verdict is Verdict.OK else row


def _notes(
    model: nn.Module, reference: Capture, noise: NoiseFloors, lost: list[str], files: Files
) -> tuple[str, ...]:
    notes = [*reference.notes]
    if model.training:
        notes.append("The model is in training mode: dropout is live and BatchNorm uses batch statistics.")
    if noise.missing:
        notes.append(f"No noise floor ({noise.missing}); per-dtype tolerances of torch.testing were used.")
    if noise.coarsest:
        notes.append(
            f"The file computes in {noise.coarsest} ({len(noise.precision)} taps): it is judged at that "
            "precision. The sensitivity table ranks what each layer costs."
        )
    notes += [f"Input {name!r} is not in the exported graph: its value was baked in." for name in lost]
    notes += [
        f"{path} was tapped from outside only: a scripted module runs without Python hooks."
        for path in scripted_modules(model)
    ]
    notes += files.notes
    return tuple(notes)


def _unknown_optimizers(settings: Settings) -> list[str]:
    return [
        f"{name!r} among the disabled optimisers is none that alignkit knows, and ONNX Runtime ignores "
        "what it does not know: check the spelling."
        for name in settings.run.disabled_optimizers
        if name not in TRANSFORMERS
    ]


def _histograms(rows: list[LayerRow], trial: Trial) -> list[ErrorHistogram]:
    """Of the worst layers, whose segments are run once more for it."""
    measured = [row for row in rows if row.introduced is not None and row.introduced.max_abs]
    worst = sorted(measured, key=lambda row: -(row.noise_ratio or 0.0))[:_HISTOGRAMS]
    taps = [row.tap for row in worst]
    parts = trial.runner.introduced(trial.feeds, trial.reference, taps) if taps else ()
    found = {
        tap: error_histogram(tap, trial.reference.values[tap], value)
        for part in parts
        for tap, value in part.values.items()
    }
    return [found[tap] for tap in taps if tap in found]
