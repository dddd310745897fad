"""The orchestrator: the pipeline from a model to a report, stage by stage.

instrument -> export -> capture -> extract -> run -> compare -> diagnose -> report
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import nn

from alignkit.arguments import named_inputs
from alignkit.candidate import ProbeRunner
from alignkit.capture import confirm_reference
from alignkit.comparison import (
    NoiseFloors,
    compare_captures,
    compare_outputs,
    measure_coverage,
)
from alignkit.datasets import DataSet, hold_first, resume
from alignkit.deployed import Deployed, DeployedFile, candidate_leaves
from alignkit.diagnose import is_certain
from alignkit.environment import describe_environment
from alignkit.errors import AlignkitError, BackendError, CompareError
from alignkit.extract import read_marked
from alignkit.floors import Learned, Verdicts, judge_by_need, judge_measured, judge_unmeasured
from alignkit.graph import MarkedGraph
from alignkit.measuring import measure_histograms, measure_runs
from alignkit.memory import give_back
from alignkit.metrics import compiled_loops
from alignkit.noise import EagerRun, without_taps
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
    SampleRow,
    SensitivityRow,
    TapId,
    TapKind,
    Verdict,
)
from alignkit.remarks import (
    accuse,
    doubt_exporter,
    notes_on,
    tells_of_no_floor,
    unknown_optimizers,
    unmapped_taps,
    with_mapping,
)
from alignkit.sensitivity import measure_sensitivity
from alignkit.settings import Files, Sample, Settings, describe_settings
from alignkit.side_by_side import join_reports
from alignkit.spread import describe_sample
from alignkit.standin import StandIn
from alignkit.storage import temporary_folder
from alignkit.survey import Judged, Opened, join_survey, keep_inputs, open_first, survey_samples
from alignkit.tolerance import Tolerances
from alignkit.trial import Trial, bind_feeds, capture_sample, open_runner
from alignkit.workshop import Workshop

_HISTOGRAMS = 6


def compare_model(
    model: nn.Module,
    example: Sample,
    data: DataSet,
    settings: Settings,
    *,
    deployed: Path | None = None,
    progress: Progress | None = None,
) -> ReportData:
    """Export ``model`` with and without taps and compare it on the samples of ``data``."""
    progress = progress or Progress(quiet=True)
    queue = data.entries()

    with progress.stage("capture"):
        # Before the slow export, so that a model that does not run is told at once.
        sample, first, refused = open_first(queue, partial(capture_sample, model, settings))
    with temporary_folder() as folder:
        files = obtain_files(model, example, sample, settings, first, folder, deployed, progress)
        if isinstance(model, StandIn) and model.fixed:
            files = replace(files, example=None)  # nothing was exported of it
        if settings.candidates:
            rest, refused = hold_first(sample, first, data, refused, queue), []
        else:
            queue = resume(sample, first, queue)
            del sample, first  # of a data set one sample at a time is held
            rest = DataSet(lambda: queue, data.size)
        return compare_candidates(model, rest, files, settings, refused=refused, progress=progress)


def compare_candidates(
    model: nn.Module,
    data: DataSet,
    files: Files,
    settings: Settings,
    *,
    refused: Sequence[SampleRow] = (),
    progress: Progress | None = None,
) -> ReportData:
    """:func:`compare_files` on every backend of the settings, in one report where there are several."""
    progress = progress or Progress(quiet=True)
    if not settings.candidates:
        return compare_files(model, data, files, settings, refused=refused, progress=progress)
    if not data.repeats:
        raise CompareError(
            "these inputs may not give the same samples again, and several candidates are to be compared on "
            "them: give a list."
        )
    found: dict[str, ReportData | AlignkitError] = {}
    for backend in settings.candidates:
        try:
            found[backend.name] = compare_files(
                model, data, files, replace(settings, run=backend), refused=refused, progress=progress
            )
        except (BackendError, CompareError) as error:  # of this one: the others may still answer
            found[backend.name] = error
    return replace(join_reports(found), timings=progress.timings)


def compare_files(
    model: nn.Module,
    data: DataSet,
    files: Files,
    settings: Settings,
    *,
    refused: Sequence[SampleRow] = (),
    progress: Progress | None = None,
) -> ReportData:
    """Compare ``model`` with exported files on every sample; the report shows the worst of them.

    ``refused`` are samples before those in ``data`` that could not be compared.
    """
    progress = progress or Progress(quiet=True)
    if files.selection is not None and files.selection != settings.selection:
        # What was captured already has other taps.
        settings, data = replace(settings, selection=files.selection), data.uncaptured()
    several = data.size != 1
    with progress.stage("extract"):
        marked = read_marked(files.marked, files.folder)
        runner = open_runner(marked, settings, reuse=several)
    sides = _Sides(
        model,
        files,
        settings,
        marked,
        runner,
        DeployedFile(files, settings.run, reuse=several),
        find_precisions(marked),
    )
    with compiled_loops(wanted=runner.overlaps):  # where memory is short, numba takes too much of it
        if several:
            survey = survey_samples(data, refused, partial(_judge_sample, sides), progress)
            worst = _compare_sample(sides, survey.worst, progress)
            report = join_survey(worst, survey, by_floors=_has_floors(sides, worst))
            report = replace(report, kept_inputs=keep_inputs(model, survey.worst.sample, files.example))
            shown = survey.worst.sample.name
        else:
            (entry,) = data.entries()
            sample = entry.load()
            report, shown = _compare_sample(sides, Opened(sample, entry.capture), progress), sample.name
    kept = {"kept_inputs": sorted(report.kept_inputs)} if report.kept_inputs else {}
    return replace(
        report,
        environment=describe_environment(),
        settings={**describe_settings(settings), **report.settings, **kept, "shown": shown},
        timings=progress.timings,
    )


@dataclass(frozen=True, slots=True)
class _Sides:
    """The two sides of a comparison, whatever the sample."""

    model: nn.Module
    files: Files
    settings: Settings
    marked: MarkedGraph
    runner: ProbeRunner
    deployed: DeployedFile
    precision: Mapping[str, str]
    learned: dict[object, Learned] = field(default_factory=dict)  # by the shapes of the inputs


@dataclass(frozen=True, slots=True)
class _Compared:
    """One sample on both sides, judged but not yet explained."""

    trial: Trial
    lost: list[str]
    deployed: Deployed
    verdicts: Verdicts


def _compare_sample(sides: _Sides, opened: Opened, progress: Progress) -> ReportData:
    """One sample judged with its measured noise, and diagnosed."""
    files, settings = sides.files, sides.settings
    compared = _judge(sides, opened, progress, thorough=True)
    trial, verdicts = compared.trial, compared.verdicts
    with progress.stage("diagnose"), Workshop(trial, files, settings, progress) as workshop:
        diagnosis = workshop.diagnose(verdicts.rows, verdicts.outputs)
    sensitivity: Sequence[SensitivityRow] = ()
    if verdicts.noise.coarsest:
        with progress.stage("sensitivity"):
            sensitivity = measure_sensitivity(trial, verdicts.rows, verdicts.outputs, settings.run)
    accused = {culprit.tap for culprit in diagnosis.culprits if culprit.onnx_nodes}
    rows = [with_mapping(accuse(row) if row.tap in accused else row, files) for row in verdicts.rows]
    notes = (
        *notes_on(sides.model, trial.reference, verdicts.noise, compared.lost, files),
        *unknown_optimizers(settings),
        *compared.deployed.notes,
        # Coarse steps add up on their way: no single place is ill-conditioned for it.
        *(() if verdicts.noise.coarsest else diagnosis.notes),
        *workshop.notes,
    )
    return ReportData(
        diagnosis.aligned,
        tuple(doubt_exporter(culprit, files.doubt) for culprit in diagnosis.culprits),
        rows,
        verdicts.outputs,
        measure_coverage(verdicts.rows),
        notes,
        _histograms(rows, trial),
        sensitivity=sensitivity,
        bundles=workshop.bundles,
    )


def _judge_sample(sides: _Sides, opened: Opened) -> Judged:
    """One sample of many: whether it is aligned, with no more experiments than that takes."""
    progress, sample = Progress(quiet=True), opened.sample
    compared = _judge(sides, opened, progress, thorough=False)
    rows, outputs = compared.verdicts.rows, compared.verdicts.outputs
    aligned, notes = not is_certain(rows, outputs), list[str]()
    if aligned and not compared.verdicts.agree:
        # Nothing is to blame by itself: whether rounding was magnified takes a look at that place.
        with Workshop(compared.trial, sides.files, sides.settings, progress) as workshop:
            diagnosis = workshop.diagnose(rows, outputs)
        aligned, notes = diagnosis.aligned, [*diagnosis.notes]
    shapes = {
        name: tuple(value.shape) for name, value in named_inputs(sides.model, sample.args, sample.kwargs)
    }
    row = describe_sample(sample.name, rows, outputs, shapes, aligned, next(iter(notes), ""))
    return Judged(row, rows, compared.verdicts.measured)


def _judge(sides: _Sides, opened: Opened, progress: Progress, *, thorough: bool) -> _Compared:
    """Both sides of one sample, compared; the reference is confirmed where something speaks against it.

    ``thorough`` measures every noise floor and runs the deployed file twice.
    """
    model, sample, settings = sides.model, opened.sample, sides.settings
    reference = opened.capture
    if reference is None:
        with progress.stage("capture"):
            reference = capture_sample(model, settings, sample)
    compared = _compare_sides(sides, sample, reference, progress, thorough)
    if any(map(_is_of_other_kernels, compared.verdicts.outputs)) and sides.runner.come_closer():
        compared = _compare_sides(sides, sample, reference, progress, thorough)
    if not reference.confirmed and not compared.verdicts.agree:
        with progress.stage("capture"):
            where = (model, sample.args, sample.kwargs, settings.selection)
            confirmed = confirm_reference(*where, reference, budget=settings.budget)
        if confirmed.outputs is not reference.outputs:
            compared = _compare_sides(sides, sample, confirmed, progress, thorough)
    coverage = measure_coverage(compared.verdicts.rows)
    if not coverage.compared or not _tells_anything(compared.verdicts):
        raise CompareError(f"no tap could be compared: {next(iter(coverage.reasons), 'there are none')}.")
    return compared


_VISIBLE = 1e-3  # of a tensor's scale


def _is_of_other_kernels(row: OutputRow) -> bool:
    """Whether an output shows that the taps' run rounds otherwise than the product, where it matters."""
    if row.plain is None or row.probed is None:
        return row.observer_effect
    apart = abs((row.plain.max_abs or 0.0) - (row.probed.max_abs or 0.0))
    return row.observer_effect or apart > _VISIBLE * row.plain.scale


def _compare_sides(
    sides: _Sides, sample: Sample, reference: Capture, progress: Progress, thorough: bool
) -> _Compared:
    model, settings, marked, runner = sides.model, sides.settings, sides.marked, sides.runner
    tolerances = settings.tolerances
    feeds, lost = bind_feeds(model, sample, marked)
    trial = Trial(model, sample, settings.selection, marked, reference, feeds, runner)
    with progress.stage("run and measure"):
        ends = [str(TapId(ROOT, 0, index)) for index in range(len(reference.outputs))]
        runs = (runner.introduced(feeds, reference), ()), (runner.propagated(feeds, reference), ends)
        introduced, propagated = measure_runs(reference, runs, tolerances, overlap=runner.overlaps)
    with progress.stage("run as deployed"):
        deployed = sides.deployed.run(candidate_leaves(model, sample), marked, twice=thorough)
        if not runner.overlaps:
            give_back()
    missing = unmapped_taps(sides.files)
    names = deployed.names or [value.name for value in marked.model.graph.output]

    def judge(noise: NoiseFloors) -> Verdicts:
        noise = replace(noise, precision=sides.precision, coarsest=coarsest_of(sides.precision))
        with progress.stage("compare"):
            rows = compare_captures(reference, introduced, propagated, noise, tolerances, missing)
            ends = (deployed.outputs, propagated, names, noise, tolerances, deployed.failure)
            return Verdicts(noise, rows, compare_outputs(reference, *ends))

    seen = without_taps(reference, reference.values.keys() - {debug.tap for debug in marked.debugs})
    run = EagerRun(model, sample, settings.selection, seen, tight=not runner.overlaps)
    if not settings.noise_floor:
        verdicts = judge_unmeasured(judge)
    elif thorough:
        verdicts = judge_measured(judge, run, progress.stage)
    else:
        measured = (*propagated.taps.items(), *introduced.taps.items())
        scales = dict.fromkeys(reference.values, 0.0)
        scales |= {tap: found.error.scale for tap, found in measured if found.error}
        shapes = tuple((name, value.shape) for name, value in feeds.items())
        learned = sides.learned.setdefault(shapes, Learned())
        verdicts = judge_by_need(judge, run, progress.stage, scales, learned)
    return _Compared(trial, lost, deployed, verdicts)


def _has_floors(sides: _Sides, report: ReportData) -> bool:
    """Whether noise floors judged, and neither the user's tolerances nor those of a type did."""
    plain = sides.settings.tolerances == Tolerances() and not sides.precision
    return sides.settings.noise_floor and plain and not any(map(tells_of_no_floor, report.notes))


def _tells_anything(verdicts: Verdicts) -> bool:
    """The model's own inputs, which no node computes, say nothing of the candidate."""
    layers = (row for row in verdicts.rows if row.kind is not TapKind.INPUT or row.module != ROOT)
    judged = any(row.verdict is not Verdict.SKIPPED for row in verdicts.outputs)
    return judged or any(row.verdict.was_compared for row in layers)


def _histograms(rows: list[LayerRow], trial: Trial) -> list[ErrorHistogram]:
    """Of the worst layers, whose segments are run once more for it."""
    measured = [row for row in rows if row.introduced is not None and row.introduced.max_abs]
    worst = sorted(measured, key=lambda row: -(row.noise_ratio or 0.0))[:_HISTOGRAMS]
    taps = [row.tap for row in worst]
    parts = trial.runner.introduced(trial.feeds, trial.reference, taps) if taps else ()
    found = measure_histograms(trial.reference, parts)
    return [found[tap] for tap in taps if tap in found]
