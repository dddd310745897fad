"""Stepwise: the file after every pass of a chain, each compared with the same reference.

Not the marked export but the file as deployed goes through the passes, and each step's file has its
taps found in it by names and values. What differs first after step 2 was done by the second pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from onnx import helper
from torch import nn

from alignkit.binding import bind_inputs
from alignkit.datasets import DataSet, hold_first
from alignkit.deployed import candidate_leaves
from alignkit.errors import AlignkitError, PassError
from alignkit.graph import graph_inputs, load_without_weights
from alignkit.obtain import export_plain, holds_taps
from alignkit.passes import NamedPass, Samples, Step, apply_passes
from alignkit.pipeline import compare_model
from alignkit.progress import Progress
from alignkit.records import Array, ReportData
from alignkit.settings import Sample, Settings
from alignkit.side_by_side import is_aligned, join_reports
from alignkit.storage import temporary_folder
from alignkit.survey import open_first
from alignkit.trial import capture_sample

EXPORTED, GIVEN = "as exported", "as given"


def compare_steps(
    model: nn.Module,
    example: Sample,
    data: DataSet,
    settings: Settings,
    passes: Sequence[NamedPass],
    *,
    deployed: Path | None = None,
    progress: Progress | None = None,
) -> ReportData:
    """Compare the file before the first of ``passes`` and after each.

    The report shows the first step that diverges, or the last one. A step that has no file, or whose file
    cannot be compared, is a candidate with its reason; the chain goes on as long as there is a file.
    Raises :class:`PassError` for a file that holds taps, and what :func:`compare_model` raises of step 0.
    """
    if settings.candidates:
        raise PassError("passes are compared on one backend at a time: give one, and run again for another.")
    progress = progress or Progress(quiet=True)

    with progress.stage("capture"):
        queue = data.entries()
        sample, first, refused = open_first(queue, partial(capture_sample, model, settings))
    data = hold_first(sample, first, data, refused, queue)  # captured once for all steps
    with temporary_folder() as folder:
        start = _start(model, example, settings, deployed, folder, progress)
        steps = apply_passes(start, passes, folder, _feeds_of(model, data))
        found: dict[Step, ReportData | AlignkitError] = {}
        while (step := _next(steps, progress)) is not None:
            try:
                where = (model, example, data, settings)
                found[step] = compare_model(*where, deployed=_file(step), progress=progress)
            except AlignkitError as error:
                found[step] = error
    return _join(found, passes)


def _next(steps: Iterator[Step], progress: Progress) -> Step | None:
    with progress.stage("pass"):
        return next(steps, None)


def _file(step: Step) -> Path:
    if step.file is None:
        raise PassError(step.failure)
    return step.file


def _start(
    model: nn.Module,
    example: Sample,
    settings: Settings,
    deployed: Path | None,
    folder: Path,
    progress: Progress,
) -> Step:
    if deployed is None:
        return Step(0, EXPORTED, export_plain(model, example, settings, folder / "plain.onnx", progress))
    if holds_taps(deployed):
        raise PassError(f"{deployed} holds taps (my::Debug): give the passes the file as it is deployed.")
    return Step(0, GIVEN, deployed)


def _feeds_of(model: nn.Module, data: DataSet) -> Samples:
    """What a pass calibrates on: the samples that can be loaded, in the types of the file at hand."""

    def feeds(path: Path) -> Iterator[Mapping[str, Array]]:
        inputs = graph_inputs(load_without_weights(path))
        dtypes = {
            name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            for name, value in inputs.items()
        }
        for entry in data.entries():
            try:
                fed, _ = bind_inputs(inputs, candidate_leaves(model, entry.load()))
            except AlignkitError:  # a row of the report
                continue
            yield {name: value.astype(dtypes[name], copy=False) for name, value in fed.items()}

    return feeds


def _join(found: Mapping[Step, ReportData | AlignkitError], passes: Sequence[NamedPass]) -> ReportData:
    """One report: of the first step that diverges or, where none does, of the last that was compared."""
    found = _blame_passes(found)
    compared = [step.title for step, one in found.items() if isinstance(one, ReportData)]
    last = compared[-1] if compared else None
    joined = join_reports({step.title: one for step, one in found.items()}, otherwise=last)
    return replace(
        joined,
        notes=(*_tell(found), *joined.notes),
        settings={**joined.settings, "passes": [one.name for one in passes]},
    )


_PASS = (
    "The pass changed what this layer computes: leave it out, restrict it (most can skip nodes or single "
    "rewrites), take another version of it, or send the repro bundle to its developers."
)


def _blame_passes(found: Mapping[Step, ReportData | AlignkitError]) -> dict[Step, ReportData | AlignkitError]:
    """What was right before a pass is no fault of the exporter, nor of a checkpoint."""
    told: dict[Step, ReportData | AlignkitError] = {}
    before: ReportData | AlignkitError | None = None
    for step, one in found.items():
        was_right = isinstance(before, ReportData) and is_aligned(before) is not False
        told[step] = _blame_pass(step, one) if isinstance(one, ReportData) and was_right else one
        before = one
    return told


def _blame_pass(step: Step, report: ReportData) -> ReportData:
    evidence = f"the file was right before step {step.number}: the pass {step.name!r} made this"
    culprits = [
        replace(culprit, cause="optimizer", evidence=(evidence, *culprit.evidence), advice=_PASS)
        if culprit.cause in ("exporter", "weights", "unknown")
        else culprit
        for culprit in report.culprits
    ]
    return replace(report, culprits=culprits)


def _tell(found: Mapping[Step, ReportData | AlignkitError]) -> Iterator[str]:
    """After which step which layer first went wrong, and which steps have nothing to compare."""
    known: set[str] = set()
    for step, one in found.items():
        where = f"step {step.number} ({step.name})"
        if not isinstance(one, ReportData):
            yield f"{where[:1].upper()}{where[1:]}: {one}"
            continue
        fresh = {c.module or c.tap: c.cause for c in one.culprits if (c.module or c.tap) not in known}
        known |= fresh.keys()
        if fresh:
            yield f"After {where}: {', '.join(f'{name} ({cause})' for name, cause in fresh.items())}."
        elif is_aligned(one) is False and not one.culprits:
            yield f"After {where}: outputs differ, and no layer could be blamed."
