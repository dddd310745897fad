"""Survey: a whole data set, one sample after the other, and the worst of them for the report to show."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.datasets import DataSet, Entry, clone_sample
from alignkit.errors import AlignkitError, CompareError
from alignkit.progress import Progress
from alignkit.records import Array, Capture, LayerRow, ReportData, SampleRow, Spread, Verdict
from alignkit.settings import Sample, same_inputs
from alignkit.spread import Tally
from alignkit.tensors import to_numpy

_STRUCTURAL = (Verdict.NONFINITE, Verdict.SHAPE, Verdict.DTYPE)


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A sample at hand, and its reference where that was captured already."""

    sample: Sample
    capture: Capture | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """A sample in brief, and its layers; ``measured`` says that float64 runs were made for it."""

    brief: SampleRow
    rows: Sequence[LayerRow]
    measured: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """Every sample in brief, each tap's figures over all of them, and the worst sample."""

    samples: tuple[SampleRow, ...]
    spreads: tuple[Spread, ...]
    measured: int
    worst: Opened


@dataclass(slots=True)
class _Samples:
    """What is kept of the samples that went by."""

    briefs: list[SampleRow]
    tally: Tally = field(default_factory=Tally)
    measured: int = 0
    worst: Sample | None = None
    badness: tuple[Any, ...] = ()

    def add(self, sample: Sample, judged: Judged) -> None:
        self.briefs.append(judged.brief)
        self.tally.add(judged.rows, judged.brief.name)
        self.measured += judged.measured
        badness = _badness(judged)
        if self.worst is None or badness > self.badness:
            # Cloned, for the next sample may be written to the same memory.
            self.worst, self.badness = clone_sample(sample), badness


def open_first(
    queue: Iterator[Entry], capture: Callable[[Sample], Capture]
) -> tuple[Sample, Capture, list[SampleRow]]:
    """The first sample that can be loaded and captured, its capture, and those before it that cannot.

    Raises the error of the only sample, or one that tells the first of several.
    """
    refused: list[SampleRow] = []
    first: AlignkitError | None = None
    for entry in queue:
        try:
            sample = entry.load()
            return sample, entry.capture or capture(sample), refused
        except AlignkitError as error:
            first = first or error
            refused.append(SampleRow(entry.name, None, reason=str(error)))
    raise _nothing_compared(refused, first)


def survey_samples(
    data: DataSet, refused: Sequence[SampleRow], judge: Callable[[Opened], Judged], progress: Progress
) -> Survey:
    """Judge every sample of ``data`` and keep the figures, one sample in memory at a time, and the worst.

    A sample that cannot be loaded or run is a row with its reason; where that is so of all, the first
    one's error is raised.
    """
    kept, first = _Samples(list(refused)), None
    with progress.stage("samples"):
        for entry in data.entries():
            try:
                sample = entry.load()
                kept.add(sample, judge(Opened(sample, entry.capture)))
                del sample
            except AlignkitError as error:
                first = first or error
                kept.briefs.append(SampleRow(entry.name, None, reason=str(error)))
            del entry  # before the next one is made
            progress.count(len(kept.briefs), None if data.size is None else max(data.size, len(kept.briefs)))
    if kept.worst is None:
        raise _nothing_compared(kept.briefs, first)
    return Survey(tuple(kept.briefs), kept.tally.close(), kept.measured, Opened(kept.worst))


def _nothing_compared(refused: Sequence[SampleRow], first: AlignkitError | None) -> AlignkitError:
    if first is None:
        return CompareError("inputs is empty: give at least one sample.")
    if len(refused) == 1:
        return first
    told = f"The first, {refused[0].name}: {refused[0].reason}"
    return CompareError(f"none of {len(refused):,} samples could be compared. {told}")


def _badness(judged: Judged) -> tuple[bool, bool, bool, float]:
    """A layer that is to blame says more than a wrong output, NaN or a wrong shape more than any number."""
    blamed = any(row.verdict.introduces for row in judged.rows)
    structural = any(row.verdict in _STRUCTURAL for row in judged.rows)
    return not judged.brief.aligned, blamed, structural, judged.brief.worst_ratio or 0.0


def join_survey(report: ReportData, survey: Survey, *, by_floors: bool) -> ReportData:
    """The worst sample's report, with all that is known of the others.

    ``by_floors``: noise floors are what they were judged by.
    """
    if len(survey.samples) == 1:
        return report
    aligned = all(row.aligned for row in survey.samples)
    notes = [*report.notes]
    if report.aligned and any(row.aligned is False for row in survey.samples):
        notes.append("The worst sample was right when it was run again: the model or the runtime is random.")
    compared = sum(row.aligned is not None for row in survey.samples)
    if by_floors and survey.measured < compared:
        notes.append(
            f"{survey.measured:,} of {compared:,} samples needed float64 runs. No error of the others is "
            "beyond 30 units in the last place of its tensor's scale, or 8 times the least rounding measured "
            "there in 3 samples or more; their noise ratios are upper bounds."
        )
    return replace(
        report,
        aligned=aligned and report.aligned,
        notes=notes,
        samples=survey.samples,
        spreads=survey.spreads,
    )


def keep_inputs(model: nn.Module, worst: Sample, example: Sample | None) -> Mapping[str, Mapping[str, Array]]:
    """Files that the report keeps, as input -> array: the worst sample and what was exported with.

    Left out are inputs that are more than tensors, or of a type that numpy does not know.
    """
    files = {"worst_sample.npz": _by_name(model, worst.args, worst.kwargs)}
    if worst.candidate is not None:
        files["worst_sample_candidate.npz"] = _by_name(model, *worst.candidate)
    if example is not None and not same_inputs(example, worst):
        files["example.npz"] = _by_name(model, example.args, example.kwargs)
    return {name: arrays for name, arrays in files.items() if arrays}


def _by_name(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Mapping[str, Array] | None:
    names = _parameters(model)
    positional = {names[i] if i < len(names) else f"arg{i}": value for i, value in enumerate(args)}
    values = {**positional, **kwargs}
    if not all(map(_is_plain, values.values())):
        return None
    return {name: to_numpy(value) for name, value in values.items()}


def _is_plain(value: Any) -> bool:
    """A tensor that numpy can hold and a file give back."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not value.is_nested and not value.is_quantized and value.dtype != torch.bfloat16


def _parameters(model: nn.Module) -> list[str]:
    """The forward's parameters that may be given by name, as long as they come first."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    names = []
    for parameter in parameters:
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            break
        names.append(parameter.name)
    return names
